"""FM-02: a worker is frozen past its lease and comes back, believing that it still holds its runs."""

from __future__ import annotations

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.fleet import Fleet

STREAM = {"say": " ".join(map(str, range(80))), "chunks": 80, "delay_ms": 40}


async def test_zombie_worker_leaves_no_trace_and_works_again(fleet: Fleet) -> None:
    """Nothing it writes after the takeover is stored or seen; it registers under a new id and takes new runs."""
    [zombie] = await fleet.start(1)
    failing, repeating = await fleet.session(), await fleet.session()
    about_to_end = await fleet.session()
    for session in (failing, repeating, about_to_end):
        fleet.follow(session)
    lost = await fleet.submit(failing, STREAM)
    repeated = await fleet.submit(repeating, STREAM, on_worker_lost="retry")
    ending = await fleet.submit(about_to_end, {"say": "z"}, {"sleep_ms": 3_000}, on_worker_lost="retry")
    await fleet.emitted(ending, "message_received")
    for run_id in (lost, repeated):
        await fleet.emitted(run_id, "message_streamed", at_least=5)
    zombie.stop()
    [other] = await fleet.add_workers(1)
    await fleet.emitted(repeated, "error_recovered")
    await fleet.emitted(ending, "message_received", at_least=2)
    assert (await fleet.ended(lost)).status is RunStatus.FAILED
    log_of_lost = await fleet.log(failing)

    zombie.cont()
    await fleet.registered([zombie])
    for run_id in (repeated, ending):  # the zombie's `finish` of the latter is the first thing it tries
        run = await fleet.ended(run_id)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)
    assert await fleet.log(failing) == log_of_lost

    other.kill()
    again = await fleet.submit(failing, {"say": "back at work"})
    assert (await fleet.ended(again)).status is RunStatus.COMPLETED
    await fleet.ends_well()
