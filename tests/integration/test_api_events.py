"""Events by page and by long poll."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from asm_core.bus.redis import RedisBus
from asm_core.domain.event import EventType
from asm_core.wire import frame_of_event
from tests.builders import NOW, World, an_outcome
from tests.fixtures.api import LiveApi, new_session
from tests.fixtures.faults import eventually

GUARD_S = 10.0


async def page(http: httpx2.AsyncClient, session_id: str, **params: Any) -> dict[str, Any]:
    response = await http.get(f"/v1/sessions/{session_id}/events", params=params, timeout=GUARD_S)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def numbers(answer: dict[str, Any]) -> list[int]:
    return [event["sequence_number"] for event in answer["events"]]


async def test_pages_follow_each_other_without_gaps(http: httpx2.AsyncClient, world: World) -> None:
    """`next_after` of one page is the cursor of the next; `latest` says how far there is to go."""
    lease = await world.running()
    stored = await world.append(lease, 250)
    await world.queue.finish(lease, an_outcome())
    seen, after = [], 0
    while True:
        answer = await page(http, lease.session_id, after=after)
        if not answer["events"]:
            break
        assert len(answer["events"]) <= 100
        assert answer["latest"] == 253
        seen += answer["events"]
        after = answer["next_after"]
    assert [event["sequence_number"] for event in seen] == [*range(1, 254)]
    assert answer == {"events": [], "next_after": 253, "latest": 253}
    assert seen[2:-1] == [event.to_map() for event in stored]


async def test_pages_are_narrowed_by_what_the_caller_names(http: httpx2.AsyncClient, world: World) -> None:
    """All conditions hold together."""
    session_id = await world.session()
    lease = await world.running(session_id=session_id)
    await world.append(lease, 2, kind=EventType.MESSAGE_STREAMED)
    await world.append(lease, 1, kind=EventType.MESSAGE_RECEIVED)
    await world.queue.finish(lease, an_outcome())
    other = await world.running(session_id=session_id)
    await world.append(other, 1, kind=EventType.MESSAGE_RECEIVED)
    await world.queue.finish(other, an_outcome())
    assert numbers(await page(http, session_id, run_id=lease.run_id)) == [3, 4, 5, 6]
    assert numbers(await page(http, session_id, type="message_received")) == [5, 7]
    assert numbers(await page(http, session_id, type="message_received, run_completed")) == [5, 6, 7, 8]
    assert numbers(await page(http, session_id, type=["message_received", "run_completed"], after=5)) == [6, 7, 8]
    assert numbers(await page(http, session_id, after=2, before=5)) == [3, 4]
    assert numbers(await page(http, session_id, limit=2, run_id=other.run_id)) == [7, 8]
    assert numbers(await page(http, session_id, run_id="run_none")) == []
    at = NOW.replace(tzinfo=None).isoformat()
    assert numbers(await page(http, session_id, since=at, type="message_received")) == []  # exclusive; builders use NOW
    assert numbers(await page(http, session_id, since="0001-01-01T00:00:00+14:00")) == [*range(1, 9)]


async def test_a_long_poll_wakes_with_the_first_event(
    http: httpx2.AsyncClient, live: LiveApi, world: World, bus: RedisBus
) -> None:
    """Not before, and not with events that its filter does not want."""
    lease = await world.running()
    params = {"after": 2, "wait_ms": 30_000, "type": "message_received"}
    polling = asyncio.create_task(page(http, lease.session_id, **params))
    await eventually(lambda: _follows(live), GUARD_S)
    for kind in (EventType.MESSAGE_STREAMED, EventType.MESSAGE_RECEIVED):
        assert not polling.done()
        stored = await world.append(lease, kind=kind)
        await bus.publish([(lease.session_id, [frame_of_event(event) for event in stored])])
    answer = await polling
    assert (numbers(answer), answer["next_after"], answer["latest"]) == ([4], 4, 4)
    await world.queue.finish(lease, an_outcome())


async def test_a_long_poll_is_not_ended_by_another_run_or_session(
    http: httpx2.AsyncClient, live: LiveApi, world: World, bus: RedisBus
) -> None:
    """
    spec/02 checks 58, 61, 63, 66: it waits for the run it names, and then gets the whole batch up to its limit; what is
    there when it comes is answered at once.
    """
    session_id, elsewhere = await world.session(max_concurrent_runs=2), await world.running()
    other, mine = [await world.running(session_id=session_id) for _ in range(2)]
    params = {"after": 2, "wait_ms": 30_000, "run_id": mine.run_id, "limit": 2}
    polling = asyncio.create_task(page(http, session_id, **params))
    await eventually(lambda: _follows(live), GUARD_S)
    for lease in (elsewhere, other, mine):
        assert not polling.done()
        stored = await world.append(lease, 3)
        await bus.publish([(lease.session_id, [frame_of_event(event) for event in stored])])
    assert numbers(await polling) == numbers(await page(http, session_id, **params)) == [6, 7]
    for lease in (elsewhere, other, mine):
        await world.queue.finish(lease, an_outcome())


async def test_a_long_poll_hears_of_what_nobody_announced(
    http: httpx2.AsyncClient, live: LiveApi, world: World
) -> None:
    """The poll of the counters wakes it."""
    session_id = await world.session()
    polling = asyncio.create_task(page(http, session_id, after=2, wait_ms=30_000))
    await eventually(lambda: _follows(live), GUARD_S)
    await world.submit(session_id)
    lease = await world.claim(session_id, await world.worker())
    await world.append(lease)
    assert numbers(await polling) == [3]
    await world.queue.finish(lease, an_outcome())


async def test_a_long_poll_ends_empty_when_its_time_is_over(http: httpx2.AsyncClient, world: World) -> None:
    session_id = await world.session()
    assert await page(http, session_id, after=2, wait_ms=50) == {"events": [], "next_after": 2, "latest": 2}


async def test_what_the_api_itself_does_is_announced(http: httpx2.AsyncClient, live: LiveApi, world: World) -> None:
    """A pause wakes a follower of the same session."""
    session_id = await new_session(http)
    polling = asyncio.create_task(page(http, session_id, after=2, wait_ms=30_000))
    await eventually(lambda: _follows(live), GUARD_S)
    await http.post(f"/v1/sessions/{session_id}/pause")
    assert [event["type"] for event in (await polling)["events"]] == ["session_paused"]


def _follows(live: LiveApi) -> None:
    assert live.deps.hub.followers == 1
