"""The composition root of a worker process: the only file of this package that names concrete parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache

from celery import Celery
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.background import background
from asm_core.bus.redis import RedisBus
from asm_core.clock import SystemClock
from asm_core.config import Settings
from asm_core.domain.errors import AsmError
from asm_core.domain.lease import Lease
from asm_core.manager.continuity import Conversations
from asm_core.manager.provider_files import kept_as_artifacts
from asm_core.manager.runner import Runner
from asm_core.manager.signals import StopCause
from asm_core.manager.snapshots import Snapshots
from asm_core.model_prices import price_list
from asm_core.pipeline.persist import EventWriter
from asm_core.pipeline.publish import SETTLE_S, Publisher
from asm_core.ports.artifacts import ArtifactStore
from asm_core.providers import build_providers
from asm_core.stores.artifacts.opening import open_artifact_store
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.postgres.queue import PostgresRunQueue
from asm_core.stores.sql.engine import open_engine
from asm_core.stores.sql.store import SqlSessionStore
from asm_core.workspace.opening import open_workspace
from asm_workers.broker import BrokerThread
from asm_workers.canary import Canary
from asm_workers.damper import Damper
from asm_workers.executor import Deps, handle_wakeup
from asm_workers.leases import LeaseKeeper
from asm_workers.nudges import NudgeListener
from asm_workers.sweeper import sweep_forever
from asm_workers.task_events import TaskEvents
from asm_workers.wakeups import CeleryWakeups

log = logging.getLogger(__name__)

APPLICATION = "asm-worker"


class Worker:
    """
    A running worker process, as Celery's signals and tasks see it.

    Args:
        leave: set when the worker has drained itself and wants to be replaced.
    """

    def __init__(self, deps: Deps, leave: asyncio.Event) -> None:
        self._deps = deps
        self._leave = leave
        self.canary: Canary

    async def handle(self, session_id: str) -> str:
        """`handle_wakeup`, or the error's code: with the store away the sweeper wakes the session again."""
        try:
            return await handle_wakeup(session_id, self._deps)
        except AsmError as error:
            log.warning("wakeup of %s came to nothing: %s", session_id, error)
            return error.code

    async def drain(self, timeout_s: float) -> None:
        """
        Stop claiming, let the runs finish for `timeout_s`, then hand back what may start again and fail the rest.

        Returns when nothing is held any more; bounded by the adapters' grace.
        """
        leases = self._deps.leases
        leases.draining = True
        if not await leases.until_empty(timeout_s):
            log.warning("%d runs did not finish in time: handing them back", leases.held)
            leases.stop_all(StopCause.SHUTDOWN)
            await leases.until_empty(self._deps.settings.run_limits.cancel_grace_s + SETTLE_S)

    async def give_up(self) -> None:
        """Drain, then ask to be replaced."""
        await self.drain(self._deps.settings.drain_timeout_ms / 1000)
        self._leave.set()


@asynccontextmanager
async def open_worker(
    settings: Settings, *, app: Celery, node: str, canary_queue: str, slots: int, leave: asyncio.Event
) -> AsyncIterator[Worker]:
    """
    Everything a worker needs, on the running loop; closed in reverse order.

    Args:
        node: Celery's name of this worker.
        canary_queue: its own queue.
        slots: runs it may hold at once.
        leave: see `Worker`.

    Raises:
        AsmError: `storage_connection_failed`, `migration_required`.
    """
    async with AsyncExitStack() as stack:
        queue = PostgresRunQueue(
            settings.database_url, application_name=APPLICATION, times=settings.times, limiter=settings.limiter
        )
        await queue.open()
        stack.push_async_callback(queue.close)
        broker = BrokerThread(app)
        stack.push_async_callback(asyncio.to_thread, broker.close)
        deps = await _open_deps(stack, settings, queue, app=app, broker=broker, node=node, slots=slots)
        leases = deps.leases
        await leases.start()
        stack.push_async_callback(leases.stop)
        worker = Worker(deps, leave)
        canary = worker.canary = Canary(
            settings, app, broker, queue_name=canary_queue, queue=queue, leases=leases, worker=worker
        )
        nudges = NudgeListener(settings, lambda: leases.worker_id, leases.signal)
        sweeps = sweep_forever(queue, deps.runner.publisher, deps.wakeups, settings.times)
        await stack.enter_async_context(background(leases.watch(), nudges.run(), canary.run(), sweeps))
        yield worker


async def _open_deps(
    stack: AsyncExitStack,
    settings: Settings,
    queue: PostgresRunQueue,
    *,
    app: Celery,
    broker: BrokerThread,
    node: str,
    slots: int,
) -> Deps:
    """What `handle_wakeup` works with."""
    bus = RedisBus(settings.redis_url, settings.redis_prefix)
    stack.push_async_callback(bus.close)
    publisher = await stack.enter_async_context(Publisher(bus, settings.event_limits.publish_buffer).running())
    clock = SystemClock()
    writer = await stack.enter_async_context(EventWriter(queue, publisher, settings.event_limits, clock).running())
    wakeups = CeleryWakeups(settings, broker, app)
    engine = open_engine(settings.database_url, application_name=APPLICATION)
    store = SqlSessionStore(engine)
    stack.push_async_callback(store.close)
    damper = Damper(settings, wakeups)
    stack.push_async_callback(damper.close)
    artifacts_of, redactor = _artifacts(settings, engine), settings.redactor
    providers = build_providers(settings, store)
    stack.push_async_callback(providers.close)
    return Deps(
        settings=settings,
        queue=queue,
        runner=Runner(
            queue=queue,
            conversations=Conversations(store),
            writer=writer,
            publisher=publisher,
            wakeups=wakeups,
            adapter_of=providers.get,
            files_of=kept_as_artifacts(artifacts_of),
            snapshots=Snapshots(
                open=open_workspace,
                artifacts_of=artifacts_of,
                redactor=redactor,
                timeout_s=settings.run_limits.workspace_timeout_s,
            ),
            prices=price_list(settings.pricing_table),
            redactor=redactor,
            limits=settings.run_limits,
            outage_tolerance_s=settings.event_limits.outage_tolerance_s,
            clock=clock,
        ),
        leases=LeaseKeeper(settings, queue, publisher, wakeups, slots=slots, loop=asyncio.get_running_loop()),
        damper=damper,
        wakeups=wakeups,
        task_events=TaskEvents(app, broker, node),
        clock=clock,
    )


def _artifacts(settings: Settings, engine: AsyncEngine) -> Callable[[Lease], ArtifactStore]:
    """The installation's artifact store, opened when it is needed first, in the name of a lease's holder."""
    blobs, registry = cache(lambda: open_artifact_store(settings.artifacts_location)), ArtifactRegistry(engine)

    def artifacts_of(lease: Lease) -> ArtifactStore:
        return RegisteringArtifactStore(
            blobs(), registry, lease.tenant_id, session_id=lease.session_id, run_id=lease.run_id, fence=lease.fence
        )

    return artifacts_of
