"""Every worker offers itself for the repair pass; the store lets one of them do it per interval."""

from __future__ import annotations

import asyncio
import logging
import random

from asm_core.config import FleetTimes
from asm_core.domain.errors import AsmError
from asm_core.pipeline.publish import Publisher
from asm_core.ports.queue import RunQueue
from asm_core.ports.wakeups import Wakeups

log = logging.getLogger(__name__)

JITTER = 0.2


async def sweep_forever(queue: RunQueue, publisher: Publisher, wakeups: Wakeups, times: FleetTimes) -> None:
    """Until cancelled."""
    while True:
        interval = times.sweep_interval.total_seconds()
        await asyncio.sleep(interval * random.uniform(1 - JITTER, 1 + JITTER))
        try:
            swept = await queue.sweep()
        except AsmError as error:
            log.warning("sweep put off: %s", error)
            continue
        for worker_id in swept.workers_lost:
            log.warning("worker %s is lost", worker_id)
        for run_id, status in swept.settled.items():
            log.warning("run %s is %s now", run_id, status)
        publisher.publish(swept.events)
        wakeups.wake(swept.wake)
