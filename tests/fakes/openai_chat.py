"""OpenAI's Chat Completions, which many servers speak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, assert_never

import orjson

from tests.fakes.dialect import Json, joined
from tests.fakes.openai_responses import CREATED_AT, OpenAIError, error_object
from tests.fakes.script import Asked, Part, Reply, Stop, StreamError, Text, Thinking, ToolCall


class OpenAIChat(OpenAIError):
    end: ClassVar[bytes] = b"data: [DONE]\n\n"

    def read(self, body: Json) -> Asked:
        said = (joined(message["content"]) for message in body["messages"] if message["role"] == "user")
        return Asked(body["model"], tuple(filter(None, said)), bool(body.get("stream")))

    def stream(self, reply: Reply, asked: Asked) -> Iterator[Json | None]:
        head = {"id": f"chatcmpl-{asked.number:06d}", "object": "chat.completion.chunk"} | _common(asked)
        yield head | {"choices": [_choice({"role": "assistant", "content": ""})]}
        calls = {call.id: index for index, call in enumerate(reply.calls)}
        for part in reply.parts:
            for delta in _deltas(part, calls, reply.stop):
                yield head | {"choices": [_choice(delta)]}
        yield None
        yield head | {"choices": [_choice({}, _finish_reason(reply))]}
        yield head | {"choices": [], "usage": _usage(reply)}

    def whole(self, reply: Reply, asked: Asked) -> Json:
        said = "refusal" if reply.stop is Stop.REFUSAL else "content"
        message = {"role": "assistant", "content": None} | ({said: reply.text} if reply.text else {})
        if reply.calls:
            message["tool_calls"] = [_call(call) for call in reply.calls]
        choice = {"index": 0, "message": message, "finish_reason": _finish_reason(reply), "logprobs": None}
        head = {"id": f"chatcmpl-{asked.number:06d}", "object": "chat.completion"} | _common(asked)
        return head | {"choices": [choice], "usage": _usage(reply)}

    def error_event(self, error: StreamError, asked: Asked) -> Json:
        return {"error": error_object(error.failure, f"scripted in the stream: {error.failure}")}


def _common(asked: Asked) -> Json:
    return {"created": CREATED_AT, "model": asked.model}


def _choice(delta: Json, finish_reason: str | None = None) -> Json:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}


def _deltas(part: Part, calls: dict[str, int], stop: Stop) -> Iterator[Json]:
    match part:
        case Text():
            said = "refusal" if stop is Stop.REFUSAL else "content"
            yield from ({said: piece} for piece in part.deltas())
        case Thinking():
            pass  # has no place in this protocol
        case ToolCall():
            opened, index = _call(part), calls[part.id]
            arguments = opened["function"].pop("arguments")
            opened["function"]["arguments"] = ""
            yield {"tool_calls": [opened | {"index": index}]}
            half = len(arguments) // 2
            for piece in (arguments[:half], arguments[half:]):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
        case _:
            assert_never(part)


def _call(call: ToolCall) -> Json:
    arguments = orjson.dumps(call.input).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _finish_reason(reply: Reply) -> str:
    if reply.calls and reply.stop is Stop.DONE:
        return "tool_calls"
    return "length" if reply.stop in (Stop.MAX_TOKENS, Stop.CONTEXT_WINDOW) else "stop"


def _usage(reply: Reply) -> Json:
    usage = reply.usage
    taken = usage.input + usage.cache_read + usage.cache_write
    return {
        "prompt_tokens": taken,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
        "completion_tokens": usage.output,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": taken + usage.output,
    }
