"""Cancelling: at once where nobody works on the run, through its row where somebody does."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import RunStatus
from asm_core.ports.queue import Claimed
from tests.builders import HANDED_BACK, RETRY, World, an_outcome


async def cancel(world: World, run_id: str, kind: Any = "cancel") -> Any:
    return await world.queue.request_cancel(run_id, "default", kind)


@pytest.mark.parametrize(("kind", "data"), [("cancel", {}), ("interrupt", {"reason": "interrupted"})])
async def test_a_queued_run_ends_at_once(world: World, kind: str, data: dict[str, str]) -> None:
    """spec/03 checks 36, 38: one event, no provider; the next run is the head now."""
    session_id, worker_id = await world.session(), await world.worker()
    first, second = [(await world.submit(session_id)).run_id for _ in range(2)]
    answer = await cancel(world, first, kind)
    assert (answer.status, answer.session_id, answer.worker_id) == (RunStatus.CANCELLED, session_id, None)
    assert [(frame.type, json.loads(frame.body)["data"]) for frame in answer.events] == [("run_cancelled", data)]
    assert answer.wake == [session_id], "the next run waits beside a free slot"
    row = await world.run_row(first)
    assert (row["status"], row["ended_at"] is not None, row["started_at"]) == ("cancelled", True, None)
    assert (await world.claim(session_id, worker_id)).run_id == second


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.TIMEOUT, RunStatus.CANCELLED])
async def test_a_cancelled_run_in_flight_ends_cancelled_whatever_its_holder_says(
    world: World, status: RunStatus
) -> None:
    """spec/03 check 45: first the row, then a nudge to its holder; its result is kept."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    answer = await cancel(world, lease.run_id)
    assert (answer.status, answer.worker_id, answer.events, answer.wake) == (RunStatus.RUNNING, worker_id, [], [])
    error = AsmError(ErrorCode.PROVIDER_ERROR) if status is RunStatus.FAILED else None
    finished = await world.queue.finish(lease, an_outcome(status, output={"content": "so far"}, error=error))
    assert finished.status is RunStatus.CANCELLED
    data = json.loads(finished.events[0].body)["data"]
    assert data.get("completed_after_cancel") == (None if status is RunStatus.CANCELLED else status == "completed")
    assert "error_code" not in data
    row = await world.run_row(lease.run_id)
    assert (row["output"], row["error"]) == ({"content": "so far"}, None)
    assert await world.event_types(run_id=lease.run_id) == ["run_cancelled"]


APPROVAL = {"tool_name": "bash", "tool_call_id": "t1", "policy_name": "careful"}


async def test_a_run_in_flight_is_cancelled_for_an_approval(world: World) -> None:
    """spec/03 check 49: what is to be approved is stated at once and once, then the run ends for that reason."""
    lease = await world.running()
    answer = await world.queue.request_cancel(lease.run_id, "default", "approval", APPROVAL)
    again = await world.queue.request_cancel(lease.run_id, "default", "approval", APPROVAL)
    [stated] = answer.events
    assert (stated.type, json.loads(stated.body)["data"], again.events) == ("tool_approval_requested", APPROVAL, [])
    assert (answer.status, again.worker_id) == (RunStatus.RUNNING, lease.worker_id)
    finished = await world.queue.finish(lease, an_outcome(RunStatus.CANCELLED))
    assert json.loads(finished.events[0].body)["data"]["reason"] == "approval_requested"
    after = await world.queue.request_cancel(lease.run_id, "default", "approval", APPROVAL)
    assert (after.status, after.events) == (RunStatus.CANCELLED, [])
    assert await world.event_types(run_id=lease.run_id) == ["tool_approval_requested", "run_cancelled"]


async def test_a_queued_run_is_cancelled_for_an_approval(world: World) -> None:
    """Both events at once, the terminal one last."""
    run_id = (await world.submit(await world.session())).run_id
    answer = await world.queue.request_cancel(run_id, "default", "approval", APPROVAL)
    assert [frame.type for frame in answer.events] == ["tool_approval_requested", "run_cancelled"]
    assert answer.status is RunStatus.CANCELLED


async def test_the_first_wish_counts(world: World) -> None:
    lease = await world.running()
    await cancel(world, lease.run_id, "interrupt")
    await cancel(world, lease.run_id, "cancel")
    finished = await world.queue.finish(lease, an_outcome(RunStatus.CANCELLED))
    assert json.loads(finished.events[0].body)["data"]["reason"] == "interrupted"
    assert await world.how_many("audit_log", action="run.cancel_requested") == 1


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.CANCELLED])
async def test_a_finished_run_stays_as_it_is(world: World, status: RunStatus) -> None:
    """spec/03 check 40."""
    lease = await world.running()
    await world.queue.finish(lease, an_outcome(status))
    answer = await cancel(world, lease.run_id)
    assert (answer.status, answer.worker_id, answer.events, answer.wake) == (status, None, [], [])


async def test_an_unknown_run_or_a_stranger_is_refused(world: World) -> None:
    """spec/03 check 41."""
    run_id = (await world.submit(await world.session(tenant_id="other"), tenant_id="other")).run_id
    for unknown in ("run_none", run_id):
        with pytest.raises(AsmError) as caught:
            await cancel(world, unknown)
        assert caught.value.code is ErrorCode.RUN_NOT_FOUND


async def test_the_holder_learns_of_it_with_its_beat(world: World) -> None:
    """A lost nudge is made good."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    other = await world.running(worker_id=worker_id)
    await cancel(world, lease.run_id, "interrupt")
    held = await world.queue.beat(worker_id)
    assert held is not None
    assert {one.run_id: one.cancel_kind for one in held} == {lease.run_id: "interrupt", other.run_id: None}
    assert {(one.session_id, one.fence) for one in held} == {(one.session_id, one.fence) for one in (lease, other)}


async def test_a_run_cancelled_between_two_attempts_ends_at_once(world: World) -> None:
    lease = await world.running(options=RETRY)
    await world.append(lease)
    await world.queue.finish(lease, HANDED_BACK)
    assert (await cancel(world, lease.run_id)).status is RunStatus.CANCELLED
    assert (await world.event_types(run_id=lease.run_id))[-1] == "run_cancelled"


async def test_cancel_and_claim_race_to_one_of_two_ends(world: World, store_name: str) -> None:
    """
    spec/03 check 202, FM-15: either cancelled in the queue and never claimed, or claimed and then told, at the latest
    by its start mark; never completed, never two terminal events.
    """
    worker_id = await world.worker(slots=1_000)
    outcomes: Counter[str] = Counter()

    async def race(rng: random.Random) -> None:
        session_id = await world.session()
        run_id = (await world.submit(session_id)).run_id

        async def claim_and_start() -> str:
            await asyncio.sleep(rng.random() * 0.004)
            claim = await world.queue.claim(session_id, worker_id)
            if not isinstance(claim, Claimed):
                assert claim.reason == "empty"
                return "never claimed"
            started = await world.queue.start(claim.lease)
            finished = await world.queue.finish(claim.lease, an_outcome())
            if finished.status is RunStatus.COMPLETED:
                return "completed before"
            return "told by the start mark" if started.cancel_kind else "told by the row"

        async def cancelled() -> RunStatus:
            await asyncio.sleep(rng.random() * 0.004)
            answer = await cancel(world, run_id)
            assert answer.status is not RunStatus.PENDING
            return RunStatus(answer.status)

        how, seen = await asyncio.gather(claim_and_start(), cancelled())
        outcomes[how] += 1
        row = await world.run_row(run_id)
        assert row["status"] == ("completed" if how == "completed before" else "cancelled")
        assert (how == "completed before") == (seen is RunStatus.COMPLETED), (how, seen)
        assert len(await world.event_types(run_id=run_id)) == 1

    rng = random.Random(7)
    rounds = 5 if store_name == "sqlite" else 25
    for _ in range(rounds):
        await asyncio.gather(*(race(rng) for _ in range(8)))
    assert sum(outcomes.values()) == rounds * 8
    assert outcomes["never claimed"] and outcomes["told by the start mark"] + outcomes["told by the row"], outcomes
