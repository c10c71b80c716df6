"""One run to a terminal, a log, two files of JSON lines and a function at once; a full disk stops none of them."""

from __future__ import annotations

import json
import sys

from _common import MEMORY, TOOL_USE, claim, main, temporary_folder

from asm_core import ScriptedAdapter, StreamSession, open_manager
from asm_core.rendering import (
    CallbackSink,
    CompactRenderer,
    FileSink,
    JSONLSink,
    TTYSink,
    VerboseRenderer,
    arender_stream,
)  # fmt: skip


async def example() -> None:
    seen: list[str] = []
    with temporary_folder() as folder, (folder / "run.log").open("w") as log:
        log.write("A log with a header\n")
        async with open_manager(MEMORY, ScriptedAdapter()) as manager, StreamSession(manager, TOOL_USE) as stream:
            report = await arender_stream(
                stream,
                renderer=CompactRenderer(color=sys.stdout.isatty()),
                sinks=[
                    TTYSink(),
                    (FileSink(io=log), VerboseRenderer()),
                    JSONLSink(folder / "full.jsonl"),
                    JSONLSink(folder / "compact.jsonl", mode="compact"),
                    CallbackSink(lambda event, _text: seen.append(event.type)),
                    FileSink("/dev/full"),
                ],
            )
        text = (folder / "run.log").read_text()
        full, short = ((folder / name).read_text().splitlines() for name in ("full.jsonl", "compact.jsonl"))
    print(text, *full[:5], *short[:5], sep="\n")
    claim("the log has its header and no terminal codes", text.startswith("A log") and "\x1b" not in text)
    claim("it has a renderer of its own", "[run_completed] stop_reason=end_turn" in text)
    claim("each event is a line and a call", len(full) == len(short) == len(seen) == report.events)
    claim("the lines are numbered", [json.loads(line)["seq"] for line in full] == list(range(1, len(full) + 1)))
    claim("the full disk is told", [error.sink for error in report.sink_errors] == ["FileSink"])


if __name__ == "__main__":
    main(example)
