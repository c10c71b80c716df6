"""Sessions over HTTP: their life, their lists, their queues."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.builders import World, an_outcome
from tests.fixtures.api import LiveApi, new_session, problem_in
from tests.fixtures.faults import eventually

GUARD_S = 10.0


async def test_a_new_session_is_active_and_kept_whole(http: httpx2.AsyncClient) -> None:
    """What was given comes back, from the answer and from the store; what was not has its default."""
    given = {
        "agent_id": "writer",
        "provider": "scripted",
        "model": "m-1",
        "context": {"system_prompt": "Be brief. \u2028 ünïcode"},
        "metadata": {"user": 7, "nested": {"deep": [1, 2.5, None, True]}},
        "tags": ["a", "b"],
        "max_concurrent_runs": 3,
        "max_queued_runs": 0,
    }
    created = (await http.post("/v1/sessions", json=given)).json()
    assert {name: created[name] for name in given} == given
    assert created["status"] == "active"
    assert (await http.get(f"/v1/sessions/{created['id']}")).json() == created
    plain = (await http.post("/v1/sessions", json={"agent_id": "plain"})).json()
    assert (plain["max_concurrent_runs"], plain["max_queued_runs"], plain["tags"]) == (1, 100, [])


async def test_an_unknown_provider_is_refused_at_once(http: httpx2.AsyncClient) -> None:
    body = {"agent_id": "a", "provider": "nobody"}
    problem = problem_in(await http.post("/v1/sessions", json=body), 422, "validation_error")
    assert "nobody" in problem["detail"]


async def test_lists_are_filtered_and_paged(http: httpx2.AsyncClient) -> None:
    """Newest first; pages neither repeat nor skip, whatever is created meanwhile. A cursor belongs to its filters."""
    ids = [await new_session(http, agent_id="lister", tags=["odd"] if n % 2 else ["even"]) for n in range(7)]
    await http.post(f"/v1/sessions/{ids[0]}/pause")
    seen: list[str] = []
    params: dict[str, str | int] = {"agent_id": "lister", "limit": 3}
    while True:
        page = (await http.get("/v1/sessions", params=params)).json()
        seen += [session["id"] for session in page["sessions"]]
        await new_session(http, agent_id="lister")
        if page["cursor"] is None:
            break
        params["cursor"] = page["cursor"]
    assert seen == ids[::-1]
    odd = (await http.get("/v1/sessions", params={"tag": "odd"})).json()
    assert [session["id"] for session in odd["sessions"]] == ids[5::-2]
    assert odd["cursor"] is None
    paused = (await http.get("/v1/sessions", params={"status": "paused"})).json()
    assert [session["id"] for session in paused["sessions"]] == [ids[0]]
    for path in ("/v1/runs", "/v1/sessions", "/v1/sessions?agent_id=lister&status=active"):
        response = await http.get(httpx2.URL(path).copy_merge_params({"cursor": params["cursor"]}))
        problem_in(response, 422, "invalid_cursor")


async def test_pause_and_resume(http: httpx2.AsyncClient, world: World) -> None:
    """A paused session takes runs and starts none; the same change twice is refused, naming both statuses."""
    session_id = await new_session(http)
    assert (await http.post(f"/v1/sessions/{session_id}/pause")).json()["status"] == "paused"
    again = problem_in(await http.post(f"/v1/sessions/{session_id}/pause"), 409, "invalid_transition")
    assert "paused" in again["detail"]
    await world.submit(session_id)
    assert (await world.refused_claim(session_id, await world.worker())).reason == "paused"
    assert (await http.post(f"/v1/sessions/{session_id}/resume")).json()["status"] == "active"
    await world.queue.finish(await world.claim(session_id, await world.worker()), an_outcome())
    types = await world.event_types(session_id=session_id)
    assert types == ["session_created", "session_started", "session_paused", "session_resumed", "run_completed"]


@pytest.mark.parametrize(("verb", "status"), [("complete", "completed"), ("cancel", "cancelled")])
async def test_queued_runs_refuse_the_end_or_are_cancelled_with_it(
    http: httpx2.AsyncClient, world: World, verb: str, status: str
) -> None:
    """As the caller says, in the body or the query; refusing is the default."""
    for how in ({"json": {"queued": "cancel"}}, {"params": {"queued": "cancel"}}):
        session_id = await new_session(http)
        run_id = (await world.submit(session_id)).run_id
        for refused in ({}, {"json": {"queued": "refuse"}}, {"json": {}}):
            response = await http.post(f"/v1/sessions/{session_id}/{verb}", **refused)
            assert problem_in(response, 409, "invalid_operation")["details"]["queued"] == 1
        ended = await http.post(f"/v1/sessions/{session_id}/{verb}", **how)
        assert ended.json()["status"] == status
        assert (await world.run_row(run_id))["status"] == "cancelled"
        problem_in(await http.post(f"/v1/sessions/{session_id}/{verb}", **how), 409, "invalid_transition")
        problem_in(
            await http.post(f"/v1/sessions/{session_id}/runs", json={"input": {"prompt": "x"}}),
            409,
            "invalid_operation",
        )
    problem_in(await http.post(f"/v1/sessions/{session_id}/{verb}", json={"queued": "maybe"}), 422, "validation_error")


async def test_cancelling_a_session_asks_its_runs_in_flight_to_stop(http: httpx2.AsyncClient, world: World) -> None:
    """Completing it is refused meanwhile."""
    session_id = await new_session(http)
    lease = await world.running(session_id=session_id)
    response = await http.post(f"/v1/sessions/{session_id}/complete", json={"queued": "cancel"})
    assert problem_in(response, 409, "invalid_operation")["details"]["in_flight"] == 1
    assert (await http.post(f"/v1/sessions/{session_id}/cancel?queued=cancel")).json()["status"] == "cancelled"
    assert (await world.run_row(lease.run_id))["cancel_kind"] == "cancel"
    assert (await world.queue.finish(lease, an_outcome())).status == "cancelled"


async def test_the_queue_says_who_runs_and_who_waits(http: httpx2.AsyncClient, world: World) -> None:
    session_id = await new_session(http, max_queued_runs=5)
    lease = await world.running(session_id=session_id)
    waiting = [(await world.submit(session_id)).run_id for _ in range(2)]
    queue = (await http.get(f"/v1/sessions/{session_id}/queue")).json()
    assert queue["oldest_queued_age_ms"] >= 0
    assert queue | {"oldest_queued_age_ms": 0} == {
        "session_id": session_id,
        "state": "active",
        "in_flight_count": 1,
        "in_flight_runs": [lease.run_id],
        "queued_count": 2,
        "queued_runs": waiting,
        "parked_count": 0,
        "parked_runs": [],
        "max_concurrent_runs": 1,
        "max_queued_runs": 5,
        "oldest_queued_age_ms": 0,
        "limiter_waiting": False,
        "last_sequence": 2,
    }
    for run_id in waiting:
        await http.post(f"/v1/runs/{run_id}/cancel")
    await world.queue.finish(lease, an_outcome())


async def test_drain_waits_for_the_last_run(http: httpx2.AsyncClient, live: LiveApi, world: World) -> None:
    """200 with an empty queue once all is over; 408 when it takes too long, and the work goes on."""
    session_id = await new_session(http)
    assert (await http.post(f"/v1/sessions/{session_id}/drain")).json()["queued_count"] == 0
    lease = await world.running(session_id=session_id)
    late = problem_in(await http.post(f"/v1/sessions/{session_id}/drain", json={"timeout_s": 0.1}), 408, "timeout")
    assert late["retryable"]
    drained = asyncio.create_task(http.post(f"/v1/sessions/{session_id}/drain", json={"timeout_s": GUARD_S}))
    await eventually(lambda: _follows(live), GUARD_S)
    assert not drained.done()
    await world.queue.finish(lease, an_outcome())  # announced to nobody: the poll finds it
    answer = (await drained).json()
    assert (answer["in_flight_count"], answer["queued_count"], answer["last_sequence"]) == (0, 0, 3)
    for wrong in ({"timeout_s": 301}, {"timeout_s": -1}, {"timeout_s": "1"}, {"seconds": 1}):
        response = await http.post(f"/v1/sessions/{session_id}/drain", json=wrong)
        problem_in(response, 422, "validation_error")


def _follows(live: LiveApi) -> None:
    assert live.deps.hub.followers == 1


HAIKU = {"input": 1.0, "output": 5.0, "cache_read": 0.1, "cache_creation": 1.25}


async def test_stats_and_providers(http: httpx2.AsyncClient, world: World) -> None:
    """What an operator asks first."""
    session_id = await new_session(http)
    lease = await world.running(session_id=session_id)
    stats = (await http.get("/v1/stats")).json()
    assert (stats["sessions"], stats["runs"], stats["in_flight"]) == ({"active": 1}, {"running": 1}, 1)
    assert [worker["id"] for worker in stats["workers"]] == [lease.worker_id]
    providers = (await http.get("/v1/providers")).json()["providers"]
    assert "scripted" in {provider["name"] for provider in providers if provider["available"]}
    assert {"anthropic", "openai"} <= {provider["name"] for provider in providers if provider["available"]}
    await world.queue.finish(lease, an_outcome())


async def test_models_are_listed_with_their_prices(http: httpx2.AsyncClient) -> None:
    """Dollars per million tokens, of the models that are paid by the token; others may be named all the same."""
    models = (await http.get("/v1/models")).json()["models"]
    assert models["scripted"] == []
    assert {"id": "claude-haiku-4-5", "usd_per_million_tokens": HAIKU} in models["anthropic"]
    assert {"gpt-5-mini", "o3"} <= {model["id"] for model in models["openai"]}
    assert "whisper-1" not in {model["id"] for model in models["openai"]}
