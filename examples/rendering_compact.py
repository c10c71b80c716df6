"""A run on a few lines, as it happens: the compact renderer on standard output."""

from __future__ import annotations

import io
import sys

from _common import MEMORY, TOOL_USE, claim, main

from asm_core import ScriptedAdapter, StreamSession, open_manager
from asm_core.rendering import CompactRenderer, TTYSink, arender_stream

EXPECTED = """\
s:created s:started r+ scripted >> Let me look.
msg Let me look. t+Read t-Read tr:# ASM
runs agents t+bash t-bash tr:2 passed >> It runs agents.
msg It runs agents. tk:50/45 r-:end s:completed
16 events, 2 tools
"""


async def example() -> None:
    screen = io.StringIO()
    color = sys.stdout.isatty() and "--no-color" not in sys.argv
    async with open_manager(MEMORY, ScriptedAdapter()) as manager, StreamSession(manager, TOOL_USE) as stream:
        report = await arender_stream(
            stream,
            renderer=CompactRenderer(color=color),
            sinks=[TTYSink(), (TTYSink(screen), CompactRenderer(color=False))],
        )
    claim("each event is a token, and streamed text stands between them", screen.getvalue() == EXPECTED)
    claim("the report counts what was shown", (report.events, report.tools) == (16, 2))


if __name__ == "__main__":
    main(example)
