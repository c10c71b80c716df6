"""Anthropic's Messages API, as the SDK, Claude Code and Amp's command line call it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import ClassVar, assert_never

import orjson

from tests.fakes.dialect import Dialect, Json, joined
from tests.fakes.script import Asked, Failure, Part, Refused, Reply, Stop, StreamError, Text, Thinking, ToolCall

_ids = count(1)
STOPS = {
    Stop.DONE: "end_turn",
    Stop.MAX_TOKENS: "max_tokens",
    Stop.REFUSAL: "refusal",
    Stop.CONTEXT_WINDOW: "model_context_window_exceeded",
    Stop.PAUSE: "pause_turn",
}
TYPES = {
    Failure.AUTH: "authentication_error",
    Failure.FORBIDDEN: "permission_error",
    Failure.NOT_FOUND: "not_found_error",
    Failure.INVALID: "invalid_request_error",
    Failure.CONTEXT_LENGTH: "invalid_request_error",
    Failure.TOO_LARGE: "request_too_large",
    Failure.RATE_LIMIT: "rate_limit_error",
    Failure.QUOTA: "billing_error",
    Failure.SERVER_ERROR: "api_error",
    Failure.OVERLOADED: "overloaded_error",
}
TOO_LONG = "prompt is too long: 200001 tokens > 200000 maximum"


class AnthropicMessages(Dialect):
    statuses: ClassVar = {
        Failure.AUTH: 401, Failure.FORBIDDEN: 403, Failure.NOT_FOUND: 404, Failure.INVALID: 400,
        Failure.CONTEXT_LENGTH: 400, Failure.TOO_LARGE: 413, Failure.RATE_LIMIT: 429, Failure.QUOTA: 402,
        Failure.SERVER_ERROR: 500, Failure.OVERLOADED: 529,
    }  # fmt: skip
    garbage: ClassVar = b'event: content_block_delta\ndata: {"type": "content_bl\n\n'

    def read(self, body: Json) -> Asked:
        said = (joined(message["content"]) for message in body["messages"] if message["role"] == "user")
        return Asked(body["model"], tuple(filter(None, said)), bool(body.get("stream")))

    def stream(self, reply: Reply, asked: Asked) -> Iterator[Json | None]:
        usage = _usage(reply) | {"output_tokens": 1}
        start = _message(asked) | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        yield {"type": "message_start", "message": start}
        yield {"type": "ping"}
        for index, part in enumerate(reply.parts):
            yield {"type": "content_block_start", "index": index, "content_block": _opened(part)}
            for delta in _deltas(part):
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            if part is reply.parts[-1]:
                yield None
            yield {"type": "content_block_stop", "index": index}
        ending = {"stop_reason": _stop_reason(reply), "stop_sequence": None}
        yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": reply.usage.output}}
        yield {"type": "message_stop"}

    def whole(self, reply: Reply, asked: Asked) -> Json:
        ending = {"stop_reason": _stop_reason(reply), "stop_sequence": None, "usage": _usage(reply)}
        return _message(asked) | {"content": [_block(part) for part in reply.parts]} | ending

    def error(self, refused: Refused) -> Json:
        message = TOO_LONG if refused.failure is Failure.CONTEXT_LENGTH else refused.message
        return _error(refused.failure, message) | {"request_id": f"req_{next(_ids):06d}"}

    def error_event(self, error: StreamError, asked: Asked) -> Json:
        return _error(error.failure, f"scripted in the stream: {error.failure}")


def count_tokens(body: Json) -> Json:
    """The answer to `/v1/messages/count_tokens`: a token for every four bytes."""
    return {"input_tokens": len(orjson.dumps(body["messages"])) // 4}


def _message(asked: Asked) -> Json:
    return {"id": f"msg_{asked.number:06d}", "type": "message", "role": "assistant", "model": asked.model}


def _error(failure: Failure, message: str) -> Json:
    return {"type": "error", "error": {"type": TYPES[failure], "message": message}}


def _stop_reason(reply: Reply) -> str:
    return "tool_use" if reply.calls and reply.stop is Stop.DONE else STOPS[reply.stop]


def _usage(reply: Reply) -> Json:
    usage = reply.usage
    return {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_creation": {"ephemeral_5m_input_tokens": usage.cache_write, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
    }


def _opened(part: Part) -> Json:
    match part:
        case Text():
            return {"type": "text", "text": ""}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
        case _:
            assert_never(part)


def _deltas(part: Part) -> Iterator[Json]:
    match part:
        case Text():
            yield from ({"type": "text_delta", "text": piece} for piece in part.deltas())
        case Thinking():
            yield {"type": "thinking_delta", "thinking": part.text}
            yield {"type": "signature_delta", "signature": "c2lnbmVk"}
        case ToolCall():
            whole = orjson.dumps(part.input).decode()
            half = len(whole) // 2
            yield from (
                {"type": "input_json_delta", "partial_json": piece} for piece in ("", whole[:half], whole[half:])
            )
        case _:
            assert_never(part)


def _block(part: Part) -> Json:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Thinking():
            return {"type": "thinking", "thinking": part.text, "signature": "c2lnbmVk"}
        case ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.input}
        case _:
            assert_never(part)
