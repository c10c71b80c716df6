"""For a person at a terminal: what is said, one line per tool, and as much of its output as is wanted."""

from __future__ import annotations

import io
import sys

from _common import MEMORY, TOOL_USE, claim, main

from asm_core import Event, ScriptedAdapter, StreamSession, open_manager
from asm_core.rendering import StudioRenderer, TTYSink, arender_stream
from asm_core.rendering.studio.live import LiveSink

SUMMARIES = "✓ Read README.md (2 lines)", "✓ Ran: make test (exit 0, 8 chars)"


async def example() -> None:
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        if sys.stdout.isatty():  # spinners while tools run
            renderer = StudioRenderer(live=True)
            async with StreamSession(manager, TOOL_USE) as stream:
                await arender_stream(stream, renderer=renderer, sinks=[LiveSink(renderer)])
        async with StreamSession(manager, TOOL_USE) as stream:
            events = [event async for event in stream]
    shown = {mode: await _shown(events, mode) for mode in ("summary", "preview", "full")}
    claim("each tool is summed up", all(line in text for text in shown.values() for line in SUMMARIES))
    claim("a preview shows the end of its output", "│ runs agents" in shown["preview"])
    claim("all of it is there in full", "┊ # ASM\n    ┊ runs agents" in shown["full"])
    claim("a summary shows none", "runs agents\n" not in shown["summary"])


async def _shown(events: list[Event], mode: str) -> str:
    print(f"\n── {mode} ──")
    screen = io.StringIO()
    renderer = StudioRenderer(color=False, tool_output=mode)
    await arender_stream(events, renderer=renderer, sinks=[TTYSink(), TTYSink(screen)])
    return screen.getvalue()


if __name__ == "__main__":
    main(example)
