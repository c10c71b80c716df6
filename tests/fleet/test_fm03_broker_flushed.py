"""FM-03: Redis forgets everything."""

from __future__ import annotations

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.fleet import Fleet


async def test_pending_runs_survive_a_flushed_redis(fleet: Fleet) -> None:
    """All wakeups are gone, no run is: the sweep asks again for every session with work and a free slot."""
    workers = await fleet.start(2, slots=4)
    sessions = [await fleet.session() for _ in range(10)]
    for session in sessions[:3]:
        fleet.follow(session)
    for worker in workers:
        worker.stop()
    for _ in range(5):
        for session in sessions:
            await fleet.submit(session, {"say": "a b c", "chunks": 3, "delay_ms": 10})
    await fleet.flush_redis()
    for worker in workers:
        worker.cont()
    await fleet.ends_well()
    assert await fleet.statuses() == {RunStatus.COMPLETED: 50}
