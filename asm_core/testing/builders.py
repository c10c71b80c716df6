"""Values for tests: valid without any argument, every field open to change, no two alike under different indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.domain.lifecycle import TERMINAL_RUNS, RunStatus
from asm_core.domain.run import Run, RunOptions
from asm_core.domain.session import Session
from asm_core.ports.provider import Execution

Record = TypeVar("Record", Session, Run, Event)

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
"""The instant at which what is built came to be."""
SESSION_ID = "ses_test_000001"
"""The session of runs and events that name no other."""


def build_session(index: int = 1, **fields: Any) -> Session:
    """
    A pending session of agent `test-agent`.

    Args:
        index: makes the id, `ses_test_000001`.
        fields: of Session, instead of the defaults.

    Raises:
        AsmError: `validation_error`: Session has no such field.

    Source: spec/02 §20.
    """
    defaults = {"id": f"ses_test_{index:06}", "agent_id": "test-agent", "created_at": NOW, "updated_at": NOW}
    return _built(Session, defaults, fields)


def build_run(index: int = 1, **fields: Any) -> Run:
    """
    A run as it would be stored under its status: pending in its queue, begun, or ended.

    Args:
        index: makes the id, `run_test_000001`.
        fields: of Run, instead of the defaults.

    Raises:
        AsmError: `validation_error`: Run has no such field.

    Source: spec/02 §20.
    """
    status = fields.get("status", RunStatus.PENDING)
    has_begun = status != RunStatus.PENDING
    defaults = {
        "id": f"run_test_{index:06}",
        "session_id": SESSION_ID,
        "created_at": NOW,
        "input": {"prompt": "Test prompt"},
        "options": RunOptions(provider="scripted"),
        "attempt": 1 if has_begun else 0,
        "position": None if has_begun else 1,
        "started_at": NOW if has_begun else None,
        "ended_at": NOW + timedelta(seconds=1) if status in TERMINAL_RUNS else None,
    }
    return _built(Run, defaults, fields)


def build_event(index: int = 1, **fields: Any) -> Event:
    """
    A `message_received` that has no number yet.

    Args:
        index: makes the id, `evt_test_000001`.
        fields: of Event, instead of the defaults.

    Raises:
        AsmError: `validation_error`: Event has no such field.

    Source: spec/02 §20.
    """
    defaults = {
        "id": f"evt_test_{index:06}",
        "type": EventType.MESSAGE_RECEIVED,
        "timestamp": NOW,
        "session_id": SESSION_ID,
    }
    return _built(Event, defaults, fields)


def build_execution(run_input: Mapping[str, Any] | None = None, *, attempt: int = 1, **given: Any) -> Execution:
    """
    One attempt at a run, as an adapter gets it.

    Args:
        run_input: of the run; `{"prompt": "Test prompt"}` when omitted.
        given: `session`, `model`, `transcript` of Execution.
    """
    fields: dict[str, Any] = {} if run_input is None else {"input": run_input}
    session = given.pop("session", None) or build_session()
    run = build_run(status=RunStatus.RUNNING, session_id=session.id, attempt=attempt, **fields)
    return Execution(run=run, session=session, attempt=attempt, **given)


def _built(kind: type[Record], defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Record:
    known = {field.name for field in fields(kind)}
    if unknown := sorted(given.keys() - known):
        message = f"{kind.__name__} has no field {unknown[0]!r}; it has: {', '.join(sorted(known))}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": unknown[0]})
    return kind(**{**defaults, **given})
