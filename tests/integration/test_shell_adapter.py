"""Provider `shell`: its input forms, its events, and what a command's end means for the run."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asm_core.adapters.shell import ShellAdapter
from asm_core.domain.capability import CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.ports.provider import Completion, Execution, ProviderAdapter, RawEvent

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def execution(value: Mapping[str, Any], attempt: int = 1) -> Execution:
    return Execution(
        run=Run.new(id="run_1", session_id="ses_1", now=NOW, input=value),
        session=Session.new(id="ses_1", agent_id="agent", now=NOW),
        attempt=attempt,
    )


async def play(adapter: ShellAdapter, value: Mapping[str, Any]) -> tuple[list[RawEvent], Completion]:
    """All events, and the one completion at their end."""
    items = [item async for item in adapter.execute(execution(value))]
    events = [item for item in items if isinstance(item, RawEvent)]
    completion = items[-1]
    assert isinstance(completion, Completion)
    assert len(events) == len(items) - 1
    return events, completion


def types(events: list[RawEvent], *, streamed: bool = False) -> list[str]:
    return [str(event.type) for event in events if streamed or event.type != "message_streamed"]


def data_of(events: list[RawEvent], kind: str) -> Mapping[str, Any]:
    [event] = [event for event in events if event.type == kind]
    return event.data


@pytest.fixture
def adapter(tmp_path: Path) -> ShellAdapter:
    return ShellAdapter(str(tmp_path))


def carrying(mark: str) -> list[str]:
    """Processes with the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [path.parent.name] if mark.encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


async def none_carrying(mark: str) -> None:
    async with asyncio.timeout(5):
        while carrying(mark):
            await asyncio.sleep(0.02)


# --- construction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cwd", ["", "/no/such/folder", "/etc/passwd", None, 5])
def test_the_working_folder_must_exist(cwd: Any) -> None:
    with pytest.raises(AsmError, match="cwd") as raised:
        ShellAdapter(cwd)
    assert raised.value.code is ErrorCode.VALIDATION_ERROR


def test_name_and_capabilities(adapter: ShellAdapter) -> None:
    port: ProviderAdapter = adapter
    assert port.name == "shell"
    known = {capability.name: capability.type for capability in port.capabilities() if capability.enabled}
    assert known == {"command_execution": CapabilityType.CODE_EXECUTION, "streaming": CapabilityType.SAMPLING}


# --- input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "content", "tool_input"),
    [
        ({"prompt": " echo a | tr a b "}, "b\n", {"command": "echo a | tr a b", "args": []}),
        ({"messages": [{"role": "user", "content": "echo a"}]}, "a\n", {"command": "echo a", "args": []}),
        (
            {"messages": [
                {"role": "system", "content": "rm"}, {"role": "user", "content": "echo a"},
                {"role": "assistant", "content": "a"}, {"role": "user", "content": "echo b"},
            ], "command": "ignored"},
            "a\nb\n", {"command": "echo a\necho b", "args": []},
        ),
        ({"command": "printf", "args": ["%s,", "a b", 1, "$X"]}, "a b,1,$X,",
         {"command": "printf", "args": ["%s,", "a b", "1", "$X"]}),
        ({"command": "echo a | tr a c"}, "c\n", {"command": "echo a | tr a c", "args": []}),
        ({"command": "echo"}, "\n", {"command": "echo", "args": []}),
        ({"prompt": "-nope || echo x"}, "x\n", {"command": "-nope || echo x", "args": []}),
        ({"command": "sh", "args": ["-c", "echo $A$B"], "env": {"A": 1, "B": "two"}}, "1two\n", None),
    ],
)  # fmt: skip
async def test_each_form_of_input_runs_its_command(
    adapter: ShellAdapter, value: Mapping[str, Any], content: str, tool_input: Mapping[str, Any] | None
) -> None:
    adapter.validate_input(value)
    events, completion = await play(adapter, value)
    assert completion.error is None
    assert completion.output["content"] == content
    if tool_input is not None:
        started = data_of(events, "tool_call_started")["tool_input"]
        assert {key: started[key] for key in ("command", "args")} == tool_input


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({}, ErrorCode.VALIDATION_ERROR),
        ({"prompt": "  "}, ErrorCode.VALIDATION_ERROR),
        ({"prompt": 5}, ErrorCode.INVALID_INPUT),
        ({"messages": "ls"}, ErrorCode.INVALID_INPUT),
        ({"messages": []}, ErrorCode.VALIDATION_ERROR),
        ({"messages": [{"role": "assistant", "content": "ls"}]}, ErrorCode.VALIDATION_ERROR),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, ErrorCode.INVALID_INPUT),
        ({"command": ""}, ErrorCode.VALIDATION_ERROR),
        ({"command": ["ls"]}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "args": "-l"}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "args": [["-l"]]}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "args": ["a\0b"]}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "cwd": 5}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "env": ["A"]}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "env": {"A=B": "x"}}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "env": {"A": None}}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "timeout_ms": 0}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "timeout_ms": True}, ErrorCode.VALIDATION_ERROR),
        ({"command": "ls", "timeout_ms": "5"}, ErrorCode.VALIDATION_ERROR),
        ("ls", ErrorCode.INVALID_INPUT),
    ],
)
async def test_bad_input_is_refused_at_submit_and_before_any_event(
    adapter: ShellAdapter, value: Any, code: ErrorCode
) -> None:
    with pytest.raises(AsmError) as raised:
        adapter.validate_input(value)
    assert raised.value.code is code
    if value and isinstance(value, dict):
        with pytest.raises(AsmError):
            await anext(adapter.execute(execution(value)))


async def test_a_request_may_name_its_folder(adapter: ShellAdapter, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for cwd in ("below", str(tmp_path / "below")):
        events, completion = await play(adapter, {"command": "pwd", "cwd": cwd})
        assert completion.output["content"] == f"{tmp_path}/below\n"
        assert data_of(events, "run_started")["cwd"] == f"{tmp_path}/below"


async def test_environments_are_merged_and_the_workers_stays_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASM_API_KEY", "secret-a")
    monkeypatch.setenv("VENDOR_KEY", "secret-b")
    monkeypatch.setenv("WANTED", "yes")
    adapter = ShellAdapter(str(tmp_path), env={"A": "adapter", "B": "adapter"}, inherit_env=["WANTED"])
    _, completion = await play(adapter, {"command": "env", "args": [], "env": {"B": "request"}})
    lines = completion.output["content"].splitlines()
    assert {"A=adapter", "B=request", "WANTED=yes"} <= set(lines)
    assert "secret" not in completion.output["content"]


# --- outcomes ---------------------------------------------------------------------------------------------------------


async def test_success_is_told_in_order(adapter: ShellAdapter, tmp_path: Path) -> None:
    events, completion = await play(adapter, {"prompt": "echo out; echo err >&2"})
    assert types(events) == ["run_started", "tool_call_started", "tool_call_completed", "message_received"]
    assert data_of(events, "run_started") == {"cwd": str(tmp_path), "command": "echo out; echo err >&2"}
    call = data_of(events, "tool_call_completed")
    assert re.fullmatch("tc_[0-9a-f]{16}", call["tool_call_id"])
    assert call["tool_call_id"] == data_of(events, "tool_call_started")["tool_call_id"]
    assert call["tool_name"] == "bash"
    assert call["tool_input"] == {"command": "echo out; echo err >&2", "args": [], "cwd": str(tmp_path)}
    took = call["tool_output"]["duration_ms"]
    assert call["tool_output"] == {"output": "out\n", "stderr": "err\n", "exit_code": 0, "duration_ms": took}
    assert data_of(events, "message_received") == {"content": "out\n", "role": "tool"}
    assert completion == Completion(
        output={"content": "out\n", "exit_code": 0, "stderr": "err\n", "duration_ms": took, "timed_out": False,
                "tool_calls": []},
        data={"stop_reason": "exit_code_0", "exit_code": 0, "duration_ms": took},
    )  # fmt: skip


async def test_another_exit_code_fails_the_run_and_keeps_its_output(adapter: ShellAdapter) -> None:
    events, completion = await play(adapter, {"prompt": "echo out; echo why >&2; exit 3"})
    assert types(events) == ["run_started", "tool_call_started", "tool_call_failed", "error_occurred"]
    assert data_of(events, "tool_call_failed")["tool_output"]["exit_code"] == 3
    assert data_of(events, "error_occurred")["error_code"] == "tool_execution_failed"
    assert data_of(events, "error_occurred")["error_message"] == "Command exited with code 3"
    assert completion.error is not None
    assert completion.error.code is ErrorCode.TOOL_EXECUTION_FAILED
    assert completion.error.details["reason"] == "command_failed"
    assert completion.error.provider_error is not None
    assert completion.error.provider_error["stderr"] == "why\n"
    assert (completion.output["content"], completion.data["stop_reason"]) == ("out\n", "exit_code_3")


async def test_success_is_what_the_operator_calls_so(tmp_path: Path) -> None:
    events, completion = await play(ShellAdapter(str(tmp_path), success_exit_codes=(0, 1)), {"prompt": "exit 1"})
    assert completion.error is None
    assert types(events)[-1] == "message_received"


async def test_a_timeout_keeps_the_output_so_far(adapter: ShellAdapter) -> None:
    value = {"command": "sh", "args": ["-c", "echo early; sleep 600"], "timeout_ms": 200}
    events, completion = await play(adapter, value)
    assert types(events) == ["run_started", "tool_call_started", "tool_call_failed", "error_occurred"]
    output = data_of(events, "tool_call_failed")["tool_output"]
    assert (output["output"], output["exit_code"], output["timed_out"]) == ("early\n", 124, True)
    assert completion.error is not None
    assert completion.error.code is ErrorCode.TIMEOUT
    assert completion.error.details["reason"] == "command_timeout"
    assert completion.error.message == "Command timed out after 200ms"
    assert (completion.output["timed_out"], completion.output["content"]) == (True, "early\n")


@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        ({"command": "no-such-command", "args": []}, ErrorCode.TOOL_EXECUTION_FAILED, "command_not_found"),
        ({"command": "/etc/passwd", "args": []}, ErrorCode.TOOL_EXECUTION_FAILED, "command_not_executable"),
        ({"command": "true", "args": [], "cwd": "/no/such/folder"}, ErrorCode.VALIDATION_ERROR, None),
    ],
)
async def test_a_command_that_cannot_start_fails_the_run(
    adapter: ShellAdapter, value: Mapping[str, Any], code: ErrorCode, reason: str | None
) -> None:
    events, completion = await play(adapter, value)
    assert types(events) == ["run_started", "tool_call_started", "tool_call_failed", "error_occurred"]
    output = data_of(events, "tool_call_failed")["tool_output"]
    assert (output["output"], output["exit_code"]) == ("", None)
    assert completion.error is not None
    assert (completion.error.code, completion.error.details.get("reason")) == (code, reason)
    assert data_of(events, "error_occurred")["error_code"] == code


async def test_a_shell_that_does_not_find_a_command_is_an_ordinary_failure(adapter: ShellAdapter) -> None:
    _, completion = await play(adapter, {"prompt": "no-such-command"})
    assert completion.error is not None
    assert completion.error.details["reason"] == "command_failed"
    assert completion.output["exit_code"] == 127


# --- streaming --------------------------------------------------------------------------------------------------------


async def test_output_is_streamed_as_it_comes(adapter: ShellAdapter, tmp_path: Path) -> None:
    """The first chunk is there while the command still waits for a file that only its reader makes."""
    script = "printf 'a\\303'; while [ ! -e go ]; do sleep 0.01; done; printf '\\251b'; echo no >&2"
    deltas: list[str] = []
    async with aclosing(adapter.execute(execution({"prompt": script}))) as stream:
        async for item in stream:
            if isinstance(item, RawEvent) and item.type == "message_streamed":
                assert item.data["content"] == item.data["delta"]
                deltas.append(item.data["delta"])
                (tmp_path / "go").touch()
    assert deltas == ["a", "éb"]


async def test_streaming_can_be_turned_off(adapter: ShellAdapter) -> None:
    events, _ = await play(adapter, {"command": "echo", "args": ["a"], "streaming": False})
    assert "message_streamed" not in types(events, streamed=True)


async def test_what_is_streamed_is_what_is_kept(tmp_path: Path) -> None:
    """Both end at the bound; the command does not."""
    adapter = ShellAdapter(str(tmp_path), max_output_bytes=100_000)
    events, completion = await play(adapter, {"prompt": "head -c 3000000 /dev/zero | tr '\\0' x; touch done"})
    deltas = [event.data["delta"] for event in events if event.type == "message_streamed"]
    assert "".join(deltas) == completion.output["content"] == "x" * 100_000
    assert data_of(events, "tool_call_completed")["tool_output"]["truncated"] is True
    assert (tmp_path / "done").exists()


# --- stopping, sharing ------------------------------------------------------------------------------------------------


async def test_closing_the_stream_kills_the_command(adapter: ShellAdapter) -> None:
    mark = uuid.uuid4().hex
    value = {"command": "sh", "args": ["-c", "echo up; setsid sleep 600 & sleep 600"], "env": {"MARK": mark}}
    async with aclosing(adapter.execute(execution(value))) as stream:
        async for item in stream:
            if isinstance(item, RawEvent) and item.type == "message_streamed":
                assert carrying(mark)
                break
    assert not carrying(mark)


async def test_cancelling_the_consumer_kills_the_command(adapter: ShellAdapter) -> None:
    mark = uuid.uuid4().hex
    value = {"command": "sh", "args": ["-c", "sleep 600 & sleep 600"], "env": {"MARK": mark}}
    consumer = asyncio.create_task(play(adapter, value))
    async with asyncio.timeout(10):
        while len(carrying(mark)) < 4:  # launcher, shell and both sleeps
            await asyncio.sleep(0.02)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    await none_carrying(mark)


async def test_runs_share_an_adapter_without_meeting(adapter: ShellAdapter) -> None:
    played = await asyncio.gather(*(play(adapter, {"prompt": f"echo {n}; exit {n}"}) for n in range(5)))
    assert [completion.output["content"] for _, completion in played] == [f"{n}\n" for n in range(5)]
    assert [completion.output["exit_code"] for _, completion in played] == [0, 1, 2, 3, 4]
    await adapter.aclose()


def tool_call_id(adapter: ShellAdapter, attempt: int) -> Any:
    async def first() -> Any:
        async with aclosing(adapter.execute(execution({"prompt": "true"}, attempt))) as stream:
            await anext(stream)
            item = await anext(stream)
            return item.data["tool_call_id"]

    return asyncio.run(first())


def test_each_attempt_has_a_tool_call_of_its_own(adapter: ShellAdapter) -> None:
    assert tool_call_id(adapter, 1) == tool_call_id(adapter, 1) != tool_call_id(adapter, 2)


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "runs"),
    [
        ({"prompt": "echo a | cat"}, True),
        ({"prompt": "echo a; touch made"}, False),
        ({"prompt": "FOO=1 touch made"}, False),
        ({"prompt": "eval 'touch made'"}, False),
        ({"messages": [{"role": "user", "content": "touch made"}]}, False),
        ({"command": "/bin/echo", "args": ["; touch made"]}, True),
        ({"command": "touch", "args": ["made"]}, False),
        ({"command": "echo a && touch made"}, False),
        ({"command": "rm", "args": ["made"]}, False),
        ({"command": "echo", "env": {"A": "1"}}, True),
        ({"command": "bash", "args": ["-c", "echo"], "env": {"BASH_FUNC_echo%%": "() { touch made; }"}}, False),
        ({"command": "echo", "env": {"PATH": "."}}, False),
    ],
)
async def test_lists_are_applied_at_submit_and_before_any_event(
    tmp_path: Path, value: Mapping[str, Any], runs: bool
) -> None:
    adapter = ShellAdapter(str(tmp_path), allowed_commands=["bash", "echo", "cat", "rm"], denied_commands=["/bin/rm"])
    if runs:
        adapter.validate_input(value)
        _, completion = await play(adapter, value)
        assert completion.error is None
        return
    with pytest.raises(AsmError) as raised:
        adapter.validate_input(value)
    assert raised.value.code is ErrorCode.POLICY_VIOLATION
    with pytest.raises(AsmError):
        await anext(adapter.execute(execution(value)))
    assert not (tmp_path / "made").exists()
