"""
The event stream: every event once and in order, whatever is lost on the way.

Runs are driven here through the queue; their events are announced as workers announce them, or not at all.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2

from asm_api.client import AsyncAsmClient
from asm_core.bus.redis import RedisBus, open_redis
from asm_core.domain.event import Event, EventType
from asm_core.domain.lease import Lease
from asm_core.domain.topics import session_topic
from asm_core.wire import frame_of_event, loads
from tests.builders import World, an_outcome
from tests.fixtures.api import LiveApi, StartApi, new_session, problem_in
from tests.fixtures.faults import eventually

GUARD_S = 20.0


class Reader:
    """One stream, read block by block."""

    def __init__(self, response: httpx2.Response) -> None:
        self.headers = response.headers
        self.raw = b""
        self.ended = False
        self._chunks = response.aiter_bytes()

    @property
    def blocks(self) -> list[str]:
        return self.raw.decode().split("\n\n")[:-1]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [loads(block.partition("data: ")[2]) for block in self.blocks if "data: " in block]

    @property
    def numbers(self) -> list[int]:
        return [event["sequence_number"] for event in self.events]

    async def until(self, how_many: int) -> list[dict[str, Any]]:
        """Read on until there are that many events."""
        async with asyncio.timeout(GUARD_S):
            while len(self.events) < how_many:
                self.raw += await anext(self._chunks)
        return self.events

    async def until_end(self) -> list[str]:
        """All blocks of a stream that ends."""
        async with asyncio.timeout(GUARD_S):
            async for chunk in self._chunks:
                self.raw += chunk
        return self.blocks


@asynccontextmanager
async def reading(
    http: httpx2.AsyncClient, session_id: str, headers: dict[str, str] | None = None, **params: Any
) -> AsyncIterator[Reader]:
    path = f"/v1/sessions/{session_id}/events/stream"
    async with http.stream("GET", path, params=params, headers=headers, timeout=GUARD_S) as response:
        assert response.status_code == 200
        yield Reader(response)


async def announce(bus: RedisBus, events: Sequence[Event]) -> None:
    await bus.publish([(events[0].session_id, [frame_of_event(event) for event in events])])


async def finish(world: World, bus: RedisBus, lease: Lease) -> None:
    finished = await world.queue.finish(lease, an_outcome())
    await bus.publish([(lease.session_id, finished.events)])


async def subscribers(redis_url: str, prefix: str, session_id: str) -> int:
    """Redis connections that listen to the session."""
    client = open_redis(redis_url)
    [(_, count)] = await client.pubsub_numsub(session_topic(prefix, session_id))
    await client.aclose()
    return int(count)


async def test_the_form_of_the_stream(http: httpx2.AsyncClient, world: World) -> None:
    """A retry hint, then `id`, `event`, `data` per event; not cached, not buffered, ended by `: idle` on request."""
    lease = await world.running()
    text = 'line\nbreaks\r\n, \u2028 and \u0085, "quotes", data: id: 5\n\nünïcode'
    [stored] = await world.append(lease, data={"content": text})
    await world.queue.finish(lease, an_outcome())
    async with reading(http, lease.session_id, until="idle") as stream:
        retry, *blocks, idle = await stream.until_end()
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["cache-control"] == "no-cache"
    assert stream.headers["x-accel-buffering"] == "no"
    hint = re.fullmatch(r"retry: (\d+)", retry)
    assert hint is not None
    assert 1_000 <= int(hint[1]) <= 5_000
    assert idle == ": idle"
    assert len(blocks) == 4
    number, kind, data = blocks[2].split("\n")
    assert (number, kind) == ("id: 3", "event: message_streamed")
    assert loads(data.removeprefix("data: ")) == stored.to_map()


async def test_a_stream_begins_at_the_beginning_or_behind_its_cursor(http: httpx2.AsyncClient, world: World) -> None:
    """Default 0; `after`; and `Last-Event-ID`, which beats it."""
    lease = await world.running()
    await world.append(lease, 5)
    await world.queue.finish(lease, an_outcome())
    for headers, params, first in (
        ({}, {}, 1),
        ({}, {"after": 3}, 4),
        ({"Last-Event-ID": "6"}, {"after": 3}, 7),
        ({"Last-Event-ID": "0"}, {"after": 3}, 1),
    ):
        async with reading(http, lease.session_id, headers, until="idle", **params) as stream:
            await stream.until_end()
        assert stream.numbers == [*range(first, 9)]


async def test_backfill_goes_over_into_live_events(http: httpx2.AsyncClient, world: World, bus: RedisBus) -> None:
    """What is announced arrives without a look at the store: the store does not even know these."""
    lease = await world.running()
    await world.append(lease, 2)
    async with reading(http, lease.session_id) as stream:
        await stream.until(4)
        stored = await world.append(lease, 3)
        await announce(bus, stored)
        events = await stream.until(7)
        assert events[4:] == [event.to_map() for event in stored]
        await finish(world, bus, lease)
        assert (await stream.until(8))[-1]["type"] == "run_completed"


async def test_resuming_loses_and_doubles_nothing(client: AsyncAsmClient, world: World, bus: RedisBus) -> None:
    """A client leaves and comes back again and again, while events keep coming and every third message is lost."""
    lease = await world.running()
    total = 300

    async def work() -> None:
        for number in range(total // 3):
            stored = await world.append(lease, 3)
            if number % 3:
                await announce(bus, stored)
        await finish(world, bus, lease)

    working = asyncio.create_task(work())
    seen: list[int] = []
    async with asyncio.timeout(GUARD_S):
        while len(seen) < total + 3:
            async with aclosing(client.follow(lease.session_id, after=seen[-1] if seen else 0)) as events:
                wanted = len(seen) + 17
                async for event in events:
                    seen.append(event["sequence_number"])
                    if len(seen) >= min(wanted, total + 3):
                        break
    await working
    assert seen == [*range(1, total + 4)]


async def test_events_arrive_although_nothing_is_announced(client: AsyncAsmClient, world: World) -> None:
    """The poll of the counters heals a silent bus, also for the very last event."""
    lease = await world.running()
    seen = asyncio.create_task(_collect(client, lease.session_id, 6))
    for _ in range(3):
        await world.append(lease)
    await world.queue.finish(lease, an_outcome())
    assert await seen == [*range(1, 7)]


async def test_a_lost_message_does_not_hold_up_the_ones_behind_it(
    http: httpx2.AsyncClient, world: World, bus: RedisBus
) -> None:
    """The gap is filled from the store even while later messages keep coming without a pause."""
    lease = await world.running()
    async with reading(http, lease.session_id) as stream:
        await stream.until(2)
        await world.append(lease)  # number 3: its message is lost
        later = await world.append(lease)
        passed_the_gap = asyncio.create_task(stream.until(3))
        while not passed_the_gap.done():
            await announce(bus, later)
        assert (await passed_the_gap)[2]["sequence_number"] == 3
        await finish(world, bus, lease)
        last = await world.value("SELECT max(sequence_number) FROM asm_events")
        await stream.until(last)
    assert stream.numbers == [*range(1, last + 1)]


async def test_messages_out_of_order_doubled_or_garbled_do_no_harm(
    http: httpx2.AsyncClient, world: World, bus: RedisBus, redis_url: str, redis_prefix: str
) -> None:
    """Whatever comes over the bus, the stream has each event once, in order."""
    lease = await world.running()
    async with reading(http, lease.session_id) as stream:
        await stream.until(2)
        batches = [await world.append(lease, 2) for _ in range(6)]
        redis = open_redis(redis_url)
        for rubbish in (b"", b"rubbish", b"[]", b'{"v":99}', b'{"v":1,"e":[[9,"x","y"]]}', b'{"v":1}'):
            await redis.publish(session_topic(redis_prefix, lease.session_id), rubbish)
        await redis.aclose()
        for index in (1, 0, 0, 3, 5, 2, 4, 5):
            await announce(bus, batches[index])
        await finish(world, bus, lease)
        await stream.until(15)
    assert stream.numbers == [*range(1, 16)]


async def test_a_stream_delivers_only_what_its_filters_want(
    http: httpx2.AsyncClient, world: World, bus: RedisBus
) -> None:
    """From the store and live, with the numbers that the events have in the session."""
    session_id = await world.session(max_concurrent_runs=2)
    mine, other = [await world.running(session_id=session_id) for _ in range(2)]
    received = EventType.MESSAGE_RECEIVED

    async def talk() -> None:
        for lease in (mine, other):
            await announce(bus, await world.append(lease, kind=received))
            await announce(bus, await world.append(lease, kind=EventType.MESSAGE_STREAMED))

    await talk()
    async with (
        reading(http, session_id, run_id=mine.run_id) as by_run,
        reading(http, session_id, type="message_received,run_completed") as by_type,
        reading(http, session_id, type=["message_received", "run_completed"], run_id=mine.run_id) as by_both,
    ):
        await by_run.until(2)
        await talk()
        await finish(world, bus, mine)
        await finish(world, bus, other)
        assert [event["sequence_number"] for event in await by_run.until(5)] == [3, 4, 7, 8, 11]
        assert [event["sequence_number"] for event in await by_type.until(6)] == [3, 5, 7, 9, 11, 12]
        assert [event["sequence_number"] for event in await by_both.until(3)] == [3, 7, 11]


async def test_until_idle_ends_behind_the_last_event(http: httpx2.AsyncClient, world: World) -> None:
    """Not while something is queued or in flight, and with everything delivered."""
    session_id = await world.session()
    first = await world.running(session_id=session_id)
    await world.submit(session_id)
    async with reading(http, session_id, until="idle", type="run_completed") as stream:
        ended = asyncio.create_task(stream.until_end())
        await world.queue.finish(first, an_outcome())
        second = await world.claim(session_id, await world.worker())
        await world.queue.start(second)
        await world.append(second, 10)
        assert not ended.done()
        await world.queue.finish(second, an_outcome())
        assert (await ended)[-1] == ": idle"
    assert [event["run_id"] for event in stream.events] == [first.run_id, second.run_id]


async def test_until_idle_never_ends_before_the_last_event(
    client: AsyncAsmClient, live: LiveApi, world: World, bus: RedisBus
) -> None:
    """Whatever instant of a run's end a stream's look at the queue meets."""
    worker_id = await world.worker()
    for _ in range(12):
        lease = await world.running(worker_id=worker_id)
        streams = [asyncio.create_task(_collect(client, lease.session_id, 10)) for _ in range(8)]
        await eventually(lambda: _is_asked(live), GUARD_S)
        await finish(world, bus, lease)
        assert await asyncio.gather(*streams) == [[1, 2, 3]] * 8


async def test_followers_of_a_session_share_one_subscription(
    http: httpx2.AsyncClient, live: LiveApi, world: World, bus: RedisBus, redis_url: str, redis_prefix: str
) -> None:
    """Three streams, one Redis subscription; it ends when the last of them leaves."""
    lease = await world.running()
    async with reading(http, lease.session_id) as one, reading(http, lease.session_id) as two:
        async with reading(http, lease.session_id) as three:
            for stream in (one, two, three):
                await stream.until(2)
            assert await subscribers(redis_url, redis_prefix, lease.session_id) == 1
            assert live.deps.hub.followers == 3
            await announce(bus, await world.append(lease, 2))
            seen = [await stream.until(4) for stream in (one, two, three)]
            assert seen[0] == seen[1] == seen[2]
        await eventually(lambda: _has_followers(live, 2), GUARD_S)
        assert await subscribers(redis_url, redis_prefix, lease.session_id) == 1
    await eventually(lambda: _has_followers(live, 0), GUARD_S)

    async def nobody_listens() -> None:
        assert await subscribers(redis_url, redis_prefix, lease.session_id) == 0

    await eventually(nobody_listens, GUARD_S)
    await world.queue.finish(lease, an_outcome())


async def test_a_slow_reader_holds_nobody_up_and_misses_nothing(
    start_api: StartApi, world: World, bus: RedisBus
) -> None:
    """One that does not read at all for 8 MB of events: others see them at once, it sees them all when it reads."""
    live = start_api(database_url=world.url, subscriber_buffer=5)
    lease = await world.running()
    total = 1_000
    slow = socket.create_connection(("127.0.0.1", live.port))
    request = (
        f"GET /v1/sessions/{lease.session_id}/events/stream?until=idle HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    slow.sendall(request.encode())
    async with AsyncAsmClient(live.base_url) as client:
        quick = asyncio.create_task(_collect(client, lease.session_id, total + 3))
        await eventually(lambda: _has_followers(live, 2), GUARD_S)
        for _ in range(total // 100):
            await announce(bus, await world.append(lease, 100, data={"content": "x" * 8_000}))
        await finish(world, bus, lease)
        assert await quick == [*range(1, total + 4)]
    await eventually(lambda: _has_followers(live, 1), GUARD_S)
    text = await asyncio.to_thread(_read_all, slow)
    assert [int(number) for number in re.findall(rb"^id: (\d+)", text, re.MULTILINE)] == [*range(1, total + 4)]
    assert b"\n: idle\n\n" in text[-100:]


async def test_a_client_that_leaves_while_it_is_written_to_frees_its_watch(
    live: LiveApi, world: World, redis_url: str, redis_prefix: str
) -> None:
    """Cut off in the middle of a big backfill."""
    lease = await world.running()
    for _ in range(10):
        await world.append(lease, 100, data={"content": "x" * 8_000})
    for _ in range(3):
        leaver = socket.create_connection(("127.0.0.1", live.port))
        leaver.sendall(f"GET /v1/sessions/{lease.session_id}/events/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert await asyncio.to_thread(leaver.recv, 100)
        leaver.close()
    await eventually(lambda: _has_followers(live, 0), GUARD_S)

    async def nobody_listens() -> None:
        assert await subscribers(redis_url, redis_prefix, lease.session_id) == 0

    await eventually(nobody_listens, GUARD_S)
    await world.queue.finish(lease, an_outcome())


async def test_streams_end_when_the_server_stops(live: LiveApi, http: httpx2.AsyncClient, world: World) -> None:
    """By themselves, long before the limit at which they would be cut, and not as if all were done."""
    session_id = await world.session()
    async with reading(http, session_id, until="idle") as done:
        assert (await done.until_end())[-1] == ": idle"
    lease = await world.running(session_id=session_id)
    async with reading(http, session_id) as endless, reading(http, session_id, until="idle") as busy:
        await endless.until(2)
        await busy.until(2)
        waiting = asyncio.create_task(http.get(f"/v1/runs/{lease.run_id}/wait", timeout=GUARD_S))
        draining = asyncio.create_task(http.post(f"/v1/sessions/{session_id}/drain", timeout=GUARD_S))
        await eventually(lambda: _has_followers(live, 4), GUARD_S)
        took_s = await asyncio.to_thread(live.stop)
        assert took_s < live.settings.shutdown_timeout_s
        for stream in (endless, busy):
            assert (await stream.until_end())[-1].startswith("id: ")
        assert (await waiting).status_code == 202
        problem_in(await draining, 503, "stream_closed")
    await world.queue.finish(lease, an_outcome())


async def test_a_browser_and_an_unknown_session(http: httpx2.AsyncClient) -> None:
    """404 before the stream begins, so that an EventSource stops trying."""
    response = await http.get("/v1/sessions/ses_none/events/stream", headers={"Accept": "text/event-stream"})
    problem_in(response, 404, "session_not_found")
    session_id = await new_session(http)
    async with reading(http, session_id, {"Accept": "text/event-stream"}) as stream:
        assert [event["type"] for event in await stream.until(2)] == ["session_created", "session_started"]


async def _collect(client: AsyncAsmClient, session_id: str, how_many: int) -> list[int]:
    """The numbers of a session's first events; of all there are, when it is idle before."""
    seen: list[int] = []
    async with asyncio.timeout(GUARD_S), aclosing(client.follow(session_id, until_idle=True)) as events:
        async for event in events:
            seen.append(event["sequence_number"])
            if len(seen) == how_many:
                break
    return seen


def _read_all(connection: socket.socket) -> bytes:
    connection.settimeout(GUARD_S)
    pieces = []
    with connection:
        while piece := connection.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)


def _is_asked(live: LiveApi) -> None:
    assert live.deps.hub.followers


def _has_followers(live: LiveApi, how_many: int) -> None:
    assert live.deps.hub.followers == how_many
