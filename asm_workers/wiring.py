"""The composition root of a worker process: the only file of this package that names concrete parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from celery import Celery

from asm_core.bus.redis import RedisBus
from asm_core.clock import SystemClock
from asm_core.config import Settings
from asm_core.manager.signals import StopCause
from asm_core.pipeline.persist import EventWriter
from asm_core.pipeline.publish import Publisher
from asm_core.ports.queue import HeldLease
from asm_core.providers import build_providers
from asm_core.stores.postgres.queue import PostgresRunQueue
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

SETTLE_S = 2.0
"""For the last events to reach the bus when the process ends."""


class Worker:
    """A running worker process, as Celery's signals and tasks see it."""

    def __init__(self, deps: Deps, canary: Canary, settings: Settings) -> None:
        self.deps = deps
        self.canary = canary
        self._settings = settings

    async def handle(self, session_id: str) -> str:
        return await handle_wakeup(session_id, self.deps)

    async def drain(self, timeout_s: float) -> None:
        """
        Stop claiming, let the runs finish for `timeout_s`, then hand back what may start again and fail the rest.

        Returns when nothing is held any more; bounded by the adapters' grace.
        """
        leases = self.deps.leases
        leases.draining = True
        if not await leases.until_empty(timeout_s):
            log.warning("%d runs did not finish in time: handing them back", leases.held)
            leases.stop_all(StopCause.SHUTDOWN)
            await leases.until_empty(self._settings.run_limits.cancel_grace_s + SETTLE_S)


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
        leave: set when the worker has drained itself and wants to be replaced.

    Raises:
        AsmError: `storage_connection_failed`, `migration_required`.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        queue = PostgresRunQueue(
            settings.database_url, application_name="asm-worker", times=settings.times, limiter=settings.limiter
        )
        await queue.open()
        stack.push_async_callback(queue.close)
        bus = RedisBus(settings.redis_url, settings.redis_prefix)
        stack.push_async_callback(bus.close)
        broker = BrokerThread(app)
        stack.push_async_callback(asyncio.to_thread, broker.close)
        publisher = Publisher(bus, settings.event_limits.publish_buffer)
        stack.push_async_callback(publisher.settle, SETTLE_S)
        wakeups = CeleryWakeups(settings, broker, app)
        damper = Damper(settings, wakeups)
        stack.push_async_callback(damper.close)
        providers = build_providers(settings)
        stack.push_async_callback(providers.close)

        async def hand_back(lease: HeldLease) -> None:
            finished = await queue.hand_back(lease.run_id, lease.fence, "unknown_lease")
            if finished is not None:
                log.warning("run %s was handed back: its claim's answer was lost", lease.run_id)
                publisher.publish(finished.events)
                wakeups.wake(finished.wake)

        leases = LeaseKeeper(settings, queue, slots, loop, hand_back)
        clock = SystemClock()
        deps = Deps(
            settings=settings,
            queue=queue,
            writer=EventWriter(queue, publisher, settings.event_limits, clock),
            publisher=publisher,
            leases=leases,
            damper=damper,
            wakeups=wakeups,
            providers=providers,
            task_events=TaskEvents(app, broker, node),
            clock=clock,
        )

        async def give_up() -> None:
            await worker.drain(settings.drain_timeout_ms / 1000)
            leave.set()

        canary = Canary(
            settings,
            app=app,
            broker=broker,
            queue_name=canary_queue,
            queue=queue,
            leases=leases,
            look_at=lambda session_id: handle_wakeup(session_id, deps),
            give_up=give_up,
        )
        worker = Worker(deps, canary, settings)
        await leases.start()
        stack.push_async_callback(leases.stop)
        nudges = NudgeListener(settings, lambda: leases.worker_id, leases.signal)
        stack.push_async_callback(
            _end,
            asyncio.gather(
                leases.watch(),
                deps.writer.run(),
                publisher.run(),
                nudges.run(),
                canary.run(),
                sweep_forever(queue, publisher, wakeups, settings.times),
            ),
        )
        yield worker


async def _end(background: asyncio.Future[Any]) -> None:
    background.cancel()
    await asyncio.gather(background, return_exceptions=True)
