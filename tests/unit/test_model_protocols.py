"""What providers' events mean: recorded streams through the pure mappers, and the requests that they put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from asm_core.adapters.anthropic import MessagesProtocol
from asm_core.adapters.openai_chat import ChatProtocol
from asm_core.adapters.openai_responses import ResponsesProtocol
from asm_core.adapters.tool_loop import Answer, Call, ModelProtocol
from asm_core.domain.errors import AsmError
from asm_core.domain.messages import Role
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.tool import ToolResult, ToolSpec
from asm_core.domain.transcript import Message, Transcript
from asm_core.ports.provider import Execution
from tests.builders import an_execution
from tests.fixtures.golden import assert_golden, raw_sequence, raw_sequences

MODEL = "some-model"
PROTOCOLS: Mapping[str, ModelProtocol] = {
    "messages": MessagesProtocol(MODEL),
    "responses": ResponsesProtocol(MODEL),
    "chat": ChatProtocol(MODEL),
}
ADD = ToolSpec(name="add", description="Adds.", input_schema={"type": "object", "properties": {"a": {}}})
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}}
LINKED = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize("name", raw_sequences())
def test_a_recorded_stream_becomes_the_events_of_its_golden_file(name: str) -> None:
    """spec/04 §3.4, §4.6; spec/06 §4, §5: event by event, then what the answer came to."""
    protocol, answer = PROTOCOLS[name.partition("/")[0]], Answer(tools=["add"])
    lines: list[Any] = []
    try:
        for raw in raw_sequence(name):
            lines += [[event.type, event.data, event.metadata] for event in protocol.read(raw, answer)]
    except AsmError as error:
        lines.append({"failed": [error.code, error.message, error.provider_error and error.provider_error["kind"]]})
    lines.append(_state(answer))
    assert_golden(f"answers/{name}", lines)


def _state(answer: Answer) -> dict[str, Any]:
    told = {name: getattr(answer, name) for name in ("stop_reason", "is_complete", "goes_on", "usage", "items")}
    return told | {"failure": answer.failure and str(answer.failure), "text": "".join(answer.text)}


def test_only_the_first_answer_opens_the_run() -> None:
    """spec/04 check 41: one run_started, whatever number of requests."""
    for name, protocol in PROTOCOLS.items():
        answer = Answer(opens_run=False)
        events = [event for raw in raw_sequence(f"{name}/text") for event in protocol.read(raw, answer)]
        assert {event.type for event in events} == {"message_streamed"}


def _asking(**options: Any) -> Execution:
    """A run that goes on from a conversation and is given an image."""
    transcript = Transcript(
        session_id="ses_1",
        messages=(
            Message(role=Role.USER, content="before"),
            Message(role=Role.ASSISTANT, tool_call_id="t1", tool_name="look", tool_input={"at": 1}),
            Message(role=Role.TOOL, tool_call_id="t1", tool_name="look", tool_output="seen"),
            Message(role=Role.ASSISTANT, content="after"),
        ),
    )
    said = [
        {"role": "system", "content": "in the input"},
        {"role": "user", "content": [{"type": "text", "text": "what is it?"}, IMAGE, LINKED]},
    ]
    execution = an_execution(messages=said)
    return replace(execution, transcript=transcript, options=ProviderOptions(**options))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_request_says_everything_that_the_run_asks_for(name: str) -> None:
    """spec/04 §2.5, §2.6, §2.9: system prompt, transcript, images, tools, schema, bounds, and the SDK's own options."""
    execution = _asking(
        system_prompt="in the options",
        max_tokens=50,
        reasoning_effort="low",
        output_schema=SCHEMA,
        sdk_opts={"temperature": 0.5, "max_tokens": 9, "tools": [{"type": "web_search"}], "top_p": None},
    )
    first = PROTOCOLS[name].begin(execution, [ADD])
    answer = Answer()
    for raw in raw_sequence(f"{name}/parallel_tools"):
        [*PROTOCOLS[name].read(raw, answer)]
    results = [ToolResult({"sum": 3}), ToolResult("broken", is_error=True)]
    following = PROTOCOLS[name].go_on(first, answer, list(zip(answer.calls, results, strict=True)))
    assert_golden(f"requests/{name}", [first, {"then": following[_spoken(name)][len(first[_spoken(name)]) :]}])
    assert {**first, _spoken(name): None} == {**following, _spoken(name): None}


def _spoken(name: str) -> str:
    return "input" if name == "responses" else "messages"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_plain_request_says_little(name: str) -> None:
    """What nobody asks for is not sent, but for what an API or our bill wants: a bound, a cache, nothing stored."""
    assert_golden(f"requests/{name}_plain", [PROTOCOLS[name].begin(an_execution(prompt="hi"), [])])


@pytest.mark.parametrize(
    ("model", "is_sealed"),
    [("gpt-5-mini", True), ("o3", True), ("gpt-5.3-codex", True), ("gpt-5-chat-latest", False), ("gpt-4o", False)],
)
def test_models_that_reason_get_their_reasoning_back(model: str, is_sealed: bool) -> None:
    """Nothing is stored at OpenAI, so a model's reasoning goes to and fro; models that do not reason refuse to."""
    request = ResponsesProtocol(model).begin(an_execution(prompt="hi"), [])
    assert ("include" in request) is is_sealed


def test_the_sdks_options_can_switch_off_what_we_do_by_default() -> None:
    """None says: leave it out."""
    execution = replace(an_execution(prompt="hi"), options=ProviderOptions(sdk_opts={"cache_control": None}))
    assert "cache_control" not in MessagesProtocol(MODEL).begin(execution, [])
    execution = replace(an_execution(prompt="hi"), options=ProviderOptions(sdk_opts={"include": None, "store": True}))
    request = ResponsesProtocol("o3").begin(execution, [])
    assert (request["store"], "include" in request) == (True, False)


@pytest.mark.parametrize("text", ['{"a": 1', "[1]", "null", "7"])
def test_an_input_that_is_no_object_is_told_to_the_model(text: str) -> None:
    """It is no reason to run the tool with nothing, nor to end the run."""
    call = Call.read("c", "add", text)
    assert (call.input, call.problem) == ({}, "the input is not a JSON object")
    assert Call.read("c", "now", "").problem is None
