"""Group commit: order, gathering, isolation, outages, poison, back-pressure. The store is a double at the port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from asm_core.config import EventLimits
from asm_core.domain.errors import AsmError, ErrorCode, LeaseLost
from asm_core.domain.event import Event, EventFrame, EventType
from asm_core.domain.lease import Lease
from asm_core.pipeline.persist import EventWriter, RunWriter
from asm_core.pipeline.publish import Publisher
from asm_core.ports.bus import EventBus
from asm_core.ports.queue import RunQueue
from tests.builders import SteppedClock, a_lease, some_events

AWAY = AsmError(ErrorCode.STORAGE_CONNECTION_FAILED)
Entry = tuple[Lease, Sequence[Event]]


class Log:
    """The queue's `append` as its port describes it, in memory; commits can be held, refused and lost."""

    def __init__(self) -> None:
        self.stored: dict[str, Event] = {}
        self.calls: list[list[list[str]]] = []
        """Per call and run, the ids that were sent."""
        self.open = asyncio.Event()
        self.open.set()
        self.taken_over: set[str] = set()
        self.before: list[AsmError] = []
        """Failures to come, before anything is written."""
        self.after: list[AsmError] = []
        """Failures to come, after the commit: the writer cannot know."""
        self.refuses: Callable[[Event], bool] = lambda _: False

    async def append(self, batches: Sequence[Entry]) -> list[list[Event] | LeaseLost]:
        self.calls.append([[event.id for event in events] for _, events in batches])
        await self.open.wait()
        if self.before:
            raise self.before.pop(0)
        if any(self.refuses(event) for _, events in batches for event in events):
            raise AsmError(ErrorCode.VALIDATION_ERROR)
        answers = [self._append(lease, events) for lease, events in batches]
        if self.after:
            raise self.after.pop(0)
        return answers

    def _append(self, lease: Lease, events: Sequence[Event]) -> list[Event] | LeaseLost:
        if lease.run_id in self.taken_over:
            return LeaseLost(lease.run_id)
        for event in events:
            if event.id not in self.stored:
                number = 1 + sum(one.session_id == event.session_id for one in self.stored.values())
                self.stored[event.id] = event.with_sequence(number)
        return [self.stored[event.id] for event in events]

    def of(self, lease: Lease) -> list[Event]:
        return [event for event in self.stored.values() if event.run_id == lease.run_id]

    def sizes(self) -> list[int]:
        """Events per call."""
        return [sum(map(len, call)) for call in self.calls]


class Announcements(Publisher):
    def __init__(self) -> None:
        super().__init__(cast(EventBus, None), buffer=0)
        self.frames: list[EventFrame] = []

    def publish(self, frames: Sequence[EventFrame]) -> None:
        self.frames += frames


class Bench:
    def __init__(self, **limits: Any) -> None:
        self.log = Log()
        self.announced = Announcements()
        self.clock = SteppedClock()
        self.writer = EventWriter(cast(RunQueue, self.log), self.announced, EventLimits(**limits), self.clock)

    def bind(self, lease: Lease | None = None) -> RunWriter:
        return self.writer.bind(lease or a_lease())


@asynccontextmanager
async def bench(**limits: Any) -> AsyncIterator[Bench]:
    one = Bench(**limits)
    async with one.writer.running():
        yield one


async def put_all(run: RunWriter, how_many: int, first: int = 0) -> list[Event]:
    events = some_events(run.lease, how_many, first=first)
    for event in events:
        await run.put(event)
    return events


async def settled() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_events_are_stored_and_announced_in_the_order_they_were_put() -> None:
    async with bench() as it:
        run = it.bind()
        events = await put_all(run, 50)
        await run.flush()
        assert [event.id for event in it.log.of(run.lease)] == [event.id for event in events]
        assert [frame.sequence_number for frame in it.announced.frames] == [*range(1, 51)]


async def test_alone_an_event_goes_at_once() -> None:
    """No timer: one put, one commit."""
    async with bench() as it:
        run = it.bind()
        for number in range(3):
            await put_all(run, 1, first=number)
            await run.flush()
        assert it.log.sizes() == [1, 1, 1]


async def test_while_a_commit_is_in_flight_events_gather() -> None:
    """DESIGN §5: batch k+1 waits for k, and holds everything that came meanwhile, of all runs."""
    async with bench() as it:
        it.log.open.clear()
        first, second = it.bind(), it.bind()
        await put_all(first, 1)
        await settled()
        await put_all(first, 3, first=1)
        await put_all(second, 4)
        await settled()
        assert it.log.sizes() == [1], "one commit at a time"
        it.log.open.set()
        await first.flush()
        await second.flush()
        assert it.log.sizes() == [1, 7]
        assert len(it.log.calls[1]) == 2, "one entry per run"


async def test_a_batch_is_bounded_and_runs_take_turns() -> None:
    async with bench(batch_max=10) as it:
        it.log.open.clear()
        loud, quiet = it.bind(), it.bind()
        await put_all(loud, 1)
        await settled()
        await put_all(loud, 25, first=1)
        await put_all(quiet, 1)
        it.log.open.set()
        await loud.flush()
        await quiet.flush()
        assert max(it.log.sizes()) == 10
        turn = next(number for number, call in enumerate(it.log.calls) if len(call) == 2)
        assert turn == 2, "the quiet run waits for one batch of the loud one at most"


async def test_a_run_that_was_taken_over_leaves_the_others_alone() -> None:
    """DESIGN §5: only its own events are lost; it is told at its next step, and nothing of it is announced."""
    async with bench() as it:
        it.log.open.clear()
        good, lost = it.bind(), it.bind()
        it.log.taken_over.add(lost.lease.run_id)
        await put_all(good, 1)
        await settled()
        await put_all(lost, 2)
        await put_all(good, 2, first=1)
        it.log.open.set()
        await good.flush()
        assert len(it.log.of(good.lease)) == 3
        for step in (lost.flush(), lost.put(some_events(lost.lease)[0])):
            with pytest.raises(LeaseLost, match=lost.lease.run_id):
                await step
        assert {frame.run_id for frame in it.announced.frames} == {good.lease.run_id}


async def test_an_outage_is_waited_out_with_the_same_ids() -> None:
    """FM-06: nothing is lost, doubled or announced before it is stored; the waits grow up to a bound."""
    async with bench() as it:
        it.log.before = [AWAY] * 8
        run = it.bind()
        await put_all(run, 3)
        await run.flush()
        assert len(it.log.of(run.lease)) == 3
        assert all(call == it.log.calls[0] for call in it.log.calls)
        assert it.clock.sleeps == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


async def test_an_unknown_commit_stores_nothing_twice() -> None:
    """DESIGN §5, exactly once: the commit happened, its answer was lost."""
    async with bench() as it:
        it.log.after = [AWAY, AWAY]
        run = it.bind()
        events = await put_all(run, 3)
        await run.flush()
        assert [event.id for event in it.log.of(run.lease)] == [event.id for event in events]
        assert [frame.sequence_number for frame in it.announced.frames] == [1, 2, 3]


async def test_an_outage_beyond_the_tolerance_fails_the_runs_it_hit_and_no_other() -> None:
    """FM-06: the run is told; when the store is back, later runs are stored."""
    async with bench(outage_tolerance_s=3.0) as it:
        it.log.before = [AWAY] * 100
        run = it.bind()
        await put_all(run, 2)
        with pytest.raises(AsmError) as caught:
            await run.flush()
        assert caught.value.code is ErrorCode.STORAGE_CONNECTION_FAILED
        assert it.clock.elapsed >= 3.0
        it.log.before.clear()
        later = it.bind()
        await put_all(later, 2)
        await later.flush()
        assert len(it.log.stored) == 2


async def test_a_failure_that_waiting_cannot_mend_is_told_at_once() -> None:
    async with bench() as it:
        it.log.before = [AsmError(ErrorCode.MIGRATION_REQUIRED)]
        run = it.bind()
        await put_all(run, 1)
        with pytest.raises(AsmError) as caught:
            await run.flush()
        assert (caught.value.code, it.clock.sleeps) == (ErrorCode.MIGRATION_REQUIRED, [])


async def test_a_value_the_store_refuses_costs_only_its_own_event() -> None:
    """DESIGN §5: the batch is split per run, then per event; in the culprit's place stands `error_occurred`."""
    async with bench() as it:
        it.log.open.clear()
        good, bad = it.bind(), it.bind()
        await put_all(good, 1)
        await settled()
        events = await put_all(bad, 5)
        await put_all(good, 3, first=1)
        poison = events[2].id
        it.log.refuses = lambda event: event.id == poison and event.type is not EventType.ERROR_OCCURRED
        it.log.open.set()
        await good.flush()
        await bad.flush()
        assert [event.type for event in it.log.of(good.lease)] == [EventType.MESSAGE_STREAMED] * 4
        stored = it.log.of(bad.lease)
        assert [event.id for event in stored] == [event.id for event in events], "same ids, same order"
        assert [event.type == EventType.ERROR_OCCURRED for event in stored] == [False, False, True, False, False]
        assert stored[2].data["original_type"] == "message_streamed"
        assert stored[2].data["error_code"] == "storage_write_failed"


async def test_an_event_that_is_refused_even_without_its_payload_fails_its_run() -> None:
    """Bounded: no endless loop, and what follows the hole is not stored."""
    async with bench() as it:
        bad, good = it.bind(), it.bind()
        poison = some_events(bad.lease)[0].id
        it.log.refuses = lambda event: event.id == poison
        await put_all(bad, 4)
        await put_all(good, 2)
        with pytest.raises(AsmError) as caught:
            await bad.flush()
        await good.flush()
        assert caught.value.code is ErrorCode.STORAGE_WRITE_FAILED
        assert poison in caught.value.message
        assert it.log.of(bad.lease) == []
        assert len(it.log.of(good.lease)) == 2


async def test_an_outage_while_a_batch_is_split_is_waited_out_once() -> None:
    """Not once per event: the run has failed, so nothing of it is tried any more."""
    async with bench(outage_tolerance_s=3.0) as it:
        run = it.bind()
        poison = some_events(run.lease, 5)[4].id

        def refuses(event: Event) -> bool:
            if event.id == poison:
                it.log.before = [AWAY] * 100
            return event.id == poison

        it.log.refuses = refuses
        await put_all(run, 5)
        with pytest.raises(AsmError):
            await run.flush()
        await settled()
        assert 3.0 <= it.clock.elapsed < 6.0
        it.log.before.clear()
        await settled()
        assert it.log.of(run.lease) == []


async def test_a_full_buffer_holds_the_provider_back() -> None:
    """Bounded memory: what waits is `run_buffer`, what is in flight one batch."""
    async with bench(run_buffer=5, batch_max=3) as it:
        it.log.open.clear()
        run = it.bind()
        producer = asyncio.create_task(put_all(run, 20))
        await settled()
        assert not producer.done()
        assert len(run.waiting) + sum(it.log.sizes()) <= 5 + 3
        it.log.open.set()
        await producer
        await run.flush()
        assert len(it.log.of(run.lease)) == 20


async def test_one_run_held_back_does_not_hold_back_another() -> None:
    async with bench(run_buffer=2) as it:
        it.log.open.clear()
        loud, quiet = it.bind(), it.bind()
        producer = asyncio.create_task(put_all(loud, 10))
        await settled()
        await asyncio.wait_for(put_all(quiet, 2), timeout=5)
        assert not producer.done()
        it.log.open.set()
        await producer


async def test_a_provider_held_back_learns_that_its_run_was_taken_over() -> None:
    async with bench(run_buffer=1) as it:
        it.log.open.clear()
        run = it.bind()
        producer = asyncio.create_task(put_all(run, 10))
        await settled()
        it.log.taken_over.add(run.lease.run_id)
        it.log.open.set()
        with pytest.raises(LeaseLost):
            await producer


async def test_flushing_nothing_returns_at_once() -> None:
    async with bench() as it:
        await it.bind().flush()
        assert it.log.calls == []


async def test_many_runs_at_once_keep_their_order() -> None:
    """Whatever the grouping, each run's events are stored as they were put, and each is announced once."""
    async with bench(batch_max=7, run_buffer=4) as it:
        runs = [it.bind(a_lease(session_id=f"ses_{number % 3}")) for number in range(12)]

        async def produce(run: RunWriter) -> None:
            for number in range(30):
                await put_all(run, 1, first=number)
                if number % 5 == 0:
                    await asyncio.sleep(0)
            await run.flush()

        await asyncio.gather(*map(produce, runs))
        for run in runs:
            assert [event.id for event in it.log.of(run.lease)] == [event.id for event in some_events(run.lease, 30)]
        assert len(it.announced.frames) == len(it.log.stored) == 360
        for session_id in ("ses_0", "ses_1", "ses_2"):
            numbers = [frame.sequence_number for frame in it.announced.frames if frame.session_id == session_id]
            assert numbers == [*range(1, 121)], "commit order is announcement order"
