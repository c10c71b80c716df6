"""
The library for code without an event loop: the same manager, blocking.

    from asm_core import sync

    with sync.open_manager("memory://", adapter) as manager:
        print(manager.run_once({"prompt": "Hello"}).output["content"])
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, update_wrapper
from typing import Any, ParamSpec, TypeVar

from anyio.from_thread import start_blocking_portal

from asm_core import library, process
from asm_core.blocking import Facade, blocking, iterated
from asm_core.config import RunLimits
from asm_core.domain.event import Event
from asm_core.domain.session import DEFAULT_TENANT
from asm_core.manager import audit, runtime, session_manager
from asm_core.manager.oneshot import StreamSession
from asm_core.ports import query
from asm_core.ports.artifacts import ArtifactStore
from asm_core.ports.provider import ProviderAdapter
from asm_core.ports.store import EventFilter

P = ParamSpec("P")
T = TypeVar("T")

_Manager = session_manager.SessionManager


class SessionManager(Facade[_Manager]):
    """`asm_core.SessionManager` with the same verbs and arguments; usable from any thread."""

    start_session = blocking(_Manager.start_session)
    activate_session = blocking(_Manager.activate_session)
    pause_session = blocking(_Manager.pause_session)
    resume_session = blocking(_Manager.resume_session)
    complete_session = blocking(_Manager.complete_session)
    fail_session = blocking(_Manager.fail_session)
    cancel_session = blocking(_Manager.cancel_session)
    fork_session = blocking(_Manager.fork_session)
    open_session = blocking(_Manager.open_session)
    get_session = blocking(_Manager.get_session)
    start_run = blocking(_Manager.start_run)
    execute_run = blocking(_Manager.execute_run)
    execute_and_end = blocking(_Manager.execute_and_end)
    run_once = blocking(_Manager.run_once)
    cancel_for_approval = blocking(_Manager.cancel_for_approval)
    cancel_run = blocking(_Manager.cancel_run)
    get_run = blocking(_Manager.get_run)
    get_session_runs = blocking(_Manager.get_session_runs)
    get_session_events = blocking(_Manager.get_session_events)
    get_audit_log = blocking(_Manager.get_audit_log)

    def audit_logger(self, *, actor: str | None = None, legacy_event_log: bool = False) -> AuditLogger:
        """As the asynchronous one, blocking."""
        logger = self._inner.audit_logger(actor=actor, legacy_event_log=legacy_event_log)
        return AuditLogger(logger, self._portal)

    def stream_session_events(
        self, session_id: str, where: EventFilter | None = None, *, until_idle: bool = False
    ) -> Iterator[Event]:
        """As the asynchronous one. Leaving the iteration ends the stream."""
        return iterated(self._portal, self._inner.stream_session_events(session_id, where, until_idle=until_idle))

    @contextmanager
    def runtime(self, session_id: str) -> Iterator[SessionRuntime]:
        """`asm_core.SessionRuntime` for the time of the block."""
        inner = runtime.SessionRuntime(self._inner, session_id)
        with self._portal.wrap_async_context_manager(inner):
            yield SessionRuntime(inner, self._portal)

    @contextmanager
    def stream(self, input: Mapping[str, Any], **fields: Any) -> Iterator[BlockingStream]:
        """`StreamSession`, blocking; leaving the block early cancels the run."""
        stream = StreamSession(self._inner, input, **fields)
        with self._portal.wrap_async_context_manager(stream):
            yield BlockingStream(stream, self._portal)


class SessionRuntime(Facade[runtime.SessionRuntime]):
    """`asm_core.SessionRuntime` with the same verbs and arguments."""

    submit_run = blocking(runtime.SessionRuntime.submit_run)
    await_run = blocking(runtime.SessionRuntime.await_run)
    cancel_run = blocking(runtime.SessionRuntime.cancel_run)
    interrupt_run = blocking(runtime.SessionRuntime.interrupt_run)
    status = blocking(runtime.SessionRuntime.status)
    drain = blocking(runtime.SessionRuntime.drain)

    @property
    def session_id(self) -> str:
        return self._inner.session_id

    def subscribe(self, where: EventFilter | None = None, *, until_idle: bool = False) -> Iterator[Event]:
        """As the asynchronous one. Leaving the iteration ends the subscription."""
        return iterated(self._portal, self._inner.subscribe(where, until_idle=until_idle))


class QueryAPI(Facade[query.QueryAPI]):
    """Questions across sessions, as `asm_core.ports.query.QueryAPI`."""

    search_sessions = blocking(query.QueryAPI.search_sessions)
    get_session_stats = blocking(query.QueryAPI.get_session_stats)
    search_runs = blocking(query.QueryAPI.search_runs)
    get_usage_summary = blocking(query.QueryAPI.get_usage_summary)
    get_cost_summary = blocking(query.QueryAPI.get_cost_summary)
    search_events = blocking(query.QueryAPI.search_events)
    count_events = blocking(query.QueryAPI.count_events)
    export_session = blocking(query.QueryAPI.export_session)


class Maintenance(Facade[query.Maintenance]):
    """Retention, as `asm_core.ports.query.Maintenance`."""

    execute = blocking(query.Maintenance.execute)
    soft_delete_expired_sessions = blocking(query.Maintenance.soft_delete_expired_sessions)
    hard_delete_expired_sessions = blocking(query.Maintenance.hard_delete_expired_sessions)
    prune_session_events = blocking(query.Maintenance.prune_session_events)
    clean_orphaned_artifacts = blocking(query.Maintenance.clean_orphaned_artifacts)
    health_check = blocking(query.Maintenance.health_check)


class Store(Facade[library.Store]):
    """An open store: for several managers, for queries and for maintenance."""

    def queries(self) -> QueryAPI:
        """Raises AsmError `capability_not_supported` for a store in memory."""
        return QueryAPI(self._inner.queries(), self._portal)

    def maintenance(self, *, artifacts: ArtifactStore | None = None) -> Maintenance:
        """Raises AsmError `capability_not_supported` for a store in memory."""
        return Maintenance(self._inner.maintenance(artifacts=artifacts), self._portal)

    @contextmanager
    def open_manager(
        self, adapter: ProviderAdapter, *, tenant_id: str = DEFAULT_TENANT, run_limits: RunLimits | None = None
    ) -> Iterator[SessionManager]:
        """As `asm_core.open_manager`."""
        opened = library.open_manager(self._inner, adapter, tenant_id=tenant_id, run_limits=run_limits)
        with self._portal.wrap_async_context_manager(opened) as manager:
            yield SessionManager(manager, self._portal)


class AuditLogger(Facade[audit.AuditLogger]):
    """`asm_core.AuditLogger` with the same calls; `set_enabled` holds for the thread that calls it."""

    log_run_started = blocking(audit.AuditLogger.log_run_started)
    log_run_completed = blocking(audit.AuditLogger.log_run_completed)
    log_run_failed = blocking(audit.AuditLogger.log_run_failed)
    log_error = blocking(audit.AuditLogger.log_error)
    log_usage_metrics = blocking(audit.AuditLogger.log_usage_metrics)


class BlockingStream(Facade[StreamSession]):
    """Iterate over its events, then ask for the result."""

    result = blocking(StreamSession.result)

    @property
    def session_id(self) -> str:
        return self._inner.session_id

    def __iter__(self) -> Iterator[Event]:
        return iterated(self._portal, self._inner.events())


@contextmanager
def open_store(url: str) -> Iterator[Store]:
    """`asm_core.open_store` on a loop in a thread of its own, which ends with the block."""
    with (
        start_blocking_portal(name="asm-library") as portal,
        portal.wrap_async_context_manager(library.open_store(url)) as store,
    ):
        yield Store(store, portal)


@contextmanager
def open_manager(
    store: str, adapter: ProviderAdapter, *, tenant_id: str = DEFAULT_TENANT, run_limits: RunLimits | None = None
) -> Iterator[SessionManager]:
    """A manager with a store of its own, by URL."""
    with (
        open_store(store) as opened,
        opened.open_manager(adapter, tenant_id=tenant_id, run_limits=run_limits) as manager,
    ):
        yield manager


def _alone(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The function on a loop of its own, which ends with it."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with start_blocking_portal(name="asm-library") as portal:
            result: T = portal.call(partial(function, *args, **kwargs))
            return result

    update_wrapper(call, function)
    return call


def _streamed_alone(function: Callable[P, AsyncGenerator[T, None]]) -> Callable[P, Iterator[T]]:
    def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        with start_blocking_portal(name="asm-library") as portal:
            yield from iterated(portal, function(*args, **kwargs))

    update_wrapper(call, function)
    return call


exec_run = _alone(process.exec_run)
exec_stream = _streamed_alone(process.exec_stream)
