"""What holds only on Postgres, or can be shown only there: locks held still, triggers behind the guards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest

from asm_core.domain.errors import LeaseLost
from asm_core.domain.event import EventType
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import TERMINAL_RUNS, RunStatus
from asm_core.ports.queue import NotClaimed, Swept
from asm_core.stores.postgres.beat import PostgresBeat
from tests.builders import PostgresWorld, an_outcome, open_world, some_events


@pytest.fixture
async def limited(database_url: str) -> AsyncIterator[PostgresWorld]:
    """Every session falls under `fleet`, which lets one run through at a time."""
    async with open_world(database_url, limiter="fleet") as world:
        await world.queue.set_limiter("fleet", 1)
        yield world


async def waiting_session(world: PostgresWorld, worker_id: str) -> str:
    """A session with a run that found the cap reached."""
    session_id = await world.session()
    await world.submit(session_id)
    assert (await world.refused_claim(session_id, worker_id)).reason == "limited"
    return session_id


async def end(world: PostgresWorld, lease: Lease) -> list[str]:
    return list((await world.queue.finish(lease, an_outcome())).wake)


async def swept(world: PostgresWorld) -> Swept:
    """One pass, due now."""
    await world.make_sweep_due()
    result = await world.queue.sweep()
    assert result.ran
    return result


async def test_the_beat_of_a_thread_of_its_own_says_the_same(world: PostgresWorld) -> None:
    """`PostgresBeat` blocks, and needs no loop: what it brings back is what the queue's own beat does."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    await world.queue.request_cancel(lease.run_id, "default", "interrupt")
    beat = PostgresBeat(world.url)
    try:
        assert await asyncio.to_thread(beat.beat, worker_id, draining=False) == await world.queue.beat(worker_id)
        await world.lose(worker_id)
        assert await asyncio.to_thread(beat.beat, worker_id, draining=False) is None
    finally:
        beat.close()


async def test_a_claim_waits_for_the_mark_of_its_worker(world: PostgresWorld) -> None:
    """The sweeper marks while a claim is under way: one of them comes first, and both know."""
    session_id = await world.session()
    await world.submit(session_id)
    worker_id = await world.worker()
    await world.silence(worker_id)
    await world.make_sweep_due()
    async with world.connection.transaction():
        await world.sql("SELECT asm_sweep_begin(%s, %s)", world.times.sweep_interval, world.times.lease_ttl)
        claim = asyncio.create_task(world.queue.claim(session_id, worker_id))
        done, _ = await asyncio.wait({claim}, timeout=0.2)
        assert not done
    assert await claim == NotClaimed("lost")


async def test_a_takeover_waits_for_an_append_in_flight(world: PostgresWorld) -> None:
    """What the append has begun counts; what comes after the takeover does not: no late event behind its end."""
    lease = await world.running()
    async with world.connection.transaction():
        await world.sql("SELECT 1 FROM asm_run_leases WHERE run_id = %s FOR KEY SHARE", lease.run_id)
        finish = asyncio.create_task(world.queue.finish(lease, an_outcome()))
        done, _ = await asyncio.wait({finish}, timeout=0.2)
        assert not done
    assert (await finish).status is RunStatus.COMPLETED
    assert await world.queue.append([(lease, some_events(lease))]) == [LeaseLost(lease.run_id)]


async def test_the_log_is_append_only(world: PostgresWorld) -> None:
    """The trigger behind the guards."""
    lease = await world.running()
    await world.append(lease, kind=EventType.TURN_COMPLETED)
    with pytest.raises(Exception, match="is final"):
        await world.sql("UPDATE asm_events SET data = '{}' WHERE run_id = %s", lease.run_id)


@pytest.mark.parametrize("status", sorted(TERMINAL_RUNS))
async def test_a_terminal_status_is_written_once(world: PostgresWorld, status: RunStatus) -> None:
    """Also against a raw UPDATE: the trigger is the backstop; other columns may still be mended."""
    lease = await world.running()
    await world.queue.finish(lease, an_outcome(status))
    for other in RunStatus:
        if other is not status:
            with pytest.raises(psycopg.Error, match="is final"):
                await world.sql("UPDATE asm_runs SET status = %s WHERE id = %s", other, lease.run_id)
    await world.sql("UPDATE asm_runs SET metadata = '{}' WHERE id = %s", lease.run_id)


async def test_a_submit_to_a_waiting_session_finds_a_slot_that_came_free(limited: PostgresWorld) -> None:
    """Its mark may be out of date: the one who freed the slot may have passed by while the session was locked."""
    worker_id = await limited.worker()
    lease = await limited.running(worker_id=worker_id)
    waiting = await waiting_session(limited, worker_id)
    assert (await limited.submit(waiting)).wake == [], "the cap is reached"
    async with limited.connection.transaction():
        await limited.sql("SELECT 1 FROM asm_session_runtime WHERE session_id = %s FOR UPDATE", waiting)
        assert await end(limited, lease) == [], "locked: passed over, not waited for"
    assert (await limited.submit(waiting)).wake == [waiting]


async def test_a_finish_waits_for_a_claim_that_is_finding_the_cap_reached(limited: PostgresWorld) -> None:
    """The race of the test above, held still."""
    worker_id = await limited.worker()
    lease = await limited.running(worker_id=worker_id)
    waiting = await limited.session()
    await limited.submit(waiting)
    async with limited.connection.transaction():
        assert await limited.value("SELECT asm_claim(%s, %s)->>'reason'", waiting, worker_id) == "limited"
        finish = asyncio.create_task(end(limited, lease))
        done, _ = await asyncio.wait({finish}, timeout=0.2)
        assert not done
    assert await finish == [waiting]


async def test_a_beat_that_comes_first_saves_the_worker(world: PostgresWorld) -> None:
    """trials/liveness_race.py: the sweeper waits for the beat under way, and looks again."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    await world.silence(worker_id)
    await world.make_sweep_due()
    async with world.connection.transaction():
        await world.sql("SELECT asm_beat(%s, false)", worker_id)
        sweep = asyncio.create_task(world.queue.sweep())
        done, _ = await asyncio.wait({sweep}, timeout=0.2)
        assert not done
    assert (await sweep).workers_lost == []
    await world.append(lease)


async def test_only_a_marked_worker_loses_its_leases(world: PostgresWorld) -> None:
    """Taking is a step of its own, and checks the mark again."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    assert await world.value("SELECT asm_release(%s, %s, 'worker_lost', 5, true)", lease.run_id, lease.fence) is None
    await world.append(lease)


async def test_a_claim_under_way_is_swept_with_its_worker(world: PostgresWorld) -> None:
    """The claim came first, then the mark: nothing is left behind."""
    session_id, worker_id = await world.session(), await world.worker()
    run_id = (await world.submit(session_id)).run_id
    await world.silence(worker_id)
    await world.make_sweep_due()
    async with world.connection.transaction():
        assert await world.value("SELECT asm_claim(%s, %s)->>'fence'", session_id, worker_id) == "1"
        sweep = asyncio.create_task(world.queue.sweep())
        done, _ = await asyncio.wait({sweep}, timeout=0.2)
        assert not done, "it waits for the claim"
    assert (await sweep).settled == {run_id: RunStatus.PENDING}


async def test_after_its_own_outage_the_sweeper_marks_nobody_for_one_ttl(world: PostgresWorld) -> None:
    """FM-06: an outage of Postgres must not expire a healthy fleet."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    await world.silence(worker_id)
    interval, ttl = world.times.sweep_interval, world.times.lease_ttl
    now = await world.value("SELECT clock_timestamp()")
    await world.sql("UPDATE asm_sweeper SET last_pass_at = %s", now - 4 * interval)
    await world.sql("UPDATE asm_workers SET last_seen = %s WHERE id = %s", now - 4 * ttl, worker_id)

    async def begin(after: timedelta) -> list[str]:
        return (await world.value("SELECT asm_sweep_begin(%s, %s, %s)", interval, ttl, now + after))["lost"]

    assert await begin(timedelta(0)) == []
    quiet = int(ttl / (2 * interval))
    for step in range(1, quiet + 1):
        assert await begin(step * 2 * interval) == [], "passes go on, nobody is marked"
    assert await begin((quiet + 1) * 2 * interval) == [worker_id]
    await swept(world)
    with pytest.raises(LeaseLost):
        await world.append(lease)
