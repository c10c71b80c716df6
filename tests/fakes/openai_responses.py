"""OpenAI's Responses API, as the SDK and Codex call it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, ClassVar, assert_never

import orjson

from tests.fakes.dialect import Dialect, Json, joined
from tests.fakes.script import Asked, Failure, Part, Refused, Reply, Stop, StreamError, Text, Thinking, ToolCall

_ids = count(1)
CREATED_AT = 1760000000
LAST = 1_000_000
"""Sequence number of an error: behind everything that came before."""
CODES = {
    Failure.AUTH: "invalid_api_key",
    Failure.FORBIDDEN: "unsupported_country_region_territory",
    Failure.NOT_FOUND: "model_not_found",
    Failure.INVALID: "invalid_prompt",
    Failure.CONTEXT_LENGTH: "context_length_exceeded",
    Failure.TOO_LARGE: "request_too_large",
    Failure.RATE_LIMIT: "rate_limit_exceeded",
    Failure.QUOTA: "insufficient_quota",
    Failure.SERVER_ERROR: "server_error",
    Failure.OVERLOADED: "server_is_overloaded",
}
TYPES = {
    Failure.RATE_LIMIT: "requests",
    Failure.QUOTA: "insufficient_quota",
    Failure.SERVER_ERROR: "server_error",
    Failure.OVERLOADED: "server_error",
}
"""Of all other failures: `invalid_request_error`."""


class OpenAIError(Dialect):
    """What both of OpenAI's protocols share: how an HTTP error looks."""

    statuses: ClassVar = {
        Failure.AUTH: 401, Failure.FORBIDDEN: 403, Failure.NOT_FOUND: 404, Failure.INVALID: 400,
        Failure.CONTEXT_LENGTH: 400, Failure.TOO_LARGE: 413, Failure.RATE_LIMIT: 429, Failure.QUOTA: 429,
        Failure.SERVER_ERROR: 500, Failure.OVERLOADED: 503,
    }  # fmt: skip

    def error(self, refused: Refused) -> Json:
        return {"error": error_object(refused.failure, refused.message)}


def error_object(failure: Failure, message: str) -> Json:
    kind = TYPES.get(failure, "invalid_request_error")
    return {"type": kind, "code": CODES[failure], "message": message, "param": None}


class OpenAIResponses(OpenAIError):
    def read(self, body: Json) -> Asked:
        asked = body.get("input") or []
        items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        said = (joined(item["content"], ("input_text", "text")) for item in items if item.get("role") == "user")
        return Asked(body["model"], tuple(filter(None, said)), bool(body.get("stream")))

    def stream(self, reply: Reply, asked: Asked) -> Iterator[Json | None]:
        response = _response(asked)
        numbers = count()
        for event in _events(reply, response):
            yield event and event | {"sequence_number": next(numbers)}

    def whole(self, reply: Reply, asked: Asked) -> Json:
        return _finished(reply, _response(asked), [_item(part, reply.stop) for part in reply.parts])

    def error_event(self, error: StreamError, asked: Asked) -> Json:
        told = error_object(error.failure, f"scripted in the stream: {error.failure}")
        if not error.as_response:
            return {"type": "error", "sequence_number": LAST} | {key: told[key] for key in ("code", "message", "param")}
        failed = {"status": "failed", "error": {"code": told["code"], "message": told["message"]}}
        return {"type": "response.failed", "sequence_number": LAST, "response": _response(asked) | failed}


def _events(reply: Reply, response: Json) -> Iterator[Json | None]:
    yield {"type": "response.created", "response": response}
    yield {"type": "response.in_progress", "response": response}
    items = []
    for index, part in enumerate(reply.parts):
        item = _item(part, reply.stop)
        place = {"output_index": index, "item_id": item["id"]}
        yield {"type": "response.output_item.added", "output_index": index, "item": _opened(item)}
        before, after = _within(part, item, reply.stop)
        yield from (event | place for event in before)
        if part is reply.parts[-1]:
            yield None
        yield from (event | place for event in after)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
        items.append(item)
    finished = _finished(reply, response, items)
    yield {"type": f"response.{finished['status']}", "response": finished}


def _within(part: Part, item: Json, stop: Stop) -> tuple[Iterator[Json], list[Json]]:
    """The events between an item's opening and its end: up to its last delta, and from there on."""
    match part:
        case Text() if stop is Stop.REFUSAL:
            return _spoken(part, item["content"][0], "refusal")
        case Text():
            return _spoken(part, item["content"][0], "output_text")
        case Thinking():
            return _summarised(part.text)
        case ToolCall(input=str()):
            return _called(item["input"], "custom_tool_call_input", {"input": item["input"]})
        case ToolCall():
            done = {"arguments": item["arguments"], "name": part.name}
            return _called(item["arguments"], "function_call_arguments", done)
        case _:
            assert_never(part)


def _spoken(part: Text, content: Json, kind: str) -> tuple[Iterator[Json], list[Json]]:
    key = "refusal" if kind == "refusal" else "text"
    extra: Json = {"content_index": 0} | ({} if kind == "refusal" else {"logprobs": []})

    def before() -> Iterator[Json]:
        yield {"type": "response.content_part.added", "content_index": 0, "part": content | {key: ""}}
        for piece in part.deltas():
            yield {"type": f"response.{kind}.delta", "delta": piece} | extra

    done = {"type": f"response.{kind}.done", key: part.text} | extra
    return before(), [done, {"type": "response.content_part.done", "content_index": 0, "part": content}]


def _summarised(text: str) -> tuple[Iterator[Json], list[Json]]:
    name = "response.reasoning_summary"
    part = {"type": "summary_text", "text": text}
    before = [
        {"type": f"{name}_part.added", "summary_index": 0, "part": part | {"text": ""}},
        {"type": f"{name}_text.delta", "summary_index": 0, "delta": text},
    ]
    done = {"type": f"{name}_text.done", "summary_index": 0, "text": text}
    return iter(before), [done, {"type": f"{name}_part.done", "summary_index": 0, "part": part}]


def _called(arguments: str, kind: str, done: Json) -> tuple[Iterator[Json], list[Json]]:
    half = len(arguments) // 2
    before = ({"type": f"response.{kind}.delta", "delta": piece} for piece in (arguments[:half], arguments[half:]))
    return before, [{"type": f"response.{kind}.done"} | done]


def _item(part: Part, stop: Stop) -> Json:
    match part:
        case Text() if stop is Stop.REFUSAL:
            return _message([{"type": "refusal", "refusal": part.text}])
        case Text():
            return _message([{"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}])
        case Thinking():
            summary = [{"type": "summary_text", "text": part.text}]
            return {
                "id": f"rs_{next(_ids):06d}",
                "type": "reasoning",
                "summary": summary,
                "encrypted_content": "c2VhbGVk",
            }
        case ToolCall(input=str()):
            named = {"id": f"ctc_{next(_ids):06d}", "type": "custom_tool_call", "status": "completed"}
            return named | {"call_id": part.id, "name": part.name, "input": part.input}
        case ToolCall():
            arguments = orjson.dumps(part.input).decode()
            named = {"id": f"fc_{next(_ids):06d}", "type": "function_call", "status": "completed"}
            space = {} if part.namespace is None else {"namespace": part.namespace}
            return named | space | {"call_id": part.id, "name": part.name, "arguments": arguments}
        case _:
            assert_never(part)


def _message(content: list[Json]) -> Json:
    return {
        "id": f"msg_{next(_ids):06d}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }


def _opened(item: Json) -> Json:
    empty: dict[str, Any] = {"content": [], "summary": [], "arguments": "", "input": ""}
    opened = item | {key: value for key, value in empty.items() if key in item}
    return opened | ({"status": "in_progress"} if "status" in item else {})


def _response(asked: Asked) -> Json:
    return {
        "id": f"resp_{asked.number:06d}", "object": "response", "created_at": CREATED_AT, "model": asked.model,
        "status": "in_progress", "output": [], "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
        "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "usage": None,
    }  # fmt: skip


def _finished(reply: Reply, response: Json, items: list[Json]) -> Json:
    cut = reply.stop in (Stop.MAX_TOKENS, Stop.CONTEXT_WINDOW)
    reason = {"incomplete_details": {"reason": "max_output_tokens"}} if cut else {}
    status = "incomplete" if cut else "completed"
    return response | reason | {"status": status, "output": items, "usage": _usage(reply)}


def _usage(reply: Reply) -> Json:
    usage = reply.usage
    taken = usage.input + usage.cache_read + usage.cache_write
    return {
        "input_tokens": taken,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": taken + usage.output,
    }
