"""The API while Postgres or Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import httpx2
import pytest

from asm_api.client import AsyncAsmClient
from tests.builders import World, an_outcome
from tests.fixtures.api import LiveApi, StartApi, new_session, problem_in
from tests.fixtures.faults import TcpProxy, eventually

INPUT = {"input": {"prompt": "hello"}}
CLOSED = 9
"""A port where nobody listens."""
AT_ONCE_S = 3.0
"""Guard: within a second is promised, much less is usual."""
GUARD_S = 20.0


def through(url: str, proxy: TcpProxy) -> str:
    port = urlsplit(url).port
    return url.replace(f":{port}/", f":{proxy.port}/")


@pytest.fixture
def postgres_proxy(postgres_url: str) -> Iterator[TcpProxy]:
    with TcpProxy(urlsplit(postgres_url).port or 5432) as opened:
        yield opened


@pytest.fixture
def redis_proxy(redis_url: str) -> Iterator[TcpProxy]:
    with TcpProxy(urlsplit(redis_url).port or 6379) as opened:
        yield opened


@pytest.fixture
def live(start_api: StartApi, world: World, redis_url: str, redis_proxy: TcpProxy) -> LiveApi:
    """Its Redis can be taken away."""
    return start_api(database_url=world.url, redis_url=through(redis_url, redis_proxy))


async def test_it_starts_without_postgres_and_redis(start_api: StartApi) -> None:
    """Alive, not ready, and every route that needs the store says so, for programs too."""
    live = start_api(
        database_url=f"postgresql://127.0.0.1:{CLOSED}/none",
        redis_url=f"redis://127.0.0.1:{CLOSED}/0",
        max_parallel_runs=5,
    )
    async with httpx2.AsyncClient(base_url=live.base_url, timeout=GUARD_S) as http:
        assert (await http.get("/healthz")).status_code == 200
        ready = problem_in(await http.get("/readyz"), 503, "storage_connection_failed")
        assert ready["details"]["missing"] == ["postgres", "redis"]
        assert "postgres" in ready["detail"]
        requests = [
            http.post("/v1/sessions", json={"agent_id": "a"}),
            http.post("/v1/runs", json=INPUT),
            http.post("/v1/sessions/ses_x/runs", json=INPUT),
            http.post("/v1/sessions/ses_x/pause"),
            http.post("/v1/runs/run_x/cancel"),
            http.get("/v1/runs/run_x"),
            http.get("/v1/runs/run_x/wait"),
            http.get("/v1/sessions/ses_x/events"),
            http.get("/v1/sessions/ses_x/events/stream"),
            http.get("/v1/stats"),
        ]
        for response in await asyncio.gather(*requests):
            problem = problem_in(response, 503, "storage_connection_failed")
            assert response.headers["retry-after"] == "1"
            assert problem["retryable"]
            assert "password" not in problem["detail"]
        assert (await http.get("/v1/providers")).status_code == 200


async def test_a_database_without_tables_is_named(start_api: StartApi, empty_database_url: str) -> None:
    """503 that says which command to run."""
    live = start_api(database_url=empty_database_url)
    async with httpx2.AsyncClient(base_url=live.base_url) as http:
        for request in (http.get("/v1/stats"), http.post("/v1/sessions", json={"agent_id": "a"})):
            assert "asm migrate" in problem_in(await request, 503, "migration_required")["detail"]
        assert "asm migrate" in problem_in(await http.get("/readyz"), 503, "storage_connection_failed")["detail"]


async def test_a_submit_while_postgres_is_down_leaves_nothing_behind(
    start_api: StartApi, world: World, postgres_proxy: TcpProxy
) -> None:
    """503; when it is back the same request under the same key makes the one run, without a restart of the API."""
    live = start_api(database_url=through(world.url, postgres_proxy))
    async with httpx2.AsyncClient(base_url=live.base_url, timeout=GUARD_S) as http:
        session_id = await new_session(http)
        paths = (f"/v1/sessions/{session_id}/runs", "/v1/runs")
        postgres_proxy.cut()
        for path in paths:
            response = await http.post(path, json=INPUT, headers={"Idempotency-Key": "k"})
            problem_in(response, 503, "storage_connection_failed")
        assert (await http.get("/healthz")).status_code == 200
        assert await world.value("SELECT count(*) FROM asm_runs") == 0
        assert await world.value("SELECT count(*) FROM asm_sessions") == 1
        assert await world.value("SELECT count(*) FROM asm_idempotency_keys") == 0
        postgres_proxy.heal()

        async def is_back() -> None:
            assert (await http.get("/readyz")).status_code == 200

        await eventually(is_back, GUARD_S)
        for path in paths:
            answer = await http.post(path, json=INPUT, headers={"Idempotency-Key": "k"})
            assert (answer.status_code, answer.json()["replayed"]) == (202, False)
    assert await world.value("SELECT count(*) FROM asm_runs") == 2


async def test_a_stream_outlives_an_outage_of_postgres(
    start_api: StartApi, world: World, postgres_proxy: TcpProxy
) -> None:
    """The client is sent away, comes back by itself and misses nothing."""
    live = start_api(database_url=through(world.url, postgres_proxy))
    lease = await world.running()
    async with AsyncAsmClient(live.base_url) as client:
        following = asyncio.create_task(_numbers(client, lease.session_id))
        await eventually(lambda: _has_followers(live, 1), GUARD_S)
        postgres_proxy.cut()
        await world.append(lease, 5)
        await world.queue.finish(lease, an_outcome())
        postgres_proxy.heal()
        assert await asyncio.wait_for(following, GUARD_S) == [*range(1, 9)]


@pytest.fixture(params=["refusing", "silent"])
async def without_redis(request: pytest.FixtureRequest, redis_proxy: TcpProxy, live: LiveApi) -> AsyncIterator[None]:
    """Redis goes away after the API has used it: it refuses connections, or takes them and says nothing."""
    async with httpx2.AsyncClient(base_url=live.base_url) as http:
        await new_session(http)
    redis_proxy.cut() if request.param == "refusing" else redis_proxy.blackhole()
    yield
    redis_proxy.heal()


@pytest.mark.usefixtures("without_redis")
async def test_submit_and_cancel_do_not_wait_for_redis(http: httpx2.AsyncClient, world: World) -> None:
    """Neither of a queued run, nor of one in flight whose worker would be nudged; nor does a session's end."""
    session_id = await new_session(http)
    running = await world.running(session_id=session_id)

    async def at_once(path: str, body: object = None) -> httpx2.Response:
        began = time.monotonic()
        response = await http.post(path, json=body)
        assert time.monotonic() - began < AT_ONCE_S, path
        assert response.status_code == 202, response.text
        return response

    submitted = (await at_once(f"/v1/sessions/{session_id}/runs", INPUT)).json()
    await at_once("/v1/runs", INPUT)
    await at_once(f"/v1/runs/{submitted['id']}/cancel")
    await at_once(f"/v1/runs/{running.run_id}/cancel")
    assert (await world.queue.finish(running, an_outcome())).status == "cancelled"


@pytest.mark.usefixtures("without_redis")
async def test_followers_do_without_redis(http: httpx2.AsyncClient, live: LiveApi, world: World) -> None:
    """Streams and waits take what they need from the store."""
    lease = await world.running()
    async with AsyncAsmClient(live.base_url) as client:
        following = asyncio.create_task(_numbers(client, lease.session_id))
        waiting = asyncio.create_task(client.wait(lease.run_id))
        await eventually(lambda: _has_followers(live, 2), GUARD_S)
        await world.append(lease, 3)
        await world.queue.finish(lease, an_outcome())
        assert await asyncio.wait_for(following, GUARD_S) == [*range(1, 7)]
        assert (await asyncio.wait_for(waiting, GUARD_S))["status"] == "completed"
    ready = problem_in(await http.get("/readyz", timeout=GUARD_S), 503, "storage_connection_failed")
    assert ready["details"]["missing"] == ["redis"]


async def test_live_events_come_again_when_redis_is_back(live: LiveApi, world: World, redis_proxy: TcpProxy) -> None:
    """The API makes its connection and its subscriptions anew."""
    session_id = await world.session()
    async with httpx2.AsyncClient(base_url=live.base_url, timeout=GUARD_S) as http:
        path = f"/v1/sessions/{session_id}/events"
        polling = asyncio.create_task(http.get(path, params={"after": 3, "wait_ms": 20_000}))
        await eventually(lambda: _has_followers(live, 1), GUARD_S)
        redis_proxy.cut()
        await http.post(f"/v1/sessions/{session_id}/pause")
        redis_proxy.heal()

        async def is_back() -> None:
            assert (await http.get("/readyz")).status_code == 200

        await eventually(is_back, GUARD_S)
        await http.post(f"/v1/sessions/{session_id}/resume")
        assert [event["type"] for event in (await polling).json()["events"]] == ["session_resumed"]


async def _numbers(client: AsyncAsmClient, session_id: str) -> list[int]:
    return [event["sequence_number"] async for event in client.follow(session_id, until_idle=True)]


def _has_followers(live: LiveApi, how_many: int) -> None:
    assert live.deps.hub.followers == how_many
