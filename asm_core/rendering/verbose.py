"""One line per event with its type and its fields; streamed text as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asm_core.domain.event import Event, EventType
from asm_core.rendering.ansi import Colour, blue, cyan, dim, green, red, yellow
from asm_core.rendering.text import (
    OUTPUT,
    PREVIEW,
    cost,
    error_text,
    first_present,
    payload,
    plain,
    streamed,
    superseded,
    tokens,
    truncate,
)

Data = Mapping[str, Any]
Fields = Callable[[Event, Data], str]
"""What stands behind the tag."""


class VerboseRenderer:
    """
    Args:
        color: write terminal colours; only tags have one.

    Source: spec/05 §4.
    """

    def __init__(self, *, color: bool = True) -> None:
        self.color = color
        self.in_text = False
        self.event_count = 0
        self.tool_count = 0

    def render_event(self, event: Event) -> str:
        self.event_count += 1
        self.tool_count += event.type == EventType.TOOL_CALL_STARTED
        data = payload(event)
        if event.type == EventType.MESSAGE_STREAMED:
            self.in_text = True
            return streamed(data)
        tag, colour, fields = LINES.get(event.type, OTHER)
        return f"{self._close_text()}{colour(f'[{tag}]', self.color)}{fields(event, data)}\n"

    def finish(self) -> str:
        summary = f"--- {self.event_count} events, {self.tool_count} tools ---\n"
        return self._close_text() + dim(summary, self.color)

    def _close_text(self) -> str:
        before, self.in_text = "\n" if self.in_text else "", False
        return before


def _run_started(event: Event, data: Data) -> str:
    session = plain(event.session_id) or plain(data.get("session_id"))
    return f" model={_named(data, 'model')} session_id={session}"


def _tool_started(_event: Event, data: Data) -> str:
    given = data.get("tool_input")
    shown = f" input={truncate(given, PREVIEW)}" if given else ""
    return f" name={_named(data, 'tool_name')} id={plain(data.get('tool_call_id'))}{shown}"


def _tool_ended(_event: Event, data: Data) -> str:
    output = truncate(data.get("tool_output"), OUTPUT)
    return f" name={_named(data, 'tool_name')}" + (f" output={output}" if output else "")


def _usage(_event: Event, data: Data) -> str:
    taken, given = tokens(data)
    return f" input={taken} output={given}{_cost(data)}"


def _message(role: str) -> Fields:
    def fields(_event: Event, data: Data) -> str:
        said_by = plain(first_present(data.get("role"), role))
        return f" role={said_by} content={truncate(data.get('content'), OUTPUT)}"

    return fields


def _run_completed(_event: Event, data: Data) -> str:
    reason, usage = plain(first_present(data.get("stop_reason"), "end_turn")), data.get("token_usage")
    counted = f" tokens={'/'.join(tokens(usage))}" if isinstance(usage, Mapping) else ""
    return f" stop_reason={reason}{counted}{_cost(data)}"


def _error(_event: Event, data: Data) -> str:
    return f" error_code={_named(data, 'error_code')} error_message={truncate(error_text(data), OUTPUT)}"


def _nothing(_event: Event, _data: Data) -> str:
    return ""


def _recovered(_event: Event, data: Data) -> str:
    return f" {superseded(data)}"


def _listed(**keys: str) -> Fields:
    """`name=value` of the keys that have a value."""

    def fields(_event: Event, data: Data) -> str:
        said = {name: truncate(data.get(key), PREVIEW) for name, key in keys.items()}
        return "".join(f" {name}={text}" for name, text in said.items() if text)

    return fields


def _other(event: Event, data: Data) -> str:
    return f" type={plain(event.type)} data={truncate(data, PREVIEW)}"


def _named(data: Data, key: str) -> str:
    return plain(first_present(data.get(key), "unknown"))


def _cost(data: Data) -> str:
    amount = cost(data.get("cost_usd"), 6)
    return f" cost=${amount}" if amount else ""


_T = EventType
_approval = _listed(name="tool_name", id="tool_call_id", policy="policy_name", by="approved_by", reason="denial_reason")

LINES: Mapping[str, tuple[str, Colour, Fields]] = {
    _T.RUN_STARTED: ("run_started", blue, _run_started),
    _T.TOOL_CALL_STARTED: ("tool_call_started", green, _tool_started),
    _T.TOOL_CALL_COMPLETED: ("tool_call_completed", green, _tool_ended),
    _T.TOOL_CALL_FAILED: ("tool_call_failed", red, _tool_ended),
    _T.TOKEN_USAGE_UPDATED: ("token_usage", dim, _usage),
    _T.MESSAGE_RECEIVED: ("message_received", blue, _message("assistant")),
    _T.MESSAGE_SENT: ("message_sent", blue, _message("user")),
    _T.RUN_COMPLETED: ("run_completed", blue, _run_completed),
    _T.RUN_FAILED: ("run_failed", red, _error),
    _T.RUN_TIMEOUT: ("run_timeout", red, _error),
    _T.RUN_CANCELLED: ("run_cancelled", red, _nothing),
    _T.ERROR_OCCURRED: ("error", red, _error),
    _T.ERROR_RECOVERED: ("error_recovered", yellow, _recovered),
    _T.POLICY_VIOLATION: ("policy_violation", red, _listed(policy="policy", kind="kind", action="action")),
    _T.TOOL_APPROVAL_REQUESTED: ("tool_approval_requested", yellow, _approval),
    _T.TOOL_APPROVAL_GRANTED: ("tool_approval_granted", yellow, _approval),
    _T.TOOL_APPROVAL_DENIED: ("tool_approval_denied", yellow, _approval),
    _T.WORKSPACE_SNAPSHOT_TAKEN: (
        "workspace_snapshot_taken", cyan, _listed(label="label", backend="backend", ref="ref")
    ),
    _T.WORKSPACE_DIFF_COMPUTED: (
        "workspace_diff_computed", cyan, _listed(files="files_changed", insertions="insertions", deletions="deletions")
    ),
}  # fmt: skip
OTHER: tuple[str, Colour, Fields] = ("event", dim, _other)
