"""Events to a run's result; the only projection there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asm_core.domain.event import Event, EventType


@dataclass(slots=True)
class RunResult:
    """
    What the events of one execution add up to.

    `content` is the text of the final turn: all assistant text after the last tool result, or, where nothing was said
    after it, what was said last. Complete messages count, streamed chunks only where no complete message followed.
    """

    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    provider_metadata: dict[str, Any] = field(default_factory=dict)
    turn_count: int = 0
    open_calls: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Calls of tools that have not come to an end, by their ids."""
    _messages: list[str] = field(default_factory=list)
    _chunks: list[str] = field(default_factory=list)
    _before_tools: str = ""

    @property
    def content(self) -> str:
        return "".join([*self._messages, *self._chunks]) or self._before_tools

    @property
    def output(self) -> dict[str, Any]:
        return {"content": self.content, "tool_calls": list(self.tool_calls)}

    @property
    def is_empty(self) -> bool:
        return not (self.content or self.tool_calls)

    def observe(self, event: Event) -> None:
        """Take in the next event, in emission order."""
        data = event.data
        match event.type:
            case EventType.RUN_STARTED:
                self._remember_provider(data)
            case EventType.MESSAGE_STREAMED:
                self._chunks.append(_text(data.get("delta") or data.get("content")))
            case EventType.MESSAGE_RECEIVED:
                self._messages.append(_text(data.get("content")) or "".join(self._chunks))
                self._chunks.clear()
                self.turn_count += 1
            case EventType.TOOL_CALL_STARTED:
                self.open_calls[_text(data.get("tool_call_id"))] = data
            case EventType.TOOL_CALL_COMPLETED | EventType.TOOL_CALL_FAILED:
                self.open_calls.pop(_text(data.get("tool_call_id")), None)
                self._before_tools = self.content
                self._messages.clear()
                self._chunks.clear()
                self.tool_calls.append(_tool_call(data))

    def _remember_provider(self, data: Any) -> None:
        found = {"provider_session_id": provider_handle(data), "model": data.get("model"), "tools": data.get("tools")}
        self.provider_metadata |= {key: value for key, value in found.items() if value is not None}


def provider_handle(data: Mapping[str, Any]) -> str | None:
    """The provider's name of its own session, as a `run_started` tells it."""
    handle = data.get("provider_session_id") or data.get("session_id") or data.get("thread_id")
    return handle if isinstance(handle, str) else None


def _tool_call(data: Any) -> dict[str, Any]:
    keys = {"id": "tool_call_id", "name": "tool_name", "input": "tool_input", "output": "tool_output"}
    return {short: data[key] for short, key in keys.items() if key in data}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
