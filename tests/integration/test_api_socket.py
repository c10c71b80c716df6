"""The WebSocket: events one way, requests and replies the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from asm_core.bus.redis import RedisBus
from asm_core.domain.lifecycle import RunStatus
from asm_core.wire import dumps_text, frame_of_event, loads
from tests.builders import World, an_outcome
from tests.fixtures.api import LiveApi, StartApi, new_session
from tests.fixtures.faults import eventually

GUARD_S = 10.0
INPUT = {"prompt": "hello"}


class Socket:
    """A client's end; frames are kept by kind as they come."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.events: list[dict[str, Any]] = []

    async def ask(self, **request: Any) -> dict[str, Any]:
        return await self.say(dumps_text(request))

    async def say(self, text: str) -> dict[str, Any]:
        """Send a frame; the next reply or error."""
        await self._session.send_text(text)
        while True:
            frame = await self._next()
            if "event" not in frame:
                return frame

    async def until(self, how_many: int) -> list[dict[str, Any]]:
        while len(self.events) < how_many:
            frame = await self._next()
            assert "event" in frame, frame
        return self.events

    async def send_bytes(self, data: bytes) -> dict[str, Any]:
        await self._session.send_bytes(data)
        frame = await self._next()
        while "event" in frame:
            frame = await self._next()
        return frame

    async def _next(self) -> dict[str, Any]:
        async with asyncio.timeout(GUARD_S):
            frame: dict[str, Any] = loads(await self._session.receive_text())
        if "event" in frame:
            self.events.append(frame["event"])
        return frame


@asynccontextmanager
async def socket(
    live: LiveApi, session_id: str, query: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[Socket]:
    url = f"ws://127.0.0.1:{live.port}/v1/sessions/{session_id}/ws{query}"
    async with httpx2.AsyncClient() as http, http.websocket(url, headers=headers) as session:
        yield Socket(session)


async def test_events_come_and_requests_are_answered(
    live: LiveApi, http: httpx2.AsyncClient, world: World, bus: RedisBus
) -> None:
    """Backfill, live events, submit, cancel and interrupt on one connection."""
    session_id = await new_session(http)
    async with socket(live, session_id) as client:
        await client.until(2)
        reply = await client.ask(op="submit", ref=1, input=INPUT, metadata={"n": 1})
        run_id = reply["reply"]["id"]
        assert reply == {
            "reply": {"id": run_id, "session_id": session_id, "status": "pending", "position": 1, "replayed": False},
            "ref": 1,
        }
        lease = await world.claim(session_id, await world.worker())
        await world.queue.start(lease)
        stored = await world.append(lease, 3)
        await bus.publish([(session_id, [frame_of_event(event) for event in stored])])
        assert (await client.until(5))[2:] == [event.to_map() for event in stored]
        queued = (await client.ask(op="submit", input=INPUT))["reply"]
        reply = await client.ask(op="cancel", ref={"any": ["thing"]}, run_id=queued["id"])
        assert (reply["reply"]["status"], reply["ref"]) == ("cancelled", {"any": ["thing"]})
        reply = await client.ask(op="interrupt", ref=None, run_id=run_id)
        assert (reply["reply"]["status"], reply["ref"]) == ("running", None)
        finished = await world.queue.finish(lease, an_outcome(RunStatus.CANCELLED))
        await bus.publish([(session_id, finished.events)])
        events = await client.until(7)
        assert [event["sequence_number"] for event in events] == [*range(1, 8)]
        assert [event["run_id"] for event in events[5:]] == [queued["id"], run_id]


async def test_a_key_makes_a_submit_repeatable(live: LiveApi, http: httpx2.AsyncClient) -> None:
    session_id = await new_session(http)
    async with socket(live, session_id) as client:
        first = (await client.ask(op="submit", input=INPUT, idempotency_key="k"))["reply"]
        again = (await client.ask(op="submit", input=INPUT, idempotency_key="k"))["reply"]
        assert again == first | {"replayed": True}
        other = await client.ask(op="submit", input={"prompt": "other"}, idempotency_key="k")
        assert other["error"]["code"] == "already_exists"


async def test_it_begins_behind_the_cursor_and_filters(live: LiveApi, world: World) -> None:
    lease = await world.running()
    await world.append(lease, 3)
    await world.queue.finish(lease, an_outcome())
    async with socket(live, lease.session_id, "?after=4") as client:
        assert [event["sequence_number"] for event in await client.until(2)] == [5, 6]
    async with socket(live, lease.session_id, "?type=session_created,run_completed") as client:
        assert [event["sequence_number"] for event in await client.until(2)] == [1, 6]


async def test_nonsense_is_answered_and_the_connection_stays(live: LiveApi, http: httpx2.AsyncClient) -> None:
    """Each request its own problem, with its `ref` where one can be read."""
    session_id, other = await new_session(http), await new_session(http)
    foreign = (await http.post(f"/v1/sessions/{other}/runs", json={"input": INPUT})).json()["id"]
    async with socket(live, session_id) as client:
        for text in ("", "{", "[]", "7", '"op"', "null", '{"n": NaN}', "[" * 5_000):
            assert (await client.say(text))["error"]["code"] == "validation_error"
        assert (await client.send_bytes(b"\xff\x00"))["error"]["code"] == "validation_error"
        for request, field in (
            ({}, "op"),
            ({"op": "dance"}, "op"),
            ({"op": ["submit"]}, "op"),
            ({"op": "submit"}, "input"),
            ({"op": "submit", "input": INPUT, "if_busy": "reject"}, "if_busy"),
            ({"op": "submit", "input": INPUT, "idempotency_key": ""}, "idempotency_key"),
            ({"op": "cancel"}, "run_id"),
            ({"op": "cancel", "run_id": 5}, "run_id"),
            ({"op": "interrupt", "run_id": "x", "why": "so"}, "why"),
        ):
            answer = await client.ask(ref=field, **request)
            assert (answer["ref"], answer["error"]["details"]["field"]) == (field, field)
            assert answer["error"]["status"] == 422
        for run_id in ("run_none", foreign):
            assert (await client.ask(op="cancel", run_id=run_id))["error"]["code"] == "run_not_found"
        assert (await client.ask(op="submit", input={}))["error"]["code"] == "invalid_input"
        assert await client.ask(op="ping", ref="still here") == {"reply": {"pong": True}, "ref": "still here"}
        assert await client.ask(op="ping") == {"reply": {"pong": True}}
    assert (await http.get(f"/v1/runs/{foreign}")).json()["status"] == "pending"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("ses_none", 404, "session_not_found"),
        ("{id}", 422, "validation_error"),
        ("{id}?type=nonsense", 422, "invalid_event_type"),
    ],
)
async def test_a_socket_that_cannot_be_is_refused_with_a_problem(
    live: LiveApi, http: httpx2.AsyncClient, path: str, status: int, code: str
) -> None:
    """Before the handshake, as over HTTP."""
    session_id, _, query = path.format(id=await new_session(http)).partition("?")
    query = query or ("after=-1" if status == 422 else "")
    answer = await _refusal(live, session_id, f"?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_the_key_is_needed_here_too(start_api: StartApi, world: World) -> None:
    live = start_api(database_url=world.url, api_key="k3y")
    session_id = await world.session()
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert (await _refusal(live, session_id, "?api_key=k3y", headers)).status_code == 401
    async with socket(live, session_id, "", {"Authorization": "Bearer k3y", "Origin": "https://any.example"}) as client:
        assert (await client.ask(op="ping"))["reply"] == {"pong": True}


async def test_pages_of_other_servers_may_not_open_a_socket_without_a_key(live: LiveApi, world: World) -> None:
    """A browser would let any page reach a server on this machine."""
    session_id = await world.session()
    assert (await _refusal(live, session_id, "", {"Origin": "https://evil.example"})).status_code == 403
    async with socket(live, session_id, "", {"Origin": live.base_url}) as client:
        assert (await client.ask(op="ping"))["reply"] == {"pong": True}


async def test_a_client_that_leaves_frees_its_watch(live: LiveApi, world: World) -> None:
    session_id = await world.session()
    async with socket(live, session_id) as client:
        await client.until(2)
        assert live.deps.hub.followers == 1
    await eventually(lambda: _nobody_follows(live), GUARD_S)


async def test_sockets_close_when_the_server_stops(live: LiveApi, world: World) -> None:
    """At once, and the client is told."""
    session_id = await world.session()
    async with socket(live, session_id) as client:
        await client.until(2)
        took_s = await asyncio.to_thread(live.stop)
        assert took_s < live.settings.shutdown_timeout_s
        with pytest.raises(Exception, match=r"1012|1013"):
            await client.until(3)


async def _refusal(
    live: LiveApi, session_id: str, query: str = "", headers: dict[str, str] | None = None
) -> httpx2.Response:
    """The answer to a handshake that does not succeed."""
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    url = f"{live.base_url}/v1/sessions/{session_id}/ws{query}"
    async with httpx2.AsyncClient() as http:
        response = await http.get(url, headers=handshake | (headers or {}))
    assert response.headers["content-type"] == "application/problem+json"
    return response


def _nobody_follows(live: LiveApi) -> None:
    assert live.deps.hub.followers == 0
