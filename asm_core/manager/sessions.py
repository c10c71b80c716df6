"""A session's life: created active or forked, paused, resumed, completed, cancelled. Row and event change together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from asm_core.clock import SystemClock, new_id
from asm_core.domain import ids
from asm_core.domain.errors import AsmError
from asm_core.domain.lifecycle import SessionVerb
from asm_core.domain.redaction import REDACTOR, Redactor
from asm_core.domain.session import Session
from asm_core.pipeline.publish import Publisher
from asm_core.ports.queue import RunQueue, SessionChange
from asm_core.ports.store import SessionStore
from asm_core.ports.wakeups import Nudges, Wakeups

_INHERITED = ("agent_id", "provider", "model", "context", "tags", "max_concurrent_runs", "max_queued_runs")
"""What a fork takes over where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Sessions:
    queue: RunQueue
    store: SessionStore
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

    async def fork(self, session_id: str, tenant_id: str, at: int | None = None, **fields: Any) -> Session:
        """
        A new, active session whose log begins with the events of another, up to number `at` (all, when omitted). They
        are referred to, not copied, and the other session goes on undisturbed.

        Args:
            fields: of the new session, where it is to differ: `agent_id, provider, model, context, tags,
                max_concurrent_runs, max_queued_runs`; its `metadata` are its own.

        Raises:
            AsmError: `session_not_found`, `validation_error` (no such event, or a field).

        Source: DESIGN §11.
        """
        parent = await self.store.get_session(session_id, tenant_id)
        kept = {name: getattr(parent, name) for name in _INHERITED}
        fork = Session.new(
            id=new_id(ids.SESSION),
            now=SystemClock().now(),
            tenant_id=tenant_id,
            parent_session_id=session_id,
            **kept | fields,
        )
        return await self._announce(await self.queue.fork_session(self.redactor.session(fork), at))

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
