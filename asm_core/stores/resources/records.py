"""Records as attributes of their resources; the way back is a resource's `to_record`."""

from __future__ import annotations

from dataclasses import asdict
from functools import singledispatch

from asm_core.domain.artifact import Artifact
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event
from asm_core.domain.run import Run
from asm_core.domain.session import DEFAULT_TENANT, Session
from asm_core.stores.sql.rows import Row, bounds_row, event_rows, run_row, session_row


@singledispatch
def attributes_of(record: object) -> Row:
    """
    What actions take to make this session, run, event or artifact; its tenant is told apart.

    Raises:
        AsmError: `validation_error`: it is none of these, or lacks what it needs.
    """
    message = f"a session, run, event or artifact is needed, not {type(record).__name__}"
    raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "record"})


@attributes_of.register
def _session(record: Session) -> Row:
    return _without(session_row(record) | bounds_row(record), "tenant_id", "session_id")


@attributes_of.register
def _run(record: Run) -> Row:
    return _without(run_row(record), "tenant_id")


@attributes_of.register
def _event(record: Event) -> Row:
    [row] = event_rows([record], DEFAULT_TENANT)
    return _without(row | {"sequence_number": record.sequence_number}, "tenant_id")


@attributes_of.register
def _artifact(record: Artifact) -> Row:
    return _without(asdict(record), "tenant_id", "created_at", "deleted_at")


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}
