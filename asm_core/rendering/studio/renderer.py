"""A run as a person at a terminal wants to see it: what is said, one line per tool, how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from asm_core.domain.event import SESSION_EVENTS, Event, EventType
from asm_core.rendering.ansi import (
    CHANGED,
    CLEAR_LINE,
    FAILURE,
    INFO,
    RUNNING,
    SAID,
    SUCCESS,
    WAITING,
    Colour,
    blue,
    cyan,
    dim,
    green,
    red,
    yellow,
)
from asm_core.rendering.studio.tool_summary import ToolInfo, output_lines, preview_lines, spinner_text, summary_line
from asm_core.rendering.text import (
    OUTPUT,
    PREVIEW,
    error_text,
    first_present,
    payload,
    plain,
    streamed,
    superseded,
    tokens,
    truncate,
)

PREVIEW_LINES = 3

Data = Mapping[str, Any]


class StudioRenderer:
    """
    Args:
        color: write terminal colours.
        tool_output: of a tool that has ended, beside its summary: nothing, the last three lines, or all. Anything else
            means `summary`.
        indent: spaces before every line.
        tty: the line of a tool that has begun stays open, for its summary to replace it. Else both are written.
        show_spinner: mark tools that run as running.
        live: tools that run are shown by somebody else (`LiveSink`), from `running`; no line begins for them.

    Source: spec/05 §5.
    """

    def __init__(
        self,
        *,
        color: bool = True,
        tool_output: str = "summary",
        indent: int = 2,
        tty: bool = False,
        show_spinner: bool = True,
        live: bool = False,
    ) -> None:
        self.color = color
        self.tool_output = tool_output if tool_output in ("summary", "preview", "full") else "summary"
        self.indent = indent
        self.is_tty = tty
        self.show_spinner = show_spinner
        self.live = live
        self.phase: Literal["idle", "text", "tool"] = "idle"
        self.running: dict[str, ToolInfo] = {}
        """Tools that have begun and not ended, by the id of their call, in order."""
        self.tool_count = 0
        self.event_count = 0
        self.usage: Data = {}
        """Of this run, as it was told last."""
        self._pending: str | None = None
        """The tool whose line is still open."""
        self._said = False
        """The message that comes next has been shown in parts."""

    def render_event(self, event: Event) -> str:
        self.event_count += 1
        show = SHOWN.get(event.type)
        return show(self, event, payload(event)) if show else self._other(event)

    def finish(self) -> str:
        return self._break()

    def _run_started(self, event: Event, data: Data) -> str:
        self.running.clear()
        self.tool_count, self.usage, self._said = 0, {}, False
        model = plain(first_present(data.get("model"), event.provider, "unknown"))
        return self._block(blue, INFO, f"{model} session started")

    def _streamed(self, _event: Event, data: Data) -> str:
        text = streamed(data)
        if not text:
            return ""
        self._said = True
        return self._text(text)

    def _message(self, _event: Event, data: Data) -> str:
        """Nothing, when it has been shown in parts."""
        was_said, self._said = self._said, False
        content = plain(data.get("content"))
        return "" if was_said or not content else self._text(content)

    def _text(self, text: str) -> str:
        if self.phase == "text":
            return text
        before = self._break()
        self.phase = "text"
        return f"{before}\n{self._margin()}{text}"

    def _message_sent(self, _event: Event, data: Data) -> str:
        said = truncate(data.get("content"), OUTPUT).replace("\n", f"\n{self._margin()}  ")
        return f"{self._break()}\n{self._margin()}{dim(f'{SAID} {said}', self.color)}\n"

    def _tool_started(self, _event: Event, data: Data) -> str:
        before = self._break()
        key, tool = _key(data), ToolInfo.started(data)
        self.running[key] = tool
        self.tool_count += 1
        self.phase = "tool"
        if self.live:
            return before
        mark = cyan(RUNNING, self.color) if self.show_spinner else blue(INFO, self.color)
        self._pending = key if self.is_tty else None
        return f"{before}{self._margin()}{mark} {spinner_text(tool)}" + ("" if self.is_tty else "\n")

    def _tool_completed(self, _event: Event, data: Data) -> str:
        return self._tool_ended(data, failed=False)

    def _tool_failed(self, _event: Event, data: Data) -> str:
        return self._tool_ended(data, failed=True)

    def _tool_ended(self, data: Data, *, failed: bool) -> str:
        key = _key(data)
        tool = ToolInfo.ended(data, self.running.pop(key, ToolInfo()), failed=failed)
        before = CLEAR_LINE if self._pending == key else self._break()
        self._pending = None
        self.phase = "tool" if self.running else "idle"
        mark = red(FAILURE, self.color) if tool.failed else green(SUCCESS, self.color)
        return f"{before}{self._margin()}{mark} {summary_line(tool)}\n{self._output(tool)}"

    def _output(self, tool: ToolInfo) -> str:
        match self.tool_output:
            case "preview":
                bar, lines = "│", preview_lines(tool, PREVIEW_LINES)
            case "full":
                bar, lines = "┊", output_lines(tool)
            case _:
                return ""
        margin = f"{self._margin()}  {dim(bar, self.color)} "
        return "".join(f"{margin}{dim(line, self.color)}\n" for line in lines)

    def _usage(self, _event: Event, data: Data) -> str:
        self.usage = data
        return ""

    def _run_completed(self, _event: Event, data: Data) -> str:
        taken, given = tokens(self.usage)
        usage = data.get("token_usage")
        if taken == given == "0" and isinstance(usage, Mapping):
            taken, given = tokens(usage)
        reason = plain(first_present(data.get("stop_reason"), "unknown"))
        counted = f"{taken}/{given} tokens, {self.tool_count} tools"
        return self._block(blue, INFO, f"Session complete ({reason}) — {counted}")

    def _run_failed(self, _event: Event, data: Data) -> str:
        return self._block(red, FAILURE, error_text(data))

    def _run_timeout(self, _event: Event, data: Data) -> str:
        return self._block(red, FAILURE, plain(first_present(data.get("error_message"), "timeout")))

    def _run_cancelled(self, _event: Event, _data: Data) -> str:
        return self._block(red, FAILURE, "cancelled")

    def _error(self, _event: Event, data: Data) -> str:
        return self._line(red, FAILURE, error_text(data))

    def _recovered(self, _event: Event, data: Data) -> str:
        self.running.clear()
        self._said = False
        return self._line(yellow, INFO, superseded(data))

    def _violation(self, _event: Event, data: Data) -> str:
        named = (truncate(data.get(key), PREVIEW) for key in ("policy", "kind"))
        return self._line(red, FAILURE, f"policy violated: {' '.join(name for name in named if name)}")

    def _diff(self, _event: Event, data: Data) -> str:
        files, added, removed = (
            truncate(first_present(data.get(key), 0), PREVIEW) for key in ("files_changed", "insertions", "deletions")
        )
        return self._line(cyan, CHANGED, f"{files} files (+{added} -{removed})")

    def _quiet(self, _event: Event, _data: Data) -> str:
        """A session's own events say little; of a workspace the diff is what matters."""
        return ""

    def _other(self, event: Event) -> str:
        return f"{self._break()}{self._margin()}{dim(f'? {plain(event.type)}', self.color)}\n"

    def _block(self, colour: Colour, mark: str, text: str) -> str:
        """A line with an empty one before it."""
        return f"{self._break()}\n{self._margin()}{colour(mark, self.color)} {text}\n"

    def _line(self, colour: Colour, mark: str, text: str) -> str:
        return f"{self._break()}{self._margin()}{colour(mark, self.color)} {text}\n"

    def _break(self) -> str:
        """Ends the line that is open."""
        is_open = self.phase == "text" or self._pending is not None
        self.phase, self._pending = "idle", None
        return "\n" if is_open else ""

    def _margin(self) -> str:
        return " " * self.indent


Shown = Callable[[StudioRenderer, Event, Data], str]


def _key(data: Data) -> str:
    return plain(first_present(data.get("tool_call_id"), data.get("tool_name")))


def _approval(mark: str, text: str) -> Shown:
    def shown(renderer: StudioRenderer, _event: Event, data: Data) -> str:
        name = truncate(first_present(data.get("tool_name"), "tool"), PREVIEW)
        return renderer._line(yellow, mark, f"{text}: {name}")

    return shown


_T, _R = EventType, StudioRenderer
SHOWN: Mapping[str, Shown] = {
    _T.RUN_STARTED: _R._run_started,
    _T.MESSAGE_STREAMED: _R._streamed,
    _T.MESSAGE_RECEIVED: _R._message,
    _T.MESSAGE_SENT: _R._message_sent,
    _T.TOOL_CALL_STARTED: _R._tool_started,
    _T.TOOL_CALL_COMPLETED: _R._tool_completed,
    _T.TOOL_CALL_FAILED: _R._tool_failed,
    _T.TOKEN_USAGE_UPDATED: _R._usage,
    _T.TURN_COMPLETED: _R._quiet,
    _T.RUN_COMPLETED: _R._run_completed,
    _T.RUN_FAILED: _R._run_failed,
    _T.RUN_TIMEOUT: _R._run_timeout,
    _T.RUN_CANCELLED: _R._run_cancelled,
    _T.ERROR_OCCURRED: _R._error,
    _T.ERROR_RECOVERED: _R._recovered,
    _T.POLICY_VIOLATION: _R._violation,
    _T.TOOL_APPROVAL_REQUESTED: _approval(WAITING, "approval needed"),
    _T.TOOL_APPROVAL_GRANTED: _approval(SUCCESS, "approved"),
    _T.TOOL_APPROVAL_DENIED: _approval(FAILURE, "refused"),
    _T.WORKSPACE_SNAPSHOT_TAKEN: _R._quiet,
    _T.WORKSPACE_DIFF_COMPUTED: _R._diff,
    **dict.fromkeys(SESSION_EVENTS, _R._quiet),
}
