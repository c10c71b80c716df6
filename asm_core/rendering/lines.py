"""One numbered line per event, for reading a log while it grows; streamed text appears as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asm_core.domain.event import SESSION_EVENTS, Event, EventType
from asm_core.rendering.ansi import Colour, cyan, dim, green, red, yellow
from asm_core.rendering.text import one_line, payload, plain, streamed, superseded, tokens

MAX_TEXT = 160

_T = EventType
COLOURS: Mapping[str, Colour] = {
    _T.RUN_COMPLETED: green,
    _T.RUN_FAILED: red,
    _T.RUN_TIMEOUT: red,
    _T.RUN_CANCELLED: yellow,
    _T.ERROR_OCCURRED: red,
    _T.ERROR_RECOVERED: yellow,
    _T.TOOL_CALL_STARTED: cyan,
    _T.TOOL_CALL_COMPLETED: cyan,
    _T.TOOL_CALL_FAILED: red,
    _T.POLICY_VIOLATION: red,
    _T.TOOL_APPROVAL_REQUESTED: yellow,
    **dict.fromkeys(SESSION_EVENTS, dim),
}


class LinesRenderer:
    """
    Args:
        label: stands before every line, for several sessions side by side; then streamed text waits for its message.
        color: write terminal colours.
    """

    def __init__(self, *, label: str = "", color: bool = True) -> None:
        self.label = label
        self.color = color
        self.in_text = False

    def render_event(self, event: Event) -> str:
        data = payload(event)
        if event.type == EventType.MESSAGE_STREAMED:
            text = "" if self.label else streamed(data)
            self.in_text = self.in_text or bool(text)
            return text
        summary = _summary(event.type, data, streamed=self.in_text)
        number = event.sequence_number or ""
        line = f"{self.label}{' ' if self.label else ''}{number:>5} {plain(event.type):<22} {summary}".rstrip()
        if colour := COLOURS.get(event.type):
            line = colour(line, self.color)
        return f"{self._close_text()}{line}\n"

    def finish(self) -> str:
        return self._close_text()

    def _close_text(self) -> str:
        before, self.in_text = "\n" if self.in_text else "", False
        return before


def _summary(kind: str, data: Mapping[str, Any], *, streamed: bool) -> str:
    """What an event says, on one line."""
    match kind:
        case _T.MESSAGE_SENT | _T.MESSAGE_RECEIVED:
            return "" if streamed else _said(": ", data.get("role"), data.get("content"))
        case _T.TOOL_CALL_STARTED:
            return _said(" ", data.get("tool_name"), _arguments(data.get("tool_input")))
        case _T.TOOL_CALL_COMPLETED | _T.TOOL_CALL_FAILED:
            return _said(" -> ", data.get("tool_name"), _output(data.get("tool_output")))
        case _T.TOKEN_USAGE_UPDATED:
            return "in {}, out {}".format(*tokens(data))
        case _T.RUN_FAILED | _T.RUN_TIMEOUT | _T.ERROR_OCCURRED:
            return _said(": ", data.get("error_code"), data.get("error_message"))
        case _T.RUN_COMPLETED:
            return _said("", data.get("stop_reason"))
        case _T.RUN_CANCELLED:
            return _said("", data.get("reason"))
        case _T.ERROR_RECOVERED:
            return superseded(data)
        case _T.POLICY_VIOLATION:
            return _said(": ", data.get("policy"), data.get("kind"))
        case _T.TOOL_APPROVAL_REQUESTED | _T.TOOL_APPROVAL_GRANTED | _T.TOOL_APPROVAL_DENIED:
            return _said(" ", data.get("tool_name"), data.get("denial_reason"))
        case _T.WORKSPACE_SNAPSHOT_TAKEN:
            return _said(" ", data.get("label"), data.get("ref"))
        case _T.WORKSPACE_DIFF_COMPUTED:
            changed = (plain(data.get(key)) for key in ("files_changed", "insertions", "deletions"))
            return _said("", "{} files, +{} -{}".format(*changed))
        case _:
            return ""


def _said(between: str, *parts: Any) -> str:
    """The parts that say something."""
    return one_line(between.join(text for part in parts if (text := plain(part))), MAX_TEXT)


def _arguments(value: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("command"), str):
        args = value.get("args")
        return " ".join([value["command"], *(map(plain, args) if isinstance(args, list | tuple) else ())])
    return value or ""


def _output(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get("output") or value.get("stderr") or f"exit {plain(value.get('exit_code'))}"
    return value
