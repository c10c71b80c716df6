"""Events on the terminal: the server's JSON through a renderer to standard output."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from asm_api.cli.common import FAILED, Render, fail
from asm_core.domain.event import Event, EventType, valid_type
from asm_core.ports.rendering import Renderer, Sink
from asm_core.rendering import (
    CompactRenderer,
    JSONLSink,
    LinesRenderer,
    PassthroughRenderer,
    StudioRenderer,
    TTYSink,
    VerboseRenderer,
    render_stream,
)


def show_events(events: Iterable[Event], render: Render, *, tool_output: str = "summary") -> None:
    """
    Print events in this form, each as it comes.

    Args:
        tool_output: what of a tool's output `studio` shows.
    """
    logging.getLogger("asm_core.rendering").addHandler(logging.NullHandler())  # said below, on one line
    renderer, sink = _parts(render, tool_output)
    try:
        render_stream(events, renderer=renderer, sinks=[sink], strict=True)
    except BrokenPipeError:  # who read this has gone, which the command line knows how to end
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still held would fail again at exit
        fail(f"cannot write: {error.strerror or error}", FAILED)


def event_of(row: Mapping[str, Any]) -> Event:
    """A newer server may tell of types that are unknown here; renderers show them as such."""
    if valid_type(row["type"]):
        return Event.from_map(row)
    return replace(Event.from_map({**row, "type": EventType.ERROR_OCCURRED}), type=row["type"])


def wants_color() -> bool:
    """`NO_COLOR` and `FORCE_COLOR` decide, else whether somebody looks."""
    return not os.environ.get("NO_COLOR") and bool(os.environ.get("FORCE_COLOR") or sys.stdout.isatty())


def _parts(render: Render, tool_output: str) -> tuple[Renderer, Sink]:
    color = wants_color()
    match render:
        case Render.JSONL:
            return PassthroughRenderer(), JSONLSink(io=sys.stdout)
        case Render.STUDIO:
            return _studio(color, tool_output)
        case Render.COMPACT:
            return CompactRenderer(color=color), TTYSink()
        case Render.VERBOSE:
            return VerboseRenderer(color=color), TTYSink()
        case Render.PASSTHROUGH:
            return PassthroughRenderer(), TTYSink()
        case Render.LINES:
            return LinesRenderer(color=color), TTYSink()


def _studio(color: bool, tool_output: str) -> tuple[Renderer, Sink]:
    """Alive on a terminal, plain elsewhere."""
    if not color or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return StudioRenderer(color=color, tool_output=tool_output), TTYSink()
    from asm_core.rendering.studio.live import LiveSink

    renderer = StudioRenderer(tool_output=tool_output, live=True)
    return renderer, LiveSink(renderer)
