"""The composition root of the library: a manager over a store, in this process, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asm_core import options
from asm_core.bus.hub import Hub
from asm_core.bus.memory import MemoryBus
from asm_core.clock import SystemClock
from asm_core.config import EventLimits, FleetTimes, RunLimits
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.session import DEFAULT_TENANT
from asm_core.manager.continuity import Conversations
from asm_core.manager.control import Control
from asm_core.manager.local_worker import LocalWorker
from asm_core.manager.provider_files import RememberedFiles
from asm_core.manager.runner import Runner
from asm_core.manager.session_manager import ExecutionResult, SessionManager
from asm_core.manager.sessions import Sessions
from asm_core.manager.snapshots import Snapshots
from asm_core.manager.submit import Submitter
from asm_core.manager.subscribe import Follower
from asm_core.model_prices import price_list
from asm_core.pipeline.persist import EventWriter
from asm_core.pipeline.publish import Publisher
from asm_core.ports.artifacts import ArtifactStore
from asm_core.ports.audit import AuditLog
from asm_core.ports.provider import ProviderAdapter
from asm_core.ports.query import Maintenance, QueryAPI
from asm_core.ports.queue import RunQueue
from asm_core.ports.store import SessionStore
from asm_core.stores.local.queue import LocalRunQueue
from asm_core.workspace.opening import open_workspace

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

APPLICATION = "asm-library"
SUBSCRIBER_BUFFER = 1_000
SLOTS = 50
"""Runs in flight at once in one manager."""
MAX_INPUT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Store:
    """Where sessions live: the guarded transactions, and the records to read."""

    queue: RunQueue
    records: SessionStore
    audit: AuditLog
    times: FleetTimes
    """Liveness and repair: the same for everybody who works on this store."""
    engine: AsyncEngine | None = None
    """The database behind it, if there is one."""

    def queries(self) -> QueryAPI:
        """
        Questions across sessions. A run without a stored cost is priced by the `pricing_table` in force now.

        Raises:
            AsmError: `capability_not_supported` for a store in memory.
        """
        from asm_core.stores.sql.query import SqlQueryAPI

        prices = price_list(options.current().pricing_table)
        return SqlQueryAPI(self._database("queries"), price_of=prices.price_of)

    def maintenance(self, *, artifacts: ArtifactStore | None = None) -> Maintenance:
        """
        Args:
            artifacts: the store that holds the bytes of registered artifacts (the one below a registering store):
                those of deleted sessions are removed from it; when omitted they stay.

        Raises:
            AsmError: `capability_not_supported` for a store in memory.
        """
        from asm_core.stores.sql.maintenance import SqlMaintenance

        return SqlMaintenance(self._database("maintenance"), blobs=artifacts)

    def _database(self, purpose: str) -> AsyncEngine:
        if self.engine is None:
            message = f"a store in memory has no {purpose}; use sqlite:///path/to/file or postgresql://…"
            raise AsmError(ErrorCode.CAPABILITY_NOT_SUPPORTED, message, details={"field": "store"})
        return self.engine


def open_store(url: str, *, times: FleetTimes | None = None) -> AbstractAsyncContextManager[Store]:
    """
    Args:
        url: `memory://` (gone with the block), `sqlite:///path/to/file` (made and migrated when needed), or
            `postgresql://…` (migrated by `asm migrate`, or `migrate` of this package).
        times: liveness and repair; the same for everybody who works on this store.

    Raises:
        AsmError: `validation_error` for another kind of URL; `storage_connection_failed`, `migration_required`.
    """
    scheme, _, place = url.partition("://")
    times = times or FleetTimes()
    match scheme:
        case "memory":
            return _open_memory(times)
        case "sqlite":
            return _open_sqlite(Path(place.removeprefix("/")), times)
        case "postgresql" | "postgres":
            return _open_postgres(url, times)
    message = f"not a store: {scheme!r}; one of: memory://, sqlite:///path/to/file, postgresql://…"
    raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "store"})


@asynccontextmanager
async def _open_memory(times: FleetTimes) -> AsyncIterator[Store]:
    from asm_core.stores.memory import MemoryRecords, MemorySessionStore
    from asm_core.stores.memory_audit import MemoryAuditLog

    records, clock = MemoryRecords(), SystemClock()
    queue = LocalRunQueue(records, times, clock)
    yield Store(queue, MemorySessionStore(records, clock), MemoryAuditLog(records, clock), times)


@asynccontextmanager
async def _open_sqlite(path: Path, times: FleetTimes) -> AsyncIterator[Store]:
    from asm_core.stores.sql.audit import SqlAuditLog
    from asm_core.stores.sql.engine import open_sqlite, sqlite_url
    from asm_core.stores.sql.migrate import migrate
    from asm_core.stores.sql.sqlite import SqliteRecords
    from asm_core.stores.sql.store import SqlSessionStore

    await asyncio.to_thread(migrate, sqlite_url(path))
    engine = open_sqlite(path)
    records = SqlSessionStore(engine)
    try:
        queue = LocalRunQueue(SqliteRecords(engine), times, SystemClock())
        yield Store(queue, records, SqlAuditLog(engine), times, engine)
    finally:
        await records.close()


@asynccontextmanager
async def _open_postgres(url: str, times: FleetTimes) -> AsyncIterator[Store]:
    from asm_core.stores.postgres.queue import PostgresRunQueue
    from asm_core.stores.sql.audit import SqlAuditLog
    from asm_core.stores.sql.engine import open_engine
    from asm_core.stores.sql.store import SqlSessionStore

    queue = PostgresRunQueue(url, application_name=APPLICATION, times=times)
    await queue.open()
    engine = open_engine(url, application_name=APPLICATION)
    records = SqlSessionStore(engine)
    try:
        yield Store(queue, records, SqlAuditLog(engine), times, engine)
    finally:
        await records.close()
        await queue.close()


@asynccontextmanager
async def open_manager(
    store: Store | str,
    adapter: ProviderAdapter,
    *,
    tenant_id: str = DEFAULT_TENANT,
    run_limits: RunLimits | None = None,
    artifacts: ArtifactStore | None = None,
) -> AsyncIterator[SessionManager]:
    """
    A manager that executes runs with this adapter; when the block ends, what still runs is stopped.

    Prices and redaction are those of the `options` in force when it opens. Several managers, each with an adapter of
    its own, may share a store and its sessions.

    Args:
        store: an open one, or the URL of one (`open_store`).
        artifacts: where patches of workspaces go; without it they stay with their runs, up to `max_patch_bytes`.
    """
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_store(store)) if isinstance(store, str) else store
        queue, records, limits, clock = opened.queue, opened.records, EventLimits(), SystemClock()
        chosen = options.current()
        redactor = chosen.redactor
        bus = MemoryBus()
        publisher = await stack.enter_async_context(Publisher(bus, limits.publish_buffer).running())
        writer = await stack.enter_async_context(EventWriter(queue, publisher, limits, clock).running())
        hub = await stack.enter_async_context(Hub(bus, records, SUBSCRIBER_BUFFER).running())
        times = run_limits or chosen.run_limits
        worker = LocalWorker(queue, opened.times, slots=SLOTS)

        def adapter_of(name: str) -> ProviderAdapter:
            if name != adapter.name:
                message = f"this manager executes {adapter.name}, not {name}"
                raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "provider"})
            return adapter

        runner = Runner(
            queue=queue,
            conversations=Conversations(records),
            writer=writer,
            publisher=publisher,
            wakeups=worker,
            adapter_of=adapter_of,
            files_of=RememberedFiles().of,
            snapshots=Snapshots(
                open=open_workspace,
                artifacts_of=None if artifacts is None else lambda _lease: artifacts,
                redactor=redactor,
                timeout_s=times.workspace_timeout_s,
            ),
            prices=price_list(chosen.pricing_table),
            redactor=redactor,
            limits=times,
            outage_tolerance_s=limits.outage_tolerance_s,
            clock=clock,
        )
        await stack.enter_async_context(worker.running(runner))
        yield SessionManager(
            adapter=adapter,
            tenant_id=tenant_id,
            store=records,
            audit=opened.audit,
            sessions=Sessions(queue, records, worker, worker, publisher, redactor),
            submitter=Submitter(queue, records, worker, publisher, adapter_of, MAX_INPUT_BYTES, redactor),
            control=Control(queue, records, worker, worker, publisher, redactor),
            follower=Follower(hub, records, tenant_id),
            worker=worker,
        )


async def run_once(
    store: Store | str, adapter: ProviderAdapter, input: Mapping[str, Any], /, **options: Any
) -> ExecutionResult:
    """`SessionManager.run_once` with a manager that lives for it."""
    async with open_manager(store, adapter) as manager:
        return await manager.run_once(input, **options)
