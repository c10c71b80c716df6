"""
The library's front door: sessions and runs by single steps, in the process that asks.

Everything goes through the same transactions, the same pipeline and the same run loop as in a fleet; only the worker is
this process itself. `asm_core.library.open_manager` puts one together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from asm_core.clock import SystemClock, new_id
from asm_core.domain import ids
from asm_core.domain.audit import AuditEntry
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventFrame
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.negotiation import CapabilityResolver
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.manager.audit import AuditLogger, LegacyEventLog
from asm_core.manager.control import Control
from asm_core.manager.local_worker import LocalWorker
from asm_core.manager.sessions import Sessions
from asm_core.manager.submit import RunRequest, Submitter
from asm_core.manager.subscribe import PAGE, Follower
from asm_core.ports.audit import EVERYTHING, AuditFilter, AuditLog
from asm_core.ports.provider import ProviderAdapter
from asm_core.ports.store import EventFilter, Page, SessionStore
from asm_core.wire import loads

log = logging.getLogger(__name__)

MAX_CONCURRENT_RUNS = 50
"""Of a session whose starter names no bound: single steps are not queued, they are executed when asked for."""
STOP_S = 15.0
"""For a run to end whose `execute_run` was cancelled: an adapter's grace, and a little more."""
LAST_EVENT_S = 5.0
"""For a finished run's last event to reach its callback."""

EventCallback = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """What a completed run came to."""

    session_id: str
    run_id: str
    output: Mapping[str, Any]
    """`content`, `tool_calls`, and what the provider adds."""
    token_usage: Mapping[str, Any]
    cost_usd: float | None
    provider_metadata: Mapping[str, Any]
    events: Sequence[Event]
    """The run's events as they are stored, the terminal one last."""

    @property
    def workspace(self) -> Mapping[str, Any] | None:
        """`backend, before_snapshot, after_snapshot, diff`, and `rollback` or `error`, of a run that asked for it."""
        return self.output.get("workspace")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionManager:
    """Acts for one tenant, with one provider adapter."""

    adapter: ProviderAdapter
    tenant_id: str
    store: SessionStore
    audit: AuditLog
    sessions: Sessions
    submitter: Submitter
    control: Control
    follower: Follower
    worker: LocalWorker

    # Sessions

    async def start_session(self, /, agent_id: str | None = None, **fields: Any) -> Session:
        """
        A pending session of this manager's provider; `session_created`.

        Args:
            agent_id: the provider's name when omitted.
            fields: `model, context, metadata, tags, parent_session_id, max_concurrent_runs, max_queued_runs`.

        Raises:
            AsmError: `validation_error` naming the field; `storage_connection_failed`.
        """
        bounds = {"max_concurrent_runs": MAX_CONCURRENT_RUNS} | fields
        return await self.sessions.start(
            Session.new(
                id=new_id(ids.SESSION),
                now=SystemClock().now(),
                agent_id=self.adapter.name if agent_id is None else agent_id,
                tenant_id=self.tenant_id,
                provider=self.adapter.name,
                **bounds,
            )
        )

    async def activate_session(self, session_id: str) -> Session:
        """Raises `session_not_found`, `invalid_transition`."""
        return await self.sessions.activate(session_id, self.tenant_id)

    async def pause_session(self, session_id: str) -> Session:
        """No further run begins. Raises `session_not_found`, `invalid_transition`."""
        return await self.sessions.pause(session_id, self.tenant_id)

    async def resume_session(self, session_id: str) -> Session:
        """Raises `session_not_found`, `invalid_transition`."""
        return await self.sessions.resume(session_id, self.tenant_id)

    async def complete_session(self, session_id: str) -> Session:
        """Raises `session_not_found`, `invalid_transition`, `invalid_operation` (there is work left)."""
        return await self.sessions.complete(session_id, self.tenant_id)

    async def fail_session(self, session_id: str, error: AsmError) -> Session:
        """What is not done is cancelled. Raises `session_not_found`, `invalid_transition`."""
        return await self.sessions.fail(session_id, self.tenant_id, error)

    async def cancel_session(self, session_id: str) -> Session:
        """What is not done is cancelled. Raises `session_not_found`, `invalid_transition`."""
        return await self.sessions.cancel(session_id, self.tenant_id, cancel_queued=True)

    async def fork_session(self, /, session_id: str, at: int | None = None, **fields: Any) -> Session:
        """
        A new, active session that goes on from another's events up to number `at` (all, when omitted), by reference.

        Args:
            fields: where the new session is to differ, as of `start_session`; its metadata are its own.

        Raises:
            AsmError: `session_not_found`, `validation_error` (no such event, or a field).
        """
        return await self.sessions.fork(session_id, self.tenant_id, at, **fields)

    async def get_session(self, session_id: str) -> Session:
        """Raises `session_not_found`."""
        return await self.store.get_session(session_id, self.tenant_id)

    # Runs

    async def start_run(
        self,
        /,
        session_id: str,
        input: Mapping[str, Any],
        *,
        required_capabilities: Iterable[str] = (),
        optional_capabilities: Iterable[str] = (),
        **options: Any,
    ) -> Run:
        """
        A pending run that waits for `execute_run`; nobody else starts it.

        Args:
            required_capabilities: types that the provider must have (`tool`, `sampling`, …).
            optional_capabilities: types whose absence is noted in the run's metadata, under `capability_warnings`.
            options: `model, timeout_ms, continuation, continuation_opts, provider_options, workspace, metadata`, as
                of a submit over HTTP.

        Raises:
            AsmError: `session_not_found`, `validation_error`, `invalid_input`, `payload_too_large`,
                `invalid_operation` (the session has ended), `missing_required_capability`, `invalid_capability_type`.
        """
        warnings = self._negotiated(required_capabilities, optional_capabilities)
        if warnings:
            options["metadata"] = {**options.get("metadata", {}), "capability_warnings": warnings}
        request = RunRequest(input=input, provider=self.adapter.name, **options)
        submitted = await self.submitter.submit(session_id, self.tenant_id, request, queued=False)
        return await self.get_run(submitted.run_id)

    def _negotiated(self, required: Iterable[str], optional: Iterable[str]) -> list[str]:
        """What is missing of the optional ones. Without requirements the provider is not asked."""
        resolver = CapabilityResolver.new(required=required, optional=optional)
        if not (resolver.required or resolver.optional):
            return []
        return [*resolver.negotiate(self.adapter.capabilities()).warnings]

    async def execute_run(self, run_id: str, *, event_callback: EventCallback | None = None) -> ExecutionResult:
        """
        Execute a pending run to its end; whoever cancels this call cancels the run.

        Args:
            event_callback: gets each of the run's events once it is stored, in order, before this returns. What it
                raises is logged and stops nothing.

        Raises:
            AsmError: what the run failed with (`cancelled`, `timeout` too); the run and its events are stored, and the
                error's `context` has its `run_id` and `session_id`.
                `run_not_found`, `invalid_transition`, `invalid_operation`, `max_runs_exceeded`: it was not started.
        """
        run = await self.get_run(run_id)
        async with self._told(run, event_callback):
            try:
                await self.worker.execute(run_id, self.tenant_id)
            except asyncio.CancelledError:
                await asyncio.shield(self._stopped(run_id))
                raise
        return await self._result(await self.get_run(run_id))

    async def run_once(
        self,
        /,
        input: Mapping[str, Any],
        *,
        agent_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        event_callback: EventCallback | None = None,
        **options: Any,
    ) -> ExecutionResult:
        """
        A session that lives for one run: started, activated, executed, completed; failed when the run fails.

        Args:
            agent_id: the provider's name when omitted.
            options: of the run, as of `start_run`.

        Raises:
            AsmError: as `execute_run`.
        """
        session = await self.open_session(agent_id=agent_id, context=context, metadata=metadata, tags=tags)
        return await self.execute_and_end(session.id, input, event_callback=event_callback, **options)

    async def open_session(self, /, agent_id: str | None = None, **fields: Any) -> Session:
        """Started and activated. Raises as `start_session`."""
        session = await self.start_session(agent_id, **fields)
        return await self.activate_session(session.id)

    async def execute_and_end(
        self,
        /,
        session_id: str,
        input: Mapping[str, Any],
        *,
        event_callback: EventCallback | None = None,
        **options: Any,
    ) -> ExecutionResult:
        """One run, and the end of its session that goes with the run's. Raises as `execute_run`."""
        try:
            run = await self.start_run(session_id, input, **options)
            result = await self.execute_run(run.id, event_callback=event_callback)
        except AsmError as error:
            await self.fail_session(session_id, error)
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self.cancel_session(session_id))
            raise
        await self.complete_session(session_id)
        return result

    async def _stopped(self, run_id: str) -> None:
        """Wait for its end, bounded."""
        await self.cancel_run(run_id)
        await self.follower.await_run(run_id, timeout_s=STOP_S)

    async def cancel_run(self, run_id: str) -> RunStatus:
        """A pending run ends at once, one in flight soon; the status by now. Raises `run_not_found`."""
        return (await self.control.cancel(run_id, self.tenant_id)).status

    async def cancel_for_approval(self, run_id: str, approval: Mapping[str, Any]) -> RunStatus:
        """
        As `cancel_run`, because something must be approved first: the log tells what, then that the run is cancelled.

        Args:
            approval: `tool_name, tool_call_id, tool_input, policy_name, violation_kind`.

        Raises `run_not_found`.
        """
        return (await self.control.cancel_for_approval(run_id, self.tenant_id, approval)).status

    async def get_run(self, run_id: str) -> Run:
        """Raises `run_not_found`."""
        return await self.store.get_run(run_id, self.tenant_id)

    async def get_session_runs(self, session_id: str) -> list[Run]:
        """Oldest first."""
        found: list[Run] = []
        cursor = None
        while True:
            page = await self.store.list_runs(self.tenant_id, session_id=session_id, limit=PAGE, cursor=cursor)
            found += page.items
            cursor = page.cursor
            if cursor is None:
                return found[::-1]

    # Events

    async def get_session_events(
        self, session_id: str, where: EventFilter | None = None, *, limit: int | None = None
    ) -> list[Event]:
        """In sequence order; all of them, or the first `limit`."""
        where = where or EventFilter()
        found: list[EventFrame] = []
        while limit is None or len(found) < limit:
            most = PAGE if limit is None else min(PAGE, limit - len(found))
            page = await self.store.get_events(session_id, self.tenant_id, where, most)
            found += page
            if len(page) < most:
                break
            where = where.behind(page[-1].sequence_number)
        return [event_of(frame) for frame in found]

    async def stream_session_events(
        self, session_id: str, where: EventFilter | None = None, *, until_idle: bool = False
    ) -> AsyncGenerator[Event, None]:
        """
        Every event behind the cursor, then each as it is stored, until the caller stops.

        Args:
            until_idle: end when everything is delivered and nothing is queued, in flight or parked.

        Raises:
            AsmError: `session_not_found`, `storage_connection_failed`; go on behind the last event seen.
        """
        batches = self.follower.follow(session_id, where or EventFilter(), until_idle=until_idle)
        async with aclosing(batches):
            async for frames in batches:
                for frame in frames:
                    yield event_of(frame)

    # Audit

    async def get_audit_log(
        self, session_id: str, where: AuditFilter = EVERYTHING, *, limit: int = 100, cursor: str | None = None
    ) -> Page[AuditEntry]:
        """
        A page of what was done to a session and its runs, oldest first; of a deleted session too.

        Raises `validation_error` (the limit), `invalid_cursor`.
        """
        return await self.audit.get_audit_log(session_id, self.tenant_id, where, limit=limit, cursor=cursor)

    def audit_logger(self, *, actor: str | None = None, legacy_event_log: bool = False) -> AuditLogger:
        """
        For entries of the caller's own.

        Args:
            actor: on whose behalf.
            legacy_event_log: as events of the session, not in the audit log (see `LegacyEventLog`).
        """
        recorder = LegacyEventLog(self.store, SystemClock()) if legacy_event_log else self.audit
        return AuditLogger(recorder, self.sessions.redactor, actor)

    @asynccontextmanager
    async def _told(self, run: Run, callback: EventCallback | None) -> AsyncIterator[None]:
        """The callback hears of everything that happens to the run inside the block, its end included."""
        if callback is None:
            yield
            return
        watching = asyncio.create_task(self._tell(run, callback))
        try:
            yield
            await asyncio.wait({watching}, timeout=LAST_EVENT_S)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _tell(self, run: Run, callback: EventCallback) -> None:
        where = EventFilter(run_id=run.id)
        async with aclosing(self.stream_session_events(run.session_id, where)) as events:
            async for event in events:
                try:
                    callback(event)
                except Exception:
                    log.exception("an event callback failed")
                if event.is_terminal:
                    return

    async def _result(self, run: Run) -> ExecutionResult:
        if run.status is not RunStatus.COMPLETED:
            raise failure_of(run)
        return ExecutionResult(
            session_id=run.session_id,
            run_id=run.id,
            output=run.output or {},
            token_usage=run.token_usage,
            cost_usd=run.cost_usd,
            provider_metadata=run.provider_metadata,
            events=await self.get_session_events(run.session_id, EventFilter(run_id=run.id)),
        )


def event_of(frame: EventFrame) -> Event:
    """The event that a store or a query tells in encoded form."""
    return Event.from_map(loads(frame.body))


def failure_of(run: Run) -> AsmError:
    """Why a run did not complete, as an error to raise; its context says which run of which session."""
    context = {"session_id": run.session_id, "run_id": run.id}
    if run.error is not None:
        return AsmError.from_map({**run.error, "context": context})
    code = ErrorCode.CANCELLED if run.status is RunStatus.CANCELLED else ErrorCode.INTERNAL_ERROR
    return AsmError(code, f"run {run.id} is {run.status}", details={"run_id": run.id}, context=context)
