"""
No secret passes here: everything behind this step is stored, published and shown.

It stands behind validation, which tells types and never values, so that warnings are about what the adapter really sent
and each event keeps its own.

Streamed text is redacted as one text, however it is cut, and each chunk stays one event. A chunk whose end may still
become a secret, which is rare and a matter of a few characters, waits for the next one, or for anything else that
happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from asm_core.domain.event import MESSAGE_EVENTS, TOOL_EVENTS, Event, EventType
from asm_core.domain.scrub import TextStream
from asm_core.pipeline.context import RunContext

TEXT_KEYS = ("content", "delta")
STREAM_KEYS = ("thread_id", "turn_id", "message_id", "item_id", "index")
"""Data that tell apart texts which stream at the same time."""
ENDS_TEXT = frozenset((*MESSAGE_EVENTS, *TOOL_EVENTS)) - {EventType.MESSAGE_STREAMED}
"""What follows one of these goes on with nothing."""


@dataclass(slots=True)
class Chunk:
    """An event that streams text, and what it will show of it."""

    event: Event
    keys: frozenset[str]
    """Where the text stands in it."""
    shown: str = ""

    def told(self) -> Event:
        data = {key: self.shown if key in self.keys else item for key, item in self.event.data.items()}
        return replace(self.event, data=data)


@dataclass(slots=True)
class Streamed:
    """One text that streams."""

    text: TextStream
    waiting: list[Chunk] = field(default_factory=list)
    """Chunks of which something is undecided."""
    undecided: str = ""

    def take(self, chunk: Chunk, text: str) -> Iterator[Event]:
        """What may be told by now; what was decided of earlier chunks stays with them, a replacement is never cut."""
        out, given, before = self.text.feed(text), self.undecided + text, len(self.undecided)
        decided = len(given) - self.text.held
        self.undecided = given[decided:]
        if self.waiting:
            of_before = before if out == given[:decided] else len(out)
            self.waiting[-1].shown += out[:of_before]
            out = out[of_before:]
        chunk.shown = out
        self.waiting.append(chunk)
        while self.waiting and (not self.text.held or (len(self.waiting) > 1 and self.text.held <= len(text))):
            yield self.waiting.pop(0).told()

    def flush(self) -> Iterator[Event]:
        """All that waits: the text does not go on, or not now."""
        if self.waiting:
            self.waiting[-1].shown += self.text.flush()
            self.undecided = ""
        while self.waiting:
            yield self.waiting.pop(0).told()


def redact(event: Event, ctx: RunContext) -> Iterable[Event]:
    if not ctx.redactor.is_on:
        return (event,)
    if event.type is EventType.MESSAGE_STREAMED and (text := _streamed_text(event.data)):
        return _stream_of(event, ctx).take(_chunk(event, text, ctx), text)
    held = released(ctx)
    if event.type in ENDS_TEXT:
        ctx.streams.clear()
    return (*held, ctx.redactor.event(event).event)


def released(ctx: RunContext) -> list[Event]:
    """What is held back."""
    return [event for streamed in ctx.streams.values() for event in streamed.flush()]


def _streamed_text(data: Mapping[str, Any]) -> str | None:
    """The increment; None when there is none."""
    return next((data[key] for key in reversed(TEXT_KEYS) if isinstance(data.get(key), str) and data[key]), None)


def _stream_of(event: Event, ctx: RunContext) -> Streamed:
    name = tuple(str(event.data.get(key)) for key in STREAM_KEYS)
    if name not in ctx.streams:
        ctx.streams[name] = Streamed(ctx.redactor.stream())
    return ctx.streams[name]


def _chunk(event: Event, text: str, ctx: RunContext) -> Chunk:
    """The chunk without its text. All the text so far, where an adapter adds it, ends before what is undecided."""
    keys = frozenset(key for key in TEXT_KEYS if event.data.get(key) == text)
    data = {
        key: "" if key in keys else ctx.redactor.stream().feed(item) if _is_text(key, item) else item
        for key, item in event.data.items()
    }
    return Chunk(ctx.redactor.event(replace(event, data=data)).event, keys)


def _is_text(key: str, item: Any) -> bool:
    return key in TEXT_KEYS and isinstance(item, str)
