"""Events of older schema versions read alike from every store, as records and as bytes; their rows stay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from asm_core.domain.event import Event, EventType
from asm_core.domain.upcasting import UPCASTERS
from asm_core.ports.store import EventFilter
from asm_core.wire import loads
from tests.builders import World, an_event
from tests.conformance.conftest import OpenWorld

KIND = EventType.MESSAGE_RECEIVED


@pytest.fixture
async def world(open_any: OpenWorld) -> AsyncIterator[World]:
    """Sessions need not exist here."""
    async with open_any(ends_sound=False) as opened:
        yield opened


@pytest.fixture
def upcaster() -> Iterator[None]:
    UPCASTERS.register(KIND, 1, lambda event: {"data": {"text": event["data"]["content"]}})
    yield
    UPCASTERS.unregister(KIND, 1)


async def read(world: World) -> list[Event]:
    frames = await world.store.get_events("ses_1", "default", EventFilter(), 10)
    assert all(frame.schema_version == loads(frame.body)["schema_version"] for frame in frames)
    return [Event.from_map(loads(frame.body)) for frame in frames]


async def test_an_older_event_reads_in_the_current_version(world: World, upcaster: None) -> None:
    """spec/02 §19: the answer to an append, too, and without a change of the row."""
    old = an_event(KIND, data={"content": "hi"})
    new = an_event(KIND, data={"text": "hi"}, schema_version=2)
    answers = await world.store.append_events([old, new], "default")
    assert [event.data for event in answers] == [{"text": "hi"}, {"text": "hi"}]
    assert await read(world) == answers
    assert [event.schema_version for event in answers] == [2, 2]
    rows = await world.rows("events", session_id="ses_1")
    assert [(row["data"], row["schema_version"]) for row in rows] == [({"content": "hi"}, 1), ({"text": "hi"}, 2)]


async def test_a_newer_event_is_read_as_it_is_stored(world: World) -> None:
    """249: flagged, so that a reader knows that it may not understand it."""
    newer = an_event(KIND, data={"parts": ["hi"]}, metadata={"k": 1}, schema_version=7)
    [answer] = await world.store.append_events([newer], "default")
    assert await read(world) == [answer]
    assert (answer.data, answer.schema_version) == ({"parts": ["hi"]}, 7)
    assert answer.metadata == {"k": 1, "_unknown_version": 7}
    [row] = await world.rows("events", session_id="ses_1")
    assert row["metadata"] == {"k": 1}
