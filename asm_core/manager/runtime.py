"""A session's queue in this process: the fleet's semantics without a fleet."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.run import Run
from asm_core.manager.session_manager import SessionManager
from asm_core.manager.submit import RunRequest
from asm_core.ports.queue import Submitted
from asm_core.ports.store import EventFilter, QueueStatus

AWAIT_TIMEOUT_S = 60.0


class SessionRuntime:
    """
    Executes a session's runs in the order of their submits, as many at once as the session allows.

        async with SessionRuntime(manager, session.id) as runtime:
            run_id = (await runtime.submit_run({"prompt": "Hello"})).run_id
            run = await runtime.await_run(run_id)

    Leaving the block stops serving the queue: what is in flight goes on, what is queued stays queued.
    """

    def __init__(self, manager: SessionManager, session_id: str) -> None:
        self._manager = manager
        self.session_id = session_id

    async def __aenter__(self) -> Self:
        await self._manager.get_session(self.session_id)
        self._manager.worker.adopt(self.session_id)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._manager.worker.release(self.session_id)

    async def submit_run(self, /, input: Mapping[str, Any], **options: Any) -> Submitted:
        """
        Queue a run.

        Args:
            options: `model, timeout_ms, queue_timeout_ms, metadata, idempotency_key, …`, as of a submit over HTTP.

        Raises:
            AsmError: `max_runs_exceeded`, `invalid_input`, `validation_error`, `invalid_operation`, `already_exists`.
        """
        key = options.pop("idempotency_key", None)
        manager = self._manager
        request = RunRequest(input=input, provider=manager.adapter.name, **options)
        return await manager.submitter.submit(self.session_id, manager.tenant_id, request, key)

    async def await_run(self, run_id: str, *, timeout_s: float = AWAIT_TIMEOUT_S) -> Run:
        """The run once it has ended, however it ended. Raises `run_not_found`, `timeout` (the run goes on)."""
        run = await self._manager.follower.await_run(run_id, timeout_s=timeout_s)
        if not run.is_terminal:
            message = f"run {run_id} did not end within {timeout_s:g} s"
            raise AsmError(ErrorCode.TIMEOUT, message, details={"run_id": run_id, "reason": "await_timeout"})
        return run

    async def cancel_run(self, run_id: str) -> RunStatus:
        """Raises `run_not_found`."""
        return await self._manager.cancel_run(run_id)

    async def interrupt_run(self, run_id: str) -> RunStatus:
        """Raises `run_not_found`; `invalid_operation` when it is not in flight."""
        return (await self._manager.control.interrupt(run_id, self._manager.tenant_id)).status

    async def status(self) -> QueueStatus:
        return await self._manager.store.queue_status(self.session_id, self._manager.tenant_id)

    async def drain(self, *, timeout_s: float = AWAIT_TIMEOUT_S) -> None:
        """Wait until nothing is queued, in flight or parked. Raises `timeout`; the work goes on."""
        await self._manager.follower.drain(self.session_id, timeout_s=timeout_s)

    def subscribe(self, where: EventFilter | None = None, *, until_idle: bool = False) -> AsyncGenerator[Event, None]:
        """Backfill behind the cursor, then live; as `SessionManager.stream_session_events`."""
        return self._manager.stream_session_events(self.session_id, where, until_idle=until_idle)
