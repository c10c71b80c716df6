"""Repairs: mark first and take then, deadlines, lost wakeups, and the sweeper's own outage."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from asm_core.domain.errors import LeaseLost
from asm_core.domain.lifecycle import RunStatus, SessionVerb
from asm_core.ports.queue import Swept
from tests.builders import HANDED_BACK, NOW, RETRY, World, an_outcome


async def swept(world: World) -> Swept:
    """One pass, due now."""
    await world.make_sweep_due()
    result = await world.queue.sweep()
    assert result.ran
    return result


async def beat(world: World, worker_id: str, *, draining: bool = False) -> Any:
    return await world.queue.beat(worker_id, draining=draining)


async def marked(world: World, worker_id: str) -> bool:
    return (await world.row("workers", id=worker_id))["lost_at"] is not None


async def long_unwoken(world: World, *sessions: str) -> None:
    await world.change("session_runtime", {"session_id": sessions}, last_wake_at=NOW)


# Dead workers


@pytest.mark.parametrize(
    ("options", "started", "becomes"),
    [({}, True, RunStatus.FAILED), (RETRY, True, RunStatus.PENDING), ({}, False, RunStatus.PENDING)],
)
async def test_the_runs_of_a_dead_worker_are_settled(
    world: World, options: dict[str, Any], started: bool, becomes: RunStatus
) -> None:
    """FM-01: failed by default, again where it may be repeated or never began; the queue goes on either way."""
    session_id, worker_id = await world.session(), await world.worker()
    run_id = (await world.submit(session_id, options=options)).run_id
    lease = await world.claim(session_id, worker_id)
    if started:
        await world.queue.start(lease)
    await world.submit(session_id)
    await world.silence(worker_id)
    result = await swept(world)
    assert (result.workers_lost, result.settled, result.wake) == ([worker_id], {run_id: becomes}, [session_id])
    row = await world.run_row(run_id)
    assert row["status"] == becomes
    if becomes is RunStatus.FAILED:
        assert [frame.type for frame in result.events] == ["run_failed"]
        assert (row["error"]["code"], row["error"]["details"]["reason"]) == ("internal_error", "worker_lost")
        assert row["error"]["details"]["worker_id"] == worker_id
    again = await swept(world)
    assert not (again.workers_lost or again.settled or again.events or again.wake), "nothing is left to do"


async def test_a_worker_that_beats_in_time_keeps_everything(world: World) -> None:
    """Others die beside it."""
    alive, dead = await world.worker(), await world.worker()
    lease = await world.running(worker_id=alive)
    lost = await world.running(worker_id=dead)
    await world.silence(alive)
    await world.silence(dead)
    assert [one.run_id for one in await beat(world, alive)] == [lease.run_id]
    result = await swept(world)
    assert (result.workers_lost, list(result.settled)) == ([dead], [lost.run_id])
    await world.append(lease)


async def test_a_beat_that_comes_late_is_told(world: World) -> None:
    """The mark stands: leave everything, begin again under another name."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id, options=RETRY)
    await world.lose(worker_id)
    assert await beat(world, worker_id) is None
    await world.append(lease)  # the mark alone takes nothing: what it sends until it knows still counts
    await swept(world)
    with pytest.raises(LeaseLost):
        await world.append(lease)


async def test_a_retired_worker_is_swept_at_once(world: World) -> None:
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    await world.queue.retire_worker(worker_id)
    assert (await swept(world)).settled == {lease.run_id: RunStatus.FAILED}


async def test_a_poison_run_ends(world: World) -> None:
    """FM-11: it kills its workers before the start mark; `max_claims` bounds it, and its session goes on."""
    session_id = await world.session()
    run_id, following = [(await world.submit(session_id)).run_id for _ in range(2)]
    for _ in range(world.times.max_claims):
        worker_id = await world.worker()
        assert (await world.claim(session_id, worker_id)).run_id == run_id
        await world.lose(worker_id)
        await swept(world)
    assert (await world.run_row(run_id))["error"]["details"]["claims"] == 5
    assert (await world.claim(session_id, await world.worker())).run_id == following


async def test_a_cancel_survives_its_worker(world: World) -> None:
    """FM-15."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id, options=RETRY)
    await world.queue.request_cancel(lease.run_id, "default", "cancel")
    await world.lose(worker_id)
    assert (await swept(world)).settled == {lease.run_id: RunStatus.CANCELLED}


async def test_a_run_that_cannot_be_settled_holds_up_no_other(world: World) -> None:
    """One row that is wrong, or one session that is locked, must not stop the repairs of the fleet."""
    worker_id = await world.worker()
    leases = [await world.running(worker_id=worker_id) for _ in range(3)]
    wrong = leases[0]
    options = (await world.run_row(wrong.run_id))["options"] | {"on_worker_lost": "retry"}
    await world.change("runs", options=options)
    await world.change("runs", {"id": wrong.run_id}, options=options | {"max_attempts": "x"})
    await world.lose(worker_id)
    result = await swept(world)
    assert set(result.settled) == {lease.run_id for lease in leases[1:]}
    await world.change("runs", {"id": wrong.run_id}, options=options)
    assert (await swept(world)).settled == {wrong.run_id: RunStatus.FAILED}


# Turns and outages


async def test_two_sweepers_do_one_pass(world: World) -> None:
    """DESIGN §3: whoever moves `last_pass_at` does it; the next is due an interval later."""
    await world.make_sweep_due()
    passes = await asyncio.gather(*(world.queue.sweep() for _ in range(6)))
    assert [one.ran for one in passes].count(True) == 1
    assert not (await world.queue.sweep()).ran


async def test_after_its_own_outage_the_sweeper_marks_nobody_for_one_ttl(world: World) -> None:
    """FM-06: an outage of the store must not expire a healthy fleet; the bound itself is tested on Postgres."""
    worker_id = await world.worker()
    await world.running(worker_id=worker_id)
    await world.make_sweep_due()
    now, interval = await world.peek.now(), world.times.sweep_interval
    await world.change("sweeper", last_pass_at=now - 4 * interval)
    await world.silence(worker_id)
    for _ in range(2):
        result = await world.queue.sweep()
        assert (result.ran, result.workers_lost, result.settled) == (True, [], {}), "passes go on, nobody is marked"
        await world.change("sweeper", last_pass_at=now - 2 * interval)
    quiet_until = (await world.row("sweeper"))["quiet_until"]
    assert timedelta(0) <= quiet_until - (now + world.times.lease_ttl) < timedelta(seconds=30)
    await world.change("sweeper", quiet_until=now)
    assert (await world.queue.sweep()).workers_lost == [worker_id]


async def test_the_very_first_pass_is_quiet(world: World) -> None:
    """A database that nobody has swept yet."""
    worker_id = await world.worker()
    await world.silence(worker_id)
    assert (await world.queue.sweep()).ran
    assert not await marked(world, worker_id)


async def test_work_other_than_marking_goes_on_while_it_is_quiet(world: World) -> None:
    """Leases of workers that were marked before are taken."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    await world.queue.retire_worker(worker_id)
    assert (await world.queue.sweep()).settled == {lease.run_id: RunStatus.FAILED}


# Time limits


async def test_a_run_that_waited_too_long_in_its_queue_times_out(world: World) -> None:
    session_id = await world.session()
    waiting = [(await world.submit(session_id, options={"queue_timeout_ms": 1})).run_id for _ in range(2)]
    patient = (await world.submit(session_id)).run_id
    await asyncio.sleep(0.01)
    result = await swept(world)
    assert result.settled == dict.fromkeys(waiting, RunStatus.TIMEOUT)
    assert [frame.type for frame in result.events] == ["run_timeout", "run_timeout"]
    details = json.loads(result.events[0].body)["data"]["details"]
    assert details == {"reason": "queue_timeout", "queue_timeout_ms": 1}
    assert (await world.run_row(patient))["status"] == "pending"


async def test_the_time_in_the_queue_is_over_once_a_run_has_started(world: World) -> None:
    """One that goes back to the queue after its worker died has not waited too long."""
    session_id, worker_id = await world.session(), await world.worker()
    lease = await world.running(session_id=session_id, worker_id=worker_id, options=RETRY | {"queue_timeout_ms": 200})
    await world.queue.finish(lease, HANDED_BACK)
    await asyncio.sleep(0.21)
    assert (await swept(world)).settled == {}
    await world.claim(session_id, worker_id)


async def test_a_run_whose_holder_ignores_its_deadline_is_taken(world: World) -> None:
    """FM-11: a minute after it, from a worker that still beats."""
    lease = await world.running(options=RETRY)
    now = await world.peek.now()
    await world.change("runs", deadline_at=now - timedelta(seconds=55))
    assert (await swept(world)).settled == {}
    await world.change("runs", deadline_at=now - timedelta(seconds=61))
    result = await swept(world)
    assert result.settled == {lease.run_id: RunStatus.TIMEOUT}
    assert [frame.type for frame in result.events] == ["run_timeout"]
    assert (await world.run_row(lease.run_id))["error"]["code"] == "timeout"


# Lost wakeups


async def test_a_session_whose_wakeup_was_lost_is_woken(world: World) -> None:
    """Once per `stale_wake`; a pause, a full session or a fresh wakeup need none."""
    worker_id = await world.worker()
    stale, fresh, paused, full, idle = [await world.session() for _ in range(5)]
    await world.running(session_id=full, worker_id=worker_id)
    for session_id in (stale, fresh, paused, full):
        await world.submit(session_id)
    await world.queue.change_session(paused, "default", SessionVerb.PAUSE)
    await long_unwoken(world, stale, paused, full, idle)
    assert (await swept(world)).wake == [stale]
    assert (await swept(world)).wake == []


async def test_a_pass_wakes_no_more_than_the_fleet_can_take(world: World) -> None:
    """FM-12: the longest unwoken first; leases of a draining worker take no slot of the others."""
    await world.worker(slots=2)
    draining = await world.worker(slots=50)
    for _ in range(4):
        await world.running(worker_id=draining)
    await beat(world, draining, draining=True)
    sessions = [await world.session() for _ in range(5)]
    for number, session_id in enumerate(sessions):
        await world.submit(session_id)
        long_ago = await world.peek.now() - timedelta(minutes=10 - number)
        await world.change("session_runtime", {"session_id": session_id}, last_wake_at=long_ago)
    assert sorted((await swept(world)).wake) == sorted(sessions[:2])
    assert sorted((await swept(world)).wake) == sorted(sessions[2:4])


async def test_without_a_free_slot_nobody_is_woken(world: World) -> None:
    session_id = await world.session()
    await world.submit(session_id)
    await long_unwoken(world, session_id)
    assert (await swept(world)).wake == [], "there is no worker at all"
    await world.running(worker_id=await world.worker(slots=1))
    assert (await swept(world)).wake == []


async def test_a_wakeup_that_was_lost_on_the_way_to_a_limited_session_is_made_good(world: World) -> None:
    """The limiter's mark does not keep the sweeper away."""
    worker_id = await world.worker()
    session_id = await world.session()
    await world.submit(session_id)
    await world.queue.set_limiter("narrow", 1)
    await world.change("session_runtime", limiter="narrow", limiter_waiting_since=await world.peek.now())
    await long_unwoken(world, session_id)
    assert (await swept(world)).wake == [session_id]
    lease = await world.claim(session_id, worker_id)
    assert (await world.queue.finish(lease, an_outcome())).wake == []
