"""
The terminal's last lines alive, by rich: what is being said, and a spinner for every tool that runs. Lines that are
complete scroll up above them and stay.
"""

from __future__ import annotations

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.text import Text

from asm_core.domain.event import Event
from asm_core.rendering.studio.renderer import StudioRenderer
from asm_core.rendering.studio.tool_summary import spinner_text

REFRESH_PER_S = 12.5


class LiveSink:
    """
    Args:
        renderer: the one whose text this shows, made with `live=True`; the tools that run are read from it.
        console: on standard output when omitted; it must be a terminal.
    """

    def __init__(self, renderer: StudioRenderer, console: Console | None = None) -> None:
        self._renderer = renderer
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=REFRESH_PER_S, transient=True)
        self._line = Text()
        """What is being said, as far as it does not fill a row."""
        self._spinners: dict[str, Spinner] = {}

    async def open(self) -> None:
        self._live.start()

    async def write(self, text: str) -> None:
        *complete, last = text.split("\n")
        for part in complete:
            self._scroll(self._line + Text.from_ansi(part), rest=Text())
        line = self._line + Text.from_ansi(last)
        if line.cell_len > self._console.width:  # a long paragraph must not make the area higher than the terminal
            *full, line = line.wrap(self._console, self._console.width)
            for row in full:
                self._scroll(row, rest=line)
        self._keep(line)

    async def write_event(self, _event: Event, text: str) -> None:
        running, before = self._renderer.running, self._spinners
        self._spinners = {key: before.get(key) or _spinner(spinner_text(tool)) for key, tool in running.items()}
        await self.write(text)

    async def flush(self) -> None:
        self._live.refresh()

    async def close(self) -> None:
        self._live.stop()
        if self._line:
            self._console.print(self._line)
            self._line = Text()

    def _scroll(self, line: Text, *, rest: Text) -> None:
        self._keep(rest)  # before printing, which draws the area anew below the line
        self._console.print(line)

    def _keep(self, line: Text) -> None:
        """A new area each time, as rich draws it in a thread of its own."""
        self._line = line
        margin = (0, 0, 0, self._renderer.indent)
        spinners = [Padding(spinner, margin) for spinner in self._spinners.values()]
        self._live.update(Group(line, *spinners) if line else Group(*spinners))


def _spinner(text: str) -> Spinner:
    return Spinner("dots", text=Text(text), style="cyan")
