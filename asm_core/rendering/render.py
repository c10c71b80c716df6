"""
Rendering: each event through a renderer, its text to every sink.

A sink that fails is left out from then on: logged, told in the report, and nobody else notices. Events are taken one at
a time, so a slow sink slows this reader down and never the run: followers read the store.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, TypeVar

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.ports.rendering import Renderer, Sink
from asm_core.rendering.compact import CompactRenderer
from asm_core.rendering.lines import LinesRenderer
from asm_core.rendering.passthrough import PassthroughRenderer
from asm_core.rendering.studio.renderer import StudioRenderer
from asm_core.rendering.verbose import VerboseRenderer

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

StoppedBy = Literal["end", "no_sink_left"]
Destination = Sink | tuple[Sink, Renderer]
"""A sink, or one with a renderer of its own: a log file beside a terminal."""

RENDERERS: Mapping[str, Callable[[], Renderer]] = {
    "compact": CompactRenderer,
    "verbose": VerboseRenderer,
    "studio": StudioRenderer,
    "lines": LinesRenderer,
    "passthrough": PassthroughRenderer,
}


@dataclass(frozen=True, slots=True)
class SinkError:
    """A sink that was left out, and why."""

    sink: str
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderReport:
    events: int
    tools: int
    """Calls of tools that began."""
    sink_errors: tuple[SinkError, ...]
    stopped_by: StoppedBy
    """`no_sink_left`: every sink has failed, so nobody saw the rest."""


async def arender_stream(
    events: AsyncIterable[Event] | Iterable[Event],
    *,
    renderer: Renderer | str,
    sinks: Sequence[Destination] = (),
    strict: bool = False,
) -> RenderReport:
    """
    Show events until there are no more. However that ends, every sink is flushed and closed.

    Args:
        renderer: an object, or the name of one in `RENDERERS` with its defaults.
        sinks: in this order each gets every event, with the text of its own renderer, else of `renderer`.
        strict: raise the first failure of a sink, once all is shown.

    Raises:
        AsmError: `validation_error` for an unknown renderer or a destination that is none. A sink that cannot be opened
            raises its own error: those opened before it are closed and no event is taken.

    Source: spec/05 §1.4, W-01, W-02, W-06.
    """
    feed = _Feed(_renderer(renderer), sinks)
    stopped_by: StoppedBy = "end"
    await feed.open()
    try:
        async with aclosing(_each(events)) as source:
            async for event in source:
                await feed.show(event)
                if feed.is_unheard:
                    stopped_by = "no_sink_left"
                    break
    finally:
        await feed.end()
    if strict and feed.errors:
        raise feed.errors[0].error
    return feed.report(stopped_by)


def render_stream(
    events: Iterable[Event],
    *,
    renderer: Renderer | str,
    sinks: Sequence[Destination] = (),
    strict: bool = False,
) -> RenderReport:
    """As `arender_stream`, for code without an event loop. A sink that would have to wait in it fails."""
    return _without_waiting(arender_stream(events, renderer=renderer, sinks=sinks, strict=strict))


class _Feed:
    """The sinks that are left, and what has been shown to them."""

    def __init__(self, renderer: Renderer, sinks: Sequence[Destination]) -> None:
        self._waiting = [_destination(sink, renderer) for sink in sinks]
        self._open: list[_Lane] = []
        self._events = self._tools = 0
        self.errors: list[SinkError] = []

    @property
    def is_unheard(self) -> bool:
        return not self._open and bool(self.errors)

    async def open(self) -> None:
        try:
            for lane in self._waiting:
                await lane.sink.open()
                self._open.append(lane)
        except BaseException:
            await self._close()
            raise

    async def show(self, event: Event) -> None:
        self._events += 1
        self._tools += event.type == EventType.TOOL_CALL_STARTED
        texts = _Texts()
        for lane in [*self._open]:
            text = texts.of(lane.renderer, event)
            await self._try(lane, lane.sink.write_event, event, text)

    async def end(self) -> None:
        tails = _Texts()
        for lane in [*self._open]:
            if tail := tails.of(lane.renderer, None):
                await self._try(lane, lane.sink.write, tail)
        for lane in [*self._open]:
            await self._try(lane, lane.sink.flush)
        await self._close()

    def report(self, stopped_by: StoppedBy) -> RenderReport:
        return RenderReport(
            events=self._events, tools=self._tools, sink_errors=tuple(self.errors), stopped_by=stopped_by
        )

    async def _try(self, lane: _Lane, step: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await step(*args, **kwargs)
        except Exception as error:
            self._failed(lane, error)
            self._open.remove(lane)
            with suppress(Exception):  # what it failed with is told already
                await lane.sink.close()

    async def _close(self) -> None:
        while self._open:
            lane = self._open.pop(0)
            try:
                await lane.sink.close()
            except Exception as error:
                self._failed(lane, error)

    def _failed(self, lane: _Lane, error: Exception) -> None:
        name = type(lane.sink).__name__
        log.warning("%s failed and is left out after %d events: %s", name, self._events, error)
        self.errors.append(SinkError(name, error))


@dataclass(frozen=True, slots=True, eq=False)
class _Lane:
    sink: Sink
    renderer: Renderer


@dataclass(slots=True)
class _Texts:
    """What each renderer says to one event, or in the end; asked once, however many sinks show it."""

    _said: dict[int, str] = field(default_factory=dict)

    def of(self, renderer: Renderer, event: Event | None) -> str:
        key = id(renderer)
        if key not in self._said:
            self._said[key] = _text(renderer, event)
        return self._said[key]


def _text(renderer: Renderer, event: Event | None) -> str:
    """A renderer of somebody else's may raise after all; the events go on to those who need no text."""
    try:
        return renderer.finish() if event is None else renderer.render_event(event)
    except Exception:
        log.exception("%s failed at event %s", type(renderer).__name__, event.id if event else "end")
        return ""


def _renderer(value: Renderer | str) -> Renderer:
    if not isinstance(value, str):
        return value
    if value not in RENDERERS:
        message = f"renderer must be one of {', '.join(RENDERERS)}, not {value!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "renderer"})
    return RENDERERS[value]()


def _destination(value: Destination, renderer: Renderer) -> _Lane:
    return _Lane(*value) if isinstance(value, tuple) else _Lane(value, renderer)


async def _each(events: AsyncIterable[Event] | Iterable[Event]) -> AsyncGenerator[Event, None]:
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield event
    else:
        for event in events:
            yield event


def _without_waiting(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end what never waits; where it would, that step fails instead."""
    try:
        work.send(None)
        while True:
            message = "this sink waits for something: use arender_stream"
            work.throw(AsmError(ErrorCode.INVALID_OPERATION, message))
    except StopIteration as done:
        result: T = done.value
        return result
