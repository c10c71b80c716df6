"""The scripted provider: each step's events, and what it refuses at submit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType, valid_type
from asm_core.ports.provider import Completion, RawEvent
from tests.builders import an_execution

SAID = {"content": "hello", "role": "assistant"}


async def played(
    script: Sequence[Mapping[str, Any]] | None = None, *, attempt: int = 1, **given: Any
) -> list[tuple[str, Mapping[str, Any]]]:
    """What the adapter emits between `run_started` and the completion."""
    items = [item async for item in ScriptedAdapter().execute(an_execution(script, attempt=attempt, **given))]
    assert isinstance(items[0], RawEvent)
    assert items[0].type == EventType.RUN_STARTED
    assert items[-1] == Completion(data={"stop_reason": "end_turn"}), "exactly one, at the end"
    events = items[1:-1]
    assert all(isinstance(event, RawEvent) and valid_type(event.type) for event in events)
    return [(str(event.type), event.data) for event in events if isinstance(event, RawEvent)]


async def failure(script: Sequence[Mapping[str, Any]], attempt: int = 1) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await played(script, attempt=attempt)
    return caught.value


async def test_without_a_script_it_echoes_the_last_user_message() -> None:
    """DESIGN §8."""
    messages = [
        {"role": "user", "content": "first"}, {"role": "user", "content": "hello"}, {"role": "system", "content": "x"},
    ]  # fmt: skip
    for given in ({"messages": messages}, {"prompt": "hello"}):
        events = await played(**given)
        assert events[-1] == ("message_received", SAID)


@pytest.mark.parametrize(
    ("text", "chunks", "parts"),
    [
        ("hello", 1, ["hello"]),
        ("hello", 2, ["hel", "lo"]),
        ("hello", 5, ["h", "e", "l", "l", "o"]),
        ("hi", 9, ["h", "i"]),
        ("", 3, [""]),
    ],
)
async def test_say_streams_its_chunks_and_then_the_message(text: str, chunks: int, parts: list[str]) -> None:
    events = await played([{"say": text, "chunks": chunks}])
    streamed = [("message_streamed", {"content": part, "delta": part}) for part in parts]
    assert events == [*streamed, ("message_received", {"content": text, "role": "assistant"})]


@pytest.mark.parametrize(("fail", "end"), [(False, "tool_call_completed"), (True, "tool_call_failed")])
async def test_a_tool_call_begins_and_ends_under_one_id(fail: bool, end: str) -> None:
    events = await played([{"tool": {"name": "ls", "input": {"path": "/"}, "output": "a", "fail": fail}}])
    assert [kind for kind, _ in events] == ["tool_call_started", end]
    (_, started), (_, ended) = events
    assert ended.items() >= started.items() > {"tool_name": "ls", "tool_input": {"path": "/"}}.items()
    assert ended["tool_output"] == "a"
    assert ("is_error" in ended) == fail


async def test_two_tool_calls_have_two_ids() -> None:
    events = await played([{"tool": {"name": "ls"}}, {"tool": {"name": "ls"}}])
    assert len({data["tool_call_id"] for _, data in events}) == 2


async def test_usage_and_any_event_can_be_emitted() -> None:
    """The shapes of spec/01 §4.1 are complete: a missing count is 0."""
    events = await played([{"usage": {"output_tokens": 3}}, {"emit": {"type": "turn_completed", "data": {"turn": 1}}}])
    assert events == [
        ("token_usage_updated", {"input_tokens": 0, "output_tokens": 3}), ("turn_completed", {"turn": 1}),
    ]  # fmt: skip


async def test_a_failure_ends_the_run_with_its_code() -> None:
    step = {"fail": {"code": "provider_rate_limited", "message": "slow down", "retry_after_ms": 5}}
    error = await failure([{"say": "a"}, step, {"say": "b"}])
    assert (error.code, error.message) == (ErrorCode.PROVIDER_RATE_LIMITED, "slow down")
    assert error.details == {"retry_after_ms": 5}
    assert (await failure([{"fail": {"code": "timeout"}}])).message, "a code has words of its own"


async def test_a_failure_may_concern_the_first_attempts_only() -> None:
    """DESIGN §8: `fail_attempts`."""
    script = [{"fail": {"code": "timeout"}, "fail_attempts": 2}, {"say": "hello"}]
    assert (await failure(script, attempt=1)).code is ErrorCode.TIMEOUT
    assert (await failure(script, attempt=2)).code is ErrorCode.TIMEOUT
    assert (await played(script, attempt=3))[-1] == ("message_received", SAID)


async def test_an_empty_script_completes() -> None:
    assert await played([]) == []
    assert await played([{"sleep_ms": 0}]) == []


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "x"},
        {"messages": [{"role": "user", "content": "x"}]},
        {"script": []},
        {"script": [{"say": "a", "chunks": 3, "delay_ms": 5}, {"sleep_ms": 1}, {"usage": {}}]},
        {"script": [{"tool": {"name": "x", "input": {}, "output": 1, "fail": True}, "delay_ms": 0}]},
        {"script": [{"fail": {"code": "timeout", "message": "m", "retry_after_ms": 1}, "fail_attempts": 3}]},
        {"script": [{"emit": {"type": "of any kind", "data": {}}}]},
    ],
)
def test_valid_inputs_pass(value: dict[str, Any]) -> None:
    ScriptedAdapter().validate_input(value)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "input"),
        ({"prompt": ""}, "input"),
        ({"prompt": 5}, "input.prompt"),
        ({"script": "say"}, "input.script"),
        ({"script": None}, "input.script"),
        ({"script": ["say"]}, "input.script.0"),
        ({"script": [{"say": "a"}, {}]}, "input.script.1"),
        ({"script": [{"say": "a", "sleep_ms": 1}]}, "input.script.0"),
        ({"script": [{"say": 5}]}, "input.script.0"),
        ({"script": [{"say": "a", "chunks": 0}]}, "input.script.0"),
        ({"script": [{"say": "a", "chunks": True}]}, "input.script.0"),
        ({"script": [{"say": "a", "delay_ms": -1}]}, "input.script.0"),
        ({"script": [{"tool": {"input": {}}}]}, "input.script.0"),
        ({"script": [{"tool": "ls"}]}, "input.script.0"),
        ({"script": [{"usage": {"input_tokens": -1}}]}, "input.script.0"),
        ({"script": [{"usage": {"input_tokens": 1.5}}]}, "input.script.0"),
        ({"script": [{"sleep_ms": 604_800_001}]}, "input.script.0"),
        ({"script": [{"fail": {"message": "no code"}}]}, "input.script.0"),
        ({"script": [{"fail": {"code": "oops"}}]}, "input.script.0"),
        ({"script": [{"fail": {"code": "timeout", "message": 5}}]}, "input.script.0"),
        ({"script": [{"fail": {"code": "timeout", "retry_after_ms": "soon"}}]}, "input.script.0"),
        ({"script": [{"fail": {"code": "timeout"}, "fail_attempts": -1}]}, "input.script.0"),
        ({"script": [{"emit": {"data": {}}}]}, "input.script.0"),
        ({"script": [{"emit": {"type": "turn_completed", "data": [1]}}]}, "input.script.0"),
        ({"script": [{"crash": "politely"}]}, "input.script.0"),
    ],
)
def test_invalid_inputs_are_refused_by_place(value: dict[str, Any], field: str) -> None:
    """A bad request is an error to its sender and not a failed run."""
    with pytest.raises(AsmError) as caught:
        ScriptedAdapter(allow_crash=True).validate_input(value)
    assert caught.value.code is ErrorCode.INVALID_INPUT
    assert caught.value.details["field"] == field


def test_crashing_needs_permission() -> None:
    """DESIGN §8: only with ASM_ALLOW_CRASH=1."""
    crash = {"script": [{"crash": "sigkill"}]}
    ScriptedAdapter(allow_crash=True).validate_input(crash)
    with pytest.raises(AsmError, match="ASM_ALLOW_CRASH"):
        ScriptedAdapter().validate_input(crash)
