"""Events as lines a person can read while they happen."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from asm_core.domain.event import EventType

_T = EventType

DIM, BOLD, RED, GREEN, YELLOW, CYAN, RESET = (
    "\x1b[2m",
    "\x1b[1m",
    "\x1b[31m",
    "\x1b[32m",
    "\x1b[33m",
    "\x1b[36m",
    "\x1b[0m",
)

COLOURS = {
    _T.RUN_COMPLETED: GREEN,
    _T.RUN_FAILED: RED,
    _T.RUN_TIMEOUT: RED,
    _T.RUN_CANCELLED: YELLOW,
    _T.ERROR_OCCURRED: RED,
    _T.ERROR_RECOVERED: YELLOW,
    _T.TOOL_CALL_STARTED: CYAN,
    _T.TOOL_CALL_COMPLETED: CYAN,
    _T.TOOL_CALL_FAILED: RED,
}
MAX_TEXT = 160


class EventPrinter:
    """
    Prints one line per event; streamed text appears as it comes.

    Args:
        label: stands before every line, for several sessions side by side; then streamed text waits for its message.
        colour: None: only on a terminal.
    """

    def __init__(self, label: str = "", colour: bool | None = None) -> None:
        self._label = f"{label} " if label else ""
        self._colour = sys.stdout.isatty() if colour is None else colour
        self._in_text = False

    def show(self, event: Mapping[str, Any]) -> None:
        kind, data = event["type"], event["data"]
        if kind == _T.MESSAGE_STREAMED and not self._label:
            sys.stdout.write(str(data.get("delta") or data.get("content") or ""))
            self._in_text = True
        elif kind != _T.MESSAGE_STREAMED:
            self._line(event, kind, summary(kind, data, streamed=self._in_text))
        sys.stdout.flush()

    def _line(self, event: Mapping[str, Any], kind: str, text: str) -> None:
        if self._in_text:
            sys.stdout.write("\n")
            self._in_text = False
        colour = COLOURS.get(_T(kind), DIM if kind.startswith("session") else "")
        number = f"{event['sequence_number']:>5}"
        line = f"{self._label}{number} {kind:<22} {text}".rstrip()
        sys.stdout.write(f"{colour}{line}{RESET}\n" if self._colour and colour else f"{line}\n")


def summary(kind: str, data: Mapping[str, Any], *, streamed: bool = False) -> str:
    """What an event says, on one line."""
    match kind:
        case _T.MESSAGE_SENT | _T.MESSAGE_RECEIVED:
            return "" if streamed else one_line(f"{data.get('role')}: {data.get('content')}")
        case _T.TOOL_CALL_STARTED:
            return one_line(f"{data.get('tool_name')} {_arguments(data.get('tool_input'))}")
        case _T.TOOL_CALL_COMPLETED | _T.TOOL_CALL_FAILED:
            return one_line(f"{data.get('tool_name')} -> {_output(data.get('tool_output'))}")
        case _T.TOKEN_USAGE_UPDATED:
            return f"in {data.get('input_tokens')}, out {data.get('output_tokens')}"
        case _T.RUN_FAILED | _T.RUN_TIMEOUT | _T.ERROR_OCCURRED:
            return one_line(f"{data.get('error_code')}: {data.get('error_message')}")
        case _T.RUN_COMPLETED:
            return str(data.get("stop_reason") or "")
        case _T.RUN_CANCELLED:
            return str(data.get("reason") or "")
        case _T.ERROR_RECOVERED:
            first, last = data.get("superseded_from"), data.get("superseded_to")
            return f"attempt {data.get('attempt')} replaces events {first}-{last}"
        case _:
            return ""


def one_line(text: str) -> str:
    flat = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return flat if len(flat) <= MAX_TEXT else f"{flat[: MAX_TEXT - 1]}…"


def _arguments(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("command"), str):
        return " ".join([value["command"], *map(str, value.get("args") or ())])
    return str(value or "")


def _output(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("output") or value.get("stderr") or f"exit {value.get('exit_code')}")
    return str(value)
