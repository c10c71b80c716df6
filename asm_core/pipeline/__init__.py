"""
The way of an event: provider event > normalize > validate > redact > cost > (persist, in batches > publish, after
commit).

`ingest` is pure: an event in, usually one out; `ingest_end` lets go what a step still held back. What follows them has
one writer per process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from asm_core.domain.event import Event
from asm_core.pipeline.context import RunContext
from asm_core.pipeline.cost import add_cost
from asm_core.pipeline.normalize import normalize
from asm_core.pipeline.redact import redact, released
from asm_core.pipeline.validate import validate
from asm_core.ports.provider import RawEvent

Step = Callable[[Event, RunContext], Iterable[Event]]

STEPS: tuple[Step, ...] = (validate, redact, add_cost)
BEHIND_REDACT = STEPS[STEPS.index(redact) + 1 :]


def ingest(raw: RawEvent, ctx: RunContext) -> list[Event]:
    """One provider event as the events to store, in order."""
    return _through(STEPS, [normalize(raw, ctx)], ctx)


def ingest_end(ctx: RunContext) -> list[Event]:
    """What was held back, when no provider event follows any more."""
    return _through(BEHIND_REDACT, released(ctx), ctx)


def _through(steps: Iterable[Step], events: list[Event], ctx: RunContext) -> list[Event]:
    for step in steps:
        events = [out for event in events for out in step(event, ctx)]
    return events
