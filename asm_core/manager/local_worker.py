"""
This process as a worker of its own: registered, beating, holding leases, as a worker of the fleet does, but without a
broker. It executes the runs it is asked for, and serves the queues of the sessions it has adopted; other sessions,
even of the same database, are left to their fleet.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from asm_core.background import background
from asm_core.clock import new_id
from asm_core.config import FleetTimes
from asm_core.domain import ids
from asm_core.domain.errors import AsmError, LeaseLost
from asm_core.manager.runner import Done, Runner
from asm_core.manager.signals import RunSignals, StopCause
from asm_core.ports.queue import Claimed, HeldLease, NotClaimed, RunQueue

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, int]
"""Run id and fence."""


class LocalWorker:
    """
    Also this process's `Wakeups` and `Nudges`: there is nobody else to tell.

    Args:
        slots: runs in flight at once.
    """

    def __init__(self, queue: RunQueue, times: FleetTimes, *, slots: int) -> None:
        self.worker_id = new_id(ids.WORKER)
        self._queue = queue
        self._times = times
        self._slots = slots
        self._runner: Runner
        self._held: dict[Key, RunSignals] = {}
        self._adopted: set[str] = set()
        self._unknown: set[Key] = set()
        """Leases that the last beat showed and nobody here holds."""
        self._working: set[asyncio.Task[Any]] = set()
        self._draining = False

    @asynccontextmanager
    async def running(self, runner: Runner) -> AsyncIterator[LocalWorker]:
        """Registered and beating; what still runs when the block ends is stopped and handed back, or fails."""
        self._runner = runner
        await self._register()
        async with background(self._beat()):
            try:
                yield self
            finally:
                self._draining = True
                for signals in self._held.values():
                    signals.stop(StopCause.SHUTDOWN)
                await asyncio.gather(*self._working, return_exceptions=True)
        await self._queue.retire_worker(self.worker_id)

    async def execute(self, run_id: str, tenant_id: str) -> Done:
        """
        Execute one run to its end, now. It goes on when the caller is cancelled: whoever wants it stopped says so.

        Raises:
            AsmError: as `RunQueue.claim_run`, and when the store stays away.
        """

        async def claim_and_work() -> Done:
            return await self._work(await self._queue.claim_run(run_id, tenant_id, self.worker_id))

        return await asyncio.shield(self._spawn(claim_and_work()))

    def adopt(self, session_id: str) -> None:
        """Serve this session's queue from now on."""
        self._adopted.add(session_id)
        self.wake([session_id])

    def release(self, session_id: str) -> None:
        """Leave its queue alone; what is in flight goes on."""
        self._adopted.discard(session_id)

    def wake(self, session_ids: Sequence[str]) -> None:
        for session_id in session_ids:
            if session_id in self._adopted and not self._draining:
                self._spawn(self._serve(session_id))

    async def nudge(self, worker_id: str, run_id: str, kind: str) -> None:
        for (held_run, _), signals in self._held.items():
            if held_run == run_id:
                signals.stop(StopCause.CANCELLED)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task

    async def _serve(self, session_id: str) -> None:
        """One claim; whoever leaves work behind wakes the session again."""
        if len(self._held) >= self._slots:
            return  # a finish wakes the adopted
        try:
            claim = await self._queue.claim(session_id, self.worker_id)
            self.wake(claim.wake)
            if isinstance(claim, NotClaimed):
                return
            await self._work(claim)
        except AsmError as error:
            log.warning("cannot serve session %s now: %s", session_id, error)
        finally:
            if len(self._held) == self._slots - 1:
                self.wake([*self._adopted])

    async def _work(self, claim: Claimed) -> Done:
        with self._hold(claim) as signals:
            try:
                return await self._runner.work(claim, signals, lambda: None)
            except LeaseLost as lost:
                log.warning("fenced: %s", lost)
                return Done(claim.run.status, None)

    @contextmanager
    def _hold(self, claim: Claimed) -> Iterator[RunSignals]:
        key = (claim.lease.run_id, claim.lease.fence)
        self._held[key] = RunSignals()
        try:
            yield self._held[key]
        finally:
            del self._held[key]

    async def _register(self) -> None:
        await self._queue.register_worker(
            self.worker_id, hostname=socket.gethostname(), pid=os.getpid(), slots=self._slots
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._times.beat_interval.total_seconds())
            try:
                await self._reconcile(await self._queue.beat(self.worker_id, draining=self._draining))
                swept = await self._queue.sweep()
                self._runner.publisher.publish(swept.events)
                self.wake([*self._adopted])  # other processes sweep and finish, too, and know nothing of this one
            except AsmError as error:
                log.warning("beat not confirmed: %s", error)

    async def _reconcile(self, leases: Sequence[HeldLease] | None) -> None:
        if leases is None:
            await self._begin_anew()
            return
        for lease in leases:
            if (lease.run_id, lease.fence) in self._unknown - self._held.keys():
                await self._hand_back(lease)
        self._unknown = {(lease.run_id, lease.fence) for lease in leases} - self._held.keys()
        for lease in leases:
            signals = self._held.get((lease.run_id, lease.fence))
            if signals is not None and lease.cancel_kind:
                signals.stop(StopCause.CANCELLED)

    async def _hand_back(self, lease: HeldLease) -> None:
        """A claim whose answer was lost. If it is still on its way, its work is void."""
        finished = await self._queue.hand_back(lease.run_id, lease.fence, "unknown_lease")
        if finished is not None:
            self._runner.publisher.publish(finished.events)
            self.wake(finished.wake)

    async def _begin_anew(self) -> None:
        """Declared dead: everything held belongs to others now."""
        log.warning("worker %s was declared dead; its %d runs are left", self.worker_id, len(self._held))
        for signals in self._held.values():
            signals.stop(StopCause.LEASE_LOST)
        self.worker_id = new_id(ids.WORKER)
        await self._register()
