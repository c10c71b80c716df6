"""Claude Code's messages as events, from messages as they were seen."""

from __future__ import annotations

from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.pricing import PriceList
from asm_core.ports.provider import RawEvent

sdk = pytest.importorskip("claude_agent_sdk")

from asm_core.adapters.claude_events import SYNTHETIC, ClaudeEvents, Spending  # noqa: E402

USAGE = {"input_tokens": 10, "output_tokens": 1}


def a_mapper(cost_before: float | None = 0.0) -> ClaudeEvents:
    return ClaudeEvents(Spending(PriceList(), cost_before))


def init(**data: Any) -> Any:
    return sdk.SystemMessage("init", {"session_id": "s-1", "model": "m", "permissionMode": "plan", **data})


def streamed(kind: str, parent: str | None = None, **event: Any) -> Any:
    return sdk.StreamEvent("u", "s-1", {"type": kind, **event}, parent_tool_use_id=parent)


def delta(text: str, parent: str | None = None) -> Any:
    return streamed("content_block_delta", parent, delta={"type": "text_delta", "text": text})


def said(*blocks: Any, message_id: str = "msg_1", **more: Any) -> Any:
    return sdk.AssistantMessage([*blocks], more.pop("model", "m"), message_id=message_id, **more)


def outcome(**more: Any) -> Any:
    given = {"subtype": "success", "is_error": False, "usage": {}, "stop_reason": "end_turn"} | more
    return sdk.ResultMessage(duration_ms=1, duration_api_ms=1, num_turns=1, session_id="s-1", **given)


def mapped(mapper: ClaudeEvents, *messages: Any) -> list[RawEvent]:
    return [event for message in messages for event in mapper.take(message)]


def kinds(events: list[RawEvent]) -> list[str]:
    return [str(event.type) for event in events]


def texts(events: list[RawEvent]) -> list[str]:
    return [event.data["content"] for event in events if event.type == "message_received"]


def test_the_start_is_told_with_the_first_thing_that_happens_and_once() -> None:
    """Until then the request may be repeated; a second prompt has a second `init`."""
    mapper = a_mapper()
    assert mapped(mapper, init(), sdk.SystemMessage("status", {"status": "requesting"})) == []
    assert not mapper.has_begun
    events = mapped(mapper, delta("a"), init(session_id="s-2"), delta("b"))
    assert kinds(events) == ["run_started", "message_streamed", "message_streamed"]
    assert (events[0].data["session_id"], events[0].metadata["permission_mode"]) == ("s-1", "plan")
    assert mapper.has_begun


def test_an_empty_answer_has_a_start_too() -> None:
    assert kinds(mapped(a_mapper(), init(), outcome())) == ["run_started"]


def test_the_end_that_is_made_up_for_a_broken_attempt_ends_nothing() -> None:
    """Its pieces were streamed; the message is the one that came whole."""
    mapper = a_mapper()
    start = streamed("message_start", message={"usage": USAGE})
    broken = (start, delta("half an ans"), streamed("content_block_stop"), streamed("message_stop"))
    events = mapped(mapper, init(), *broken, said(sdk.TextBlock("whole"), message_id="msg_2"))
    assert (texts(events), mapper.result) == ([], None)
    events += mapped(mapper, outcome(usage={"input_tokens": 10, "output_tokens": 5}))
    assert texts(events) == ["whole"]
    assert events[-1].data["output_tokens"] == 5


def test_blocks_of_one_message_are_one_text_and_stand_before_the_tool_they_announce() -> None:
    mapper = a_mapper()
    call = sdk.ToolUseBlock("t-1", "mcp__asm__look", {"at": 1})
    events = mapped(mapper, init(), said(sdk.TextBlock("I ")), said(sdk.TextBlock("look")), said(call))
    result = sdk.ToolResultBlock("t-1", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    events += mapped(mapper, sdk.UserMessage([result]), sdk.UserMessage("[Request interrupted by user]"))
    assert kinds(events) == ["run_started", "message_received", "tool_call_started", "tool_call_completed"]
    assert texts(events) == ["I look"]
    call_data = {"tool_call_id": "t-1", "tool_name": "look", "tool_input": {"at": 1}}
    assert [event.data for event in events[2:]] == [call_data, call_data | {"tool_output": "a\nb"}]


def test_an_agent_started_by_the_agent_is_told_by_its_tools_and_tokens_only() -> None:
    mapper = a_mapper()
    parent = "t-0"
    events = mapped(
        mapper, init(), streamed("message_start", parent, message={"usage": USAGE}), delta("inner", parent),
        said(sdk.TextBlock("inner"), parent_tool_use_id=parent),
        said(sdk.ToolUseBlock("t-9", "Read", {}), parent_tool_use_id=parent),
        streamed("message_delta", parent, delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
    )  # fmt: skip
    assert kinds(events) == ["run_started", "tool_call_started", "token_usage_updated"]
    assert events[-1].data["output_tokens"] == 7


@pytest.mark.parametrize(("before", "costs"), [(0.25, 0.5), (None, None)])
def test_a_runs_cost_is_what_the_sum_has_grown_by(before: float | None, costs: float | None) -> None:
    """Where nobody knows what the session had cost, our own price counts."""
    mapper = a_mapper(before)
    start = streamed("message_start", message={"usage": USAGE})
    tool = streamed("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 5})
    events = mapped(mapper, init(), start, tool, start)
    events += mapped(mapper, outcome(usage={"input_tokens": 20, "output_tokens": 9}, total_cost_usd=0.75))
    usages = [event.data for event in events if event.type == "token_usage_updated"]
    assert [(usage["input_tokens"], usage["output_tokens"]) for usage in usages] == [(10, 5), (10, 4)]
    total = round(sum(usage["cost_usd"] for usage in usages), 9)
    assert total == costs if costs is not None else 0 < total < 0.01
    assert mapper.completion().data.get("total_cost_usd") == costs


def test_tokens_of_an_answer_cut_short_are_those_that_were_seen() -> None:
    """The result of an interrupted run has none."""
    mapper = a_mapper()
    start = streamed("message_start", message={"usage": USAGE})
    end = streamed("message_delta", delta={"stop_reason": None}, usage={"input_tokens": 10, "output_tokens": 1})
    aborted = outcome(subtype="error_during_execution", is_error=True, terminal_reason="aborted_streaming")
    [usage] = [event for event in mapped(mapper, init(), start, end, aborted) if event.type == "token_usage_updated"]
    assert (usage.data["input_tokens"], usage.data["output_tokens"]) == (10, 1)


@pytest.mark.parametrize(
    ("failed", "code", "kind"),
    [
        ({"api_error_status": 429}, ErrorCode.PROVIDER_RATE_LIMITED, "rate_limit"),
        ({"api_error_status": 529}, ErrorCode.PROVIDER_UNAVAILABLE, "overloaded"),
        ({"api_error_status": 400, "terminal_reason": "prompt_too_long"}, ErrorCode.PROVIDER_ERROR, "context_overflow"),
        ({"subtype": "error_max_budget_usd"}, ErrorCode.PROVIDER_ERROR, "unknown"),
    ],
)
def test_a_result_that_is_an_error_fails_the_run_whatever_its_subtype(
    failed: dict[str, Any], code: ErrorCode, kind: str
) -> None:
    """What the command line says of it in the model's place is no message."""
    mapper = a_mapper()
    own = said(sdk.TextBlock("API Error"), model=SYNTHETIC, error="unheard_of")
    assert mapped(mapper, init(), own, outcome(is_error=True, result="API Error", **failed)) == []
    with pytest.raises(AsmError) as raised:
        mapper.completion()
    assert (raised.value.code, (raised.value.provider_error or {})["kind"]) == (code, kind)


def test_without_a_result_there_is_no_end() -> None:
    mapper = a_mapper()
    mapped(mapper, init(), said(sdk.TextBlock("all of it?")), streamed("message_stop"))
    with pytest.raises(AsmError) as raised:
        mapper.completion()
    assert raised.value.code is ErrorCode.PROVIDER_UNAVAILABLE


def test_what_it_tells_by_the_way() -> None:
    """A repetition of its own, a refusal; what nobody knows is passed over."""
    mapper = a_mapper()
    retry = sdk.SystemMessage("api_retry", {"error_status": 529, "error": "overloaded", "retry_delay_ms": 10})
    denied = sdk.SystemMessage("permission_denied", {"tool_name": "Bash", "tool_use_id": "t-1", "message": "no"})
    events = mapped(mapper, init(), retry, denied, sdk.SystemMessage("new", {}), streamed("ping"))
    assert kinds(events) == ["run_started", "error_occurred", "tool_approval_denied"]
    assert events[1].data["will_retry"] is True
    assert events[2].data == {"tool_call_id": "t-1", "tool_name": "Bash", "reason": "no"}
