"""
Claude Code's messages as events of ours: no I/O, so that recorded messages are enough to test it.

What counts is what is complete. The text of an answer comes from whole messages: the streamed pieces of an attempt that
broke stay in the stream, and its `message_stop` is made up. A tool's outcome is the user message that carries it. The
result message alone ends a run.

Source: spec/06 §6; docs/design/provider-servers.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import claude_agent_sdk as sdk

from asm_core.adapters.claude_tools import HOST_PREFIX, HOST_SERVER
from asm_core.adapters.failures import CUT, OVERFLOW, classify, provider_failure
from asm_core.domain.errors import AsmError
from asm_core.domain.event import EventType
from asm_core.domain.pricing import NANOS_PER_USD, PriceList, count_of, usd
from asm_core.ports.provider import Completion, RawEvent

PROVIDER = "claude"
SYNTHETIC = "<synthetic>"
"""The model of what the command line says itself."""
TOO_LONG = "prompt_too_long"
"""A reason to end."""

TOKENS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_creation_tokens": "cache_creation_input_tokens",
}
"""Ours and theirs; input is what was neither read from the cache nor written to it, here and there."""
INPUTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class Spending:
    """
    What a run uses, told request by request, and what it cost.

    A request is told at our own price, for bounds to hold while the run goes on; the last one makes the sum what the
    provider says, by minus where it says less.

    Args:
        cost_before: what the provider's session had cost before the run, since it reports the sum; None: nobody knows.
    """

    def __init__(self, prices: PriceList, cost_before: float | None) -> None:
        self.model: str | None = None
        self._prices = prices
        self._cost_before = cost_before
        self._used: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._told_nanos = 0

    def count(self, usage: Mapping[str, Any], *theirs: str) -> None:
        """Some tokens of a request."""
        self._used.update({ours: count_of(usage, name) for ours, name in TOKENS.items() if name in theirs})

    def request(self) -> RawEvent:
        """What was counted since the last request was told."""
        tokens = self._used - self._told
        nanos = self._prices.cost_nanos(tokens, PROVIDER, self.model)
        self._told_nanos += nanos or 0
        return self._usage(tokens, nanos)

    def rest(self, usage: Mapping[str, Any], total_cost: float | None) -> Iterator[RawEvent]:
        """What the provider says of the whole run, as far as it was not told; of a run cut short it says nothing."""
        self._used |= Counter({ours: count_of(usage, theirs) for ours, theirs in TOKENS.items()})
        tokens, reported = self._used - self._told, self.nanos_of_run(total_cost)
        if reported is None:
            nanos = self._prices.cost_nanos(tokens, PROVIDER, self.model)
        else:
            nanos = reported - self._told_nanos
        if tokens or nanos:
            yield self._usage(tokens, nanos)

    def nanos_of_run(self, total_cost: float | None) -> int | None:
        """What the run has added to the cost of the provider's session."""
        if total_cost is None or self._cost_before is None:
            return None
        return round((total_cost - self._cost_before) * NANOS_PER_USD)

    def _usage(self, tokens: Counter[str], nanos: int | None) -> RawEvent:
        self._told += tokens
        cost = {} if nanos is None else {"cost_usd": usd(nanos)}
        return RawEvent(EventType.TOKEN_USAGE_UPDATED, {"input_tokens": 0, "output_tokens": 0, **tokens, **cost})


class ClaudeEvents:
    """One run's messages, each to be taken in order."""

    def __init__(self, spending: Spending) -> None:
        self.spending = spending
        self.session_id: str | None = None
        self.result: sdk.ResultMessage | None = None
        self._opening: list[RawEvent] = []
        """Held back until something has happened: a request that failed before may be repeated."""
        self._failure: str | None = None
        """The provider's word for what its last message failed of."""
        self._message_id: str | None = None
        self._text = ""
        self._open_calls: dict[str, dict[str, Any]] = {}

    @property
    def has_begun(self) -> bool:
        """Whether any event was told."""
        return self.session_id is not None and not self._opening

    def take(self, message: sdk.Message) -> list[RawEvent]:
        """The events that a message makes, most often none."""
        events = [*self._events_of(message)]
        if events or (self.result and not self.result.is_error):
            events = [*self._opening, *events]
            self._opening = []
        return events

    def completion(self) -> Completion:
        """
        How the run ended.

        Raises:
            AsmError: it failed.
        """
        result = self.result
        if result is None:
            raise provider_failure(PROVIDER, "the agent ended without a result", CUT)
        if result.is_error:
            raise self._error(result)
        output = {} if result.structured_output is None else {"object": result.structured_output}
        nanos = self.spending.nanos_of_run(result.total_cost_usd)
        facts = {
            "stop_reason": result.stop_reason or "end_turn",
            "session_id": result.session_id,
            "num_turns": result.num_turns,
            "duration_ms": result.duration_ms,
            "total_cost_usd": None if nanos is None else usd(nanos),
        }
        return Completion(output=output, data={name: fact for name, fact in facts.items() if fact is not None})

    def _events_of(self, message: sdk.Message) -> Iterator[RawEvent]:
        match message:
            case sdk.SystemMessage():
                yield from self._system(message.subtype, message.data)
            case sdk.StreamEvent():
                yield from self._streamed(message.event, is_own=message.parent_tool_use_id is None)
            case sdk.AssistantMessage():
                yield from self._said(message)
            case sdk.UserMessage(content=list() as blocks):
                yield from self._whole_message()
                for block in blocks:
                    if isinstance(block, sdk.ToolResultBlock):
                        yield self._ended(block.tool_use_id, _plain(block.content), block.is_error is True)
            case sdk.ResultMessage():
                yield from self._finished(message)

    def _system(self, subtype: str, data: Mapping[str, Any]) -> Iterator[RawEvent]:
        match subtype:
            case "init" if self.session_id is None:
                self.session_id, self.spending.model = data["session_id"], data.get("model")
                self._opening = [_started(data)]
            case "permission_denied":
                call = {"tool_call_id": data.get("tool_use_id"), "tool_name": _name(data.get("tool_name"))}
                yield RawEvent(EventType.TOOL_APPROVAL_DENIED, call | {"reason": data.get("message")})
            case "api_retry":
                status, kind = data.get("error_status"), data.get("error")
                error = provider_failure(
                    PROVIDER, f"the agent repeats a request that failed: {kind}", classify(status, kind),
                    retry_after_ms=data.get("retry_delay_ms"), status=status,
                )  # fmt: skip
                yield RawEvent(EventType.ERROR_OCCURRED, error.to_event_data() | {"will_retry": True})

    def _streamed(self, event: Mapping[str, Any], *, is_own: bool) -> Iterator[RawEvent]:
        """An event of the API; those of an agent that this one has started count for their tokens only."""
        delta = event.get("delta") or {}
        match event.get("type"):
            case "message_start":
                self.spending.count((event.get("message") or {}).get("usage") or {}, *INPUTS)
            case "content_block_delta" if is_own and delta.get("type") == "text_delta":
                yield RawEvent(EventType.MESSAGE_STREAMED, {"content": delta["text"], "delta": delta["text"]})
            case "message_delta":
                self.spending.count(event.get("usage") or {}, "output_tokens")
                if delta.get("stop_reason") == "tool_use" or not is_own:
                    yield self.spending.request()
            case "message_stop" if is_own:
                yield from self._whole_message()

    def _said(self, message: sdk.AssistantMessage) -> Iterator[RawEvent]:
        """One block of an answer, as a rule; those of one answer have the same id."""
        if message.error or message.model == SYNTHETIC:
            self._failure = message.error
            return
        if message.message_id != self._message_id:
            yield from self._whole_message()
        for block in message.content:
            match block:
                case sdk.TextBlock() if message.parent_tool_use_id is None:
                    self._message_id, self._text = message.message_id, self._text + block.text
                case sdk.ToolUseBlock() | sdk.ServerToolUseBlock():
                    yield from self._whole_message()
                    yield self._called(block.id, block.name, block.input)
                case sdk.ServerToolResultBlock():
                    yield self._ended(block.tool_use_id, block.content, is_error=False)

    def _whole_message(self) -> Iterator[RawEvent]:
        text, self._text = self._text, ""
        if text:
            yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": text, "role": "assistant"})

    def _called(self, call_id: str, name: str, tool_input: object) -> RawEvent:
        given = tool_input if isinstance(tool_input, Mapping) else {}
        call = {"tool_call_id": call_id, "tool_name": _name(name), "tool_input": given}
        self._open_calls[call_id] = call
        return RawEvent(EventType.TOOL_CALL_STARTED, call)

    def _ended(self, call_id: str, output: object, is_error: bool) -> RawEvent:
        call = self._open_calls.pop(call_id, {"tool_call_id": call_id, "tool_name": "unknown", "tool_input": {}})
        if is_error:
            return RawEvent(EventType.TOOL_CALL_FAILED, call | {"tool_output": output, "is_error": True})
        return RawEvent(EventType.TOOL_CALL_COMPLETED, call | {"tool_output": output})

    def _finished(self, result: sdk.ResultMessage) -> Iterator[RawEvent]:
        self.result = result
        yield from self._whole_message()
        yield from self.spending.rest(result.usage or {}, result.total_cost_usd)

    def _error(self, result: sdk.ResultMessage) -> AsmError:
        reason = result.terminal_reason or result.subtype
        message = result.result or "; ".join(result.errors or ()) or f"the agent failed: {reason}"
        what = OVERFLOW if reason == TOO_LONG else classify(result.api_error_status, self._failure)
        return provider_failure(
            PROVIDER, message, what, reason=reason, status=result.api_error_status, type=self._failure,
            provider_session_id=result.session_id,
        )  # fmt: skip


def _started(data: Mapping[str, Any]) -> RawEvent:
    told = {
        "session_id": data["session_id"],
        "model": data.get("model"),
        "tools": [_name(name) for name in data.get("tools") or ()],
        "mcp_servers": [server for server in data.get("mcp_servers") or () if server.get("name") != HOST_SERVER],
        "cwd": data.get("cwd"),
        "provider_version": data.get("claude_code_version"),
    }
    metadata = {"permission_mode": data.get("permissionMode"), "api_key_source": data.get("apiKeySource")}
    return RawEvent(EventType.RUN_STARTED, told, metadata)


def _name(name: object) -> object:
    """A host's tool by the host's own name."""
    return name.removeprefix(HOST_PREFIX) if isinstance(name, str) else name


def _plain(content: object) -> object:
    """A tool's output: text where it is nothing but text, else the blocks as they are."""
    if not isinstance(content, list):
        return content
    texts = [str(block["text"]) for block in content if isinstance(block, Mapping) and block.get("type") == "text"]
    return "\n".join(texts) if len(texts) == len(content) else content
