"""Runs outside the queue: started by whoever asked for them, or by nobody; and claims of one particular run."""

from __future__ import annotations

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import RunStatus, SessionVerb
from asm_core.ports.queue import NotClaimed
from tests.builders import RETRY, World, an_outcome


async def refused(world: World, run_id: str, worker_id: str, tenant_id: str = "default") -> AsmError:
    with pytest.raises(AsmError) as caught:
        await world.queue.claim_run(run_id, tenant_id, worker_id)
    return caught.value


async def test_a_run_outside_the_queue_waits_for_nobody_and_nobody_takes_it(world: World) -> None:
    """It takes no place, no room in the bound, is not woken, not claimed and not swept."""
    session_id = await world.session(max_queued_runs=0)
    worker_id = await world.worker()
    outside = [await world.submit(session_id, queued=False) for _ in range(10)]
    assert {(answer.position, tuple(answer.wake)) for answer in outside} == {(None, ())}
    assert await world.queue.claim(session_id, worker_id) == NotClaimed("empty", [])
    assert await world.queue.claimable(10) == []
    await world.make_sweep_due()
    assert (await world.queue.sweep()).wake == []
    queued = await world.submit(session_id)
    assert (queued.position, queued.wake) == (1, [session_id])
    assert (await world.claim(session_id, worker_id)).run_id == queued.run_id


async def test_a_particular_run_is_claimed_and_ends_as_any_other(world: World) -> None:
    session_id = await world.session(max_concurrent_runs=2)
    worker_id = await world.worker()
    first, second = [(await world.submit(session_id, queued=False)).run_id for _ in range(2)]
    for run_id in (second, first):
        claim = await world.queue.claim_run(run_id, "default", worker_id)
        assert (claim.run.id, claim.run.status, claim.session.id) == (run_id, RunStatus.RUNNING, session_id)
        await world.queue.start(claim.lease)
        await world.append(claim.lease)
        assert (await world.queue.finish(claim.lease, an_outcome())).status is RunStatus.COMPLETED


async def test_a_run_that_cannot_start_says_why(world: World) -> None:
    session_id = await world.session()
    worker_id = await world.worker()
    head, behind = [(await world.submit(session_id)).run_id for _ in range(2)]
    outside = (await world.submit(session_id, queued=False)).run_id
    for unknown in (("run_none", "default"), (outside, "other")):
        assert (await refused(world, unknown[0], worker_id, unknown[1])).code is ErrorCode.RUN_NOT_FOUND
    overtaking = await refused(world, behind, worker_id)
    assert (overtaking.code, overtaking.details["reason"]) == (ErrorCode.INVALID_OPERATION, "queue")
    lease = (await world.queue.claim_run(head, "default", worker_id)).lease
    assert (await refused(world, head, worker_id)).code is ErrorCode.INVALID_TRANSITION
    assert (await refused(world, outside, worker_id)).code is ErrorCode.MAX_RUNS_EXCEEDED
    await world.queue.start(lease)
    await world.queue.finish(lease, an_outcome())
    await world.queue.change_session(session_id, "default", SessionVerb.PAUSE)
    assert (await refused(world, outside, worker_id)).code is ErrorCode.INVALID_OPERATION
    await world.queue.change_session(session_id, "default", SessionVerb.RESUME)
    await world.lose(worker_id)
    assert (await refused(world, outside, worker_id)).details["reason"] == "lost"


async def test_a_run_outside_the_queue_fails_with_its_worker(world: World) -> None:
    """There is no place to go back to, whatever its options say."""
    session_id = await world.session()
    worker_id = await world.worker()
    run_id = (await world.submit(session_id, queued=False, options=RETRY)).run_id
    await world.queue.claim_run(run_id, "default", worker_id)
    await world.lose(worker_id)
    assert (await world.queue.sweep()).settled == {run_id: RunStatus.FAILED}


async def test_it_counts_as_work_of_its_session(world: World) -> None:
    session_id = await world.session()
    run_id = (await world.submit(session_id, queued=False)).run_id
    with pytest.raises(AsmError) as caught:
        await world.queue.change_session(session_id, "default", SessionVerb.COMPLETE)
    assert caught.value.code is ErrorCode.INVALID_OPERATION
    await world.queue.change_session(session_id, "default", SessionVerb.COMPLETE, cancel_queued=True)
    assert (await world.run_row(run_id))["status"] == "cancelled"


async def test_a_beat_says_what_is_held_and_what_is_to_stop(world: World) -> None:
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    await world.queue.request_cancel(lease.run_id, "default", "interrupt")
    held = await world.queue.beat(worker_id)
    assert [(one.run_id, one.fence, one.cancel_kind) for one in held or ()] == [
        (lease.run_id, lease.fence, "interrupt")
    ]
    await world.lose(worker_id)
    assert await world.queue.beat(worker_id) is None
