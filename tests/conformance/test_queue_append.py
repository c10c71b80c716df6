"""Appending: numbers without gaps, exactly once, and only under a lease that stands."""

from __future__ import annotations

import asyncio
import random

import pytest

from asm_core.domain.errors import AsmError, ErrorCode, LeaseLost
from asm_core.domain.event import Event
from asm_core.domain.ids import event_id
from asm_core.domain.lease import Lease
from asm_core.ports.store import EventFilter
from tests.builders import HANDED_BACK, RETRY, World, an_outcome, some_events


def numbers(answer: list[Event] | LeaseLost) -> list[int | None]:
    assert isinstance(answer, list), answer
    return [event.sequence_number for event in answer]


async def test_events_are_numbered_behind_the_last_one(world: World) -> None:
    """spec/01 check 40: 1, 2, 3 … per session; the two of its creation come first."""
    lease = await world.running()
    assert [event.sequence_number for event in await world.append(lease, 3)] == [3, 4, 5]
    assert [event.sequence_number for event in await world.append(lease, 1)] == [6]


async def test_an_event_is_stored_as_it_was_emitted(world: World) -> None:
    lease = await world.running()
    [event] = some_events(
        lease, data={"content": "ä\n'\"\\", "n": 2.5, "big": 2**63}, metadata={"k": [1]}, correlation_id="c", attempt=1
    )
    await world.queue.append([(lease, [event])])
    row = await world.row("events", id=event.id)
    for name in (
        "type",
        "timestamp",
        "session_id",
        "run_id",
        "data",
        "metadata",
        "schema_version",
        "provider",
        "attempt",
    ):
        assert row[name] == getattr(event, name), name
    assert (row["fence"], row["tenant_id"], row["correlation_id"]) == (lease.fence, "default", "c")


async def test_many_runs_of_many_sessions_go_in_one_call(world: World) -> None:
    """DESIGN §5: each session's own numbers, each run's own order, answers in the order of the entries."""
    worker_id = await world.worker()
    shared = await world.session(max_concurrent_runs=2)
    leases = [await world.running(session_id=shared, worker_id=worker_id) for _ in range(2)]
    leases.append(await world.running(worker_id=worker_id))
    answers = await world.queue.append([(lease, some_events(lease, 2)) for lease in reversed(leases)])
    assert [numbers(answer) for answer in answers] == [[3, 4], [3, 4], [5, 6]]
    assert [answer[0].run_id for answer in answers if isinstance(answer, list)] == [
        lease.run_id for lease in reversed(leases)
    ]


async def test_an_append_repeated_after_an_unknown_commit_stores_nothing_twice(world: World) -> None:
    """DESIGN §5, exactly once: a known id comes back as stored, also together with new ones."""
    lease = await world.running()
    events = some_events(lease, 3)
    [first] = await world.queue.append([(lease, events)])
    [again] = await world.queue.append([(lease, events)])
    assert numbers(again) == numbers(first) == [3, 4, 5]
    [longer] = await world.queue.append([(lease, some_events(lease, 5))])
    assert numbers(longer) == [3, 4, 5, 6, 7]


async def test_a_run_whose_lease_is_gone_loses_only_its_own_events(world: World) -> None:
    worker_id = await world.worker()
    gone, stands, ended = [await world.running(worker_id=worker_id) for _ in range(3)]
    await world.queue.hand_back(gone.run_id, gone.fence, "worker_shutdown")
    await world.queue.finish(ended, an_outcome())
    answers = await world.queue.append([(lease, some_events(lease, 2)) for lease in (gone, stands, ended)])
    assert answers[0] == LeaseLost(gone.run_id)
    assert numbers(answers[1]) == [3, 4]
    assert answers[2] == LeaseLost(ended.run_id)
    assert await world.queue.append([(gone, some_events(gone))]) == [LeaseLost(gone.run_id)]


async def test_a_zombie_cannot_append_after_a_takeover(world: World) -> None:
    """FM-02: also when the new holder is the same process, which then sends both terms in one call."""
    session_id = await world.session()
    worker_id = await world.worker()
    old = await world.running(session_id=session_id, worker_id=worker_id, options=RETRY)
    await world.append(old, 1)
    await world.queue.finish(old, HANDED_BACK)
    new = await world.claim(session_id, worker_id)
    await world.queue.start(new)
    late = some_events(old, 2, first=1)
    assert await world.queue.append([(old, late)]) == [LeaseLost(old.run_id)]
    for batch in ([(old, late), (new, some_events(new, attempt=2))], [(new, some_events(new, attempt=2)), (old, late)]):
        answers = dict(zip([lease.fence for lease, _ in batch], await world.queue.append(batch), strict=True))
        assert answers[old.fence] == LeaseLost(old.run_id)
        assert numbers(answers[new.fence]) == [4]
    fences = await world.rows("events", run_id=old.run_id)
    assert [row["fence"] for row in fences] == [1, 2]


async def test_a_refused_value_writes_nothing_and_uses_up_no_number(world: World) -> None:
    """SQLSTATE 22…: the caller splits the batch."""
    worker_id = await world.worker()
    good, bad = [await world.running(worker_id=worker_id) for _ in range(2)]
    with pytest.raises(AsmError) as caught:
        await world.queue.append([(good, some_events(good)), (bad, some_events(bad, data={"content": "a\x00b"}))])
    assert caught.value.code is ErrorCode.VALIDATION_ERROR
    assert "a\x00b" not in str(caught.value.to_map()), "the value may be a secret"
    assert [event.sequence_number for event in await world.append(good)] == [3]


async def test_a_reader_that_has_seen_n_can_see_all_before(world: World) -> None:
    """FM-09: numbers become visible in order, whoever writes."""
    session_id = await world.session(max_concurrent_runs=4)
    worker_id = await world.worker()
    leases = [await world.running(session_id=session_id, worker_id=worker_id) for _ in range(4)]

    async def write(lease: Lease) -> None:
        for _ in range(40):
            await world.append(lease, random.randint(1, 4))

    writers = asyncio.gather(*map(write, leases))
    seen = 0
    while True:
        over = writers.done()
        page = await world.store.get_events(session_id, "default", EventFilter(after=seen), 1_000)
        assert [frame.sequence_number for frame in page] == [*range(seen + 1, seen + 1 + len(page))]
        seen += len(page)
        if over:
            break
    await writers


async def test_four_writers_with_retries_and_takeovers_leave_no_gap_double_or_late_event(world: World) -> None:
    """trials/append_many_trial.py on the real function: no deadlock either."""
    worker_id = await world.worker(slots=1_000)
    sessions = [await world.session(max_concurrent_runs=4) for _ in range(5)]
    leases = [await world.running(session_id=one, worker_id=worker_id) for one in sessions for _ in range(4)]
    acknowledged: set[str] = set()
    frozen: dict[str, int] = {}

    async def write(number: int) -> None:
        rng = random.Random(number)
        mine = dict.fromkeys(leases[number::4], 0)
        for _ in range(60):
            batch = []
            for lease in rng.sample(sorted(mine, key=lambda one: one.run_id), rng.randint(1, len(mine))):
                how_many = rng.randint(1, 5)
                batch.append((lease, some_events(lease, how_many, first=mine[lease])))
                mine[lease] += how_many
            for _ in range(1 + (rng.random() < 0.3)):  # after an unknown commit
                answers = await world.queue.append(batch)
                for (lease, events), answer in zip(batch, answers, strict=True):
                    if isinstance(answer, LeaseLost):
                        mine.pop(lease, None)
                    else:
                        acknowledged.update(event.id for event in events)
            if not mine:
                return

    async def take_over() -> None:
        for lease in random.Random(99).sample(leases, 10):
            await asyncio.sleep(0.05)
            await world.queue.hand_back(lease.run_id, lease.fence, "worker_shutdown")
            frozen[lease.run_id] = await world.how_many("events", run_id=lease.run_id)

    await asyncio.gather(take_over(), *map(write, range(4)))
    stored = {row["id"] for row in await world.rows("events")}
    assert acknowledged <= stored
    for run_id, count in frozen.items():
        assert await world.how_many("events", run_id=run_id) == count
    for lease in leases:
        rows = await world.rows("events", run_id=lease.run_id)
        emitted = [event_id(lease.run_id, lease.fence, ordinal) for ordinal in range(len(rows))]
        ended = lease.run_id in frozen
        assert [row["id"] for row in rows][: len(rows) - ended] == emitted[: len(rows) - ended], "in emission order"


async def test_a_huge_batch_is_one_round_trip(world: World) -> None:
    """256 events and some of them large."""
    lease = await world.running()
    events = some_events(lease, 256, data={"content": "x" * 5_000})
    [answer] = await world.queue.append([(lease, events)])
    assert numbers(answer) == [*range(3, 259)]
