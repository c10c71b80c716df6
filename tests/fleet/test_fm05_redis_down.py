"""FM-05: Redis is away, Postgres is there."""

from __future__ import annotations

import asyncio
import time

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.fleet import Fleet

STREAM = {"say": "x" * 60, "chunks": 60, "delay_ms": 40}
ANSWER_S = 1.0
"""Submit and cancel answer within a second (DESIGN §8)."""


async def test_accepts_and_executes_runs_while_redis_is_down(fleet: Fleet) -> None:
    """What runs goes on and can be cancelled, what is submitted is kept; back again, nothing needs a human hand."""
    await fleet.start(2)
    redis = fleet.servers.redis
    streaming, waiting = await fleet.session(), await fleet.session()
    fleet.follow(streaming)
    fleet.follow(waiting)
    running = await fleet.submit(streaming, STREAM)
    endless = await fleet.submit(waiting, {"say": "on and on"}, {"sleep_ms": 600_000})
    await fleet.emitted(running, "message_streamed")
    await fleet.emitted(endless, "message_received")
    await fleet.servers.do(redis.kill)

    began = time.monotonic()
    queued = await fleet.submit(waiting, {"say": "later"})
    assert await fleet.cancel(endless) is RunStatus.RUNNING
    assert time.monotonic() - began < 2 * ANSWER_S
    assert (await fleet.ended(endless)).status is RunStatus.CANCELLED  # the nudge is lost, the beat sees the row
    assert (await fleet.ended(running)).status is RunStatus.COMPLETED
    assert redis.process.poll() is not None

    await fleet.servers.do(redis.restart)
    assert (await fleet.ended(queued, 30)).status is RunStatus.COMPLETED
    await fleet.ends_well()


async def test_a_worker_full_of_direct_claims_takes_no_more_when_the_broker_is_back(fleet: Fleet) -> None:
    """Its task threads are idle then, but its slots are taken."""
    await fleet.start(1, slots=3, ASM_BROKER_OUTAGE_MS=2_000)
    fleet.supervise()
    redis = fleet.servers.redis
    session = await fleet.session(max_concurrent_runs=20)
    await fleet.servers.do(redis.kill)
    runs = [await fleet.submit(session, {"sleep_ms": 3_000}) for _ in range(3)]
    for run_id in runs:
        await fleet.emitted(run_id, "run_started")
    assert redis.process.poll() is not None

    await fleet.servers.do(redis.restart)
    runs += [await fleet.submit(session, {"sleep_ms": 200}) for _ in range(5)]
    held = set()
    while not all([(await fleet.run(run_id)).is_terminal for run_id in runs]):
        held.add((await fleet.sql("SELECT count(*) AS n FROM asm_run_leases"))[0]["n"])
        await asyncio.sleep(0.02)
    assert max(held) == 3
    await fleet.ends_well()


async def test_workers_claim_straight_from_the_store_during_a_long_outage(fleet: Fleet) -> None:
    """After `broker_outage_ms` without a broker the work goes on without one; and with it, once it is back."""
    await fleet.start(2, ASM_BROKER_OUTAGE_MS=2_000)
    fleet.supervise()
    redis = fleet.servers.redis
    session = await fleet.session()
    fleet.follow(session)
    await fleet.servers.do(redis.kill)
    runs = [await fleet.submit(session, {"say": f"number {number}"}) for number in range(3)]
    for run_id in runs:
        assert (await fleet.ended(run_id, 20)).status is RunStatus.COMPLETED
    assert redis.process.poll() is not None

    await fleet.servers.do(redis.restart)
    for number in range(3):
        run_id = await fleet.submit(session, {"say": f"number {number}, again by wakeup"})
        assert (await fleet.ended(run_id, 20)).status is RunStatus.COMPLETED
    await fleet.ends_well()
