"""
Group commit without a timer.

One writer per process stores the events of all its runs. While a commit is in flight events gather; as soon as it is
done, what has gathered goes into the next. Alone, an event is stored in one round trip; under load the batches grow by
themselves. Batch k+1 waits for k, so a run's events are stored in the order they were emitted.

A run's events wait in a buffer of its own with a bound: when it is full, the provider is held back. A store that does
not answer is tried again with back-off for as long as the outage tolerance allows, always with the same ids, so that
an append whose commit is unknown stores nothing twice. A value the store refuses costs only the event that holds it:
the batch is split, and the culprit is stored as `error_occurred`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from asm_core.background import background
from asm_core.config import EventLimits
from asm_core.domain.errors import AsmError, ErrorCode, LeaseLost
from asm_core.domain.event import Event, EventType
from asm_core.domain.lease import Lease
from asm_core.pipeline.patience import patiently
from asm_core.pipeline.publish import Publisher
from asm_core.ports.clock import Clock
from asm_core.ports.queue import RunQueue
from asm_core.wire import frame_of_event

log = logging.getLogger(__name__)

Batch = list[tuple["RunWriter", list[Event]]]


class RunWriter:
    """One run's way into the log; `put` in emission order, then `flush` before the run ends."""

    def __init__(self, lease: Lease, writer: EventWriter) -> None:
        self.lease = lease
        self.waiting: deque[Event] = deque()
        self.failure: AsmError | LeaseLost | None = None
        """Once set, nothing of this run is stored any more."""
        self._writer = writer
        self._in_flight = 0
        self._changed = asyncio.Event()

    async def put(self, event: Event) -> None:
        """
        Queue one event; waits while the buffer is full.

        Raises:
            LeaseLost: the run was taken over; stop.
            AsmError: `storage_connection_failed`: the store stayed away longer than is tolerated.
        """
        while self.failure is None and len(self.waiting) >= self._writer.limits.run_buffer:
            await self._change()
        self._check()
        self.waiting.append(event)
        self._writer.notice(self)

    async def flush(self) -> None:
        """Wait until everything put so far is stored. Raises as `put`."""
        while self.failure is None and (self.waiting or self._in_flight):
            await self._change()
        self._check()

    def take(self, room: int) -> list[Event]:
        """Up to `room` events for the next commit."""
        taken = [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
        self._in_flight += len(taken)
        return taken

    def settle(self, count: int, failure: AsmError | LeaseLost | None = None) -> None:
        """`count` taken events are stored, or nothing of this run will be any more."""
        self._in_flight -= count
        if failure is not None:
            self.failure = failure
            self.waiting.clear()
        self._changed.set()

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class EventWriter:
    """Source: DESIGN §5."""

    def __init__(self, queue: RunQueue, publisher: Publisher, limits: EventLimits, clock: Clock) -> None:
        self.limits = limits
        self._queue = queue
        self._publisher = publisher
        self._clock = clock
        self._dirty: dict[RunWriter, None] = {}
        self._work = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EventWriter]:
        """The writer at work; what is in flight when the block ends is stored or not, and was confirmed to nobody."""
        async with background(self._run()):
            yield self

    def bind(self, lease: Lease) -> RunWriter:
        return RunWriter(lease, self)

    def notice(self, run: RunWriter) -> None:
        """The run has something waiting."""
        self._dirty[run] = None
        self._work.set()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            batch = self._gather()
            if batch:
                await self._commit(batch)
            else:
                self._work.clear()

    def _gather(self) -> Batch:
        """At most `batch_max` events, the runs taking turns."""
        batch: Batch = []
        room = self.limits.batch_max
        while self._dirty and room:
            run = next(iter(self._dirty))
            del self._dirty[run]
            events = run.take(room)
            if events:
                batch.append((run, events))
                room -= len(events)
            if run.waiting:
                self._dirty[run] = None
        return batch

    async def _commit(self, batch: Batch) -> None:
        try:
            leased = [(run.lease, events) for run, events in batch]
            answers = await patiently(lambda: self._queue.append(leased), self.limits.outage_tolerance_s, self._clock)
        except AsmError as error:
            if error.code is ErrorCode.VALIDATION_ERROR:
                await self._commit_apart(batch)
            else:
                log.error("events dropped, the store stayed away: %s", error)
                for run, events in batch:
                    run.settle(len(events), error)
            return
        for (run, events), answer in zip(batch, answers, strict=True):
            if isinstance(answer, LeaseLost):
                run.settle(len(events), answer)
            else:
                self._publisher.publish([frame_of_event(event) for event in answer])
                run.settle(len(events))

    async def _commit_apart(self, batch: Batch) -> None:
        """Find the value that the store refuses: each run alone, then each event, then that one without its payload."""
        if len(batch) > 1:
            for part in batch:
                await self._commit([part])
            return
        [(run, events)] = batch
        if len(events) > 1:
            for event in events:
                if run.failure is None:
                    await self._commit([(run, [event])])
                else:  # what stands behind a hole is not stored, nor is an outage waited out once more
                    run.settle(1, run.failure)
        elif events[0].data.get("error_code") == ErrorCode.STORAGE_WRITE_FAILED:
            run.settle(1, AsmError(ErrorCode.STORAGE_WRITE_FAILED, f"the store refuses event {events[0].id}"))
        else:
            await self._commit([(run, [_unstorable(events[0])])])


def _unstorable(event: Event) -> Event:
    return replace(
        event,
        type=EventType.ERROR_OCCURRED,
        data={
            "error_code": str(ErrorCode.STORAGE_WRITE_FAILED),
            "error_message": "the store refused this event's payload",
            "original_type": str(event.type),
        },
        metadata={},
    )
