"""Over HTTP, too, older events read in the current version: pages, searches and streams, from the store and live."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from asm_api.client import AsyncAsmClient
from asm_core.bus.redis import RedisBus
from asm_core.domain.event import EventType
from asm_core.domain.upcasting import UPCASTERS
from asm_core.wire import frame_of_event
from tests.builders import World
from tests.fixtures.api import LiveApi


@pytest.fixture(autouse=True)
def upcaster() -> Iterator[None]:
    UPCASTERS.register(EventType.MESSAGE_STREAMED, 1, lambda event: {"data": {"text": event["data"]["content"]}})
    yield
    UPCASTERS.unregister(EventType.MESSAGE_STREAMED, 1)


@pytest.fixture
async def bus(live: LiveApi) -> AsyncIterator[RedisBus]:
    opened = RedisBus(live.settings.redis_url, live.settings.redis_prefix)
    yield opened
    await opened.close()


async def test_stored_and_live_events_read_alike(client: AsyncAsmClient, world: World, bus: RedisBus) -> None:
    """A worker publishes what it has stored; the server that is asked knows how it reads."""
    lease = await world.running()
    await world.append(lease)
    async with aclosing(client.follow(lease.session_id, types=["message_streamed"])) as events:
        backfilled = await anext(events)
        later = await world.append(lease)
        await bus.publish([(lease.session_id, [frame_of_event(event) for event in later])])
        live_event = await anext(events)
    for event in (backfilled, live_event):
        assert (event["data"].keys(), event["schema_version"]) == ({"text"}, 2)
    where = {"types": ["message_streamed"]}
    assert (await client.events(lease.session_id, **where))["events"] == [backfilled, live_event]
    assert (await client.search_events(**where))["events"] == [backfilled, live_event]
