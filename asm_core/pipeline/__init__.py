"""
The way of an event: provider event > normalize > validate > cost > (persist, in batches > publish, after commit).

`ingest` is pure: an event in, usually one out. What follows it has one writer per process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from asm_core.domain.event import Event
from asm_core.pipeline.context import RunContext
from asm_core.pipeline.cost import add_cost
from asm_core.pipeline.normalize import normalize
from asm_core.pipeline.validate import validate
from asm_core.ports.provider import RawEvent

Step = Callable[[Event, RunContext], Iterable[Event]]

STEPS: tuple[Step, ...] = (validate, add_cost)


def ingest(raw: RawEvent, ctx: RunContext) -> list[Event]:
    """One provider event as the events to store, in order."""
    events = [normalize(raw, ctx)]
    for step in STEPS:
        events = [out for event in events for out in step(event, ctx)]
    return events
