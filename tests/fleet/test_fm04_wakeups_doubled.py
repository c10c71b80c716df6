"""FM-04 and FM-17: wakeups arrive many times, late, for nothing, or never."""

from __future__ import annotations

import random

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.fleet import Fleet

SOME_WORK = {"say": "a b c d", "chunks": 4, "delay_ms": 10}


async def test_five_wakeups_per_run_execute_it_once(fleet: Fleet) -> None:
    """A wakeup is a hint: the surplus finds nothing to claim, order and slots hold."""
    await fleet.start(2, slots=8)
    sessions = [await fleet.session(max_concurrent_runs=slots) for slots in (1, 1, 2, 3)]
    for _ in range(10):
        for session in sessions:
            await fleet.submit(session, SOME_WORK)
            fleet.deps.submitter.wakeups.wake([session] * 4)
    await fleet.ends_well()
    assert await fleet.statuses() == {RunStatus.COMPLETED: 40}
    assert await fleet.sql("SELECT DISTINCT claims, attempt FROM asm_runs") == [{"claims": 1, "attempt": 1}]


async def test_lost_and_doubled_wakeups_cost_only_time(fleet: Fleet) -> None:
    """A third of the wakeups vanish on their way and a third arrive twice: no slot stays idle for ever."""
    await fleet.start(2, slots=8)
    sessions = [await fleet.session(max_concurrent_runs=slots) for slots in (1, 1, 2, 3)]
    broker = fleet.lossy_broker(random.Random(4), drop=0.33, double=0.33)
    async with broker.at_work(hands=6):
        for _ in range(6):
            for session in sessions:
                await fleet.submit(session, SOME_WORK)
        await fleet.ends_well(60)
    assert broker.dropped and broker.doubled
    assert await fleet.statuses() == {RunStatus.COMPLETED: 24}
    assert await fleet.sql("SELECT DISTINCT claims, attempt FROM asm_runs") == [{"claims": 1, "attempt": 1}]
