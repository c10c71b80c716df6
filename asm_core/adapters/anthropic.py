"""
Provider `anthropic`: the Messages API, streamed.

Source: spec/04 §3.4; spec/06 §4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

from asm_core.adapters.api import ApiAdapter
from asm_core.adapters.failures import OVERFLOW, provider_failure
from asm_core.adapters.prompts import conversation_in_blocks, text_in
from asm_core.adapters.tool_loop import END_TURN, Answer, Call, Raw, Request, told
from asm_core.domain.event import EventType
from asm_core.domain.messages import Role
from asm_core.domain.tool import ToolResult, ToolSpec
from asm_core.ports.provider import Execution, RawEvent

MAX_TOKENS = 8_192
"""Of one answer, for runs that say nothing: the API wants a bound."""
USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_creation_tokens",
}
PIECES = {"text_delta": "text", "input_json_delta": "partial_json", "thinking_delta": "thinking"}
"""What a delta adds to its block."""


class AnthropicAdapter(ApiAdapter):
    """
    Args:
        max_tokens: of one answer, for runs that say nothing.
        others: as of `ApiAdapter`.
    """

    name: ClassVar[str] = "anthropic"
    key_variable: ClassVar[str] = "ANTHROPIC_API_KEY"
    _public_url: ClassVar[str] = "https://api.anthropic.com"
    _own: ClassVar[frozenset[str]] = frozenset({"model", "messages", "stream"})

    def __init__(self, *, max_tokens: int = MAX_TOKENS, **others: Any) -> None:
        super().__init__(**others)
        self._max_tokens = max_tokens

    def _protocol(self, model: str) -> MessagesProtocol:
        return MessagesProtocol(model, self._max_tokens)

    def _connect(self, sdk: ModuleType, **access: Any) -> Any:
        return sdk.AsyncAnthropic(**access)

    def _create(self, client: Any) -> Any:
        return client.messages.create


class MessagesProtocol:
    """
    Args:
        max_tokens: where the run's options say nothing.
    """

    def __init__(self, model: str, max_tokens: int = MAX_TOKENS) -> None:
        self._model, self._max_tokens = model, max_tokens

    def begin(self, execution: Execution, tools: Sequence[ToolSpec]) -> Request:
        options = execution.options
        messages = conversation_in_blocks(execution)
        system = [options.system_prompt, *(text_in(said["content"]) for said in messages if _is_system(said))]
        given = {name: value for name, value in options.sdk_opts.items() if value is not None}
        if "cache_control" not in options.sdk_opts:
            given["cache_control"] = {"type": "ephemeral"}
        request = {"max_tokens": self._max_tokens} | given | {
            "model": self._model,
            "messages": [said for said in messages if not _is_system(said)],
        }  # fmt: skip
        if options.max_tokens is not None:
            request["max_tokens"] = options.max_tokens
        if prompt := "\n\n".join(filter(None, system)):
            request["system"] = prompt
        if offered := [*map(_offered, tools), *given.get("tools", ())]:
            request["tools"] = offered
        if config := _output_config(execution):
            request["output_config"] = {**given.get("output_config", {}), **config}
        return request

    def read(self, raw: Raw, answer: Answer) -> Iterable[RawEvent]:
        match raw.get("type"):
            case "message_start":
                message = raw["message"]
                _take_usage(message.get("usage") or {}, answer)
                return answer.begun(message.get("id"), message.get("model") or self._model)
            case "content_block_start":
                answer.open[raw["index"]] = {**raw["content_block"], "_pieces": []}
            case "content_block_delta":
                return _delta(raw["delta"], answer.open.get(raw["index"]), answer)
            case "content_block_stop":
                return _block_ended(answer.open.pop(raw["index"], None), answer)
            case "message_delta":
                _take_usage(raw.get("usage") or {}, answer)
                answer.stop_reason = raw["delta"].get("stop_reason") or answer.stop_reason
            case "message_stop":
                _ended(answer)
        return ()

    def go_on(self, request: Request, answer: Answer, results: Sequence[tuple[Call, ToolResult]]) -> Request:
        messages = [*request["messages"], {"role": str(Role.ASSISTANT), "content": answer.items}]
        if results:
            messages.append({"role": str(Role.USER), "content": [_result(call, result) for call, result in results]})
        return request | {"messages": messages}


def _is_system(said: Mapping[str, Any]) -> bool:
    return bool(said["role"] == Role.SYSTEM)


def _offered(spec: ToolSpec) -> dict[str, Any]:
    return {"name": spec.name, "description": spec.description, "input_schema": dict(spec.input_schema)}


def _output_config(execution: Execution) -> dict[str, Any]:
    schema, effort = execution.options.output_schema, execution.options.reasoning_effort
    config: dict[str, Any] = {} if schema is None else {"format": {"type": "json_schema", "schema": dict(schema)}}
    return config if effort is None else config | {"effort": effort}


def _take_usage(usage: Mapping[str, Any], answer: Answer) -> None:
    """Its numbers are sums over the answer so far; what is read from or written to a cache is not in the input."""
    answer.usage |= {ours: usage[theirs] for theirs, ours in USAGE.items() if usage.get(theirs) is not None}
    details = usage.get("output_tokens_details") or {}
    if details.get("thinking_tokens") is not None:
        answer.usage["reasoning_tokens"] = details["thinking_tokens"]


def _delta(delta: Mapping[str, Any], block: dict[str, Any] | None, answer: Answer) -> Iterable[RawEvent]:
    if block is None:
        return ()
    kind = delta.get("type")
    if kind in PIECES:
        piece = delta[PIECES[kind]]
        block["_pieces"].append(piece)
        return answer.said(piece) if kind == "text_delta" else ()
    if kind == "signature_delta":
        block["signature"] = delta["signature"]
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
    return ()


def _block_ended(block: dict[str, Any] | None, answer: Answer) -> Iterator[RawEvent]:
    if block is None:
        return
    text = "".join(block.pop("_pieces"))
    kind = block.get("type", "")
    if kind in ("text", "thinking"):
        block[kind] = block.get(kind, "") + text
    if kind == "text" and not block["text"]:
        return  # the API does not take back what says nothing
    answer.items.append(block)
    if kind in ("tool_use", "server_tool_use"):
        whole = Call(block["id"], block["name"], block.get("input") or {})
        call = Call.read(whole.id, whole.name, text) if text else whole
        block["input"] = call.input
        yield from answer.called(call) if kind == "tool_use" else [call.event(EventType.TOOL_CALL_STARTED)]
    elif kind.endswith("_tool_result"):
        yield _ran_there(block, answer)


def _ran_there(block: Mapping[str, Any], answer: Answer) -> RawEvent:
    """A tool that the provider runs itself."""
    asked = next((item for item in answer.items if item.get("id") == block["tool_use_id"]), {})
    call = Call(block["tool_use_id"], asked.get("name", ""), asked.get("input") or {})
    content = block.get("content")
    is_error = isinstance(content, Mapping) and str(content.get("type", "")).endswith("_error")
    return call.ended(ToolResult(content, is_error))


def _ended(answer: Answer) -> None:
    answer.is_complete = True
    answer.stop_reason = answer.stop_reason or END_TURN
    answer.goes_on = answer.stop_reason == "pause_turn" or (answer.stop_reason == "tool_use" and bool(answer.calls))
    if answer.stop_reason == "model_context_window_exceeded":
        message = "the conversation has filled the model's context window"
        answer.failure = provider_failure("anthropic", message, OVERFLOW)


def _result(call: Call, result: ToolResult) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": call.id, "content": told(result)}
    return block | {"is_error": True} if result.is_error else block
