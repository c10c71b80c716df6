"""
No secret passes here: everything behind this step is stored, published and shown.

It stands behind validation, which tells types and never values, so that warnings are about what the adapter really sent
and each event keeps its own.

Streamed text is redacted as one text, however it is cut. Each chunk stays an event and shows at once what cannot become
a secret any more, which is nearly always all of it; the rest is put in front of the next chunk. What is still held back
when something else happens comes first, as a chunk of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asm_core.domain.event import MESSAGE_EVENTS, TOOL_EVENTS, Event, EventType
from asm_core.domain.scrub import TextStream
from asm_core.pipeline.context import RunContext

INCREMENT_FIRST = ("delta", "content")
"""Where a chunk's text stands."""
STREAM_KEYS = ("thread_id", "turn_id", "message_id", "item_id")
"""Data that tell apart texts which stream at the same time; nothing that could change from chunk to chunk."""
ENDS_TEXT = frozenset((*MESSAGE_EVENTS, *TOOL_EVENTS)) - {EventType.MESSAGE_STREAMED}
"""What follows one of these goes on with nothing."""


@dataclass(slots=True)
class Streamed:
    """One text that streams."""

    text: TextStream
    last: Event
    """Its last chunk; in the text itself there may be secrets."""
    keys: Sequence[str]
    """Where the text stands in it."""

    def chunk(self, shown: str) -> Event:
        return replace(self.last, data={**self.last.data, **dict.fromkeys(self.keys, shown)})


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
    for key in INCREMENT_FIRST:
        text = data.get(key)
        if text and isinstance(text, str):
            return text
    return None


def _chunk(event: Event, text: str, ctx: RunContext) -> Event:
    keys = [key for key in INCREMENT_FIRST if event.data.get(key) == text]
    last = _without_secrets(event, keys, ctx)
    name = tuple((key, str(event.data[key])) for key in STREAM_KEYS if key in event.data)
    streamed = ctx.streams.get(name)
    if streamed is None:
        streamed = ctx.streams[name] = Streamed(ctx.redactor.stream(), last, keys)
    streamed.last, streamed.keys = last, keys
    shown = streamed.text.feed(text)
    return last if shown == text else streamed.chunk(shown)


def _without_secrets(event: Event, keys: Sequence[str], ctx: RunContext) -> Event:
    """The chunk with everything redacted that stands beside its text."""
    if len(keys) == len(event.data) and not event.metadata:
        return event
    beside = {key: _so_far(key, item, ctx) for key, item in event.data.items() if key not in keys}
    clean = ctx.redactor.event(replace(event, data=beside)).event
    return replace(clean, data={**{key: event.data[key] for key in keys}, **clean.data})


def _so_far(key: str, item: Any, ctx: RunContext) -> Any:
    """All the text so far, where an adapter adds it up, ends before what is undecided."""
    return ctx.redactor.stream().feed(item) if key in INCREMENT_FIRST and isinstance(item, str) else item
