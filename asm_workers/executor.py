"""
From a wakeup to a finished run: the main road of a worker. Read this file first.

A wakeup says "look at this session", nothing more. Postgres decides whether there is something to claim and gives the
run to this process with a lease; everything afterwards is written under that lease. Nothing here loops on a session:
who leaves work behind passes the baton on, as a wakeup at the tail of the broker's queue.
"""

from __future__ import annotations

import logging
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from asm_core.config import Settings
from asm_core.domain.errors import LeaseLost
from asm_core.manager.runner import Runner
from asm_core.manager.signals import RunSignals
from asm_core.ports.clock import Clock
from asm_core.ports.queue import Claimed, NotClaimed, RunQueue
from asm_core.ports.wakeups import Wakeups
from asm_workers.leases import LeaseKeeper
from asm_workers.task_events import TaskEvents

log = logging.getLogger(__name__)


class DamperLike(Protocol):
    def __call__(self, session_id: str) -> AbstractAsyncContextManager[bool]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """What one worker process works with (`wiring.open_worker`)."""

    settings: Settings
    queue: RunQueue
    runner: Runner
    leases: LeaseKeeper
    damper: DamperLike
    wakeups: Wakeups
    task_events: TaskEvents
    clock: Clock


async def handle_wakeup(session_id: str, deps: Deps) -> str:
    """
    Look at a session: claim the head of its queue, if there is one and a slot is free, and execute it to its end.

    Returns:
        The word that ends in the task's result: the run's status, or why there was nothing to do (`damped`, `empty`,
        `full`, `limited`, `paused`, `lost`, `draining`, `busy`), or `fenced` when the run was taken over meanwhile.
    """
    if deps.leases.draining:
        deps.wakeups.wake([session_id])
        return "draining"
    if not (deps.leases.is_confirmed and deps.leases.free_slots):
        # cut off from the store, or full of what was claimed while the broker was away: leave it to others
        await deps.clock.sleep(deps.settings.beat_interval_ms / 1000)
        deps.wakeups.wake([session_id])
        return "busy"
    claim = await _claim(session_id, deps)
    deps.wakeups.wake(claim.wake)
    if isinstance(claim, NotClaimed):
        return claim.reason
    with deps.leases.hold(claim) as signals:
        try:
            return await _execute(claim, signals, deps)
        except LeaseLost as lost:
            log.warning("fenced: %s", lost)
            return "fenced"


async def _claim(session_id: str, deps: Deps) -> Claimed | NotClaimed:
    """
    Between this and holding the lease nothing may be awaited: the beat would see a lease that nobody holds; nor between
    the look at the free slots and this: others would see the same free slot.
    """
    with deps.leases.claiming(session_id):
        async with deps.damper(session_id) as entered:
            if not entered:
                return NotClaimed("damped")
            return await deps.queue.claim(session_id, deps.leases.worker_id)


async def _execute(claim: Claimed, signals: RunSignals, deps: Deps) -> str:
    began = time.monotonic()
    deps.task_events.received(claim.run)
    done = await deps.runner.work(claim, signals, lambda: deps.task_events.started(claim.run.id))
    error_code = str(done.error.code) if done.error else None
    deps.task_events.finished(claim.run.id, done.status, error_code, time.monotonic() - began)
    return done.status
