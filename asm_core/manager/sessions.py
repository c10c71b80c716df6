"""A session's life: created active, paused, resumed, completed, cancelled. Row and event change together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from asm_core.domain.lifecycle import SessionStatus
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

    async def pause(self, session_id: str, tenant_id: str) -> Session:
        """No further claims; what is in flight goes on. Raises `session_not_found`, `invalid_transition`."""
        return await self._change(session_id, tenant_id, SessionStatus.PAUSED)

    async def resume(self, session_id: str, tenant_id: str) -> Session:
        """Raises `session_not_found`, `invalid_transition`."""
        return await self._change(session_id, tenant_id, SessionStatus.ACTIVE)

    async def complete(self, session_id: str, tenant_id: str, *, cancel_queued: bool = False) -> Session:
        """Raises `session_not_found`, `invalid_transition`, `invalid_operation` (there is work left)."""
        return await self._change(session_id, tenant_id, SessionStatus.COMPLETED, cancel_queued)

    async def cancel(self, session_id: str, tenant_id: str, *, cancel_queued: bool = False) -> Session:
        """Raises `session_not_found`, `invalid_transition`, `invalid_operation` (there is work left)."""
        return await self._change(session_id, tenant_id, SessionStatus.CANCELLED, cancel_queued)

    async def _change(self, session_id: str, tenant_id: str, to: SessionStatus, cancel_queued: bool = False) -> Session:
        change = await self.queue.change_session(session_id, tenant_id, to, cancel_queued=cancel_queued)
        session = await self._announce(change)
        # together: without Redis each takes its whole time limit
        await asyncio.gather(*(self.nudges.nudge(worker_id, run_id, "cancel") for worker_id, run_id in change.nudges))
        return session

    async def _announce(self, change: SessionChange) -> Session:
        self.publisher.publish(change.events)
        self.wakeups.wake(change.wake)
        return change.session
