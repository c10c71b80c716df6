"""
The library for code without an event loop: the same manager, blocking.

    from asm_core import sync

    with sync.open_manager("memory://", adapter) as manager:
        print(manager.run_once({"prompt": "Hello"}).output["content"])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import start_blocking_portal

from asm_core import library
from asm_core.blocking import Facade, blocking, iterated
from asm_core.config import RunLimits
from asm_core.domain.event import Event
from asm_core.domain.session import DEFAULT_TENANT
from asm_core.manager import audit, session_manager
from asm_core.manager.oneshot import StreamSession
from asm_core.ports.provider import ProviderAdapter
from asm_core.ports.store import EventFilter

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
    get_session = blocking(_Manager.get_session)
    start_run = blocking(_Manager.start_run)
    execute_run = blocking(_Manager.execute_run)
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
    def stream(self, input: Mapping[str, Any], **fields: Any) -> Iterator[BlockingStream]:
        """`StreamSession`, blocking; leaving the block early cancels the run."""
        stream = StreamSession(self._inner, input, **fields)
        with self._portal.wrap_async_context_manager(stream):
            yield BlockingStream(stream, self._portal)


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
def open_manager(
    store: str,
    adapter: ProviderAdapter,
    *,
    tenant_id: str = DEFAULT_TENANT,
    run_limits: RunLimits | None = None,
) -> Iterator[SessionManager]:
    """`asm_core.open_manager` on a loop in a thread of its own, which ends with the block."""
    with start_blocking_portal(name="asm-library") as portal:
        opened = library.open_manager(store, adapter, tenant_id=tenant_id, run_limits=run_limits)
        with portal.wrap_async_context_manager(opened) as manager:
            yield SessionManager(manager, portal)
