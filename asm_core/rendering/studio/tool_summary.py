"""What a tool does and has done, in a few words. Source: spec/05 §5.5."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from asm_core.rendering.text import first_present, one_line, plain

MAX_COMMAND = 60
MAX_PATH = 60
MAX_VALUE = 200
"""Characters of any other part of an input."""
MAX_DEPTH = 8
"""Outputs within outputs."""
SLOW_MS, MAX_DURATION_MS = 2_000, 10**12
"""What takes longer says how long; more than that is no time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInfo:
    """A call of a tool, as far as it is known."""

    name: str = "tool"
    input: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    exit_code: Any = None
    duration_ms: Any = None
    failed: bool = False

    @classmethod
    def started(cls, data: Mapping[str, Any]) -> ToolInfo:
        """From the data of a `tool_call_started`."""
        return cls(name=_name(data.get("tool_name")), input=_mapping(data.get("tool_input")))

    @classmethod
    def ended(cls, data: Mapping[str, Any], begun: ToolInfo, *, failed: bool) -> ToolInfo:
        """From the data of its end; what that leaves out is as it began."""
        output = data.get("tool_output")
        within = _mapping(output)
        code = first_present(data.get("exit_code"), within.get("exit_code"))
        stated = "failed" in (data.get("status"), within.get("status"))
        return cls(
            name=_name(first_present(data.get("tool_name"), begun.name)),
            input=_mapping(data.get("tool_input")) or begun.input,
            output=output,
            exit_code=code,
            duration_ms=first_present(data.get("duration_ms"), within.get("duration_ms")),
            failed=failed or stated or (_is_int(code) and code != 0),
        )

    @property
    def text(self) -> str:
        """What it gave, as text."""
        return _output_text(self.output)

    def value(self, key: str, default: str) -> str:
        """Of the input, on one line."""
        return one_line(plain(self.input.get(key)), MAX_VALUE) or default

    @property
    def path(self) -> str:
        return self.value("file_path", "") or self.value("path", "file")

    @property
    def command(self) -> str:
        """With its arguments where they stand apart; empty when there is none."""
        args = self.input.get("args")
        words = [self.input.get("command"), *(args if isinstance(args, list | tuple) else ())]
        text = " ".join(" ".join(plain(word) for word in words).split())
        return text if len(text) <= MAX_COMMAND else f"{text[:MAX_COMMAND]}..."


def spinner_text(tool: ToolInfo) -> str:
    """What it is doing."""
    return _KINDS.get(tool.name, _OTHER).doing(tool)


def summary_line(tool: ToolInfo) -> str:
    """What it has done, and how much came of it."""
    kind = _KINDS.get(tool.name, _OTHER)
    if tool.failed and tool.name != "bash":
        target = kind.target(tool)
        return f"{tool.name} failed: {target}" if target else f"{tool.name} failed"
    return kind.done(tool)


def preview_lines(tool: ToolInfo, count: int) -> list[str]:
    """The last lines of its output that are not empty."""
    return [line.strip() for line in output_lines(tool) if line.strip()][-count:]


def output_lines(tool: ToolInfo) -> list[str]:
    """The lines of its output that are not empty, as they are."""
    return [line for line in tool.text.split("\n") if line]


def format_size(length: int | None) -> str:
    """Characters: `500 chars`, `2.4k chars`, `15k chars`."""
    if length is None:
        return ""
    if length < 1_000:
        return f"{length} chars"
    return f"{length / 1_000:.1f}k chars" if length < 10_000 else f"{length // 1_000}k chars"


def format_duration(duration_ms: Any) -> str:
    return f"{duration_ms / 1_000:.1f}s" if _is_int(duration_ms) and SLOW_MS < duration_ms < MAX_DURATION_MS else ""


def shorten_path(path: Any, max_len: int = MAX_PATH) -> str:
    """`first/.../two/last` of a path that is too long."""
    if not isinstance(path, str):
        return "file"
    first, *rest = re.findall(r"^/|[^/]+", path) or [""]
    if len(path) <= max_len or len(rest) <= 2:
        return path
    return "/".join([first.rstrip("/"), "...", *rest[-2:]])


@dataclass(frozen=True, slots=True)
class _Kind:
    """How to speak of a kind of tool."""

    doing: Callable[[ToolInfo], str]
    done: Callable[[ToolInfo], str]
    target: Callable[[ToolInfo], str] = lambda _tool: ""


def _bash_doing(tool: ToolInfo) -> str:
    return f"Running: {tool.command}" if tool.command else "Running bash"


def _bash_done(tool: ToolInfo) -> str:
    code = tool.exit_code if _is_int(tool.exit_code) else int(tool.failed)
    details = (f"exit {plain(code)}", _size(tool), format_duration(tool.duration_ms))
    verb = "Bash failed" if tool.failed else "Ran"
    return f"{verb}: {tool.command or 'bash'} ({', '.join(detail for detail in details if detail)})"


def _file_done(verb: str) -> Callable[[ToolInfo], str]:
    return lambda tool: f"{verb} {shorten_path(tool.path)}"


def _read(tool: ToolInfo) -> str:
    return f"Read {shorten_path(tool.path)} ({len(output_lines(tool))} lines)"


def _wrote(tool: ToolInfo) -> str:
    lines = [line for line in plain(tool.input.get("content")).split("\n") if line]
    return f"Wrote {shorten_path(tool.path)} ({len(lines)} lines)"


def _globbed(tool: ToolInfo) -> str:
    return f"Found {len(output_lines(tool))} files matching {tool.value('pattern', '*')}"


def _grepped(tool: ToolInfo) -> str:
    return f'Found {len(output_lines(tool))} matches for "{tool.value("pattern", "pattern")}"'


def _task_done(tool: ToolInfo) -> str:
    return f"Task complete: {tool.value('description', 'task')}{_in_brackets(format_duration(tool.duration_ms))}"


def _generic_done(tool: ToolInfo) -> str:
    return f"{tool.name} complete{_in_brackets(_size(tool))}"


def _host(tool: ToolInfo) -> str:
    try:
        host = urlsplit(tool.value("url", "")).hostname
    except ValueError:
        host = None
    return host or "web resource"


_KINDS: Mapping[str, _Kind] = {
    "bash": _Kind(_bash_doing, _bash_done),
    "Read": _Kind(lambda tool: f"Reading {tool.path}", _read, lambda tool: tool.path),
    "Write": _Kind(lambda tool: f"Writing {tool.path}", _wrote, lambda tool: tool.path),
    "Edit": _Kind(lambda tool: f"Editing {tool.path}", _file_done("Edited"), lambda tool: tool.path),
    "Glob": _Kind(
        lambda tool: f"Searching for {tool.value('pattern', 'files')}", _globbed, lambda tool: tool.value("pattern", "")
    ),
    "Grep": _Kind(
        lambda tool: f'Searching "{tool.value("pattern", "pattern")}" in {tool.value("path", ".")}',
        _grepped,
        lambda tool: tool.value("pattern", ""),
    ),
    "Task": _Kind(
        lambda tool: f"Running task: {tool.value('description', 'task')}",
        _task_done,
        lambda tool: tool.value("description", ""),
    ),
    "WebFetch": _Kind(lambda tool: f"Fetching {_host(tool)}", _generic_done, _host),
    "WebSearch": _Kind(
        lambda tool: f'Searching: "{tool.value("query", "")}"', _generic_done, lambda tool: tool.value("query", "")
    ),
}
_OTHER = _Kind(lambda tool: f"Using {tool.name}", _generic_done)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not (name := one_line(plain(value), MAX_VALUE)):
        return "tool"
    return "bash" if name == "Bash" else name


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _output_text(output: Any, depth: int = 0) -> str:
    if isinstance(output, Mapping) and "output" in output and depth < MAX_DEPTH:
        return _output_text(output["output"], depth + 1)
    return plain(output)


def _size(tool: ToolInfo) -> str:
    return format_size(len(tool.text) or None)


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
