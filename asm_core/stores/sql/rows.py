"""Records to rows: checked before they reach a store, and plain enough for every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event
from asm_core.domain.fields import clean_text, to_jsonable
from asm_core.domain.run import Run
from asm_core.domain.session import Session, require_text

Row = dict[str, Any]


def session_row(session: Session) -> Row:
    """Raises AsmError `validation_error`, naming the field."""
    _require(Session, session, ("id", "tenant_id", "agent_id", "status"), ("created_at", "updated_at"))
    return {
        "id": session.id,
        "tenant_id": session.tenant_id,
        "agent_id": session.agent_id,
        "status": str(session.status),
        "parent_session_id": session.parent_session_id,
        "provider": session.provider,
        "model": session.model,
        "metadata": to_jsonable(session.metadata),
        "context": to_jsonable(session.context),
        "tags": [clean_text(tag) for tag in session.tags],
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "deleted_at": session.deleted_at,
    }


def bounds_row(session: Session) -> Row:
    """The session's part in its queue."""
    return {
        "session_id": session.id,
        "tenant_id": session.tenant_id,
        "max_concurrent_runs": session.max_concurrent_runs,
        "max_queued_runs": session.max_queued_runs,
    }


def run_row(run: Run) -> Row:
    """Raises AsmError `validation_error`, naming the field."""
    _require(Run, run, ("id", "tenant_id", "session_id", "status"), ("created_at",))
    return {
        "id": run.id,
        "tenant_id": run.tenant_id,
        "session_id": run.session_id,
        "status": str(run.status),
        "input": to_jsonable(run.input),
        "output": to_jsonable(run.output),
        "error": to_jsonable(run.error),
        "metadata": to_jsonable(run.metadata),
        "turn_count": run.turn_count,
        "token_usage": to_jsonable(run.token_usage),
        "attempt": run.attempt,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "provider": run.provider,
        "provider_metadata": to_jsonable(run.provider_metadata),
        "cost_usd": to_jsonable(run.cost_usd),
        "options": run.options.to_map() if run.options else {},
        "worker_id": run.worker_id,
    }


def event_rows(events: Sequence[Event], tenant_id: str) -> list[Row]:
    """
    Each event's row, not yet numbered; whatever number it carries is ignored.

    Raises:
        AsmError: `validation_error`: not a list of events, or one lacks what it needs.
    """
    if not isinstance(events, list | tuple):
        raise _invalid("events", f"events must be a list, not {type(events).__name__}")
    return [_event_row(event, tenant_id) for event in events]


def _event_row(event: Event, tenant_id: str) -> Row:
    _require(Event, event, ("id", "type", "session_id"), ("timestamp",))
    return {
        "id": event.id,
        "tenant_id": tenant_id,
        "type": str(event.type),
        "timestamp": event.timestamp,
        "session_id": event.session_id,
        "run_id": event.run_id,
        "attempt": event.attempt,
        "data": to_jsonable(event.data),
        "metadata": to_jsonable(event.metadata),
        "schema_version": event.schema_version,
        "provider": event.provider,
        "correlation_id": event.correlation_id,
    }


def firsts(rows: Sequence[Row]) -> list[Row]:
    """Each id once, as it came first."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row["id"], row)
    return list(found.values())


def _require(kind: type, record: object, texts: Sequence[str], times: Sequence[str]) -> None:
    name = kind.__name__.lower()
    if not isinstance(record, kind):
        raise _invalid(name, f"a {name} is needed, not {type(record).__name__}")
    for field in texts:
        if "\x00" in require_text(name, field, getattr(record, field)):
            raise _invalid(field, f"{name} {field} must not contain NUL")
    for field in times:
        value = getattr(record, field)
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise _invalid(field, f"{name} {field} must be a time with its zone, not {value!r}")


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": field})
