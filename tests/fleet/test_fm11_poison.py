"""FM-11: a run that kills every worker it meets."""

from __future__ import annotations

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.fleet import Fleet


async def test_poison_run_is_given_up_and_the_others_go_on(fleet: Fleet) -> None:
    """After `max_attempts` dead workers it has failed; its own session continues, and so do the bystanders."""
    await fleet.start(2)
    fleet.supervise()
    poisoned, healthy = await fleet.session(), await fleet.session()
    fleet.follow(poisoned)
    fleet.follow(healthy)
    poison = await fleet.submit(poisoned, {"crash": "sigkill"}, on_worker_lost="retry", max_attempts=2)
    once = await fleet.submit(healthy, {"sleep_ms": 300}, {"crash": "sigkill"})
    behind = await fleet.submit(poisoned, {"say": "behind the poison"})
    bystanders = [
        await fleet.submit(
            healthy, {"say": "a b c d", "chunks": 4, "delay_ms": 100}, on_worker_lost="retry", max_attempts=5
        )
        for _ in range(3)
    ]

    run = await fleet.ended(poison, 30)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 2)
    assert run.error is not None
    assert run.error["details"]["reason"] == "worker_lost"
    run = await fleet.ended(once, 30)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 1)
    for run_id in (behind, *bystanders):
        assert (await fleet.ended(run_id, 30)).status is RunStatus.COMPLETED
    await fleet.ends_well()
