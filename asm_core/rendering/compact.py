"""
A run on a few lines: each event is a token, streamed text stands between them.

    r+ r-[:reason]  run begins, ends        t+Name t-Name t!Name  tool begins, ends, fails     tr:  its output
    >>              streamed text           tk:in/out             tokens                       msg in  a whole message
    !               error, cancel, timeout  re:                   a new attempt                pv:  policy violation
    ap? ap+ ap-     approval asked, given, refused                ws: wd:  workspace           turn  s:  ? unknown
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asm_core.domain.event import SESSION_EVENTS, Event, EventType
from asm_core.rendering.ansi import blue, cyan, dim, green, magenta, red, yellow
from asm_core.rendering.text import (
    OUTPUT,
    PREVIEW,
    cost,
    error_text,
    first_present,
    payload,
    plain,
    short_model,
    short_reason,
    streamed,
    superseded,
    tokens,
    truncate,
)

Data = Mapping[str, Any]


class CompactRenderer:
    """
    Args:
        color: write terminal colours.
        extended: know more events than the tokens of spec/05 §3 name; else they are `?:type`.

    Source: spec/05 §3.
    """

    def __init__(self, *, color: bool = True, extended: bool = True) -> None:
        self.color = color
        self.streaming = False
        self.line_open = False
        self.event_count = 0
        self.tool_count = 0
        self.current_tool: str | None = None
        self.current_tool_id: str | None = None
        self._tokens = {**TOKENS, **EXTENDED_TOKENS} if extended else TOKENS

    def render_event(self, event: Event) -> str:
        self.event_count += 1
        data = payload(event)
        if self.streaming and event.type == EventType.MESSAGE_STREAMED:
            return streamed(data)
        before = self._close_stream()
        before += " " if self.line_open else ""
        self.line_open = True
        if token := self._tokens.get(event.type):
            return before + token(self, data)
        return before + dim("?", self.color) + dim(f":{truncate(event.type, PREVIEW)}", self.color)

    def finish(self) -> str:
        summary = f"{self.event_count} events, {self.tool_count} tools\n"
        return self._close_stream() + "\n" + dim(summary, self.color)

    def _close_stream(self) -> str:
        if not self.streaming:
            return ""
        self.streaming = self.line_open = False
        return "\n"

    def _run_started(self, data: Data) -> str:
        model = magenta(short_model(data.get("model")), self.color)
        return blue("r+", self.color) + (f" {model}" if model else "")

    def _text(self, data: Data) -> str:
        self.streaming = True
        return f"{magenta('>>', self.color)} {streamed(data)}"

    def _tool_started(self, data: Data) -> str:
        self.tool_count += 1
        self.current_tool = _tool_name(data)
        self.current_tool_id = plain(data.get("tool_call_id")) or None
        return green(f"t+{self.current_tool}", self.color)

    def _tool_completed(self, data: Data) -> str:
        return self._tool_ended(green(f"t-{_tool_name(data)}", self.color), data)

    def _tool_failed(self, data: Data) -> str:
        return self._tool_ended(red(f"t!{_tool_name(data)}", self.color), data)

    def _tool_ended(self, token: str, data: Data) -> str:
        self.current_tool = self.current_tool_id = None
        output = truncate(data.get("tool_output"), OUTPUT)
        return f"{token} {green('tr:', self.color)}{dim(output, self.color)}" if output else token

    def _usage(self, data: Data) -> str:
        return dim(f"tk:{'/'.join(tokens(data))}{_cost(data)}", self.color)

    def _message(self, data: Data) -> str:
        return f"{blue('msg', self.color)} {dim(truncate(data.get('content'), PREVIEW), self.color)}"

    def _message_sent(self, data: Data) -> str:
        return f"{blue('in', self.color)} {dim(truncate(data.get('content'), PREVIEW), self.color)}"

    def _run_completed(self, data: Data) -> str:
        reason = short_reason(data.get("stop_reason"))
        return blue(f"r-:{reason}{_cost(data)}" if reason else f"r-{_cost(data)}", self.color)

    def _error(self, data: Data) -> str:
        return self._stopped(truncate(error_text(data), PREVIEW))

    def _cancelled(self, _data: Data) -> str:
        return self._stopped("cancelled")

    def _timeout(self, _data: Data) -> str:
        return self._stopped("timeout")

    def _stopped(self, why: str) -> str:
        return f"{red('!', self.color)} {dim(why, self.color)}"

    def _recovered(self, data: Data) -> str:
        return yellow("re:", self.color) + dim(superseded(data), self.color)

    def _turn(self, _data: Data) -> str:
        return dim("turn", self.color)

    def _violation(self, data: Data) -> str:
        return red(f"pv:{truncate(data.get('kind'), PREVIEW)}", self.color)

    def _snapshot(self, data: Data) -> str:
        return cyan(f"ws:{truncate(data.get('label'), PREVIEW)}", self.color)

    def _diff(self, data: Data) -> str:
        files, added, removed = (
            truncate(first_present(data.get(key), 0), PREVIEW) for key in ("files_changed", "insertions", "deletions")
        )
        return cyan(f"wd:{files}f+{added}-{removed}", self.color)


def _tool_name(data: Data) -> str:
    return truncate(first_present(data.get("tool_name"), "unknown"), PREVIEW)


def _cost(data: Data) -> str:
    amount = cost(data.get("cost_usd"), 4)
    return f" ${amount}" if amount else ""


Token = Callable[[CompactRenderer, Data], str]


def _approval(sign: str) -> Token:
    return lambda renderer, data: yellow(f"ap{sign}{_tool_name(data)}", renderer.color)


def _session(kind: str) -> Token:
    return lambda renderer, _data: dim(f"s:{kind.removeprefix('session_')}", renderer.color)


_T, _R = EventType, CompactRenderer
TOKENS: Mapping[str, Token] = {
    _T.RUN_STARTED: _R._run_started,
    _T.MESSAGE_STREAMED: _R._text,
    _T.TOOL_CALL_STARTED: _R._tool_started,
    _T.TOOL_CALL_COMPLETED: _R._tool_completed,
    _T.TOKEN_USAGE_UPDATED: _R._usage,
    _T.MESSAGE_RECEIVED: _R._message,
    _T.RUN_COMPLETED: _R._run_completed,
    _T.RUN_FAILED: _R._error,
    _T.ERROR_OCCURRED: _R._error,
    _T.RUN_CANCELLED: _R._cancelled,
}
EXTENDED_TOKENS: Mapping[str, Token] = {
    _T.TOOL_CALL_FAILED: _R._tool_failed,
    _T.RUN_TIMEOUT: _R._timeout,
    _T.MESSAGE_SENT: _R._message_sent,
    _T.TURN_COMPLETED: _R._turn,
    _T.ERROR_RECOVERED: _R._recovered,
    _T.POLICY_VIOLATION: _R._violation,
    _T.TOOL_APPROVAL_REQUESTED: _approval("?"),
    _T.TOOL_APPROVAL_GRANTED: _approval("+"),
    _T.TOOL_APPROVAL_DENIED: _approval("-"),
    _T.WORKSPACE_SNAPSHOT_TAKEN: _R._snapshot,
    _T.WORKSPACE_DIFF_COMPUTED: _R._diff,
    **{kind: _session(kind) for kind in SESSION_EVENTS},
}
