"""Ending and handing back: one terminal event, once, by the holder."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode, LeaseLost
from asm_core.domain.event import TERMINAL_EVENTS, EventType
from asm_core.domain.lifecycle import RunStatus
from asm_core.ports.queue import Finished
from tests.builders import HANDED_BACK, RETRY, World, a_lease, an_outcome

TIMED_OUT = AsmError(ErrorCode.TIMEOUT, "too long", details={"reason": "run_timeout"})


def data_of(finished: Finished, index: int = 0) -> dict[str, Any]:
    return json.loads(finished.events[index].body)["data"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (RunStatus.COMPLETED, None),
        (RunStatus.FAILED, AsmError(ErrorCode.PROVIDER_ERROR, "no", provider_error={"kind": "x"})),
        (RunStatus.CANCELLED, None),
        (RunStatus.TIMEOUT, TIMED_OUT),
    ],
)
async def test_a_run_ends_with_its_row_and_its_one_event(
    world: World, status: RunStatus, error: AsmError | None
) -> None:
    """Invariant 2; usage and cost are kept however it ended (spec/03 check 46)."""
    lease = await world.running()
    for _ in range(2):
        usage = {"input_tokens": 10, "output_tokens": 2, "cost_usd": 0.125}
        await world.append(lease, kind=EventType.TOKEN_USAGE_UPDATED, data=usage)
    outcome = an_outcome(status, output={"content": "so far"}, error=error, turn_count=2)
    finished = await world.queue.finish(lease, outcome)
    assert (finished.status, [frame.type for frame in finished.events]) == (status, [TERMINAL_EVENTS[status]])
    row = await world.run_row(lease.run_id)
    assert (row["status"], row["output"], row["turn_count"]) == (status, {"content": "so far"}, 2)
    assert row["error"] == (error.to_payload() if error else None)
    assert (row["token_usage"], float(row["cost_usd"])) == ({"input_tokens": 20, "output_tokens": 4}, 0.25)
    assert row["ended_at"] > row["started_at"]
    data = data_of(finished)
    assert (data["token_usage"], data["cost_usd"]) == ({"input_tokens": 20, "output_tokens": 4}, 0.25)
    assert data.get("error_code") == (str(error.code) if error else None)
    assert data.get("error_message") == (error.message if error else None)
    assert await world.how_many("run_leases") == 0


async def test_usage_counts_over_all_attempts(world: World) -> None:
    """What was spent was spent."""
    session_id, worker_id = await world.session(), await world.worker()
    first = await world.running(session_id=session_id, worker_id=worker_id, options=RETRY)
    await world.append(first, kind=EventType.TOKEN_USAGE_UPDATED, data={"input_tokens": 5})
    await world.queue.finish(first, HANDED_BACK)
    second = await world.claim(session_id, worker_id)
    await world.queue.start(second)
    await world.append(second, kind=EventType.TOKEN_USAGE_UPDATED, data={"input_tokens": 7}, attempt=2)
    await world.queue.finish(second, an_outcome())
    assert (await world.run_row(first.run_id))["token_usage"] == {"input_tokens": 12}


@pytest.mark.parametrize("cost", [999_999_999.5, 1e10, 1e300, -3.0])
async def test_no_usage_can_keep_a_run_from_ending(world: World, cost: float) -> None:
    """A provider's absurd figure must not poison the run, and with it every pass of the sweeper."""
    lease = await world.running()
    await world.append(lease, kind=EventType.TOKEN_USAGE_UPDATED, data={"input_tokens": 1e300, "cost_usd": cost})
    assert (await world.queue.finish(lease, an_outcome())).status is RunStatus.COMPLETED


async def test_no_output_can_keep_a_run_from_ending(world: World) -> None:
    """An adapter's own words (a completion, an error's message) may hold what Postgres refuses."""
    lease = await world.running()
    odd = "a\x00b"
    error = AsmError(ErrorCode.PROVIDER_ERROR, odd, details={odd: odd})
    outcome = an_outcome(
        RunStatus.FAILED, output={"content": odd, "n": float("nan")}, error=error, data={"x": odd},
        provider_metadata={"provider_session_id": odd},
    )  # fmt: skip
    await world.queue.finish(lease, outcome)
    row = await world.run_row(lease.run_id)
    assert row["output"] == {"content": "a\ufffdb", "n": None}
    assert row["error"]["message"] == "a\ufffdb"


async def test_the_provider_handle_is_kept_on_the_session(world: World) -> None:
    """DESIGN §3: `provider_sessions` only, merged per provider."""
    session_id = await world.session(metadata={"mine": 1})
    worker_id = await world.worker()
    for provider, metadata in (
        ("claude", {"provider_session_id": "c1", "model": "m", "tools": ["x"]}),
        ("codex", {"provider_session_id": "x1"}),
        ("claude", {"provider_session_id": "c2"}),
        ("codex", {}),
    ):
        lease = await world.running(session_id=session_id, worker_id=worker_id, options={"provider": provider})
        await world.queue.finish(lease, an_outcome(provider_metadata=metadata))
        assert (await world.run_row(lease.run_id))["provider_metadata"] == metadata
    assert (await world.row("sessions", id=session_id))["metadata"] == {
        "mine": 1,
        "provider_sessions": {
            "claude": {"provider_session_id": "c2", "model": "m"}, "codex": {"provider_session_id": "x1"},
        },
    }  # fmt: skip


async def test_a_finish_repeated_after_an_unknown_commit_is_a_success(world: World) -> None:
    """DESIGN §3: terminal with our fence; the same events come back, nothing is written."""
    lease = await world.running()
    first = await world.queue.finish(lease, an_outcome())
    again = await world.queue.finish(lease, an_outcome(RunStatus.FAILED))
    assert again.status is RunStatus.COMPLETED
    assert [frame.body for frame in again.events] == [frame.body for frame in first.events]
    assert again.wake == []
    assert (await world.event_types(run_id=lease.run_id)) == ["run_completed"]


async def test_only_the_holder_can_end_a_run(world: World) -> None:
    lease = await world.running()
    for nobody in (a_lease(run_id=lease.run_id, session_id=lease.session_id, fence=2), a_lease()):
        with pytest.raises(LeaseLost):
            await world.queue.finish(nobody, an_outcome())
        with pytest.raises(LeaseLost):
            await world.queue.finish(nobody, HANDED_BACK)
        assert await world.queue.hand_back(nobody.run_id, nobody.fence, "unknown_lease") is None
    assert (await world.run_row(lease.run_id))["status"] == "running"


async def test_a_zombie_cannot_end_its_run_after_a_takeover(world: World) -> None:
    """FM-02: neither while another holds it, nor when that one has ended it."""
    session_id, worker_id = await world.session(), await world.worker()
    old = await world.running(session_id=session_id, worker_id=worker_id, options=RETRY)
    await world.queue.hand_back(old.run_id, old.fence, "worker_shutdown")
    new = await world.claim(session_id, worker_id)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            await world.queue.finish(old, an_outcome(RunStatus.FAILED))
        await world.queue.finish(new, an_outcome())
    assert (await world.run_row(old.run_id))["status"] == "completed"
    assert await world.event_types(run_id=old.run_id) == ["run_completed"]


async def test_a_zombie_whose_run_was_failed_learns_how_it_ended(world: World) -> None:
    """It was taken over under the same fence: nothing more is written, and its result is not believed."""
    worker_id = await world.worker()
    lease = await world.running(worker_id=worker_id)
    await world.lose(worker_id)
    await world.queue.sweep()
    finished = await world.queue.finish(lease, an_outcome())
    assert finished.status is RunStatus.FAILED
    assert await world.event_types(run_id=lease.run_id) == ["run_failed"]


# Handing back


async def test_a_run_that_never_started_goes_back_to_its_place(world: World) -> None:
    """Invariant 4: it keeps its `submit_seq`, so it is the head again; what can run is woken."""
    session_id, worker_id = await world.session(), await world.worker()
    first, second = [(await world.submit(session_id)).run_id for _ in range(2)]
    lease = await world.claim(session_id, worker_id)
    given = await world.queue.hand_back(lease.run_id, lease.fence, "unknown_lease")
    assert given is not None
    assert (given.status, list(given.events), given.wake) == (RunStatus.PENDING, [], [session_id])
    row = await world.run_row(first)
    assert (row["status"], row["worker_id"], row["attempt"], row["claims"]) == ("pending", None, 0, 1)
    again = await world.claim(session_id, worker_id)
    assert (again.run_id, again.fence) == (first, 2)
    await world.queue.finish(again, an_outcome())
    assert (await world.claim(session_id, worker_id)).run_id == second


async def test_claims_without_a_start_are_bounded(world: World) -> None:
    """DESIGN §3, FM-11: `max_claims`, then it has failed."""
    session_id, worker_id = await world.session(), await world.worker()
    await world.submit(session_id)
    for claim in range(1, world.times.max_claims + 1):
        lease = await world.claim(session_id, worker_id)
        finished = await world.queue.finish(lease, HANDED_BACK)
        expected = RunStatus.FAILED if claim == world.times.max_claims else RunStatus.PENDING
        assert finished.status is expected
    row = await world.run_row(lease.run_id)
    assert (row["error"]["code"], row["error"]["details"]["reason"]) == ("internal_error", "worker_shutdown")
    assert (row["error"]["details"]["claims"], row["attempt"]) == (5, 0)


@pytest.mark.parametrize("how", ["fail", "retry", "resume"])
async def test_a_started_run_goes_back_only_if_it_may_be_repeated(world: World, how: str) -> None:
    """DESIGN §3: `on_worker_lost` and `max_attempts` decide."""
    session_id, worker_id = await world.session(), await world.worker()
    options = {"on_worker_lost": how, "max_attempts": 1 if how == "fail" else 2}
    lease = await world.running(session_id=session_id, worker_id=worker_id, options=options)
    finished = await world.queue.finish(lease, HANDED_BACK)
    if how != "fail":
        assert finished.status is RunStatus.PENDING
        again = await world.claim(session_id, worker_id)
        await world.queue.start(again)
        finished = await world.queue.finish(again, HANDED_BACK)
    assert finished.status is RunStatus.FAILED
    assert data_of(finished)["details"]["attempt"] == (1 if how == "fail" else 2)


@pytest.mark.parametrize("kind", ["cancel", "interrupt"])
async def test_a_requested_cancel_is_honoured_when_a_run_comes_back(world: World, kind: Any) -> None:
    """FM-15: a cancel is never lost with its worker."""
    lease = await world.running(options=RETRY)
    await world.queue.request_cancel(lease.run_id, "default", kind)
    finished = await world.queue.finish(lease, HANDED_BACK)
    assert finished.status is RunStatus.CANCELLED
    assert data_of(finished).get("reason") == ("interrupted" if kind == "interrupt" else None)


async def test_a_run_past_its_deadline_does_not_start_again(world: World) -> None:
    """Nothing re-arms the time limit."""
    lease = await world.running(options=RETRY)
    await world.change("runs", {"id": lease.run_id}, deadline_at=await world.peek.now())
    finished = await world.queue.finish(lease, HANDED_BACK)
    assert (finished.status, data_of(finished)["error_code"]) == (RunStatus.TIMEOUT, "timeout")


async def test_a_hand_back_repeated_after_an_unknown_commit_is_harmless(world: World) -> None:
    lease = await world.running(options=RETRY)
    assert await world.queue.hand_back(lease.run_id, lease.fence, "worker_shutdown") is not None
    assert await world.queue.hand_back(lease.run_id, lease.fence, "worker_shutdown") is None
    assert await world.event_types(run_id=lease.run_id) == []
