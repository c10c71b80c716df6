"""The audit log: what each transaction says of itself, and how it is read, the same on every store."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from asm_core import options
from asm_core.domain.audit import AuditEntry
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.domain.lifecycle import RunStatus, SessionVerb
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.manager.audit import AuditLogger, LegacyEventLog, set_enabled
from asm_core.ports.audit import AuditFilter
from asm_core.ports.store import EventFilter
from asm_core.wire import loads
from tests.builders import HANDED_BACK, SteppedClock, World, a_run, a_session, a_submission, an_outcome
from tests.conformance.conftest import OpenWorld

TENANT = "default"
SECRET = "sk-ant-api03-" + "a1B2c3D4" * 4
Told = list[tuple[str, Any]]


async def entries(world: World, session_id: str, *, tenant_id: str = TENANT, **where: Any) -> list[AuditEntry]:
    page = await world.audit.get_audit_log(session_id, tenant_id, AuditFilter(**where))
    assert page.cursor is None
    return [*page.items]


async def actions(world: World, session_id: str, **where: Any) -> list[str]:
    return [entry.action for entry in await entries(world, session_id, **where)]


async def told(world: World, session_id: str, **where: Any) -> Told:
    return [(entry.action, entry.data) for entry in await entries(world, session_id, **where)]


# What the transactions say


async def test_a_runs_way_is_told_step_by_step(world: World) -> None:
    """spec/03 §10: submit, claim and end, each in its own transaction."""
    lease = await world.running(session_id=(session_id := await world.session()))
    await world.queue.finish(lease, an_outcome())
    assert await told(world, session_id) == [
        ("session.created", {"agent_id": "tester"}),
        ("run.submitted", {"provider": "scripted"}),
        ("run.claimed", {"worker_id": lease.worker_id, "fence": 1}),
        ("run.completed", {"attempt": 1, "error_code": None}),
    ]
    whole = await entries(world, session_id)
    assert {entry.run_id for entry in whole} == {None, lease.run_id}
    assert {(entry.session_id, entry.tenant_id, entry.actor) for entry in whole} == {(session_id, TENANT, None)}


async def test_a_cancel_in_flight_is_told_before_the_end_that_it_brings(world: World) -> None:
    lease = await world.running()
    for _ in range(2):
        await world.queue.request_cancel(lease.run_id, TENANT, "interrupt")
    await world.queue.finish(lease, an_outcome())
    assert (await told(world, lease.session_id, run_id=lease.run_id))[2:] == [
        ("run.cancel_requested", {"kind": "interrupt"}),
        ("run.cancelled", {"attempt": 1, "error_code": None}),
    ]


async def test_a_run_that_goes_back_to_its_place_says_why(world: World) -> None:
    """What the invariants of waiting rely on."""
    session_id, worker_id = await world.session(), await world.worker()
    await world.submit(session_id)
    lease = await world.claim(session_id, worker_id)
    await world.queue.finish(lease, HANDED_BACK)
    assert (await told(world, session_id))[-1] == ("run.requeued", {"reason": "worker_shutdown"})


async def test_every_change_of_a_session_is_told(world: World) -> None:
    session = a_session()
    await world.queue.create_session(session, activate=False)
    for verb in (SessionVerb.ACTIVATE, SessionVerb.PAUSE, SessionVerb.RESUME, SessionVerb.COMPLETE):
        await world.queue.change_session(session.id, TENANT, verb)
    expected = ["created", "active", "paused", "active", "completed"]
    assert await actions(world, session.id) == [f"session.{status}" for status in expected]


async def test_the_end_of_a_session_tells_of_the_runs_that_go_with_it(world: World) -> None:
    """What is queued ends, what is in flight is asked to stop, then the session; a refused verb leaves no trace."""
    lease = await world.running()
    queued = await world.submit(lease.session_id)
    with pytest.raises(AsmError):
        await world.queue.change_session(lease.session_id, TENANT, SessionVerb.CANCEL)
    before = len(await entries(world, lease.session_id))
    await world.queue.change_session(lease.session_id, TENANT, SessionVerb.CANCEL, cancel_queued=True)
    assert [(entry.action, entry.run_id) for entry in (await entries(world, lease.session_id))[before:]] == [
        ("run.cancelled", queued.run_id),
        ("run.cancel_requested", lease.run_id),
        ("session.cancelled", None),
    ]


async def test_a_one_shot_tells_of_its_session_too(world: World) -> None:
    """Once, although a verb may be what ends it."""
    for ends_by_verb in (False, True):
        session = a_session()
        await world.queue.submit(a_submission(session.id, new_session=session))
        if ends_by_verb:
            await world.queue.change_session(session.id, TENANT, SessionVerb.CANCEL, cancel_queued=True)
            expected = ["run.cancelled", "session.cancelled"]
        else:
            await world.queue.finish(await world.claim(session.id, await world.worker()), an_outcome())
            expected = ["run.claimed", "run.completed", "session.completed"]
        assert await actions(world, session.id) == ["session.created", "run.submitted", *expected]


async def test_what_is_refused_or_repeated_is_not_told(world: World) -> None:
    """An entry stands for a change: both are there, or neither is."""
    session_id = await world.session(max_queued_runs=0)
    submission = a_submission(session_id, idempotency_key="k")
    for _ in range(2):
        await world.queue.submit(submission)
    with pytest.raises(AsmError):
        await world.submit(session_id)
    assert await actions(world, session_id) == ["session.created", "run.submitted"]


# Reading


async def test_the_log_is_read_by_what_is_asked(world: World) -> None:
    """183, 247: all, by run, by action, by time."""
    session_id = await world.session()
    first, second = [(await world.submit(session_id)).run_id for _ in range(2)]
    whole = await entries(world, session_id)
    assert await entries(world, session_id, run_id=first) == [whole[1]]
    assert await entries(world, session_id, actions="run.submitted") == whole[1:]
    assert await entries(world, session_id, actions=["session.created", "run.submitted"], run_id=second) == [whole[2]]
    assert await entries(world, session_id, since=whole[0].at) == whole[1:]
    assert await entries(world, session_id, actions=["no.such"]) == []
    assert await entries(world, "ses_none") == []
    assert await entries(world, session_id, tenant_id="other") == []


async def test_pages_follow_each_other_and_what_comes_later_comes_behind(world: World) -> None:
    session_id = await world.session(max_queued_runs=10)
    for _ in range(4):
        await world.submit(session_id)
    page = await world.audit.get_audit_log(session_id, TENANT, limit=3)
    assert page.cursor is not None
    await world.submit(session_id)
    rest = await world.audit.get_audit_log(session_id, TENANT, limit=3, cursor=page.cursor)
    assert [*page.items, *rest.items] == await entries(world, session_id)
    assert rest.cursor is None


async def test_a_cursor_belongs_to_its_session_and_filter(world: World) -> None:
    session_id = await world.session()
    await world.submit(session_id)
    cursor = (await world.audit.get_audit_log(session_id, TENANT, limit=1)).cursor
    others: list[tuple[str, str, AuditFilter]] = [
        ("ses_other", TENANT, AuditFilter()), (session_id, "other", AuditFilter()),
        (session_id, TENANT, AuditFilter(actions=("run.submitted",))),
    ]  # fmt: skip
    for of, tenant_id, where in others:
        with pytest.raises(AsmError) as caught:
            await world.audit.get_audit_log(of, tenant_id, where, cursor=cursor)
        assert caught.value.code is ErrorCode.INVALID_CURSOR


async def test_a_page_of_nothing_and_a_time_that_is_none_are_refused(world: World) -> None:
    with pytest.raises(AsmError) as caught:
        await world.audit.get_audit_log("ses_1", TENANT, limit=0)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR
    with pytest.raises(AsmError) as caught:
        AuditFilter(since="yesterday")  # type: ignore[arg-type]
    assert caught.value.details == {"field": "since"}


async def test_the_log_outlives_its_session(world: World) -> None:
    session_id = await world.session()
    await world.store.delete_session(session_id, TENANT)
    assert await actions(world, session_id) == ["session.created"]


async def test_times_rise_with_ids_whoever_writes(world: World) -> None:
    """182, 245: no entry becomes visible behind a later one."""
    session_id = await world.session(max_queued_runs=100)
    logger, session = AuditLogger(world.audit), await world.store.get_session(session_id, TENANT)
    await asyncio.gather(
        *(world.submit(session_id) for _ in range(8)), *(logger.log_usage_metrics(session, {}) for _ in range(8))
    )
    whole = await entries(world, session_id)
    times: list[datetime] = [entry.at for entry in whole if entry.at is not None]
    assert len(whole) == 17
    assert times == sorted(times)
    assert len({entry.id for entry in whole}) == 17


# The logger


@pytest.fixture
def session() -> Session:
    return a_session(id="ses_1", agent_id="writer")


@pytest.fixture
def run() -> Run:
    return a_run(RunStatus.RUNNING, id="run_1")


async def log_everything(logger: AuditLogger, run: Run, session: Session) -> None:
    await logger.log_run_started(run, session)
    await logger.log_usage_metrics(session, {"input_tokens": 1, "cost_usd": 0.5}, run_id=run.id)
    await logger.log_error(run, session, {"code": "my_code", "message": "odd"})
    await logger.log_run_completed(run, session, {"token_usage": {"output_tokens": 2}})
    await logger.log_run_completed(run, session, {})
    await logger.log_run_failed(run, session, AsmError(ErrorCode.PROVIDER_ERROR, "no"))


LOGGED: Told = [
    ("run_started", {"agent_id": "writer", "run_status": "running"}),
    ("token_usage_updated", {"input_tokens": 1, "cost_usd": 0.5}),
    ("error_occurred", {"agent_id": "writer", "error_code": "my_code", "error_message": "odd"}),
    ("run_completed", {"agent_id": "writer", "token_usage": {"output_tokens": 2}}),
    ("run_completed", {"agent_id": "writer", "token_usage": {}}),
    ("run_failed", {"agent_id": "writer", "error_code": "provider_error", "error_message": "no"}),
]


async def test_a_logger_writes_what_it_is_told(world: World, run: Run, session: Session) -> None:
    """176 to 180, 241 to 245: one entry each, in order, on whose behalf it says."""
    await log_everything(AuditLogger(world.audit, actor="alice"), run, session)
    assert await told(world, "ses_1") == LOGGED
    assert {(entry.run_id, entry.actor) for entry in await entries(world, "ses_1")} == {("run_1", "alice")}
    assert await world.how_many("events") == 0, "the event log is the runs' own"


async def test_two_runs_have_trails_of_their_own(world: World, session: Session) -> None:
    """182, 246."""
    logger = AuditLogger(world.audit)
    for run_id in ("run_1", "run_2"):
        run = a_run(RunStatus.RUNNING, id=run_id)
        await logger.log_run_started(run, session)
        await logger.log_run_completed(run, session, {})
    for run_id in ("run_1", "run_2"):
        assert await actions(world, "ses_1", run_id=run_id) == ["run_started", "run_completed"]


async def test_a_logger_that_is_switched_off_writes_nothing(world: World, run: Run, session: Session) -> None:
    """175, 240: for this context only; what the transactions say is not the logger's business."""
    logger = AuditLogger(world.audit)

    async def elsewhere() -> None:
        set_enabled(False)
        await log_everything(logger, run, session)
        set_enabled(True)
        await logger.log_run_started(run, session)

    await asyncio.create_task(elsewhere())
    with options.override(audit_logging_enabled=False):
        await log_everything(logger, run, session)
        other = await world.session()
    assert await actions(world, "ses_1") == ["run_started"]
    assert await actions(world, other) == ["session.created"]
    assert options.get("audit_logging_enabled") is True


async def test_secrets_do_not_get_into_the_log(world: World, run: Run, session: Session) -> None:
    await AuditLogger(world.audit).log_error(run, session, {"message": f"refused {SECRET}"})
    [entry] = await entries(world, "ses_1")
    assert entry.data["error_message"] == "refused [REDACTED]"


async def test_a_store_that_fails_is_not_the_callers_business(
    world: World, run: Run, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """The entry is lost, and this process's log says so."""

    class Broken:
        async def record(self, entry: AuditEntry) -> None:
            raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, "gone")

    await AuditLogger(Broken()).log_run_started(run, session)
    assert "run_started of session ses_1" in caplog.text


async def test_an_entry_without_an_action_is_refused(world: World) -> None:
    with pytest.raises(AsmError) as caught:
        await world.audit.record(AuditEntry(action=""))
    assert caught.value.details == {"field": "action"}


@pytest.fixture
async def legacy_world(open_any: OpenWorld) -> Any:
    """Its log is no run's own, so it is not sound."""
    async with open_any(ends_sound=False) as opened:
        yield opened


async def test_the_references_placement_marks_its_events(legacy_world: World, run: Run, session: Session) -> None:
    """spec/03 §10 (1): the same entries as events, which say where they come from."""
    await log_everything(AuditLogger(LegacyEventLog(legacy_world.store, SteppedClock()), actor="alice"), run, session)
    frames = await legacy_world.store.get_events("ses_1", TENANT, EventFilter(run_id="run_1"), 10)
    events = [Event.from_map(loads(frame.body)) for frame in frames]
    assert [(str(event.type), event.data) for event in events] == LOGGED
    assert all(event.metadata == {"source": "audit", "actor": "alice"} for event in events)
    assert [event.type for event in events].count(EventType.RUN_COMPLETED) == 2
    assert await entries(legacy_world, "ses_1") == []
