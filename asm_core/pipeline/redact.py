"""
No secret passes here: everything behind this step is stored, published and shown.

It stands behind validation, which tells types and never values, so that warnings are about what the adapter really sent
and each event keeps its own.

Streamed text is redacted as one text, however it is cut. Each chunk stays an event and shows at once what cannot become
a secret any more, which is nearly always all of it; the rest is put in front of the next chunk. What is still held back
when something else happens comes first, as a chunk of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
class Streamed:
    """One text that streams."""

    text: TextStream
    last: Event
    """Its last chunk, the text left out."""
    keys: frozenset[str]
    """Where the text stands in it."""

    def chunk(self, shown: str) -> Event:
        return replace(
            self.last, data={key: shown if key in self.keys else item for key, item in self.last.data.items()}
        )


def redact(event: Event, ctx: RunContext) -> Iterable[Event]:
    if not ctx.redactor.is_on:
        return (event,)
    if event.type is EventType.MESSAGE_STREAMED and (text := _streamed_text(event.data)):
        return (_chunk(event, text, ctx),)
    held = released(ctx)
    if event.type in ENDS_TEXT:
        ctx.streams.clear()
    return (*held, ctx.redactor.event(event).event)


def released(ctx: RunContext) -> list[Event]:
    """What is held back, as chunks of their own: the text does not go on, or not now."""
    return [chunk for streamed in ctx.streams.values() for chunk in _released(streamed, ctx)]


def _released(streamed: Streamed, ctx: RunContext) -> Iterator[Event]:
    if streamed.text.held and (shown := streamed.text.flush()):
        yield replace(streamed.chunk(shown), id=ctx.next_event_id())


def _streamed_text(data: Mapping[str, Any]) -> str | None:
    """The increment; None when there is none."""
    return next((data[key] for key in reversed(TEXT_KEYS) if isinstance(data.get(key), str) and data[key]), None)


def _chunk(event: Event, text: str, ctx: RunContext) -> Event:
    keys = frozenset(key for key in TEXT_KEYS if event.data.get(key) == text)
    bare = replace(event, data={key: "" if key in keys else item for key, item in event.data.items()})
    last = _without_secrets(bare, ctx)
    name = tuple(str(event.data.get(key)) for key in STREAM_KEYS)
    streamed = ctx.streams.get(name)
    if streamed is None:
        streamed = ctx.streams[name] = Streamed(ctx.redactor.stream(), last, keys)
    streamed.last, streamed.keys = last, keys
    return streamed.chunk(streamed.text.feed(text))


def _without_secrets(event: Event, ctx: RunContext) -> Event:
    """The chunk's other data. All the text so far, where an adapter adds it, ends before what is undecided."""
    data = {
        key: ctx.redactor.stream().feed(item) if key in TEXT_KEYS and isinstance(item, str) else item
        for key, item in event.data.items()
    }
    return ctx.redactor.event(replace(event, data=data)).event
