"""One line per event with its type and its fields: the verbose renderer."""

from __future__ import annotations

import io
import sys

from _common import MEMORY, TOOL_USE, claim, main

from asm_core import ScriptedAdapter, StreamSession, open_manager
from asm_core.rendering import TTYSink, VerboseRenderer, arender_stream

EXPECTED = """\
[message_received] role=assistant content=Let me look.
[tool_call_started] name=Read id={read} input={{"path":"README.md"}}
[tool_call_completed] name=Read output=# ASM
runs agents
[tool_call_started] name=bash id={bash} input={{"command":"make test"}}
[tool_call_completed] name=bash output=2 passed
It runs agents.
[message_received] role=assistant content=It runs agents.
[token_usage] input=50 output=45
[run_completed] stop_reason=end_turn tokens=50/45
"""


async def example() -> None:
    screen = io.StringIO()
    color = sys.stdout.isatty() and "--no-color" not in sys.argv
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        async with StreamSession(manager, TOOL_USE) as stream:
            await arender_stream(
                stream,
                renderer=VerboseRenderer(color=color),
                sinks=[TTYSink(), (TTYSink(screen), VerboseRenderer(color=False))],
            )
        events = await manager.get_session_events(stream.session_id)
    read, bash = (event.data["tool_call_id"] for event in events if event.type == "tool_call_started")
    claim("every event says its fields", EXPECTED.format(read=read, bash=bash) in screen.getvalue())
    claim("with the session and the model", f"model=scripted session_id={stream.session_id}\n" in screen.getvalue())


if __name__ == "__main__":
    main(example)
