"""
Entries for the audit log from programs that watch runs, beside those that the store's transactions make by themselves.

Whoever logs is never disturbed: a store that fails costs the entry, which is said in this process's own log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from asm_core import options
from asm_core.clock import new_id
from asm_core.domain import ids
from asm_core.domain.audit import AuditEntry
from asm_core.domain.event import Event, EventType
from asm_core.domain.redaction import REDACTOR, Redactor
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.ports.clock import Clock
from asm_core.ports.store import SessionStore

log = logging.getLogger(__name__)

LEGACY_SOURCE = {"source": "audit"}
"""In the metadata of audit entries that stand in the event log."""


class Recorder(Protocol):
    """An `AuditLog`, or whatever else keeps entries."""

    async def record(self, entry: AuditEntry) -> object: ...


def set_enabled(enabled: bool) -> None:
    """Switch `AuditLogger` on or off for the rest of this thread or task, whatever the settings say."""
    options.put(audit_logging_enabled=enabled)


@dataclass(frozen=True, slots=True)
class AuditLogger:
    """
    Writes entries while `audit_logging_enabled` holds; its calls always return normally.

    Args:
        recorder: where entries go.
        redactor: takes secrets out of them.
        actor: on whose behalf.

    Source: spec/02 §18, spec/03 §10.
    """

    recorder: Recorder
    redactor: Redactor = REDACTOR
    actor: str | None = None

    async def log_run_started(self, run: Run, session: Session) -> None:
        await self._log(EventType.RUN_STARTED, session, run.id, {"run_status": str(run.status)} | _agent(session))

    async def log_run_completed(self, run: Run, session: Session, result: object) -> None:
        """
        Args:
            result: an object or a mapping with `token_usage`.
        """
        usage = _field(result, "token_usage") or {}
        await self._log(EventType.RUN_COMPLETED, session, run.id, {"token_usage": usage} | _agent(session))

    async def log_run_failed(self, run: Run, session: Session, error: object) -> None:
        """
        Args:
            error: an object or a mapping with `code` and `message`, both optional; codes may be any.
        """
        await self._log(EventType.RUN_FAILED, session, run.id, _failure(error) | _agent(session))

    async def log_error(self, run: Run, session: Session, error: object) -> None:
        """As `log_run_failed`, for an error that the run may survive."""
        await self._log(EventType.ERROR_OCCURRED, session, run.id, _failure(error) | _agent(session))

    async def log_usage_metrics(
        self, session: Session, metrics: Mapping[str, Any], *, run_id: str | None = None
    ) -> None:
        """The metrics as they are given."""
        await self._log(EventType.TOKEN_USAGE_UPDATED, session, run_id, metrics)

    async def _log(self, action: EventType, session: Session, run_id: str | None, data: Mapping[str, Any]) -> None:
        if not options.get("audit_logging_enabled"):
            return
        try:
            entry = AuditEntry(
                action=str(action),
                tenant_id=session.tenant_id,
                session_id=session.id,
                run_id=run_id,
                actor=self.actor,
                data=self.redactor.value(dict(data)),
            )
            await self.recorder.record(entry)
        except Exception as cause:
            log.error("an audit entry (%s of session %s) was lost: %s", action, session.id, type(cause).__name__)


@dataclass(frozen=True, slots=True)
class LegacyEventLog:
    """
    Keeps audit entries as events of their session, as the reference does, marked in their metadata.

    Only for logs that no queue writes to: whoever adds up a run's usage or looks for its one terminal event would count
    these as the run's own.
    """

    store: SessionStore
    clock: Clock

    async def record(self, entry: AuditEntry) -> Event:
        event = Event.new(
            id=new_id(ids.EVENT),
            type=entry.action,
            timestamp=self.clock.now(),
            session_id=entry.session_id,
            run_id=entry.run_id,
            data=entry.data,
            metadata=LEGACY_SOURCE | ({"actor": entry.actor} if entry.actor else {}),
        )
        [stored] = await self.store.append_events([event], entry.tenant_id)
        return stored


def _agent(session: Session) -> dict[str, str]:
    return {"agent_id": session.agent_id}


def _failure(error: object) -> dict[str, Any]:
    code, message = _field(error, "code"), _field(error, "message")
    if message is None and isinstance(error, BaseException):
        message = str(error)
    return {"error_code": code, "error_message": message}


def _field(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
