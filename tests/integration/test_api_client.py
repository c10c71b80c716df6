"""The Python clients: the same verbs, async and blocking, and what they bear with."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from asm_api.client import AsmClient, AsyncAsmClient, ServerUnreachable
from asm_core.bus.redis import RedisBus
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.wire import frame_of_event
from tests.builders import World, an_outcome
from tests.fixtures.api import LiveApi, StartApi
from tests.fixtures.faults import TcpProxy, eventually

INPUT = {"prompt": "hello"}
GUARD_S = 20.0


@pytest.fixture
def proxy(live: LiveApi) -> Iterator[TcpProxy]:
    """Between a client and the API."""
    with TcpProxy(live.port) as opened:
        yield opened


def test_the_client_imports_nothing_heavy() -> None:
    """Neither the server nor its stores."""
    heavy = ("fastapi", "starlette", "sqlalchemy", "celery", "redis", "psycopg", "pydantic")
    code = f"import sys, asm_api.client; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_both_clients_have_the_same_methods() -> None:
    """With the same arguments."""

    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, lambda member: inspect.isfunction(member))
        return {name: [*inspect.signature(method).parameters] for name, method in found if not name.startswith("_")}

    assert methods(AsmClient) == methods(AsyncAsmClient)


async def test_every_verb(client: AsyncAsmClient, world: World) -> None:
    """What the server can do, the client can ask."""
    assert await client.health() == {"status": "ok"}
    assert await client.ready() == {"status": "ready"}
    assert (await client.providers())["providers"]
    session = await client.create_session("writer", tags=["t"], max_concurrent_runs=2)
    session_id = session["id"]
    assert await client.get_session(session_id) == session
    assert (await client.list_sessions(tag="t", agent_id="writer"))["sessions"] == [session]
    assert (await client.pause_session(session_id))["status"] == "paused"
    assert (await client.resume_session(session_id))["status"] == "active"
    submitted = await client.submit(session_id, INPUT, timeout_ms=5_000, metadata={"n": 1})
    run_id = submitted["id"]
    assert (await client.queue(session_id))["queued_runs"] == [run_id]
    assert (await client.list_runs(session_id=session_id))["runs"] == [await client.get_run(run_id)]
    lease = await world.claim(session_id, await world.worker())
    await world.queue.start(lease)
    assert (await client.interrupt(run_id))["status"] == "running"
    with pytest.raises(AsmError) as late:
        await client.wait(run_id, timeout_s=0.05)
    assert late.value.code is ErrorCode.TIMEOUT
    with pytest.raises(AsmError) as busy:
        await client.drain_session(session_id, timeout_s=0.05)
    assert busy.value.code is ErrorCode.TIMEOUT
    await world.queue.finish(lease, an_outcome())
    assert (await client.wait(run_id))["status"] == "cancelled"
    assert (await client.drain_session(session_id))["in_flight_count"] == 0
    page = await client.events(session_id, after=2, limit=2, types=["session_paused", "run_cancelled"])
    assert [event["type"] for event in page["events"]] == ["session_paused", "run_cancelled"]
    assert (await client.stats())["runs"] == {"cancelled": 1}
    assert (await client.complete_session(session_id))["status"] == "completed"
    once = await client.submit_once(INPUT, agent_id="solo")
    assert (await client.cancel(once["id"]))["status"] == "cancelled"
    other = await client.create_session("a")
    await client.submit(other["id"], INPUT)
    assert (await client.cancel_session(other["id"], queued="cancel"))["status"] == "cancelled"


def test_the_blocking_client(live: LiveApi) -> None:
    """From plain code and from several threads; a stream may be left at any point; closing twice is harmless."""
    with AsmClient(live.base_url) as client:
        session = client.create_session("writer")
        seen: list[Any] = []

        def follow() -> None:
            seen.extend(client.follow(session["id"], until_idle=True))

        run = client.submit(session["id"], INPUT)
        threads = [threading.Thread(target=follow) for _ in range(3)]
        for thread in threads:
            thread.start()
        for event in client.follow(session["id"]):
            assert event["type"] == "session_created"
            break
        client.cancel(run["id"])
        for thread in threads:
            thread.join(GUARD_S)
        assert sorted(event["sequence_number"] for event in seen) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
        assert client.wait(run["id"])["status"] == "cancelled"
        with pytest.raises(AsmError) as missing:
            next(iter(client.follow("ses_none")))
        assert missing.value.code is ErrorCode.SESSION_NOT_FOUND
        endless = client.follow(session["id"])
        assert next(endless)["sequence_number"] == 1
        client.close()
    client.close()
    with pytest.raises(RuntimeError):
        client.health()


async def test_a_problem_becomes_the_same_error(client: AsyncAsmClient) -> None:
    """Code, message, details and whether to try again."""
    session_id = (await client.create_session("a", max_queued_runs=0))["id"]
    await client.submit(session_id, INPUT)
    with pytest.raises(AsmError) as full:
        await client.submit(session_id, INPUT)
    assert full.value.code is ErrorCode.MAX_RUNS_EXCEEDED
    assert full.value.details["max_queued_runs"] == 0
    assert session_id in full.value.message
    assert not full.value.retryable
    with pytest.raises(AsmError) as wrong:
        await client.submit(session_id, INPUT, if_busy="reject")
    assert wrong.value.details["field"] == "body.if_busy"


async def test_a_server_that_is_not_there(live: LiveApi) -> None:
    """One error for every verb, with the address and what to do; a bad address is named at once."""
    await asyncio.to_thread(live.stop)
    async with AsyncAsmClient(live.base_url) as client:
        calls = (client.health(), client.create_session("a"), client.wait("run_x"), anext(client.follow("ses_x")))
        for error in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), GUARD_S):
            assert isinstance(error, ServerUnreachable)
            assert error.details["reason"] == "server_unreachable"
            assert live.base_url in error.message
            assert "asm dev" in error.message
    with pytest.raises(AsmError) as wrong:
        AsyncAsmClient("127.0.0.1:8420")
    assert wrong.value.code is ErrorCode.VALIDATION_ERROR


async def test_a_lost_answer_does_not_double_the_run(world: World, live: LiveApi, proxy: TcpProxy) -> None:
    """The connection breaks when the run is stored and the answer is on its way; the client's own retry finds it."""
    session_id = await world.session()
    async with AsyncAsmClient(f"http://127.0.0.1:{proxy.port}") as client:
        await client.health()
        proxy.hold_answers()
        submitting = asyncio.create_task(client.submit(session_id, INPUT))

        async def is_stored() -> None:
            assert await world.value("SELECT count(*) FROM asm_runs") == 1

        await eventually(is_stored, GUARD_S)
        proxy.drop_connections()
        proxy.heal()
        answer = await submitting
    assert answer["replayed"]
    assert await world.value("SELECT count(*) FROM asm_runs") == 1


async def test_what_is_not_repeatable_is_not_repeated(world: World, proxy: TcpProxy) -> None:
    """A create whose answer is lost is reported, not tried again."""
    async with AsyncAsmClient(f"http://127.0.0.1:{proxy.port}") as client:
        await client.health()
        proxy.hold_answers()
        creating = asyncio.create_task(client.create_session("a"))

        async def is_stored() -> None:
            assert await world.value("SELECT count(*) FROM asm_sessions") == 1

        await eventually(is_stored, GUARD_S)
        proxy.drop_connections()
        proxy.heal()
        with pytest.raises(ServerUnreachable):
            await creating
        assert (await client.list_sessions())["sessions"]
    assert await world.value("SELECT count(*) FROM asm_sessions") == 1


async def test_a_follower_bears_broken_connections(world: World, live: LiveApi, bus: RedisBus, proxy: TcpProxy) -> None:
    """Cut off again and again while events come: none lost, none twice."""
    lease = await world.running()
    async with AsyncAsmClient(f"http://127.0.0.1:{proxy.port}") as client:
        following = asyncio.create_task(_numbers(client, lease.session_id))
        for _ in range(8):
            for _ in range(5):
                stored = await world.append(lease, 4)
                await bus.publish([(lease.session_id, [frame_of_event(event) for event in stored])])
            proxy.drop_connections()
        await world.queue.finish(lease, an_outcome())
        assert await asyncio.wait_for(following, GUARD_S) == [*range(1, 164)]


async def test_a_follower_and_a_waiter_bear_a_restart_of_the_server(world: World, start_api: StartApi) -> None:
    """What happens while no server is there is delivered afterwards; `until_idle` does not end early."""
    lease = await world.running()
    first = start_api(database_url=world.url)
    async with AsyncAsmClient(first.base_url) as client:
        following = asyncio.create_task(_numbers(client, lease.session_id))
        waiting = asyncio.create_task(client.wait(lease.run_id))
        await eventually(lambda: _has_followers(first, 2), GUARD_S)
        await asyncio.to_thread(first.stop)
        await world.append(lease, 3)
        second = start_api(database_url=world.url, port=first.port)
        await eventually(lambda: _has_followers(second, 2), GUARD_S)
        assert not following.done()
        await world.queue.finish(lease, an_outcome())
        assert await asyncio.wait_for(following, GUARD_S) == [*range(1, 7)]
        assert (await asyncio.wait_for(waiting, GUARD_S))["status"] == "completed"


async def test_patience_ends(world: World, live: LiveApi) -> None:
    """A server that stays away is reported to who follows and to who waits."""
    lease = await world.running()
    async with AsyncAsmClient(live.base_url, reconnect_s=0.5) as client:
        following = asyncio.create_task(_numbers(client, lease.session_id))
        waiting = asyncio.create_task(client.wait(lease.run_id))
        await eventually(lambda: _has_followers(live, 2), GUARD_S)
        await asyncio.to_thread(live.stop)
        for lost in (following, waiting):
            with pytest.raises(ServerUnreachable):
                await asyncio.wait_for(lost, GUARD_S)
    await world.queue.finish(lease, an_outcome())


async def test_the_key_is_sent(world: World, start_api: StartApi) -> None:
    live = start_api(database_url=world.url, api_key="k3y")
    async with AsyncAsmClient(live.base_url, api_key="k3y") as client:
        assert await client.stats()
    async with AsyncAsmClient(live.base_url) as stranger:
        for call in (stranger.stats(), anext(stranger.follow("ses_x"))):
            with pytest.raises(AsmError) as refused:
                await call
            assert refused.value.code is ErrorCode.UNAUTHORIZED


async def _numbers(client: AsyncAsmClient, session_id: str) -> list[int]:
    async with aclosing(client.follow(session_id, until_idle=True)) as events:
        return [event["sequence_number"] async for event in events]


def _has_followers(live: LiveApi, how_many: int) -> None:
    assert live.deps.hub.followers == how_many
