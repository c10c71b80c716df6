"""The library: sessions and runs by single steps, one-shots, streams and the queue in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import asm_core
from asm_core import options, sync
from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.config import FleetTimes
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event
from asm_core.domain.lifecycle import RunStatus, SessionStatus
from asm_core.domain.retention import RetentionPolicy
from asm_core.library import Store, open_manager, open_store
from asm_core.manager.oneshot import StreamSession
from asm_core.manager.runtime import SessionRuntime
from asm_core.manager.session_manager import ExecutionResult, SessionManager
from asm_core.ports.audit import AuditFilter
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.ports.query import UsageSearch
from asm_core.ports.store import EventFilter
from asm_core.stores.sql.verify import verify_database
from tests.builders import eventually

QUICK = FleetTimes(
    beat_interval=timedelta(seconds=0.1), lease_ttl=timedelta(seconds=1), sweep_interval=timedelta(seconds=0.1)
)
FOREVER = {"sleep_ms": 600_000}


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each kind of store in turn; a database is verified in the end."""
    if request.param == "postgres":
        url = request.getfixturevalue("database_url")
    else:
        url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path / 'asm.db'}"}[request.param]
    async with open_store(url, times=QUICK) as opened_store:
        yield opened_store
    if request.param == "postgres":
        assert (await verify_database(url)).violations == []


@pytest.fixture
async def manager(store: Store) -> AsyncIterator[SessionManager]:
    async with open_manager(store, ScriptedAdapter()) as opened_manager:
        yield opened_manager


def script(*steps: Mapping[str, Any]) -> dict[str, Any]:
    return {"script": list(steps), "messages": [{"role": "user", "content": "Do it"}]}


async def opened(manager: SessionManager, **fields: Any) -> str:
    return (await manager.open_session("test-agent", **fields)).id


async def types(manager: SessionManager, session_id: str) -> list[str]:
    return [str(event.type) for event in await manager.get_session_events(session_id)]


async def execute(manager: SessionManager, session_id: str, given: Any, **options: Any) -> ExecutionResult:
    run = await manager.start_run(session_id, given, **options)
    return await manager.execute_run(run.id)


async def failure(call: Any) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await call
    return caught.value


# Single steps


async def test_a_whole_life_by_single_steps(manager: SessionManager) -> None:
    """spec/01 checks 147, 152, 153, 156, 162 to 166, 168, 220 to 222: exact order, one terminal event, 1..n."""
    session = await manager.start_session(agent_id="test-agent", metadata={"a": 1}, context={"system_prompt": "x"})
    assert (session.status, session.provider, session.metadata["a"]) == (SessionStatus.PENDING, "scripted", 1)
    assert (await manager.activate_session(session.id)).status is SessionStatus.ACTIVE
    usage = {"usage": {"input_tokens": 3, "output_tokens": 4}}
    run = await manager.start_run(session.id, script({"say": "Hello", "chunks": 2}, usage), metadata={"b": 2})
    assert (run.status, run.metadata, run.position) == (RunStatus.PENDING, {"b": 2}, None)

    result = await manager.execute_run(run.id)

    assert result.output["content"] == "Hello"
    assert result.token_usage == {"input_tokens": 3, "output_tokens": 4}
    assert (await manager.get_run(run.id)).status is RunStatus.COMPLETED
    assert (await manager.complete_session(session.id)).status is SessionStatus.COMPLETED
    events = await manager.get_session_events(session.id)
    assert [event.type for event in events] == [
        "session_created", "session_started", "message_sent", "run_started", "message_streamed", "message_streamed",
        "message_received", "token_usage_updated", "run_completed", "session_completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(1, len(events) + 1))
    assert events[2].data == {"role": "user", "content": "Do it"}
    assert [event.id for event in result.events] == [event.id for event in events[2:-1]]
    assert await manager.get_session_runs(session.id) == [await manager.get_run(run.id)]


async def test_events_carry_the_providers_name_and_the_sessions_correlation(manager: SessionManager) -> None:
    """spec/01 checks 41, 149, 150, 177; weakness 12: the events that the manager itself writes, too."""
    session_id = await opened(manager, metadata={"correlation_id": "req-1"})
    run = await manager.start_run(session_id, {"prompt": "Hello"})
    await manager.execute_run(run.id)
    events = await manager.get_session_events(session_id)
    assert {(event.provider, event.correlation_id) for event in events} == {("scripted", "req-1")}
    assert events[0].data == {"provider": "scripted"}


async def test_a_session_needs_an_agent_and_has_the_providers_name_by_default(manager: SessionManager) -> None:
    """spec/01 checks 148, 151, 213."""
    error = await failure(manager.start_session(agent_id=""))
    assert (error.code, error.details["field"]) == (ErrorCode.VALIDATION_ERROR, "agent_id")
    assert (await manager.start_session()).agent_id == "scripted"
    assert (await failure(manager.get_session("ses_none"))).code is ErrorCode.SESSION_NOT_FOUND


async def test_a_callback_hears_everything_and_breaks_nothing(manager: SessionManager) -> None:
    """spec/01 checks 170, 216; weaknesses 22 and 35: stored events with their numbers, and isolated."""
    session_id = await opened(manager)
    heard: list[Event] = []

    def callback(event: Event) -> None:
        heard.append(event)
        raise LookupError("the callback's own")

    run = await manager.start_run(session_id, script({"say": "Hello", "chunks": 3}))
    result = await manager.execute_run(run.id, event_callback=callback)
    assert heard == list(result.events)
    assert heard[-1].type == "run_completed"


async def test_a_failed_run_raises_what_it_failed_with_and_keeps_it(manager: SessionManager) -> None:
    """spec/01 checks 182, 183; usage is kept, DESIGN §11."""
    session_id = await opened(manager)
    usage = {"usage": {"input_tokens": 5, "output_tokens": 0}}
    failing = {"fail": {"code": "provider_rate_limited", "message": "slow down", "retry_after_ms": 7}}
    run = await manager.start_run(session_id, script(usage, failing))
    error = await failure(manager.execute_run(run.id))
    assert (error.code, error.message, error.details["retry_after_ms"]) == (
        ErrorCode.PROVIDER_RATE_LIMITED, "slow down", 7,
    )  # fmt: skip
    assert error.provider_error == {
        "provider": "scripted", "kind": "rate_limit", "message": "slow down",
        "exit_code": None, "stderr": None, "truncated": None,
    }  # fmt: skip
    row = await manager.get_run(run.id)
    assert (row.status, row.token_usage) == (RunStatus.FAILED, {"input_tokens": 5, "output_tokens": 0})
    last = (await manager.get_session_events(session_id))[-1]
    assert (last.type, last.data["error_code"]) == ("run_failed", "provider_rate_limited")
    assert last.data["provider_error"] == error.provider_error
    assert (await manager.get_session(session_id)).status is SessionStatus.ACTIVE


async def test_a_run_is_executed_once(manager: SessionManager) -> None:
    """Weaknesses 6 and 7: not again, not twice at a time, not after a cancel."""
    session_id = await opened(manager)
    run = await manager.start_run(session_id, script({"sleep_ms": 50}))
    ends = await asyncio.gather(*(manager.execute_run(run.id) for _ in range(3)), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["AsmError", "AsmError", "ExecutionResult"]
    assert (await failure(manager.execute_run(run.id))).code is ErrorCode.INVALID_TRANSITION
    assert (await types(manager, session_id)).count("run_completed") == 1
    cancelled = await manager.start_run(session_id, {"prompt": "x"})
    assert await manager.cancel_run(cancelled.id) is RunStatus.CANCELLED
    assert (await failure(manager.execute_run(cancelled.id))).code is ErrorCode.INVALID_TRANSITION
    assert (await failure(manager.execute_run("run_none"))).code is ErrorCode.RUN_NOT_FOUND


async def test_a_cancelled_run_ends_cancelled(manager: SessionManager) -> None:
    """spec/01 check 209; weakness 5."""
    session_id = await opened(manager)
    run = await manager.start_run(session_id, script({"say": "x"}, FOREVER))
    execution = asyncio.create_task(manager.execute_run(run.id))

    async def is_under_way() -> None:
        assert "message_received" in await types(manager, session_id)

    await eventually(is_under_way)
    assert await manager.cancel_run(run.id) is RunStatus.RUNNING
    assert (await failure(execution)).code is ErrorCode.CANCELLED
    assert (await manager.get_run(run.id)).status is RunStatus.CANCELLED
    assert (await types(manager, session_id))[-1] == "run_cancelled"


async def test_a_run_is_cancelled_for_an_approval(manager: SessionManager) -> None:
    """spec/01 check 208: what is to be approved is told before the run's end, without the secrets in it."""
    session_id = await opened(manager)
    run = await manager.start_run(session_id, script({"say": "x"}, FOREVER))
    execution = asyncio.create_task(manager.execute_run(run.id))

    async def is_under_way() -> None:
        assert "message_received" in await types(manager, session_id)

    await eventually(is_under_way)
    approval = {"tool_name": "bash", "tool_input": {"command": f"curl -H 'Authorization: Bearer {'a1B2' * 10}'"}}
    assert await manager.cancel_for_approval(run.id, approval) is RunStatus.RUNNING
    assert (await failure(execution)).code is ErrorCode.CANCELLED
    asked, ended = (await manager.get_session_events(session_id))[-2:]
    assert (asked.type, asked.data["tool_name"], asked.run_id) == ("tool_approval_requested", "bash", run.id)
    assert "a1B2a1B2" not in str(asked.data)
    assert (ended.type, ended.data["reason"]) == ("run_cancelled", "approval_requested")
    assert await manager.cancel_for_approval(run.id, approval) is RunStatus.CANCELLED
    assert (await types(manager, session_id)).count("tool_approval_requested") == 1


async def test_ten_runs_are_started_and_executed_at_once(manager: SessionManager) -> None:
    """spec/01 check 161; numbers are 1..n all the same."""
    session_id = await opened(manager)
    runs = await asyncio.gather(*(manager.start_run(session_id, script({"say": str(n)})) for n in range(10)))
    results = await asyncio.gather(*(manager.execute_run(run.id) for run in runs))
    assert [result.output["content"] for result in results] == [str(n) for n in range(10)]
    numbers = [event.sequence_number for event in await manager.get_session_events(session_id)]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_bad_input_is_refused_before_there_is_a_run(manager: SessionManager) -> None:
    """spec/01 check 157; weakness 8."""
    session_id = await opened(manager)
    assert (await failure(manager.start_run(session_id, {}))).code is ErrorCode.INVALID_INPUT
    assert (await failure(manager.start_run("ses_none", {"prompt": "x"}))).code is ErrorCode.SESSION_NOT_FOUND
    assert await manager.get_session_runs(session_id) == []


async def test_events_are_filtered_and_counted_off(manager: SessionManager) -> None:
    """spec/01 checks 219, 223."""
    session_id = await opened(manager)
    for text in ("one", "two"):
        run = await manager.start_run(session_id, {"prompt": text})
        await manager.execute_run(run.id)
    of_run = await manager.get_session_events(session_id, EventFilter(run_id=run.id))
    assert {event.run_id for event in of_run} == {run.id}
    sent = await manager.get_session_events(session_id, EventFilter(types=["message_sent"]))
    assert [event.data["content"] for event in sent] == ["one", "two"]
    page = await manager.get_session_events(session_id, limit=3)
    following = await manager.get_session_events(session_id, EventFilter(after=3), limit=3)
    assert [event.sequence_number for event in page + following] == [1, 2, 3, 4, 5, 6]


async def test_a_stream_follows_from_its_cursor(manager: SessionManager) -> None:
    """spec/01 checks 223 to 225: what is there, then what comes; until nothing is left to do."""
    session_id = await opened(manager)
    run = await manager.start_run(session_id, script({"say": "x", "chunks": 3, "delay_ms": 5}))
    seen: list[int | None] = []

    async def follow() -> None:
        async for event in manager.stream_session_events(session_id, EventFilter(after=1)):
            seen.append(event.sequence_number)
            if event.is_terminal:
                return

    following = asyncio.create_task(follow())
    await manager.execute_run(run.id)
    await following
    assert seen == list(range(2, len(seen) + 2))


# Capabilities


async def test_what_a_run_requires_the_provider_must_have(manager: SessionManager) -> None:
    """spec/01 checks 158, 159; weakness 44: what is missing of the optional is told."""
    session_id = await opened(manager)
    error = await failure(manager.start_run(session_id, {"prompt": "x"}, required_capabilities=["file_access"]))
    assert (error.code, error.details["missing"]) == (ErrorCode.MISSING_REQUIRED_CAPABILITY, ["file_access"])
    unknown = await failure(manager.start_run(session_id, {"prompt": "x"}, optional_capabilities=["telepathy"]))
    assert unknown.code is ErrorCode.INVALID_CAPABILITY_TYPE
    assert await manager.get_session_runs(session_id) == []
    run = await manager.start_run(
        session_id, {"prompt": "x"}, required_capabilities=["tool"], optional_capabilities=["file_access"]
    )
    [warning] = run.metadata["capability_warnings"]
    assert "file_access" in warning


# Continuation


class Listener(ScriptedAdapter):
    """Remembers the conversation that each of its runs was given."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[list[tuple[str, str | None]] | None] = []

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        given = execution.transcript
        self.heard.append(
            None if given is None else [(str(message.role), message.content) for message in given.messages]
        )
        async for item in super().execute(execution):
            yield item


async def test_a_run_goes_on_from_what_was_said_before(store: Store) -> None:
    """spec/01 checks 188 to 190, 192; weaknesses 46, 47: without its own input, without runs still in flight."""
    adapter = Listener()
    async with open_manager(store, adapter) as manager:
        session_id = await opened(manager)
        await execute(manager, session_id, script({"say": "First", "chunks": 3}))
        busy = await manager.start_run(session_id, script({"say": "Unfinished"}, FOREVER))
        in_flight = asyncio.create_task(manager.execute_run(busy.id))

        async def has_spoken() -> None:
            spoken = await manager.get_session_events(session_id, EventFilter(run_id=busy.id))
            assert "message_received" in [event.type for event in spoken]

        await eventually(has_spoken)
        for how in (None, False, True, "auto", "replay"):
            await execute(manager, session_id, {"prompt": "x"}, continuation=how)
        await execute(manager, session_id, {"prompt": "x"}, continuation=True, continuation_opts={"max_messages": 1})
        await manager.cancel_run(busy.id)
        assert (await failure(in_flight)).code is ErrorCode.CANCELLED
    before = [("user", "Do it"), ("assistant", "First")]
    echo = [("user", "x"), ("assistant", "x")]
    assert adapter.heard == [
        None, None, None, None,
        before + 2 * echo, before + 3 * echo, before + 4 * echo, [("assistant", "x")],
    ]  # fmt: skip


async def test_a_fork_remembers_what_was_said_before_it(store: Store) -> None:
    """The conversation up to the event it was forked at, and its own; never what its parent said afterwards."""
    adapter = Listener()
    async with open_manager(store, adapter) as manager:
        session_id = await opened(manager)
        first = await execute(manager, session_id, script({"say": "One"}))
        await execute(manager, session_id, script({"say": "Two"}))
        fork = await manager.fork_session(session_id, first.events[-1].sequence_number)
        await execute(manager, session_id, script({"say": "Three"}))
        await execute(manager, fork.id, {"prompt": "x"}, continuation=True)
        await execute(manager, fork.id, {"prompt": "y"}, continuation=True)
    before = [("user", "Do it"), ("assistant", "One")]
    assert adapter.heard[3:] == [before, [*before, ("user", "x"), ("assistant", "x")]]


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"continuation": "native"}, ErrorCode.INVALID_OPERATION, "continuation"),
        ({"continuation": "sometimes"}, ErrorCode.VALIDATION_ERROR, "continuation"),
        (
            {"continuation": True, "continuation_opts": {"max_words": 1}},
            ErrorCode.VALIDATION_ERROR,
            "continuation_opts",
        ),
        ({"continuation_opts": {"max_chars": 0}}, ErrorCode.VALIDATION_ERROR, "max_chars"),
    ],
)
async def test_a_continuation_that_cannot_be_is_refused_at_the_start(
    manager: SessionManager, options: Mapping[str, Any], code: ErrorCode, field: str
) -> None:
    """spec/01 checks 190, 191; weakness 8: it does not cost a run."""
    session_id = await opened(manager)
    error = await failure(manager.start_run(session_id, {"prompt": "x"}, **options))
    assert (error.code, error.details["field"]) == (code, field)
    assert await manager.get_session_runs(session_id) == []


# One-shots and streams


async def test_run_once_leaves_a_completed_session(manager: SessionManager) -> None:
    """spec/01 checks 212 to 214."""
    result = await manager.run_once({"prompt": "Hello"}, metadata={"a": 1}, tags=("t",))
    session = await manager.get_session(result.session_id)
    assert (session.status, session.metadata["a"], session.tags) == (SessionStatus.COMPLETED, 1, ("t",))
    assert result.output["content"] == "Hello"
    assert (await types(manager, session.id))[-2:] == ["run_completed", "session_completed"]


async def test_run_once_that_fails_leaves_a_failed_session(manager: SessionManager) -> None:
    """spec/01 checks 154, 215."""
    error = await failure(manager.run_once(script({"fail": {"code": "provider_error", "message": "no"}})))
    assert (error.code, error.message) == (ErrorCode.PROVIDER_ERROR, "no")
    [session] = (await manager.store.list_sessions(manager.tenant_id)).items
    assert session.status is SessionStatus.FAILED
    last = (await manager.get_session_events(session.id))[-1]
    assert (last.type, last.data["error_code"], last.data["error_message"]) == (
        "session_failed",
        "provider_error",
        "no",
    )


async def test_a_stream_session_yields_every_event_and_then_the_result(manager: SessionManager) -> None:
    async with StreamSession(manager, script({"say": "Hello", "chunks": 2})) as stream:
        seen = [event async for event in stream]
        result = await stream.result()
    assert result.output["content"] == "Hello"
    assert seen == await manager.get_session_events(stream.session_id)
    assert seen[-1].type == "session_completed"


async def test_a_stream_session_that_fails_says_so_in_its_result(manager: SessionManager) -> None:
    async with StreamSession(manager, {}) as stream:
        assert [event.type async for event in stream][-1] == "session_failed"
        assert (await failure(stream.result())).code is ErrorCode.INVALID_INPUT


async def test_a_stream_session_left_early_leaves_nothing_running(manager: SessionManager) -> None:
    async with StreamSession(manager, script({"say": "x"}, FOREVER)) as stream:
        async for event in stream:
            if event.type == "message_received":
                break
    assert (await manager.get_session(stream.session_id)).status is SessionStatus.CANCELLED
    [run] = await manager.get_session_runs(stream.session_id)

    assert run.status is RunStatus.CANCELLED
    assert (await types(manager, stream.session_id))[-2:] == ["run_cancelled", "session_cancelled"]


async def test_a_silent_stream_session_is_given_up(manager: SessionManager) -> None:
    async with StreamSession(manager, script(FOREVER), idle_timeout_s=0.2) as stream:
        with pytest.raises(AsmError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code is ErrorCode.PROVIDER_TIMEOUT


# The queue in this process


async def test_a_runtime_executes_in_order_as_many_at_once_as_allowed(manager: SessionManager) -> None:
    """spec/03 checks 16 to 21."""
    session_id = await opened(manager, max_concurrent_runs=1, max_queued_runs=10)
    async with SessionRuntime(manager, session_id) as runtime:
        runs = [(await runtime.submit_run(script({"say": str(n)}))).run_id for n in range(5)]
        rows = [await runtime.await_run(run_id) for run_id in runs]
        assert [row.output["content"] for row in rows if row.output] == ["0", "1", "2", "3", "4"]
        await runtime.drain(timeout_s=5)
        assert (await runtime.status()).is_idle
    started = await manager.get_session_events(session_id, EventFilter(types=["run_started"]))
    assert [event.run_id for event in started] == runs


async def test_a_runtime_refuses_what_has_no_room_and_cancels_what_waits(manager: SessionManager) -> None:
    """spec/03 checks 24, 36."""
    session_id = await opened(manager, max_concurrent_runs=1, max_queued_runs=1)
    async with SessionRuntime(manager, session_id) as runtime:
        first = (await runtime.submit_run(script(FOREVER))).run_id
        second = (await runtime.submit_run(script({"say": "x"}))).run_id
        assert (await failure(runtime.submit_run({"prompt": "x"}))).code is ErrorCode.MAX_RUNS_EXCEEDED
        assert (await failure(runtime.await_run(first, timeout_s=0.1))).code is ErrorCode.TIMEOUT
        assert await runtime.cancel_run(second) is RunStatus.CANCELLED

        async def is_in_flight() -> None:
            assert (await runtime.status()).in_flight_runs == [first]

        await eventually(is_in_flight)
        await runtime.interrupt_run(first)
        row = await runtime.await_run(first)
    assert row.status is RunStatus.CANCELLED
    events = await manager.get_session_events(session_id, EventFilter(run_id=first))
    assert events[-1].data["reason"] == "interrupted"


async def test_a_runtime_is_followed_live(manager: SessionManager) -> None:
    """spec/03 checks 57 to 67: backfill, then live, until idle."""
    session_id = await opened(manager)
    async with SessionRuntime(manager, session_id) as runtime:
        await runtime.submit_run(script({"say": "x", "chunks": 5, "delay_ms": 2}))
        seen = [event async for event in runtime.subscribe(until_idle=True)]
    assert seen == await manager.get_session_events(session_id)
    assert seen[-1].type == "run_completed"


async def test_what_is_queued_waits_for_the_next_runtime(store: Store, manager: SessionManager) -> None:
    session_id = await opened(manager, max_concurrent_runs=1)
    async with SessionRuntime(manager, session_id) as runtime:
        await runtime.submit_run(script({"sleep_ms": 300}))
    async with (
        open_manager(store, ScriptedAdapter()) as other,
        SessionRuntime(other, session_id) as again,
    ):
        queued = await again.submit_run(script({"say": "later"}))
        assert (await again.await_run(queued.run_id)).status is RunStatus.COMPLETED


async def test_leaving_a_manager_ends_its_runs(store: Store) -> None:
    """Shutdown: nothing is left running, the run says why."""
    async with open_manager(store, ScriptedAdapter()) as manager:
        session_id = await opened(manager)
        run = await manager.start_run(session_id, script({"say": "x"}, FOREVER))
        execution = asyncio.create_task(manager.execute_run(run.id))

        async def is_under_way() -> None:
            assert "message_received" in await types(manager, session_id)

        await eventually(is_under_way)
    error = await failure(execution)
    assert error.details["reason"] == "worker_shutdown"
    assert (await store.records.queue_status(session_id, "default")).is_idle


async def test_a_manager_killed_in_mid_run_is_healed_by_the_next(store: Store) -> None:
    """Weakness 29: nothing is `running` for ever."""
    async with open_manager(store, ScriptedAdapter()) as manager:
        session_id = await opened(manager)
        run = await manager.start_run(session_id, {"prompt": "x"})
        await store.queue.register_worker("wrk_dead", hostname="here", pid=1, slots=1)
        claim = await store.queue.claim_run(run.id, "default", "wrk_dead")
        await store.queue.start(claim.lease)  # and never a beat again

        async def has_failed() -> None:
            assert (await manager.get_run(run.id)).status is RunStatus.FAILED

        await eventually(has_failed, 10)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_without_an_event_loop(tmp_path: Path, kind: str) -> None:
    """The blocking manager: the same verbs, results and errors."""
    url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path / 'asm.db'}"
    with sync.open_manager(url, ScriptedAdapter()) as manager:
        result = manager.run_once(script({"say": "Hello"}))
        assert result.output["content"] == "Hello"
        assert manager.get_session(result.session_id).status is SessionStatus.COMPLETED
        with pytest.raises(AsmError) as caught:
            manager.run_once({})
        assert caught.value.code is ErrorCode.INVALID_INPUT
        stored = manager.get_session_events(result.session_id)
        assert [*manager.stream_session_events(result.session_id, until_idle=True)] == stored
        with manager.stream(script({"say": "Hello", "chunks": 3})) as stream:
            seen = [*stream]
            assert stream.result().output["content"] == "Hello"
        assert seen == manager.get_session_events(stream.session_id)
        with manager.stream(script({"say": "x"}, FOREVER)) as stream:
            assert next(iter(stream)).type == "session_created"
        assert manager.get_session(stream.session_id).status is SessionStatus.CANCELLED


async def test_the_error_of_a_one_shot_says_where_it_is_kept(manager: SessionManager) -> None:
    """Whoever gets it finds the session, the run and what they cost."""
    given = script({"usage": {"input_tokens": 7}}, {"fail": {"code": "provider_error"}})
    error = await failure(manager.run_once(given))
    run = await manager.get_run(error.context["run_id"])
    assert (run.status, run.session_id) == (RunStatus.FAILED, error.context["session_id"])
    assert run.token_usage["input_tokens"] == 7


async def test_a_database_can_be_asked_and_maintained(store: Store, manager: SessionManager) -> None:
    """Questions across sessions and retention, from an open store alone; one in memory refuses both."""
    if store.engine is None:
        for ask in (store.queries, store.maintenance):
            with pytest.raises(AsmError, match="in memory") as caught:
                ask()
            assert caught.value.code is ErrorCode.CAPABILITY_NOT_SUPPORTED
        return
    result = await manager.run_once(script({"usage": {"input_tokens": 1_000_000}}))
    own = {"scripted": {"input": 0.000001, "output": 0.0}}
    assert (await store.queries().get_cost_summary("default", UsageSearch())).unmapped_runs == 1
    with options.override(pricing_table=own):
        cost = await store.queries().get_cost_summary("default", UsageSearch())
    assert (cost.total_cost_usd, cost.unmapped_runs) == (1.0, 0)
    stats = await store.queries().get_session_stats(result.session_id, "default")
    assert stats.run_count == 1
    report = await store.maintenance().execute(RetentionPolicy(), "default")
    assert (report.sessions_soft_deleted, [*report.errors]) == (0, [])


async def test_the_library_is_what_it_says(tmp_path: Path) -> None:
    """`from asm_core import …`: every name is there; the shortest way to an answer."""
    assert all(getattr(asm_core, name) for name in asm_core.__all__)
    with pytest.raises(AttributeError):
        _ = asm_core.nothing
    result = await asm_core.run_once(
        f"sqlite:///{tmp_path / 'asm.db'}", asm_core.ScriptedAdapter(), {"prompt": "Hello"}
    )
    assert result.output["content"] == "Hello"
    error = await failure(asm_core.run_once("mysql://x", asm_core.ScriptedAdapter(), {}))
    assert (error.code, "mysql" in error.message) == (ErrorCode.VALIDATION_ERROR, True)


# Audit


async def test_a_run_leaves_its_trail(manager: SessionManager) -> None:
    """spec/03 §10: the steps of the transactions, and beside them what a program adds."""
    result = await manager.run_once({"prompt": "Hello"})
    run, session = await manager.get_run(result.run_id), await manager.get_session(result.session_id)
    await manager.audit_logger(actor="alice").log_run_completed(run, session, result)
    page = await manager.get_audit_log(session.id)
    assert [entry.action for entry in page.items] == [
        "session.created", "session.active", "run.submitted", "run.claimed", "run.completed", "session.completed",
        "run_completed",
    ]  # fmt: skip
    last = page.items[-1]
    assert (last.actor, last.data["token_usage"]) == ("alice", result.token_usage)
    assert not (await manager.get_audit_log(session.id, AuditFilter(since=last.at))).items


def test_blocking_code_logs_and_reads_alike(tmp_path: Path) -> None:
    """The switch of the calling thread holds on the loop, too."""
    with sync.open_manager(f"sqlite:///{tmp_path / 'asm.db'}", ScriptedAdapter()) as manager:
        result = manager.run_once({"prompt": "Hello"})
        run, session = manager.get_run(result.run_id), manager.get_session(result.session_id)
        where = AuditFilter(actions="run_started")
        with options.override(audit_logging_enabled=False):
            manager.audit_logger().log_run_started(run, session)
        assert not manager.get_audit_log(session.id, where).items
        manager.audit_logger().log_run_started(run, session)
        assert len(manager.get_audit_log(session.id, where).items) == 1
        manager.audit_logger(legacy_event_log=True).log_error(run, session, ValueError("odd"))
        assert manager.get_session_events(session.id)[-1].metadata == {"source": "audit"}
