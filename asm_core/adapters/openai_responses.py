"""OpenAI's Responses API: its requests, and what its events mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from asm_core.adapters.failures import classify, provider_failure
from asm_core.adapters.prompts import conversation_in_blocks, text_in
from asm_core.adapters.tool_loop import END_TURN, REFUSAL, Answer, Call, Raw, Request, told
from asm_core.domain.errors import AsmError
from asm_core.domain.event import EventType
from asm_core.domain.messages import Role
from asm_core.domain.tool import ToolResult, ToolSpec
from asm_core.ports.provider import Execution, RawEvent

REASONS = re.compile(r"o\d|gpt-[5-9](?!.*chat)|codex")
"""Models that reason. Nothing is stored at the provider, so they get their reasoning back, sealed; others refuse to."""
SEALED = "reasoning.encrypted_content"


class ResponsesProtocol:
    def __init__(self, model: str) -> None:
        self._model = model

    def begin(self, execution: Execution, tools: Sequence[ToolSpec]) -> Request:
        options = execution.options
        given = {name: value for name, value in options.sdk_opts.items() if value is not None}
        if REASONS.match(self._model) and "include" not in options.sdk_opts:
            given["include"] = [SEALED]
        request = {"store": False} | given | {
            "model": self._model,
            "input": [_spoken(said) for said in conversation_in_blocks(execution)],
        }  # fmt: skip
        if options.system_prompt is not None:
            request["instructions"] = options.system_prompt
        if options.max_tokens is not None:
            request["max_output_tokens"] = options.max_tokens
        if options.reasoning_effort is not None:
            request["reasoning"] = {**given.get("reasoning", {}), "effort": options.reasoning_effort}
        if options.output_schema is not None:
            request["text"] = {**given.get("text", {}), "format": _format(options.output_schema)}
        if offered := [*map(_offered, tools), *given.get("tools", ())]:
            request["tools"] = offered
        return request

    def read(self, raw: Raw, answer: Answer) -> Iterable[RawEvent]:
        match raw.get("type"):
            case "response.created":
                response = raw["response"]
                return answer.begun(response.get("id"), response.get("model") or self._model)
            case "response.output_text.delta":
                return answer.said(raw["delta"])
            case "response.refusal.delta":
                answer.stop_reason = REFUSAL
                return answer.said(raw["delta"], refusal=True)
            case "response.output_item.done":
                return _item_ended(raw["item"], answer)
            case "response.completed" | "response.incomplete":
                _ended(raw, answer)
            case "response.failed":
                answer.usage |= usage_of(raw["response"].get("usage"))
                raise _failure(raw["response"].get("error") or {})
            case "error":
                raise _failure(raw)
        return ()

    def go_on(self, request: Request, answer: Answer, results: Sequence[tuple[Call, ToolResult]]) -> Request:
        outputs = [{"type": "function_call_output", "call_id": call.id, "output": told(result)}
                   for call, result in results]  # fmt: skip
        return request | {"input": [*request["input"], *answer.items, *outputs]}


def usage_of(usage: Mapping[str, Any] | None) -> dict[str, int]:
    """In our words: what was read from or written to a cache is not in the input."""
    return counted(usage, "input", "output") if usage else {}


def counted(usage: Mapping[str, Any], input: str, output: str) -> dict[str, int]:
    """Both of OpenAI's protocols count cached tokens in; they differ in two names."""
    details = usage.get(f"{input}_tokens_details") or {}
    read, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    counts = {
        "input_tokens": max(0, (usage.get(f"{input}_tokens") or 0) - read - written),
        "output_tokens": usage.get(f"{output}_tokens") or 0,
        "cache_read_tokens": read,
        "cache_creation_tokens": written,
    }
    reasoning = (usage.get(f"{output}_tokens_details") or {}).get("reasoning_tokens")
    return counts if reasoning is None else counts | {"reasoning_tokens": reasoning}


def image_url(source: Mapping[str, Any]) -> str:
    """An image as OpenAI takes it: its address, or itself as one."""
    if source["type"] == "url":
        return str(source["url"])
    return f"data:{source['media_type']};base64,{source['data']}"


def _spoken(said: Mapping[str, Any]) -> dict[str, Any]:
    role, content = said["role"], said["content"]
    if isinstance(content, str) or role == Role.ASSISTANT:
        return {"role": role, "content": text_in(content)}
    return {"role": role, "content": [_block(block) for block in content]}


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    if block["type"] == "text":
        return {"type": "input_text", "text": block["text"]}
    return {"type": "input_image", "image_url": image_url(block["source"]), "detail": "auto"}


def _format(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "name": "answer", "schema": dict(schema), "strict": True}


def _offered(spec: ToolSpec) -> dict[str, Any]:
    told = {"type": "function", "name": spec.name, "description": spec.description}
    return told | {"parameters": dict(spec.input_schema), "strict": False}


def _item_ended(item: Mapping[str, Any], answer: Answer) -> Iterator[RawEvent]:
    answer.items.append({name: value for name, value in item.items() if value is not None})
    kind = str(item.get("type"))
    if kind == "function_call":
        yield from answer.called(Call.read(item["call_id"], item["name"], item.get("arguments") or ""))
    elif kind.endswith("_call") and "call_id" not in item:
        yield from _ran_there(item, kind.removesuffix("_call"))


def _ran_there(item: Mapping[str, Any], name: str) -> Iterator[RawEvent]:
    """A tool that the provider ran itself, told when it has ended."""
    told = {key: value for key, value in item.items() if key not in ("id", "type", "status") and value is not None}
    call = Call(str(item.get("id")), str(item.get("name") or name), told)
    yield call.event(EventType.TOOL_CALL_STARTED)
    failed = item.get("status") in ("failed", "incomplete")
    yield call.ended(ToolResult({"status": item.get("status")}, is_error=failed))


def _ended(raw: Raw, answer: Answer) -> None:
    response = raw["response"]
    answer.is_complete = True
    answer.usage |= usage_of(response.get("usage"))
    if raw["type"] == "response.incomplete":
        answer.stop_reason = (response.get("incomplete_details") or {}).get("reason") or "incomplete"
    elif answer.calls:
        answer.stop_reason, answer.goes_on = "tool_use", True
    else:
        answer.stop_reason = answer.stop_reason or END_TURN


def _failure(error: Mapping[str, Any]) -> AsmError:
    code = error.get("code")
    return provider_failure("openai", error.get("message") or str(code), classify(type=code), type=code)
