"""Questions across sessions over HTTP, and by the client."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from asm_api.client import AsmClient, AsyncAsmClient
from asm_core.domain.event import EventType
from tests.builders import NOW, World, an_outcome
from tests.fixtures.api import LiveApi, new_session, problem_in

HOUR = timedelta(hours=1)


async def two_runs(world: World) -> list[str]:
    """The ids of two sessions, each with a run that said and spent something."""
    ids = []
    for number, provider in enumerate(("claude", "codex"), start=1):
        session_id = await world.session(agent_id=f"agent-{provider}")
        lease = await world.running(session_id=session_id, options={"provider": provider, "model": "m"})
        at = NOW + number * HOUR
        await world.append(lease, 2, timestamp=at, correlation_id=f"c-{provider}", provider=provider)
        usage = {"input_tokens": number, "output_tokens": 10 * number}
        usage |= {"cost_usd": 0.5} if provider == "claude" else {}
        await world.append(lease, kind=EventType.TOKEN_USAGE_UPDATED, data=usage, provider=provider)
        await world.queue.finish(lease, an_outcome())
        await world.sql("UPDATE asm_runs SET started_at = %s WHERE id = %s", at, lease.run_id)
        ids.append(session_id)
    return ids


async def answer_to(http: httpx2.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    response = await http.get(path, params=params)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_events_of_all_sessions_are_found(http: httpx2.AsyncClient, world: World) -> None:
    """Each as the session's own log tells it; filters hold together, a repeated one means any."""
    first, second = await two_runs(world)
    log = (await answer_to(http, f"/v1/sessions/{first}/events"))["events"]
    assert (await answer_to(http, "/v1/events", session_id=first))["events"] == log
    for params, count in (
        ({}, 12),
        ({"session_id": [first, second]}, 12),
        ({"type": "message_streamed"}, 4),
        ({"type": "message_streamed,run_completed", "session_id": second}, 3),
        ({"provider": "codex", "type": ["message_streamed", "token_usage_updated"]}, 3),
        ({"run_id": log[-1]["run_id"]}, 4),
        ({"correlation_id": "c-codex"}, 2),
        ({"since": (NOW + HOUR).isoformat(), "until": (NOW + HOUR).isoformat()}, 2),
        ({"until": "2025-06-01T13:00:00", "type": "message_streamed"}, 2),
        ({"session_id": "ses_none"}, 0),
    ):
        assert len((await answer_to(http, "/v1/events", **params))["events"]) == count, params


@pytest.mark.parametrize("order_by", ["sequence_asc", "timestamp_asc", "timestamp_desc"])
async def test_pages_of_events_follow_each_other(http: httpx2.AsyncClient, world: World, order_by: str) -> None:
    """`has_more` says when to stop; a cursor belongs to its filters and order."""
    await two_runs(world)
    whole = await answer_to(http, "/v1/events", order_by=order_by)
    assert whole["has_more"] is False
    seen: list[Any] = []
    page: dict[str, Any] = {"cursor": None, "has_more": True}
    while page["has_more"]:
        cursor = {"cursor": page["cursor"]} if page["cursor"] else {}
        page = await answer_to(http, "/v1/events", order_by=order_by, limit=5, **cursor)
        seen += page["events"]
    assert seen == whole["events"]
    assert await answer_to(http, "/v1/events", order_by=order_by, cursor=page["cursor"]) == {
        "events": [], "cursor": None, "has_more": False,
    }  # fmt: skip
    for other in ({"type": "run_completed", "order_by": order_by}, {"order_by": "sequence_asc"}):
        if other.get("type") or order_by != "sequence_asc":
            response = await http.get("/v1/events", params=other | {"cursor": page["cursor"]})
            problem_in(response, 422, "invalid_cursor")


async def test_usage_and_cost_are_added_up(http: httpx2.AsyncClient, world: World) -> None:
    """A run without a stored cost is priced by the list, here by its provider's default."""
    first, _ = await two_runs(world)
    answer = await answer_to(http, "/v1/usage")
    assert answer == {
        "usage": {
            "total_input_tokens": 3,
            "total_output_tokens": 30,
            "total_tokens": 33,
            "run_count": 2,
            "by_provider": {
                "claude": {"input_tokens": 1, "output_tokens": 10, "total_tokens": 11, "run_count": 1},
                "codex": {"input_tokens": 2, "output_tokens": 20, "total_tokens": 22, "run_count": 1},
            },
        },
        "cost": {
            "total_cost_usd": 0.500306,
            "run_count": 2,
            "by_provider": {
                "claude": {"cost_usd": 0.5, "run_count": 1},
                "codex": {"cost_usd": 0.000306, "run_count": 1},
            },
            "by_model": {"m": {"cost_usd": 0.500306, "input_tokens": 3, "output_tokens": 30}},
            "unmapped_runs": 0,
        },
    }
    for params, tokens in (
        ({"session_id": first}, 11),
        ({"agent_id": "agent-codex"}, 22),
        ({"provider": ["claude", "codex"], "since": (NOW + 2 * HOUR).isoformat()}, 22),
        ({"until": "2025-06-01T13:00:00Z"}, 11),
        ({"provider": "amp"}, 0),
    ):
        answer = await answer_to(http, "/v1/usage", **params)
        assert answer["usage"]["total_tokens"] == tokens, params
        assert answer["usage"]["run_count"] == answer["cost"]["run_count"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/events?limit=0", "validation_error"),
        ("/v1/events?limit=1001", "validation_error"),
        ("/v1/events?type=run_startd", "invalid_event_type"),
        ("/v1/events?order_by=newest", "validation_error"),
        ("/v1/events?since=soon", "validation_error"),
        ("/v1/events?cursor=rubbish", "invalid_cursor"),
        ("/v1/events?session_id=", "validation_error"),
        ("/v1/events?session_id=%00", "validation_error"),
        ("/v1/events?" + "&".join(["run_id=x"] * 101), "validation_error"),
        ("/v1/usage?until=soon", "validation_error"),
        ("/v1/usage?provider=", "validation_error"),
    ],
)
async def test_questions_that_cannot_be_answered_are_refused(ask: httpx2.AsyncClient, path: str, code: str) -> None:
    """A typing error is told, not answered with nothing."""
    problem_in(await ask.get(path), 422, code)


async def test_the_client_asks_the_same(client: AsyncAsmClient, http: httpx2.AsyncClient, world: World) -> None:
    first, second = await two_runs(world)
    page = await client.search_events(session_ids=[first, second], types=["message_streamed"], limit=3)
    assert (len(page["events"]), page["has_more"]) == (3, True)
    rest = await client.search_events(
        session_ids=[second, first], types=["message_streamed"], limit=3, cursor=page["cursor"]
    )
    assert (len(rest["events"]), rest["has_more"]) == (1, False)
    assert len((await client.search_events(providers=["codex"], correlation_id="c-codex"))["events"]) == 2
    assert await client.usage() == await answer_to(http, "/v1/usage")
    assert (await client.usage(agent_id="agent-codex", providers=["codex"]))["usage"]["total_tokens"] == 22


async def test_the_blocking_client_asks_too(live: LiveApi, http: httpx2.AsyncClient) -> None:
    await new_session(http)

    def ask_blocking() -> tuple[int, int]:
        with AsmClient(live.base_url) as blocking:
            return len(blocking.search_events()["events"]), blocking.usage()["usage"]["run_count"]

    assert await asyncio.to_thread(ask_blocking) == (2, 0)
