"""Events to a function of one's own, without any text: the passthrough renderer and a callback."""

from __future__ import annotations

from collections import Counter

from _common import MEMORY, TOOL_USE, claim, main

from asm_core import Event, ScriptedAdapter, StreamSession, open_manager
from asm_core.rendering import CallbackSink, PassthroughRenderer, arender_stream


class Figures:
    """What a dashboard would keep of a run."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.text = ""
        self.tools: list[str] = []
        self.model = self.stop_reason = ""

    def take(self, event: Event, rendered: str) -> None:
        assert rendered == ""
        self.kinds[event.type] += 1
        match event.type:
            case "run_started":
                self.model = event.data["model"]
            case "message_streamed":
                self.text += event.data["delta"]
            case "tool_call_started":
                self.tools.append(event.data["tool_name"])
            case "run_completed":
                self.stop_reason = event.data["stop_reason"]


async def example() -> None:
    figures = Figures()
    async with open_manager(MEMORY, ScriptedAdapter()) as manager, StreamSession(manager, TOOL_USE) as stream:
        report = await arender_stream(stream, renderer=PassthroughRenderer(), sinks=[CallbackSink(figures.take)])
    print(", ".join(f"{kind}: {count}" for kind, count in figures.kinds.items()))
    claim("the function gets every event", figures.kinds.total() == report.events)
    claim("and adds up what it likes", figures.text == "Let me look.It runs agents.")
    claim("which tools were used", figures.tools == ["Read", "bash"])
    claim("which model, and how it ended", (figures.model, figures.stop_reason) == ("scripted", "end_turn"))
    claim("nothing failed", not figures.kinds["error_occurred"] and not report.sink_errors)


if __name__ == "__main__":
    main(example)
