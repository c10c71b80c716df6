"""FM-12, FM-13, FM-20: many sessions want the same slots."""

from __future__ import annotations

import asyncio
import time

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.faults import eventually
from tests.fixtures.fleet import TAKEOVER_S, Fleet

FOREVER = {"sleep_ms": 600_000}


async def test_long_queue_of_one_session_does_not_hold_up_another(fleet: Fleet) -> None:
    """Two hundred runs wait in one session; a run of another one is served within a few of theirs."""
    await fleet.start(1, slots=2)
    crowded, calm = await fleet.session(max_concurrent_runs=2, max_queued_runs=200), await fleet.session()
    holders = [await fleet.submit(crowded, FOREVER) for _ in range(2)]
    for holder in holders:
        await fleet.emitted(holder, "run_started")
    for _ in range(198):
        await fleet.submit(crowded, {"sleep_ms": 20})
    calm_run = await fleet.submit(calm, {"say": "me too"})
    for holder in holders:
        await fleet.cancel(holder)
    await fleet.ends_well(60)
    query = "SELECT count(*) AS n FROM asm_runs WHERE session_id = %s AND started_at < %s"
    [before] = await fleet.sql(query, crowded, (await fleet.run(calm_run)).started_at)
    assert before["n"] < 20, "the crowd was served first"


async def test_freed_slot_is_used_at_once(fleet: Fleet) -> None:
    """A full worker asks the broker for nothing; when a run ends it does so again, not only at the next timer."""
    await fleet.start(1, slots=2)
    sessions = [await fleet.session() for _ in range(40)]
    for session in sessions:
        await fleet.submit(session, {"say": "short"})
    began = time.monotonic()
    await fleet.ends_well()
    assert time.monotonic() - began < 6, "expected are 1 to 2 s; a timer per slot would make 20"


async def test_limited_fleet_serves_everybody_without_a_herd(fleet: Fleet) -> None:
    """Three runs at once in the fleet, 25 sessions waiting: each freed slot wakes one of them, not all."""
    sessions = 25
    await fleet.start(2, slots=8, ASM_MAX_PARALLEL_RUNS=3)

    async def limiter_stands() -> None:
        assert await fleet.sql("SELECT name FROM asm_limiters")

    await eventually(limiter_stands, TAKEOVER_S)
    for _ in range(sessions):
        session = await fleet.session()
        for _ in range(2):
            await fleet.submit(session, {"sleep_ms": 10})
    most = 0
    while (await fleet.statuses())[RunStatus.COMPLETED] < 2 * sessions:
        [row] = await fleet.sql("SELECT count(*) AS n FROM asm_run_leases")
        most = max(most, row["n"])
        await asyncio.sleep(0.01)
    assert most <= 3
    await fleet.ends_well()

    async def few_claims() -> None:
        [row] = await fleet.sql("SELECT calls FROM pg_stat_user_functions WHERE funcname = 'asm_claim'")
        assert 2 * sessions <= row["calls"] <= 10 * sessions

    await eventually(few_claims, 10)


async def test_no_slot_is_lost_with_its_worker(fleet: Fleet) -> None:
    """One worker killed, one frozen, the session's slots full: afterwards all of them can be used."""
    await fleet.start(2, slots=4)
    session = await fleet.session(max_concurrent_runs=3)
    runs = [await fleet.submit(session, FOREVER) for _ in range(3)]
    for run_id in runs:
        await fleet.emitted(run_id, "run_started")
    victim, other = fleet.workers
    victim.kill()
    other.stop()
    await fleet.add_workers(1, slots=4)
    for run_id in runs:
        assert (await fleet.ended(run_id)).status is RunStatus.FAILED
    runs = [await fleet.submit(session, FOREVER) for _ in range(3)]
    for run_id in runs:
        await fleet.emitted(run_id, "run_started")
    for run_id in runs:
        await fleet.cancel(run_id)
    await fleet.ends_well()
