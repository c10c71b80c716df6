"""Runs of the provider `shell` in the library: how they end, and what is stored of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asm_core import AsmError, ErrorCode, Run, RunStatus, ShellAdapter, open_manager
from asm_core.domain.event import Event
from asm_core.manager.runtime import SessionRuntime
from asm_core.manager.session_manager import SessionManager
from tests.fixtures.processes import eventually, marked

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[SessionManager]:
    adapter = ShellAdapter(str(tmp_path), success_exit_codes=(0, 1), kill_grace_ms=200)
    async with open_manager("memory://", adapter) as opened:
        yield opened


async def ended(manager: SessionManager, command: dict[str, object]) -> tuple[Run, list[Event]]:
    session = await manager.open_session("test-agent")
    async with SessionRuntime(manager, session.id) as runtime:
        run = await runtime.await_run((await runtime.submit_run(command)).run_id)
    return run, [event for event in await manager.get_session_events(session.id) if event.run_id == run.id]


def types(events: list[Event]) -> list[str]:
    return [str(event.type) for event in events if event.type != "message_streamed"]


@pytest.mark.parametrize("code", [0, 1])
async def test_a_command_that_succeeds_completes_its_run(manager: SessionManager, code: int) -> None:
    run, events = await ended(manager, {"prompt": f"echo hello; exit {code}"})
    assert run.status is RunStatus.COMPLETED
    assert run.output is not None
    assert (run.output["content"], run.output["exit_code"], run.output["timed_out"]) == ("hello\n", code, False)
    assert (run.token_usage or {}).get("input_tokens", 0) == 0
    assert types(events) == [
        *("message_sent", "run_started", "tool_call_started"),
        *("tool_call_completed", "message_received", "run_completed"),
    ]
    assert events[-1].data["stop_reason"] == f"exit_code_{code}"
    assert events[-1].data["exit_code"] == code
    assert {(event.provider, event.session_id, event.run_id) for event in events} == {("shell", run.session_id, run.id)}


@pytest.mark.parametrize(
    ("command", "code", "reason", "said"),
    [
        ({"prompt": "echo out; exit 3"}, ErrorCode.TOOL_EXECUTION_FAILED, "command_failed", "out\n"),
        ({"command": "echo out; sleep 600", "timeout_ms": 300}, ErrorCode.TIMEOUT, "command_timeout", "out\n"),
        ({"command": "no-such-command", "args": []}, ErrorCode.TOOL_EXECUTION_FAILED, "command_not_found", ""),
    ],
)
async def test_a_command_that_fails_fails_its_run_once_and_its_output_is_kept(
    manager: SessionManager, command: dict[str, object], code: ErrorCode, reason: str, said: str
) -> None:
    run, events = await ended(manager, command)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error["code"], run.error["details"]["reason"]) == (code, reason)
    assert (run.output or {})["content"] == said
    assert types(events)[-5:] == [
        *("run_started", "tool_call_started", "tool_call_failed", "error_occurred", "run_failed")
    ]
    assert events[-1].data["error_code"] == code


@pytest.mark.parametrize("status", [RunStatus.CANCELLED, RunStatus.TIMEOUT])
async def test_a_run_that_is_stopped_kills_its_command_and_ends_once(
    manager: SessionManager, mark: str, status: RunStatus
) -> None:
    """By a cancel or by the run's own deadline. The shell ignores TERM, and its child has left the group."""
    script = "trap '' TERM; setsid sleep 600 & echo up; sleep 600; sleep 600"
    command = {"command": script, "env": {"MARK": mark}, "timeout_ms": 600_000}
    session = await manager.open_session("test-agent")
    async with SessionRuntime(manager, session.id) as runtime:
        timeout_ms = 2_000 if status is RunStatus.TIMEOUT else 600_000
        run_id = (await runtime.submit_run(command, timeout_ms=timeout_ms)).run_id
        await eventually(lambda: len(marked(mark)) == 4, within_s=20)
        if status is RunStatus.CANCELLED:
            await runtime.cancel_run(run_id)
        assert (await runtime.await_run(run_id)).status is status
        await eventually(lambda: marked(mark) == [])
    events = await manager.get_session_events(session.id)
    assert [str(event.type) for event in events if event.is_terminal] == [f"run_{status}"]


async def test_no_other_run_can_be_cancelled(manager: SessionManager) -> None:
    with pytest.raises(AsmError) as raised:
        await manager.cancel_run("run_unknown")
    assert raised.value.code is ErrorCode.RUN_NOT_FOUND


async def test_runs_of_one_adapter_do_not_wait_for_one_another(manager: SessionManager, tmp_path: Path) -> None:
    """Each waits for what the next one makes; a run that failed before is no hindrance."""
    await ended(manager, {"prompt": "exit 9"})
    waits = "while [ ! -e {0} ]; do sleep 0.01; done; touch {1}; echo {1}"
    scripts = [waits.format("b", "a"), waits.format("c", "b"), "touch c; echo c"]
    runs = await asyncio.gather(*(ended(manager, {"prompt": script}) for script in scripts))
    assert [(run.output or {})["content"] for run, _ in runs] == ["a\n", "b\n", "c\n"]
