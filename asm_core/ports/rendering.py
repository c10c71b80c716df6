"""Showing events: a renderer makes text of each, sinks take the text somewhere. Neither knows the other."""

from __future__ import annotations

from typing import Protocol

from asm_core.domain.event import Event


class Renderer(Protocol):
    """
    Pure: an event in, its text out, the state between them in its attributes. Never raises, whatever an event says.
    """

    def render_event(self, event: Event) -> str:
        """What is to be added to the text so far; empty: nothing."""

    def finish(self) -> str:
        """What closes the text, once no more events come."""


class Sink(Protocol):
    """
    The end of rendering. Each method may raise: the sink is then left out, and the others go on. One that really waits
    (a network) needs `arender_stream`.
    """

    async def open(self) -> None:
        """Take hold of what is written to."""

    async def write(self, text: str) -> None:
        """Text that belongs to no event: what `Renderer.finish` said."""

    async def write_event(self, event: Event, text: str) -> None:
        """Called for every event, also when its text is empty."""

    async def flush(self) -> None:
        """Make what was written visible, or durable."""

    async def close(self) -> None:
        """Let go; a second time does nothing."""
