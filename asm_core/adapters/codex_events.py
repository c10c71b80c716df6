"""
What Codex's app-server tells of one turn, as our events. Pure: a notification in, events out, the state in `CodexTurn`.

A notification is its method and its parameters as plain JSON, with the server's own names (camelCase). Tool calls that
the server refuses leave no item; they are seen in the model's raw output alone, where the server tells of that.

Source: spec/06 §7, spec/04 §4; docs/design/provider-servers.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from asm_core.adapters.failures import CUT, classify, provider_failure
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.provider_error import ProviderErrorKind
from asm_core.ports.provider import RawEvent

Params = Mapping[str, Any]

INTERRUPTED = "interrupted"
"""What a tool call comes to that was still open at its turn's end."""

NO_TOOLS = frozenset({
    "userMessage", "agentMessage", "reasoning", "plan", "imageView", "enteredReviewMode", "exitedReviewMode",
    "contextCompaction", "hookPrompt", "todoList", "error", "ghostSnapshot",
})  # fmt: skip
QUIET = frozenset({
    "write_stdin", "view_image", "tool_search", "request_user_input", "update_plan",
    "get_goal", "create_goal", "update_goal",
})  # fmt: skip
"""Tools that leave no item although they run; any other call without an item was refused."""
UNSUPPORTED = "unsupported call"
EXIT_CODE = re.compile(r"^Process exited with code (\d+)$", re.MULTILINE)

SPECIFIC: Mapping[str, str] = {
    "contextWindowExceeded": "context_length_exceeded",
    "usageLimitExceeded": "usage_limit_exceeded",
    "sessionBudgetExceeded": "usage_limit_exceeded",
    "rateLimitExceeded": "rate_limit_exceeded",
    "serverOverloaded": "overloaded_error",
    "flexUnavailable": "overloaded_error",
    "internalServerError": "server_error",
    "unauthorized": "authentication_error",
    "badRequest": "invalid_request_error",
}
"""`codexErrorInfo` → the type that `failures` knows."""
LOST_STREAMS = frozenset({"httpConnectionFailed", "responseStreamConnectionFailed", "responseStreamDisconnected"})
STREAM_WAS_CUT = "stream disconnected before completion"
"""Without retries of its own the server has no type for this, only its constant text."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that has not come to its end."""

    id: str
    name: str
    input: Mapping[str, Any]

    def started(self) -> RawEvent:
        return RawEvent(EventType.TOOL_CALL_STARTED, self._told())

    def ended(self, output: Any, *, failed: bool) -> RawEvent:
        kind = EventType.TOOL_CALL_FAILED if failed else EventType.TOOL_CALL_COMPLETED
        return RawEvent(kind, self._told() | {"tool_output": output} | ({"is_error": True} if failed else {}))

    def _told(self) -> dict[str, Any]:
        return {"tool_call_id": self.id, "tool_name": self.name, "tool_input": dict(self.input)}


@dataclass(slots=True)
class CodexTurn:
    """
    Args:
        about: for `run_started`, beside the turn's id.
        max_turns: requests to the model that the turn may make.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    max_turns: int | None = None
    status: str | None = None
    """`completed`, `failed` or `interrupted`, once the turn has ended."""
    failure: AsmError | None = None
    content: str = ""
    """The last message."""
    requests: int = 0
    """Answers of the model that are complete."""
    duration_ms: int | None = None
    has_begun: bool = False
    """Something has come of it: it cannot be repeated unnoticed."""
    exceeds: bool = False
    """The model asks for tools, and the request that would tell it their results is one too many."""
    calls: dict[str, Call] = field(default_factory=dict)
    """Open ones, by id."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Why the host refused a call, by its id."""
    _turn_id: str | None = None
    _asked: dict[str, Call] = field(default_factory=dict)
    _items: set[str] = field(default_factory=set)
    _streamed: set[str] = field(default_factory=set)
    _total: Any = None
    _has_answered: bool = False
    """With a message, since the last request."""

    def observe(self, method: str, params: Params) -> list[RawEvent]:
        """The events of the next notification; what is unknown gives none."""
        reader = READERS.get(method)
        events = [*reader(self, params)] if reader else []
        if events and not self.has_begun:
            self.has_begun = True
            events.insert(0, self._started())
        return events

    def open_call(self, prefix: str, input: Mapping[str, Any]) -> Call | None:
        """The open one with such a name and this input."""
        return next(
            (call for call in self.calls.values() if call.name.startswith(prefix) and call.input == input), None
        )

    def close(self) -> list[RawEvent]:
        """Ends the calls that are open; the server leaves that out when a turn is interrupted or fails."""
        ended = [call.ended(INTERRUPTED, failed=True) for call in self.calls.values()]
        self.calls.clear()
        return ended

    def begin(self) -> list[RawEvent]:
        """`run_started`, if it was not told yet: it waits for the model's answer, so that a request can be repeated."""
        if self.has_begun:
            return []
        self.has_begun = True
        return [self._started()]

    def _started(self) -> RawEvent:
        told = {**self.about, "turn_id": self._turn_id}
        return RawEvent(EventType.RUN_STARTED, {name: value for name, value in told.items() if value is not None})

    # Readers of notifications

    def _turn_started(self, params: Params) -> Iterator[RawEvent]:
        self._turn_id = params["turn"]["id"]
        yield from ()

    def _delta(self, params: Params) -> Iterator[RawEvent]:
        if text := params.get("delta"):
            self._streamed.add(params["itemId"])
            yield RawEvent(EventType.MESSAGE_STREAMED, {"content": text, "delta": text})

    def _item_started(self, params: Params) -> Iterator[RawEvent]:
        item = params["item"]
        if item["type"] not in NO_TOOLS:
            yield from self._open(item)

    def _item_completed(self, params: Params) -> Iterator[RawEvent]:
        item = params["item"]
        if item["type"] == "agentMessage":
            yield from self._message(item)
        elif item["type"] not in NO_TOOLS:
            yield from self._open(item)
            yield self._end(item)

    def _message(self, item: Params) -> Iterator[RawEvent]:
        text = item.get("text") or ""
        self._has_answered = True
        if not text:
            return
        self.content = text
        if item["id"] not in self._streamed:
            yield RawEvent(EventType.MESSAGE_STREAMED, {"content": text, "delta": text})
        yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": text, "role": "assistant"})

    def _open(self, item: Params) -> Iterator[RawEvent]:
        """Also for an item that is told of at its end only."""
        if item["id"] in self._items:
            return
        self._items.add(item["id"])
        call = Call(item["id"], _name(item), _input(item, self._asked.get(item["id"])))
        self.calls[call.id] = call
        self._ask()
        yield call.started()

    def _end(self, item: Params) -> RawEvent:
        call = self.calls.pop(item["id"], None) or Call(item["id"], _name(item), _input(item, None))
        failed = item.get("status") in ("failed", "declined") or item.get("success") is False
        output = _output(item)
        if reason := self.refusals.get(call.id):
            output = {**output, "error": reason}
        return call.ended(output, failed=failed)

    def _raw_item(self, params: Params) -> Iterator[RawEvent]:
        """A call before it runs, and what the model gets to read of it."""
        item = params["item"]
        if item["type"] in ("function_call", "custom_tool_call"):
            self._asked[item["call_id"]] = _asked(item)
            self._ask()
        elif item["type"] in ("function_call_output", "custom_tool_call_output"):
            call = self._asked.get(item["call_id"])
            if call is not None and call.id not in self._items:
                self._items.add(call.id)
                output = _text(item.get("output"))
                yield call.started()
                yield call.ended({"output": output}, failed=_was_refused(call, output))

    def _ask(self) -> None:
        self.exceeds = self.exceeds or (self.max_turns is not None and self.requests >= self.max_turns - 1)

    def _usage(self, params: Params) -> Iterator[RawEvent]:
        """One per answer of the model; told again when only limits have changed."""
        usage = params["tokenUsage"]
        if usage["total"] == self._total:
            return
        self._total = usage["total"]
        self.requests += 1
        if not self._has_answered and self.max_turns is not None and self.requests >= self.max_turns:
            self.exceeds = True  # a call that only raw output would have told of
        self._has_answered = False
        yield RawEvent(EventType.TOKEN_USAGE_UPDATED, _tokens(usage["last"]))

    def _error(self, params: Params) -> Iterator[RawEvent]:
        if params.get("willRetry"):
            error = failure_of(params["error"])
            yield RawEvent(EventType.ERROR_OCCURRED, error.to_event_data() | {"will_retry": True})

    def _turn_completed(self, params: Params) -> Iterator[RawEvent]:
        turn = params["turn"]
        self.status, self.duration_ms = turn["status"], turn.get("durationMs")
        if self.status == "failed":
            self.failure = failure_of(turn.get("error") or {})
        yield from self.close()


READERS: Mapping[str, Callable[[CodexTurn, Params], Iterator[RawEvent]]] = {
    "turn/started": CodexTurn._turn_started,
    "item/agentMessage/delta": CodexTurn._delta,
    "item/started": CodexTurn._item_started,
    "item/completed": CodexTurn._item_completed,
    "rawResponseItem/completed": CodexTurn._raw_item,
    "thread/tokenUsage/updated": CodexTurn._usage,
    "error": CodexTurn._error,
    "turn/completed": CodexTurn._turn_completed,
}


def failure_of(error: Params) -> AsmError:
    """What `codexErrorInfo` says, as an error of ours."""
    message, info = error.get("message") or "Codex gave no reason", error.get("codexErrorInfo")
    word, said = next(iter(info.items())) if isinstance(info, Mapping) and info else (info, None)
    status = said.get("httpStatusCode") if isinstance(said, Mapping) else None
    if isinstance(word, str) and word in SPECIFIC:
        what = classify(type=SPECIFIC[word])
    elif status is not None:
        what = classify(status)
    elif word in LOST_STREAMS or message.startswith(STREAM_WAS_CUT):
        what = CUT
    elif word == "cyberPolicy":
        what = (ErrorCode.PROVIDER_ERROR, ProviderErrorKind.REFUSAL)
    else:
        what = classify(type=_type_in(message))
    more = error.get("additionalDetails")
    return provider_failure("codex", message, what, status=status, type=word, additional_details=more)


def _type_in(message: str) -> str | None:
    """The server hands on the body of a refused request as its message."""
    with suppress(ValueError):
        told = json.loads(message)
        if isinstance(told, Mapping) and isinstance(told.get("error"), Mapping):
            code = told["error"].get("code") or told["error"].get("type")
            return code if isinstance(code, str) else None
    return None


def _tokens(last: Params) -> dict[str, int]:
    """Codex counts what came from the cache, or went there, as input; our input is without it."""
    read, written = last.get("cachedInputTokens") or 0, last.get("cacheWriteInputTokens") or 0
    return {
        "input_tokens": max(0, last["inputTokens"] - read - written),
        "output_tokens": last["outputTokens"],
        "cache_read_tokens": read,
        "cache_creation_tokens": written,
        "reasoning_tokens": last.get("reasoningOutputTokens") or 0,
    }


# Items


def _name(item: Params) -> str:
    match item["type"]:
        case "commandExecution":
            return "bash"
        case "fileChange":
            return "apply_patch"
        case "mcpToolCall":
            named = [item.get("server"), item.get("tool")]
            return ":".join(part for part in named if part) or "mcp_tool"
        case "dynamicToolCall":
            return item.get("tool") or "dynamic_tool"
        case kind:
            return re.sub("([A-Z])", r"_\1", kind).lower()


ABOUT_THE_CALL = frozenset({"id", "type", "status", "output", "result", "error", "success", "durationMs"})


def _input(item: Params, asked: Call | None) -> dict[str, Any]:
    match item["type"]:
        case "commandExecution":
            command = asked.input.get("command") if asked else None
            return {"command": command or item.get("command"), "cwd": item.get("cwd")}
        case "fileChange":
            return {"changes": item.get("changes") or []}
        case "mcpToolCall" | "dynamicToolCall":
            return dict(item["arguments"]) if isinstance(item.get("arguments"), Mapping) else {}
    return {name: value for name, value in item.items() if name not in ABOUT_THE_CALL}


def _output(item: Params) -> dict[str, Any]:
    match item["type"]:
        case "commandExecution":
            told = {"output": item.get("aggregatedOutput") or "", "exit_code": item.get("exitCode")}
            return told | {"status": item.get("status"), "duration_ms": item.get("durationMs")}
        case "fileChange":
            return {"status": item.get("status"), "changes": item.get("changes") or []}
        case "mcpToolCall":
            failed = item.get("status") == "failed" and item.get("error")
            return _wrapped(item.get("error") if failed else item.get("result"))
        case "dynamicToolCall":
            return _wrapped(item.get("contentItems"))
    return {name: item[name] for name in ("output", "result", "error", "status") if item.get(name) is not None}


def _wrapped(value: Any) -> dict[str, Any]:
    """An output is always a mapping."""
    if isinstance(value, Mapping):
        return dict(value)
    if value is None:
        return {}
    return {"items": value} if isinstance(value, list) else {"value": value}


# The model's own output


def _asked(item: Params) -> Call:
    """As the item of this call would tell of it."""
    name, said = item["name"], item.get("arguments", item.get("input"))
    arguments = _parsed(said)
    if name == "exec_command":
        given = {"command": arguments.get("cmd"), "cwd": arguments.get("workdir")}
        return Call(item["call_id"], "bash", {key: value for key, value in given.items() if value is not None})
    if name == "apply_patch":
        return Call(item["call_id"], name, {"patch": said})
    server = (item.get("namespace") or "").removeprefix("mcp__")
    return Call(item["call_id"], f"{server}:{name}" if server else name, arguments)


def _parsed(given: object) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(given) if isinstance(given, str) else given
        if isinstance(value, Mapping):
            return dict(value)
    return {}


def _was_refused(call: Call, output: str) -> bool:
    if call.name in QUIET:
        return output.startswith(UNSUPPORTED)
    exited = EXIT_CODE.search(output)
    return exited is None or exited[1] != "0"


def _text(output: Any) -> str:
    if isinstance(output, list):
        return "\n".join(block.get("text", "") for block in output if isinstance(block, Mapping))
    return output if isinstance(output, str) else json.dumps(output)
