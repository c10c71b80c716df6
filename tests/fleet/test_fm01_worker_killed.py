"""FM-01: a worker is killed in the middle of its runs."""

from __future__ import annotations

import time

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.fleet import TAKEOVER_S, Fleet

FOREVER = {"sleep_ms": 600_000}


async def test_run_of_a_killed_worker_fails_once_and_its_queue_goes_on(fleet: Fleet) -> None:
    """By default a run's effects are not repeated: it has failed, with the reason; the next run of its session starts."""
    await fleet.start(2)
    session = await fleet.session()
    fleet.follow(session)
    lost = await fleet.submit(session, {"say": "first"}, FOREVER)
    following = await fleet.submit(session, {"say": "next"})
    await fleet.emitted(lost, "message_received")
    (await fleet.holder(lost)).kill()

    run = await fleet.ended(lost)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error["details"]["reason"] == "worker_lost"
    assert run.attempt == 1
    assert (await fleet.ended(following)).status is RunStatus.COMPLETED
    await fleet.ends_well()
