"""A session's life: created active, paused, resumed, completed, cancelled. Row and event change together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from asm_core.domain.errors import AsmError
from asm_core.domain.lifecycle import SessionVerb
from asm_core.domain.redaction import REDACTOR, Redactor
from asm_core.domain.session import Session
from asm_core.pipeline.publish import Publisher
from asm_core.ports.queue import RunQueue, SessionChange
from asm_core.ports.wakeups import Nudges, Wakeups


@dataclass(frozen=True, slots=True)
class Sessions:
    queue: RunQueue
    wakeups: Wakeups
    nudges: Nudges
    publisher: Publisher
    redactor: Redactor = REDACTOR

    async def create(self, session: Session) -> Session:
        """
        Store a session with its queue; it is active at once. Secrets in it are not stored.

        Raises:
            AsmError: `storage_connection_failed`.
        """
        return await self._announce(await self.queue.create_session(self.redactor.session(session)))

    async def start(self, session: Session) -> Session:
        """Store a session that waits to be activated. Raises AsmError `storage_connection_failed`."""
        return await self._announce(await self.queue.create_session(self.redactor.session(session), activate=False))

    async def activate(self, session_id: str, tenant_id: str) -> Session:
        """Raises `session_not_found`, `invalid_transition`."""
        return await self._change(session_id, tenant_id, SessionVerb.ACTIVATE)

    async def pause(self, session_id: str, tenant_id: str) -> Session:
        """No further claims; what is in flight goes on. Raises `session_not_found`, `invalid_transition`."""
        return await self._change(session_id, tenant_id, SessionVerb.PAUSE)

    async def resume(self, session_id: str, tenant_id: str) -> Session:
        """Raises `session_not_found`, `invalid_transition`."""
        return await self._change(session_id, tenant_id, SessionVerb.RESUME)

    async def complete(self, session_id: str, tenant_id: str, *, cancel_queued: bool = False) -> Session:
        """Raises `session_not_found`, `invalid_transition`, `invalid_operation` (there is work left)."""
        return await self._change(session_id, tenant_id, SessionVerb.COMPLETE, cancel_queued)

    async def fail(self, session_id: str, tenant_id: str, error: AsmError) -> Session:
        """
        What is queued is cancelled, what is in flight asked to stop.

        Raises `session_not_found`, `invalid_transition`.
        """
        return await self._change(session_id, tenant_id, SessionVerb.FAIL, cancel_queued=True, error=error)

    async def cancel(self, session_id: str, tenant_id: str, *, cancel_queued: bool = False) -> Session:
        """Raises `session_not_found`, `invalid_transition`, `invalid_operation` (there is work left)."""
        return await self._change(session_id, tenant_id, SessionVerb.CANCEL, cancel_queued)

    async def _change(
        self,
        session_id: str,
        tenant_id: str,
        verb: SessionVerb,
        cancel_queued: bool = False,
        error: AsmError | None = None,
    ) -> Session:
        change = await self.queue.change_session(session_id, tenant_id, verb, cancel_queued=cancel_queued, error=error)
        session = await self._announce(change)
        # together: without Redis each takes its whole time limit
        await asyncio.gather(*(self.nudges.nudge(worker_id, run_id, "cancel") for worker_id, run_id in change.nudges))
        return session

    async def _announce(self, change: SessionChange) -> Session:
        self.publisher.publish(change.events)
        self.wakeups.wake(change.wake)
        return change.session
