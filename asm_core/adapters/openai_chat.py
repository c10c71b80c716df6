"""OpenAI's Chat Completions, which many servers speak: its requests, and what its chunks mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from asm_core.adapters.openai_responses import counted, image_url
from asm_core.adapters.prompts import conversation_in_blocks
from asm_core.adapters.tool_loop import END_TURN, REFUSAL, Answer, Call, Raw, Request, told
from asm_core.domain.messages import Role
from asm_core.domain.tool import ToolResult, ToolSpec
from asm_core.ports.provider import Execution, RawEvent

GOOD_ENDS = frozenset({"stop", "tool_calls", "function_call"})
"""With calls in the answer each of them asks for their results: not every server makes a difference."""


class ChatProtocol:
    def __init__(self, model: str) -> None:
        self._model = model

    def begin(self, execution: Execution, tools: Sequence[ToolSpec]) -> Request:
        options = execution.options
        given = {name: value for name, value in options.sdk_opts.items() if value is not None}
        prompt = [{"role": str(Role.SYSTEM), "content": options.system_prompt}] if options.system_prompt else []
        request = {"stream_options": {"include_usage": True}} | given | {
            "model": self._model,
            "messages": [*prompt, *map(_spoken, conversation_in_blocks(execution))],
        }  # fmt: skip
        if options.max_tokens is not None:
            request["max_tokens"] = options.max_tokens
        if options.reasoning_effort is not None:
            request["reasoning_effort"] = options.reasoning_effort
        if options.output_schema is not None:
            schema = {"name": "answer", "schema": dict(options.output_schema), "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        if offered := [*map(_offered, tools), *given.get("tools", ())]:
            request["tools"] = offered
        return request

    def read(self, raw: Raw, answer: Answer) -> Iterable[RawEvent]:
        if answer.id is None:
            yield from answer.begun(raw.get("id") or "", raw.get("model") or self._model)
        if usage := raw.get("usage"):
            answer.usage |= counted(usage, "prompt", "completion")
        for choice in raw.get("choices") or ():
            yield from _delta(choice.get("delta") or {}, answer)
            if reason := choice.get("finish_reason"):
                yield from _ended(reason, answer)

    def go_on(self, request: Request, answer: Answer, results: Sequence[tuple[Call, ToolResult]]) -> Request:
        said = {"role": str(Role.ASSISTANT), "content": "".join(answer.text) or None, "tool_calls": answer.items}
        outputs = [{"role": str(Role.TOOL), "tool_call_id": call.id, "content": told(result)}
                   for call, result in results]  # fmt: skip
        return request | {"messages": [*request["messages"], said, *outputs]}


def _spoken(said: Mapping[str, Any]) -> dict[str, Any]:
    content = said["content"]
    return {"role": said["role"], "content": content if isinstance(content, str) else [*map(_block, content)]}


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    return {"type": "image_url", "image_url": {"url": image_url(block["source"])}}


def _offered(spec: ToolSpec) -> dict[str, Any]:
    function = {"name": spec.name, "description": spec.description, "parameters": dict(spec.input_schema)}
    return {"type": "function", "function": function}


def _delta(delta: Mapping[str, Any], answer: Answer) -> Iterator[RawEvent]:
    if text := delta.get("content"):
        yield from answer.said(text)
    if text := delta.get("refusal"):
        answer.stop_reason = REFUSAL
        yield from answer.said(text, refusal=True)
    for piece in delta.get("tool_calls") or ():
        part = answer.open.setdefault(piece.get("index", 0), {"id": "", "name": "", "arguments": ""})
        function = piece.get("function") or {}
        part["id"] = piece.get("id") or part["id"]
        part["name"] = function.get("name") or part["name"]
        part["arguments"] += function.get("arguments") or ""


def _ended(reason: str, answer: Answer) -> Iterator[RawEvent]:
    """Calls are complete only here. What follows is the usage, from servers that tell it."""
    answer.is_complete = True
    for place, part in sorted(answer.open.items()):
        call = Call.read(part["id"] or f"call_{place}", part["name"], part["arguments"])
        function = {"name": call.name, "arguments": part["arguments"] or "{}"}
        answer.items.append({"id": call.id, "type": "function", "function": function})
        yield from answer.called(call)
    answer.open.clear()
    answer.goes_on = bool(answer.calls) and reason in GOOD_ENDS
    if answer.goes_on:
        answer.stop_reason = "tool_use"
    elif reason not in GOOD_ENDS:
        answer.stop_reason = reason
    else:
        answer.stop_reason = answer.stop_reason or END_TURN
