"""
What this process holds, and the beat that keeps it.

A worker's life is one row: as long as it beats, its leases are good; once the sweeper has marked it lost, they are
not, and it finds out at its next beat or write, whichever comes first. The beat runs in a thread with a connection of
its own, so neither a busy loop nor a full pool can make a healthy worker look dead; and because a loop that hangs
would then look alive, the beat ends the process when the loop has not answered for too long.

Each beat compares both sides:
- a lease that only Postgres knows, twice in a row, is handed back (a claim whose answer was lost);
- a run that only this process knows, although it was held when the question was sent, is lost: stop, write nothing;
- a requested cancel reaches the run even if its nudge was lost.

Without a confirmed beat for `self_fence_after`, runs that another worker may start are stopped before it can happen;
the others go on: nobody will start them again, and their events wait for the store to come back. Nothing is claimed
meanwhile. The loop sees to that, because the beat's thread may be waiting for an answer that never comes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from asm_core.background import end_process
from asm_core.clock import new_id
from asm_core.config import Settings
from asm_core.domain import ids
from asm_core.domain.errors import AsmError
from asm_core.domain.lease import Lease
from asm_core.domain.run import OnWorkerLost
from asm_core.manager.signals import RunSignals, StopCause
from asm_core.pipeline.publish import Publisher
from asm_core.ports.queue import Claimed, HeldLease
from asm_core.ports.wakeups import Wakeups
from asm_core.stores.postgres.beat import BEAT_TIMEOUT_MS, PostgresBeat
from asm_core.stores.postgres.queue import PostgresRunQueue

log = logging.getLogger(__name__)

BEAT_ANSWER_S = BEAT_TIMEOUT_MS / 1000 + 1
"""A beat without an answer for this long is given up, and tried on a new connection."""
STRIKES = 2
"""Beats in a row that must agree before an unknown lease is handed back."""

Key = tuple[str, int]
"""Run id and fence."""


@dataclass(slots=True)
class Held:
    lease: Lease
    repeatable: bool
    """Whether another worker may start the run again."""
    signals: RunSignals = field(default_factory=RunSignals)


class LeaseKeeper:
    """
    Args:
        slots: runs this process may hold.
        loop: where the runs are; the beat's thread reports there.
    """

    def __init__(
        self,
        settings: Settings,
        queue: PostgresRunQueue,
        publisher: Publisher,
        wakeups: Wakeups,
        *,
        slots: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.worker_id = new_id(ids.WORKER)
        self.slots = slots
        self.draining = False
        self._settings = settings
        self._times = settings.times
        self._queue = queue
        self._loop = loop
        self._publisher = publisher
        self._wakeups = wakeups
        self._beat = PostgresBeat(settings.database_url)
        self._held: dict[Key, Held] = {}
        self._claiming: Counter[str] = Counter()
        self._strikes: dict[Key, int] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._background: set[asyncio.Task[None]] = set()
        self._confirmed_at = self._answered_at = time.monotonic()
        self._asked_at: float | None = None
        """When the beat that is under way began."""
        self._is_registered = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asm-beat", daemon=True)

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def free_slots(self) -> int:
        """Neither held nor about to be: a claim under way may bring a run."""
        return 0 if self.draining else max(0, self.slots - self.held - self._claiming.total())

    @property
    def is_confirmed(self) -> bool:
        """Whether the store has said lately that this worker lives."""
        silence_s = time.monotonic() - self._confirmed_at
        return self._is_registered and silence_s <= self._times.self_fence_after.total_seconds()

    async def start(self) -> None:
        """Register and begin to beat. Raises AsmError `storage_connection_failed`, `migration_required`."""
        await self._register()
        self._thread.start()

    async def stop(self) -> None:
        """Say goodbye; what is still held is swept at once."""
        self._end.set()
        await asyncio.to_thread(self._thread.join, 5)
        self._beat.close()
        await self._queue.retire_worker(self.worker_id)

    async def _register(self) -> None:
        await self._queue.register_worker(
            self.worker_id, hostname=socket.gethostname(), pid=os.getpid(), slots=self.slots
        )
        self._confirmed_at = time.monotonic()
        self._is_registered = True
        log.info("registered as %s with %d slots", self.worker_id, self.slots)

    @contextmanager
    def claiming(self, session_id: str) -> Iterator[None]:
        """A claim in this session is under way: a lease of it may exist whose answer is not here yet."""
        self._claiming[session_id] += 1
        try:
            yield
        finally:
            self._claiming[session_id] -= 1
            if not self._claiming[session_id]:
                del self._claiming[session_id]

    @contextmanager
    def hold(self, claim: Claimed) -> Iterator[RunSignals]:
        """The run's signals, for as long as this process works on it."""
        options = claim.run.options
        repeatable = options is not None and options.on_worker_lost is not OnWorkerLost.FAIL
        held = Held(claim.lease, repeatable)
        key = (claim.lease.run_id, claim.lease.fence)
        self._held[key] = held
        self._empty.clear()
        try:
            yield held.signals
        finally:
            del self._held[key]
            if not self._held:
                self._empty.set()

    async def until_empty(self, timeout_s: float) -> bool:
        """Wait until nothing is held any more; False when the time is over before."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def signal(self, run_id: str, _kind: str) -> None:
        """A nudge: the run was asked to stop."""
        for (held_run, _), held in self._held.items():
            if held_run == run_id:
                held.signals.stop(StopCause.CANCELLED)

    def stop_all(self, cause: StopCause) -> None:
        """On the loop."""
        for held in self._held.values():
            held.signals.stop(cause)

    # The beat's thread

    def _run(self) -> None:
        try:
            while not self._end.wait(self._times.beat_interval.total_seconds()):
                self._check_loop()
                if self._is_registered:
                    self._ask()
        except Exception as error:
            end_process("the beat failed", error)

    def _ask(self) -> None:
        asked_with = frozenset(self._held)
        self._asked_at = sent_at = time.monotonic()
        try:
            leases = self._beat.beat(self.worker_id, draining=self.draining)
        except AsmError as error:
            log.warning("beat not confirmed: %s", error)
            return
        finally:
            self._asked_at = None
        self._confirmed_at = sent_at
        self._loop.call_soon_threadsafe(self._reconcile, asked_with, leases)

    def _check_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._answered)
        if time.monotonic() - self._answered_at > self._settings.loop_stall_ms / 1000:
            end_process(f"the run loop has not answered for {self._settings.loop_stall_ms} ms")

    # On the loop

    async def watch(self) -> None:
        """Until cancelled: look after the beat."""
        while True:
            await asyncio.sleep(self._times.beat_interval.total_seconds())
            if not self.is_confirmed:
                self._stop_repeatable()
            asked_at = self._asked_at
            if asked_at is not None and time.monotonic() - asked_at > BEAT_ANSWER_S:
                self._beat.hang_up()

    def _answered(self) -> None:
        self._answered_at = time.monotonic()

    def _stop_repeatable(self) -> None:
        for held in self._held.values():
            if held.repeatable:
                held.signals.stop(StopCause.LEASE_LOST)

    def _reconcile(self, asked_with: frozenset[Key], leases: list[HeldLease] | None) -> None:
        if leases is None:
            self._declared_dead()
            return
        known = {(lease.run_id, lease.fence): lease for lease in leases}
        for key in asked_with & self._held.keys() - known.keys():
            log.warning("lease of %s is gone", key[0])
            self._held[key].signals.stop(StopCause.LEASE_LOST)
        for key, lease in known.items():
            if key in self._held and lease.cancel_kind:
                self._held[key].signals.stop(StopCause.CANCELLED)
        self._count_strikes({key: lease for key, lease in known.items() if self._is_unknown(key, lease, asked_with)})

    def _is_unknown(self, key: Key, lease: HeldLease, asked_with: frozenset[Key]) -> bool:
        return key not in self._held and key not in asked_with and lease.session_id not in self._claiming

    def _count_strikes(self, unknown: dict[Key, HeldLease]) -> None:
        self._strikes = {key: self._strikes.get(key, 0) + 1 for key in unknown}
        for key, strikes in self._strikes.items():
            if strikes >= STRIKES:
                self._spawn(self._hand_back(unknown[key]))

    async def _hand_back(self, lease: HeldLease) -> None:
        try:
            finished = await self._queue.hand_back(lease.run_id, lease.fence, "unknown_lease")
        except AsmError as error:
            log.warning("cannot hand back %s yet: %s", lease.run_id, error)
            return
        if finished is not None:
            log.warning("run %s was handed back: its claim's answer was lost", lease.run_id)
            self._publisher.publish(finished.events)
            self._wakeups.wake(finished.wake)

    def _declared_dead(self) -> None:
        """Everything held belongs to others now; begin again under a new name."""
        log.warning("worker %s was declared dead; its %d runs are left", self.worker_id, self.held)
        self.stop_all(StopCause.LEASE_LOST)
        self._is_registered = False
        self.worker_id = new_id(ids.WORKER)
        self._spawn(self._register_again())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _register_again(self) -> None:
        """Until it is done; there is no beat before, because one without a row would say dead again."""
        while not self._is_registered:
            try:
                await self._register()
            except AsmError as error:
                log.warning("cannot register as %s yet: %s", self.worker_id, error)
                await asyncio.sleep(self._times.beat_interval.total_seconds())
