"""Creating and changing sessions: row, counter, queue and events at once."""

from __future__ import annotations

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import SESSION_VERBS, RunStatus, SessionStatus, SessionVerb
from asm_core.wire import loads
from tests.builders import World, a_session, an_outcome


async def refused(world: World, session_id: str, verb: SessionVerb, **how: bool) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await world.queue.change_session(session_id, "default", verb, **how)
    return caught.value


async def test_a_new_session_is_active_and_has_announced_itself(world: World) -> None:
    """spec/03 check 13: created, then started; the counter stands at two."""
    session = a_session(
        provider="scripted", model="m", tags=["a", "b"], metadata={"correlation_id": "c"}, max_queued_runs=7,
        context={"system_prompt": "x"}, max_concurrent_runs=3,
    )  # fmt: skip
    change = await world.queue.create_session(session)
    assert [(frame.sequence_number, frame.type) for frame in change.events] == [
        (1, "session_created"), (2, "session_started"),
    ]  # fmt: skip
    assert change.session.status is SessionStatus.ACTIVE
    for name in (
        "id",
        "agent_id",
        "provider",
        "model",
        "metadata",
        "context",
        "max_queued_runs",
        "max_concurrent_runs",
    ):
        assert getattr(change.session, name) == getattr(session, name)
    assert list(change.session.tags) == ["a", "b"]
    assert (await world.row("session_sequences", session_id=session.id))["last_sequence"] == 2
    assert {event["correlation_id"] for event in await world.rows("events")} == {"c"}


async def test_creating_a_session_again_after_an_unknown_commit_changes_nothing(world: World) -> None:
    session = a_session()
    await world.queue.create_session(session)
    again = await world.queue.create_session(session)
    assert list(again.events) == []
    assert again.session.id == session.id
    assert await world.event_types(session_id=session.id) == ["session_created", "session_started"]


WAY_TO = {
    SessionStatus.PENDING: (),
    SessionStatus.ACTIVE: (SessionVerb.ACTIVATE,),
    SessionStatus.PAUSED: (SessionVerb.ACTIVATE, SessionVerb.PAUSE),
    SessionStatus.COMPLETED: (SessionVerb.ACTIVATE, SessionVerb.COMPLETE),
    SessionStatus.FAILED: (SessionVerb.FAIL,),
    SessionStatus.CANCELLED: (SessionVerb.CANCEL,),
}


@pytest.mark.parametrize("verb", SessionVerb)
@pytest.mark.parametrize("old", SessionStatus)
async def test_a_session_changes_as_the_table_says(world: World, old: SessionStatus, verb: SessionVerb) -> None:
    """Every allowed change has its event; every other one is `invalid_transition` and leaves no trace."""
    session = a_session()
    await world.queue.create_session(session, activate=False)
    for step in WAY_TO[old]:
        await world.queue.change_session(session.id, "default", step)
    before = await world.event_types(session_id=session.id)
    rule = SESSION_VERBS[verb]
    if old in rule.sources:
        change = await world.queue.change_session(session.id, "default", verb)
        assert change.session.status is rule.to
        assert [frame.type for frame in change.events] == [rule.event]
        assert await world.event_types(session_id=session.id) == [*before, rule.event]
    else:
        error = await refused(world, session.id, verb)
        assert error.code is ErrorCode.INVALID_TRANSITION
        assert error.details == {"session_id": session.id, "from": str(old)}
        assert await world.event_types(session_id=session.id) == before


async def test_a_session_that_waits_to_be_activated_has_not_started(world: World) -> None:
    session = a_session()
    change = await world.queue.create_session(session, activate=False)
    assert (change.session.status, [frame.type for frame in change.events]) == (
        SessionStatus.PENDING, ["session_created"],
    )  # fmt: skip


async def test_a_failed_session_says_why_and_leaves_no_work(world: World) -> None:
    """spec/01 checks 154, 155; what is in flight is asked to stop."""
    session_id = await world.session()
    lease = await world.running(session_id=session_id)
    queued = (await world.submit(session_id)).run_id
    error = AsmError(
        ErrorCode.PROVIDER_ERROR, "gone", details={"at": 1}, provider_error={"provider": "codex", "exit_code": 2}
    )
    change = await world.queue.change_session(session_id, "default", SessionVerb.FAIL, cancel_queued=True, error=error)
    assert change.nudges == [(lease.worker_id, lease.run_id)]
    assert [(frame.type, frame.run_id) for frame in change.events] == [
        ("run_cancelled", queued),
        ("session_failed", None),
    ]
    assert loads(change.events[-1].body)["data"] == {
        "error_code": "provider_error",
        "error_message": "gone",
        "provider_error": {"provider": "codex", "exit_code": 2},
        "details": {"at": 1},
    }


async def test_an_unknown_session_or_a_stranger_is_refused(world: World) -> None:
    """DESIGN §12: what belongs to another tenant does not exist."""
    session_id = await world.session(tenant_id="other")
    for unknown in ("ses_none", session_id):
        assert (await refused(world, unknown, SessionVerb.PAUSE)).code is ErrorCode.SESSION_NOT_FOUND
    await world.queue.change_session(session_id, "other", SessionVerb.PAUSE)


async def test_a_pause_stops_claims_and_a_resume_wakes(world: World) -> None:
    """DESIGN §3; submits are still taken, what is in flight goes on."""
    session_id = await world.session(max_concurrent_runs=2)
    worker_id = await world.worker()
    lease = await world.running(session_id=session_id, worker_id=worker_id)
    paused = await world.queue.change_session(session_id, "default", SessionVerb.PAUSE)
    assert (paused.wake, paused.nudges) == ([], [])
    assert (await world.submit(session_id)).wake == []
    assert (await world.refused_claim(session_id, worker_id)).reason == "paused"
    assert (await world.queue.finish(lease, an_outcome())).wake == []
    resumed = await world.queue.change_session(session_id, "default", SessionVerb.RESUME)
    assert resumed.wake == [session_id]
    await world.claim(session_id, worker_id)


@pytest.mark.parametrize("verb", [SessionVerb.COMPLETE, SessionVerb.CANCEL])
async def test_ending_a_session_with_queued_work_is_refused_unless_told(world: World, verb: SessionVerb) -> None:
    """DESIGN §3: `queued: refuse` is the default, `cancel` ends the queued runs first, in order."""
    session_id = await world.session()
    queued = [(await world.submit(session_id)).run_id for _ in range(3)]
    error = await refused(world, session_id, verb)
    assert error.code is ErrorCode.INVALID_OPERATION
    assert (error.details["queued"], error.details["in_flight"]) == (3, 0)

    change = await world.queue.change_session(session_id, "default", verb, cancel_queued=True)

    assert [(frame.type, frame.run_id) for frame in change.events] == [
        *(("run_cancelled", run_id) for run_id in queued), (SESSION_VERBS[verb].event, None),
    ]  # fmt: skip
    assert change.session.status is SESSION_VERBS[verb].to
    assert {(await world.run_row(run_id))["status"] for run_id in queued} == {"cancelled"}


async def test_completing_waits_for_runs_in_flight_and_cancelling_stops_them(world: World) -> None:
    """A complete session has nothing left to say; a cancelled one asks its holders to stop."""
    session_id = await world.session()
    worker_id = await world.worker()
    lease = await world.running(session_id=session_id, worker_id=worker_id)
    for cancel_queued in (False, True):
        error = await refused(world, session_id, SessionVerb.COMPLETE, cancel_queued=cancel_queued)
        assert (error.code, error.details["in_flight"]) == (ErrorCode.INVALID_OPERATION, 1)
    assert (await refused(world, session_id, SessionVerb.CANCEL)).code is ErrorCode.INVALID_OPERATION

    change = await world.queue.change_session(session_id, "default", SessionVerb.CANCEL, cancel_queued=True)

    assert change.nudges == [(worker_id, lease.run_id)]
    finished = await world.queue.finish(lease, an_outcome())
    assert finished.status is RunStatus.CANCELLED
    assert (await world.event_types(session_id=session_id))[-2:] == ["session_cancelled", "run_cancelled"]


@pytest.mark.parametrize("verb", [SessionVerb.COMPLETE, SessionVerb.CANCEL])
async def test_an_ended_session_takes_no_runs(world: World, verb: SessionVerb) -> None:
    session_id = await world.session()
    await world.queue.change_session(session_id, "default", verb)
    with pytest.raises(AsmError) as caught:
        await world.submit(session_id)
    assert (caught.value.code, caught.value.details["status"]) == (
        ErrorCode.INVALID_OPERATION,
        str(SESSION_VERBS[verb].to),
    )
    assert (await world.refused_claim(session_id, await world.worker())).reason == "paused"
