"""FM-15: cancel races with everything else."""

from __future__ import annotations

import asyncio
import random

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.fleet import Fleet

FOREVER = {"sleep_ms": 600_000}


async def test_cancel_stops_a_running_run(fleet: Fleet) -> None:
    """It ends cancelled, keeps what it had said, and the next run of its session starts."""
    await fleet.start(2)
    session = await fleet.session()
    fleet.follow(session)
    run_id = await fleet.submit(session, {"say": "half of it"}, FOREVER)
    following = await fleet.submit(session, {"say": "next"})
    await fleet.emitted(run_id, "message_received")
    assert await fleet.cancel(run_id) is RunStatus.RUNNING
    run = await fleet.ended(run_id, 5)
    assert run.status is RunStatus.CANCELLED
    assert run.output is not None
    assert run.output["content"] == "half of it"
    assert (await fleet.ended(following)).status is RunStatus.COMPLETED
    await fleet.ends_well()


async def test_cancel_racing_with_claim_and_finish_is_never_half_done(fleet: Fleet) -> None:
    """Asked before its end a run ends cancelled; asked afterwards it stays as it is. Nothing in between."""
    await fleet.start(2)
    rng = random.Random(15)
    session = await fleet.session(max_concurrent_runs=5, max_queued_runs=100)
    fleet.follow(session)

    async def submit_and_cancel(delay_s: float) -> tuple[str, RunStatus]:
        run_id = await fleet.submit(session, {"say": "a b", "chunks": 2, "delay_ms": 20})
        await asyncio.sleep(delay_s)
        return run_id, await fleet.cancel(run_id)

    answers = await asyncio.gather(*(submit_and_cancel(rng.uniform(0, 0.4)) for _ in range(60)))
    for run_id, answered in answers:
        expected = RunStatus.COMPLETED if answered is RunStatus.COMPLETED else RunStatus.CANCELLED
        assert (await fleet.ended(run_id)).status is expected
    never_started = await fleet.sql("SELECT id FROM asm_runs WHERE status = 'cancelled' AND claims = 0")
    for row in never_started:
        assert [event["type"] for event in await fleet.events_of(row["id"])] == ["run_cancelled"]
    await fleet.ends_well()


async def test_cancel_is_not_lost_with_the_worker_it_was_meant_for(fleet: Fleet) -> None:
    """The holder is frozen, so nobody obeys; the takeover does: cancelled, not failed, and not started again."""
    await fleet.start(2)
    sessions = [await fleet.session(), await fleet.session()]
    runs = [
        await fleet.submit(session, {"say": "on and on"}, FOREVER, on_worker_lost=policy)
        for session, policy in zip(sessions, ["fail", "retry"], strict=True)
    ]
    for run_id in runs:
        await fleet.emitted(run_id, "message_received")
    holders = [await fleet.holder(run_id) for run_id in runs]
    for holder in holders:
        holder.stop()
    for run_id in runs:
        assert await fleet.cancel(run_id) is RunStatus.RUNNING
    await fleet.add_workers(1)
    for run_id in runs:
        run = await fleet.ended(run_id)
        assert (run.status, run.attempt) == (RunStatus.CANCELLED, 1)
    await fleet.ends_well()


async def test_cancel_without_its_nudge_comes_with_the_beat(fleet: Fleet) -> None:
    """Redis is away, so the holder is not told; it reads the row with its next beat."""
    await fleet.start(1)
    session = await fleet.session()
    run_id = await fleet.submit(session, {"say": "on and on"}, FOREVER)
    await fleet.emitted(run_id, "message_received")
    await fleet.servers.do(fleet.servers.redis.kill)
    assert await fleet.cancel(run_id) is RunStatus.RUNNING
    assert (await fleet.ended(run_id, 5)).status is RunStatus.CANCELLED
    assert fleet.servers.redis.process.poll() is not None
    await fleet.ends_well()
