"""Submitting: order, bounds, idempotency, one-shots."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import RunStatus, SessionStatus, SessionVerb
from tests.builders import World, a_session, a_submission, an_outcome


async def refused(world: World, session_id: str, **fields: object) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await world.submit(session_id, **fields)
    return caught.value


async def test_a_submitted_run_is_stored_as_asked(world: World) -> None:
    """spec/03 check 28: pending before its id is returned, with everything an executor needs."""
    session_id = await world.session()
    asked = {"input": {"prompt": "x"}, "metadata": {"k": 1}, "options": {"timeout_ms": 5, "queue_timeout_ms": 60_000}}
    submitted = await world.submit(session_id, **asked)
    assert (submitted.status, submitted.position, submitted.replayed) == (RunStatus.PENDING, 1, False)
    assert submitted.wake == [session_id]
    row = await world.run_row(submitted.run_id)
    assert (row["status"], row["input"], row["metadata"]) == ("pending", {"prompt": "x"}, {"k": 1})
    assert (row["provider"], row["options"]["timeout_ms"], row["attempt"], row["claims"]) == ("scripted", 5, 0, 0)
    assert (row["queue_deadline_at"] - row["created_at"]).total_seconds() == 60
    assert (await world.row("audit_log", run_id=submitted.run_id))["action"] == "run.submitted"


async def test_places_in_the_queue_follow_the_submits(world: World) -> None:
    session_id = await world.session()
    runs = [await world.submit(session_id) for _ in range(4)]
    assert [run.position for run in runs] == [1, 2, 3, 4]
    await world.queue.request_cancel(runs[1].run_id, "default", "cancel")
    assert (await world.submit(session_id)).position == 4
    assert (await world.submit(await world.session())).position == 1, "another session has its own queue"


async def test_only_a_submit_that_finds_a_free_slot_wakes(world: World) -> None:
    """DESIGN §3, wake rule: a full session's holders will pass the baton."""
    session_id = await world.session()
    lease = await world.running(session_id=session_id)
    assert (await world.submit(session_id)).wake == []
    assert (await world.queue.finish(lease, an_outcome())).wake == [session_id]


async def test_an_unknown_session_or_a_stranger_is_refused(world: World) -> None:
    session_id = await world.session(tenant_id="other")
    for unknown in ("ses_none", session_id):
        assert (await refused(world, unknown)).code is ErrorCode.SESSION_NOT_FOUND
    await world.submit(session_id, tenant_id="other")


@pytest.mark.parametrize("running", [0, 1])
async def test_the_bound_counts_queued_and_running_runs(world: World, running: int) -> None:
    """spec/03 check 24: at `max_concurrent + max_queued` the next submit is refused and writes nothing."""
    session_id = await world.session(max_concurrent_runs=1, max_queued_runs=2)
    worker_id = await world.worker()
    for number in range(3):
        await world.submit(session_id)
        if number < running:
            await world.claim(session_id, worker_id)
    error = await refused(world, session_id, idempotency_key="k")
    assert error.code is ErrorCode.MAX_RUNS_EXCEEDED
    assert error.details["queued"] == 3 - running
    assert error.details["in_flight"] == running
    assert error.details["retry_after_s"] == 1
    assert await world.how_many("runs") == 3
    assert await world.how_many("idempotency_keys") == 0, "the key is free for another try"


async def test_a_queue_without_room_takes_what_can_run_at_once(world: World) -> None:
    """spec/03 check 25: `max_queued_runs=0`."""
    session_id = await world.session(max_concurrent_runs=2, max_queued_runs=0)
    await world.submit(session_id)
    await world.submit(session_id)
    assert (await refused(world, session_id)).code is ErrorCode.MAX_RUNS_EXCEEDED


async def test_room_comes_back_with_the_end_of_a_run(world: World) -> None:
    session_id = await world.session(max_queued_runs=0)
    lease = await world.running(session_id=session_id)
    await refused(world, session_id)
    await world.queue.finish(lease, an_outcome())
    await world.submit(session_id)


async def test_a_repeated_key_gives_the_same_run_whatever_has_become_of_it(world: World) -> None:
    """FM-14: also when the run has ended, the queue is full or the session is over."""
    session_id = await world.session(max_queued_runs=0)
    first = await world.submit(session_id, idempotency_key="k")
    full = await world.submit(session_id, idempotency_key="k")
    assert (full.run_id, full.replayed, full.position, full.status) == (first.run_id, True, 1, RunStatus.PENDING)
    worker_id = await world.worker()
    lease = await world.claim(session_id, worker_id)
    running = await world.submit(session_id, idempotency_key="k")
    assert (running.status, running.position) == (RunStatus.RUNNING, None)
    await world.queue.start(lease)
    await world.queue.finish(lease, an_outcome())
    await world.queue.change_session(session_id, "default", SessionVerb.COMPLETE)
    ended = await world.submit(session_id, idempotency_key="k")
    assert (ended.run_id, ended.status, ended.replayed) == (first.run_id, RunStatus.COMPLETED, True)
    assert list(ended.wake) == list(ended.events) == []


async def test_a_key_belongs_to_one_request_of_one_session(world: World) -> None:
    session_id = await world.session()
    first = await world.submit(session_id, idempotency_key="k")
    error = await refused(world, session_id, idempotency_key="k", request_hash="another")
    assert error.code is ErrorCode.ALREADY_EXISTS
    assert (error.details["run_id"], error.details["idempotency_key"]) == (first.run_id, "k")
    assert "'k'" in error.message
    elsewhere = await world.submit(await world.session(), idempotency_key="k", request_hash="another")
    assert not elsewhere.replayed


async def test_a_submit_repeated_after_an_unknown_commit_is_one_run(world: World) -> None:
    """Without a key, the run's own id is the key; the caller's first answer is the one he gets, wakeup included."""
    session_id = await world.session(max_queued_runs=0)
    submission = a_submission(session_id)
    first = await world.queue.submit(submission)
    again = await world.queue.submit(submission)
    assert again == first
    assert (first.replayed, first.position, first.wake) == (False, 1, [session_id])
    assert await world.how_many("runs") == 1


async def test_a_value_that_no_store_can_keep_is_the_callers_fault(world: World) -> None:
    """NUL in text is no server error; and nothing is left behind."""
    session_id = await world.session()
    error = await refused(world, session_id, input={"prompt": "a\x00b"}, idempotency_key="k")
    assert error.code is ErrorCode.VALIDATION_ERROR
    assert await world.how_many("runs") == 0
    assert (await world.submit(session_id, idempotency_key="k")).position == 1


# One-shots


async def one_shot(world: World, **fields: object) -> str:
    """A run with a session of its own; the run's id."""
    session = a_session()
    return (await world.queue.submit(a_submission(session.id, new_session=session, **fields))).run_id


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        (RunStatus.COMPLETED, "completed"),
        (RunStatus.FAILED, "failed"),
        (RunStatus.TIMEOUT, "failed"),
        (RunStatus.CANCELLED, "cancelled"),
    ],
)
async def test_a_one_shot_ends_its_session(world: World, status: RunStatus, becomes: str) -> None:
    """DESIGN §8: session, run, completion of the session; the session's event follows the run's."""
    session = a_session()
    submitted = await world.queue.submit(a_submission(session.id, new_session=session))
    assert [frame.type for frame in submitted.events] == ["session_created", "session_started"]
    assert submitted.wake == [session.id]
    lease = await world.claim(session.id, await world.worker())
    await world.queue.start(lease)
    error = AsmError(ErrorCode.PROVIDER_ERROR, "no") if status is RunStatus.FAILED else None
    finished = await world.queue.finish(lease, an_outcome(status, error=error))
    assert [frame.type for frame in finished.events] == [f"run_{status}", f"session_{becomes}"]
    assert (await world.row("sessions", id=session.id))["status"] == becomes
    if becomes == "failed":
        data = json.loads(finished.events[1].body)["data"]
        assert (data.get("error_code"), "token_usage" in data) == (error and "provider_error", False)


async def test_a_one_shot_cancelled_in_its_queue_ends_its_session(world: World) -> None:
    run_id = await one_shot(world)
    cancelled = await world.queue.request_cancel(run_id, "default", "cancel")
    assert [frame.type for frame in cancelled.events] == ["run_cancelled", "session_cancelled"]


@pytest.mark.parametrize("verb", [SessionVerb.CANCEL, SessionVerb.COMPLETE])
async def test_ending_the_session_of_a_queued_one_shot_ends_it_once(world: World, verb: SessionVerb) -> None:
    run_id = await one_shot(world)
    session_id = (await world.run_row(run_id))["session_id"]
    change = await world.queue.change_session(session_id, "default", verb, cancel_queued=True)
    assert [frame.type for frame in change.events] == ["run_cancelled", "session_cancelled"]
    assert change.session.status is SessionStatus.CANCELLED


@pytest.mark.parametrize("how", ["finish", "cancel", "end"])
async def test_what_was_queued_behind_a_one_shot_ends_with_it(world: World, how: str) -> None:
    """Its session is over: nobody would ever claim it."""
    run_id = await one_shot(world)
    session_id = (await world.run_row(run_id))["session_id"]
    behind = (await world.submit(session_id)).run_id
    if how == "finish":
        finished = await world.queue.finish(await world.claim(session_id, await world.worker()), an_outcome())
        events, first, last = finished.events, "run_completed", "session_completed"
    elif how == "cancel":
        cancelled = await world.queue.request_cancel(run_id, "default", "cancel")
        events, first, last = cancelled.events, "run_cancelled", "session_cancelled"
    else:
        change = await world.queue.change_session(session_id, "default", SessionVerb.CANCEL, cancel_queued=True)
        events, first, last = change.events, "run_cancelled", "session_cancelled"
    assert [(frame.type, frame.run_id) for frame in events] == [
        (first, run_id),
        ("run_cancelled", behind),
        (last, None),
    ]


async def test_the_key_of_a_one_shot_gives_the_same_run_and_session(world: World) -> None:
    """FM-14: the second session that was brought along is not created."""
    first = await one_shot(world, idempotency_key="k")
    again = await one_shot(world, idempotency_key="k")
    assert again == first
    assert await world.how_many("sessions") == 1


async def test_a_one_shot_repeated_after_an_unknown_commit_is_one(world: World) -> None:
    session = a_session()
    submission = a_submission(session.id, new_session=session)
    first, again = [await world.queue.submit(submission) for _ in range(2)]
    assert (again.run_id, again.session_id, again.replayed) == (first.run_id, first.session_id, False)
    assert again.wake == first.wake == [session.id]


# Many at once


@pytest.mark.parametrize("bring_session", [False, True])
async def test_sixteen_submits_with_one_key_are_one_run(world: World, bring_session: bool) -> None:
    """FM-14, spec/03 check 199."""
    session_id = await world.session()

    def submission() -> object:
        session = a_session() if bring_session else None
        return a_submission(session.id if session else session_id, idempotency_key="k", new_session=session)

    answers = await asyncio.gather(*(world.queue.submit(submission()) for _ in range(16)))
    assert len({answer.run_id for answer in answers}) == len({answer.session_id for answer in answers}) == 1
    assert Counter(answer.replayed for answer in answers) == {False: 1, True: 15}
    assert await world.how_many("runs") == 1
    assert await world.how_many("sessions") == 1 + bring_session


async def test_the_bound_is_exact_under_fifty_submits_at_once(world: World) -> None:
    session_id = await world.session(max_concurrent_runs=3, max_queued_runs=17)
    answers = await asyncio.gather(*(world.submit(session_id) for _ in range(50)), return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, AsmError)]
    assert {error.code for error in refusals} == {ErrorCode.MAX_RUNS_EXCEEDED}
    places = sorted(answer.position for answer in answers if not isinstance(answer, BaseException))
    assert places == [*range(1, 21)]
