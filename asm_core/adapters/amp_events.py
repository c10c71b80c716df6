"""
What Amp's command line writes in one run, as our events. Pure: a message as plain JSON in, events out, the state in
`AmpTurn`. It writes whole messages, no deltas.

Source: spec/06 §8, spec/04 §5; docs/design/provider-servers.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from asm_core.adapters.failures import classify, provider_failure
from asm_core.domain.errors import AsmError
from asm_core.domain.event import EventType
from asm_core.ports.provider import RawEvent

Message = Mapping[str, Any]

STATUS = re.compile(r"^(\d{3})\b\s*(.*)", re.DOTALL)
TOLD = {"Unauthorized": 401, "Model Provider Overloaded": 529}
"""Its own words for some statuses; the others it names, with the body behind them."""
TOKENS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_creation_tokens": "cache_creation_input_tokens",
}


@dataclass(slots=True)
class AmpTurn:
    """
    Args:
        about: for `run_started`, beside what the command line says.
        max_turns: requests to the model that the run may make.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    max_turns: int | None = None
    thread_id: str | None = None
    is_over: bool = False
    """There is a result."""
    failure: AsmError | None = None
    told: dict[str, Any] = field(default_factory=dict)
    """Of the result, for the run's end."""
    requests: int = 0
    has_begun: bool = False
    """Something has come of it: it cannot be repeated unnoticed."""
    is_cut_short: bool = False
    """The last answer has no reason to stop: the command line goes on to wait, for ever."""
    exceeds: bool = False
    """The model asks for tools, and the request that would tell it their results is one too many."""
    _tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    _counted: set[str] = field(default_factory=set)
    _has_spoken: bool = False

    def observe(self, message: Message) -> list[RawEvent]:
        """The events of the next message; what is unknown gives none."""
        events = [*self._read(message)]
        return self.begin() + events if events else []

    def begin(self) -> list[RawEvent]:
        """`run_started`, if it was not told yet: it waits for the model's answer, so that a request can be repeated."""
        if self.has_begun:
            return []
        self.has_begun = True
        told = {**self.about, "session_id": self.thread_id}
        return [RawEvent(EventType.RUN_STARTED, {name: value for name, value in told.items() if value is not None})]

    def _read(self, message: Message) -> Iterator[RawEvent]:
        match message.get("type"):
            case "system":
                self.thread_id = message.get("session_id")
                about = {name: message.get(name) for name in ("tools", "cwd", "mcp_servers", "agent_mode")}
                self.about = {**about, **self.about}
            case "assistant":
                yield from self._answer(message["message"], is_main=message.get("parent_tool_use_id") is None)
            case "user":
                for block in _blocks(message["message"]):
                    yield from self._result(block)
            case "result":
                yield from self._end(message)

    def _answer(self, said: Message, *, is_main: bool) -> Iterator[RawEvent]:
        """An agent that the agent itself has started speaks to it alone; its tools and tokens count all the same."""
        blocks = _blocks(said)
        asks = any(block.get("type") == "tool_use" for block in blocks)
        self.is_cut_short = is_main and not asks and said.get("stop_reason") is None
        for block in blocks:
            if block.get("type") == "text" and block.get("text") and is_main:
                yield from self._say(block["text"])
            elif block.get("type") == "tool_use":
                call = {"tool_call_id": block["id"], "tool_name": block["name"], "tool_input": block.get("input") or {}}
                self._tools[block["id"]] = call
                self.exceeds = self.max_turns is not None and self.requests >= self.max_turns - 1
                yield RawEvent(EventType.TOOL_CALL_STARTED, call)
        yield from self._usage(said)

    def _say(self, text: str) -> Iterator[RawEvent]:
        self._has_spoken = True
        yield RawEvent(EventType.MESSAGE_STREAMED, {"content": text, "delta": text})
        yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": text, "role": "assistant"})

    def _usage(self, said: Message) -> Iterator[RawEvent]:
        """Once per request, which may have its answer in several messages."""
        request = said.get("id")
        if request is not None and request in self._counted:
            return
        if request is not None:
            self._counted.add(request)
        self.requests += 1
        if usage := said.get("usage"):
            yield RawEvent(EventType.TOKEN_USAGE_UPDATED, {ours: usage.get(its) or 0 for ours, its in TOKENS.items()})

    def _result(self, block: Message) -> Iterator[RawEvent]:
        if block.get("type") != "tool_result" or block.get("is_error") is None:
            return
        self._has_spoken = False
        unknown = {"tool_call_id": block["tool_use_id"], "tool_name": None, "tool_input": {}}
        call = self._tools.pop(block["tool_use_id"], unknown)
        output = {"tool_output": _output(block.get("content"))}
        if block["is_error"]:
            yield RawEvent(EventType.TOOL_CALL_FAILED, call | output | {"is_error": True})
        else:
            yield RawEvent(EventType.TOOL_CALL_COMPLETED, call | output)

    def _end(self, result: Message) -> Iterator[RawEvent]:
        self.is_over, self.is_cut_short = True, False
        self.told = {"duration_ms": result.get("duration_ms"), "num_turns": result.get("num_turns")}
        if result.get("is_error"):
            self.failure = failure_of(result)
        elif result.get("result") and not self._has_spoken:
            yield from self._say(result["result"])


def failure_of(result: Message) -> AsmError:
    """What an error result says, which is text alone."""
    message = result.get("error") or "Amp gave no reason"
    status, type_ = _status_and_type(message)
    reason = "max_turns" if result.get("subtype") == "error_max_turns" else None
    denials = result.get("permission_denials") or None
    what = classify(status, type_)
    return provider_failure("amp", message, what, status=status, type=type_, reason=reason, permission_denials=denials)


def _status_and_type(message: str) -> tuple[int | None, str | None]:
    for words, status in TOLD.items():
        if message.startswith(words):
            return status, None
    if (named := STATUS.match(message)) is None:
        return None, None
    type_ = None
    with suppress(ValueError, TypeError, KeyError):
        type_ = json.loads(named[2])["error"]["type"]
    return int(named[1]), type_


def _blocks(said: Message) -> list[Message]:
    content = said.get("content")
    return [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []


def _output(content: Any) -> Any:
    """A tool's result is JSON in a text, or a text."""
    with suppress(ValueError, TypeError):
        value = json.loads(content)
        if isinstance(value, dict):
            return value
    return content
