"""The fleet-wide cap: never exceeded, no slot stranded, no session starved, no herd."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import SessionVerb
from asm_core.ports.queue import Claimed, NotClaimed
from tests.builders import World, an_outcome
from tests.conformance.conftest import OpenWorld


@pytest.fixture
async def limited(open_any: OpenWorld) -> AsyncIterator[World]:
    """Every session falls under `fleet`, which lets one run through at a time."""
    async with open_any(limiter="fleet") as world:
        await world.queue.set_limiter("fleet", 1)
        yield world


async def waiting_sessions(world: World, worker_id: str, how_many: int) -> list[str]:
    """Sessions with a run each that found the cap reached, in the order in which they came."""
    sessions = [await world.session() for _ in range(how_many)]
    for session_id in sessions:
        await world.submit(session_id)
        assert (await world.refused_claim(session_id, worker_id)).reason == "limited"
    return sessions


async def is_waiting(world: World, session_id: str) -> bool:
    return (await world.row("session_runtime", session_id=session_id))["limiter_waiting_since"] is not None


async def end(world: World, lease: Lease) -> list[str]:
    return list((await world.queue.finish(lease, an_outcome())).wake)


async def test_the_cap_is_over_all_sessions(limited: World) -> None:
    """spec/03 checks 82, 99: beyond it a run stays queued, and its session waits."""
    await limited.queue.set_limiter("fleet", 2)
    worker_id = await limited.worker()
    for _ in range(2):
        await limited.running(worker_id=worker_id)
    session_id = await limited.session()
    submitted = await limited.submit(session_id)
    assert await limited.queue.claim(session_id, worker_id) == NotClaimed("limited")
    assert await is_waiting(limited, session_id)
    assert (await limited.run_row(submitted.run_id))["status"] == "pending"
    assert await limited.queue.claimable(10) == [], "who waits for a cap is woken by it"


async def test_a_free_slot_goes_to_who_waits_for_it(limited: World) -> None:
    """spec/03 check 82: the session that frees it has nothing more to do."""
    worker_id = await limited.worker()
    lease = await limited.running(worker_id=worker_id)
    [waiting] = await waiting_sessions(limited, worker_id, 1)
    assert await end(limited, lease) == [waiting]
    assert not await is_waiting(limited, waiting)
    await limited.claim(waiting, worker_id)


async def test_one_free_slot_is_one_wakeup(limited: World) -> None:
    """FM-12: no herd, however many wait."""
    worker_id = await limited.worker()
    lease = await limited.running(worker_id=worker_id)
    waiting = await waiting_sessions(limited, worker_id, 12)
    woken = await end(limited, lease)
    assert woken == waiting[:1], "who came first"
    await limited.queue.set_limiter("fleet", 4)
    assert len(await end(limited, await limited.claim(woken[0], worker_id))) == 4, "one per free slot"


async def test_a_busy_session_takes_its_turn_behind_those_that_wait(limited: World) -> None:
    """FM-13: the least recently served comes first; a session with a long queue cannot keep the cap to itself."""
    worker_id = await limited.worker()
    busy = await limited.session()
    lease = await limited.running(session_id=busy, worker_id=worker_id)
    for _ in range(3):
        await limited.submit(busy)
    waiting = await waiting_sessions(limited, worker_id, 2)
    order = []
    for _ in range(5):
        [next_session] = await end(limited, lease)
        order.append(next_session)
        lease = await limited.claim(next_session, worker_id)
    assert order == [*waiting, busy, busy, busy]
    assert await end(limited, lease) == []


async def test_a_wakeup_spent_on_an_empty_session_is_handed_on(limited: World) -> None:
    """spec/03 §13.3: its run was cancelled meanwhile."""
    worker_id = await limited.worker()
    lease = await limited.running(worker_id=worker_id)
    first, second = await waiting_sessions(limited, worker_id, 2)
    assert await end(limited, lease) == [first]
    run_id = (await limited.row("runs", session_id=first))["id"]
    await limited.queue.request_cancel(run_id, "default", "cancel")
    assert await limited.queue.claim(first, worker_id) == NotClaimed("empty", [second])


async def test_a_wakeup_spent_on_a_paused_session_is_handed_on(limited: World) -> None:
    """A slot must not stay free while others wait for it."""
    worker_id = await limited.worker()
    lease = await limited.running(worker_id=worker_id)
    first, second = await waiting_sessions(limited, worker_id, 2)
    assert await end(limited, lease) == [first]
    await limited.queue.change_session(first, "default", SessionVerb.PAUSE)
    assert await limited.queue.claim(first, worker_id) == NotClaimed("paused", [second])


async def test_a_session_that_was_paused_while_it_waited_is_woken_when_it_resumes(limited: World) -> None:
    """The slot came free in the meantime and found nobody."""
    worker_id = await limited.worker()
    lease = await limited.running(worker_id=worker_id)
    [waiting] = await waiting_sessions(limited, worker_id, 1)
    await limited.queue.change_session(waiting, "default", SessionVerb.PAUSE)
    woken = await end(limited, lease)
    for session_id in woken:
        assert (await limited.refused_claim(session_id, worker_id)).reason == "paused"
    resumed = await limited.queue.change_session(waiting, "default", SessionVerb.RESUME)
    assert resumed.wake == [waiting]
    await limited.claim(waiting, worker_id)


async def test_a_claim_that_finds_the_cap_reached_and_a_finish_do_not_miss_each_other(limited: World) -> None:
    """The claim counts the lease that the finish is deleting; its mark must be seen, or else its count must be new."""
    worker_id = await limited.worker()
    session_id = await limited.session()
    await limited.submit(session_id)
    for _ in range(30):
        lease = await limited.running(worker_id=worker_id)
        claim, finished = await asyncio.gather(limited.queue.claim(session_id, worker_id), end(limited, lease))
        if isinstance(claim, Claimed):
            await end(limited, claim.lease)
            await limited.submit(session_id)
        else:
            assert claim.reason == "limited"
            assert finished == [session_id], "the slot is free and somebody waits for it"


async def test_a_limiter_that_is_not_there_limits_nothing(open_any: OpenWorld) -> None:
    async with open_any(limiter="unset") as world:
        worker_id = await world.worker()
        session_id = await world.session()
        leases = [await world.running(worker_id=worker_id) for _ in range(3)]
        lease = await world.running(session_id=session_id, worker_id=worker_id)
        await world.submit(session_id)
        assert await end(world, lease) == [session_id]
        for other in leases:
            assert await end(world, other) == []


RUNS_EACH = 24
"""A freed slot goes to the least recently served, but who is woken may come late: few runs would be decided by luck."""


async def test_the_cap_holds_and_everybody_is_served_under_load(limited: World) -> None:
    """spec/03 check 106; wakeups alone drain everything, and no session is served much more often than another."""
    await limited.queue.set_limiter("fleet", 3)
    worker_id = await limited.worker()
    sessions = [await limited.session(max_concurrent_runs=2) for _ in range(6)]
    wakeups: asyncio.Queue[str] = asyncio.Queue()
    served: list[str] = []
    left = 6 * RUNS_EACH
    peak = held = 0

    async def work() -> None:
        nonlocal left, peak, held
        while True:
            session_id = await wakeups.get()
            claim = await limited.queue.claim(session_id, worker_id)
            if isinstance(claim, Claimed):
                served.append(session_id)
                held += 1
                peak = max(peak, held)
            for woken in claim.wake:
                wakeups.put_nowait(woken)
            if isinstance(claim, Claimed):
                await asyncio.sleep(0.002)
                held -= 1
                for woken in await end(limited, claim.lease):
                    wakeups.put_nowait(woken)
                left -= 1
            wakeups.task_done()

    submitted = [woken for _ in range(RUNS_EACH) for one in sessions for woken in (await limited.submit(one)).wake]
    for session_id in dict.fromkeys(submitted):  # the damper makes one of many
        wakeups.put_nowait(session_id)
    workers = [asyncio.create_task(work()) for _ in range(8)]
    await wakeups.join()
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert left == 0, "nothing is left for the sweeper"
    assert peak <= 3
    first_half = Counter(served[: 3 * RUNS_EACH])
    assert max(first_half.values()) <= RUNS_EACH / 2 * 5 / 3 and len(first_half) == 6, first_half
