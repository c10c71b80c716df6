"""Runs over HTTP: submitting exactly once, waiting, stopping."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from asm_core.bus.redis import RedisBus
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import RunStatus
from tests.builders import World, an_outcome
from tests.fixtures.api import LiveApi, new_session, problem_in
from tests.fixtures.faults import eventually

INPUT = {"input": {"prompt": "hello"}}
GUARD_S = 10.0


async def test_a_submitted_run_waits_in_its_place(http: httpx2.AsyncClient, world: World) -> None:
    """202 with id, status and position; the row holds what was asked for, with the session's defaults."""
    session_id = await new_session(http, provider="scripted", model="m-1")
    body = INPUT | {"timeout_ms": 5_000, "queue_timeout_ms": 60_000, "on_worker_lost": "retry", "metadata": {"n": 1}}
    body |= {"continuation": True, "continuation_opts": {"max_messages": 5}}
    answers = [await http.post(f"/v1/sessions/{session_id}/runs", json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    first, second = (answer.json() for answer in answers)
    assert first == {
        "id": first["id"],
        "session_id": session_id,
        "status": "pending",
        "position": 1,
        "replayed": False,
    }
    assert (second["position"], second["id"] != first["id"]) == (2, True)
    row = await world.run_row(first["id"])
    assert row["options"] == {
        "provider": "scripted",
        "model": "m-1",
        "timeout_ms": 5_000,
        "queue_timeout_ms": 60_000,
        "max_attempts": 3,
        "on_worker_lost": "retry",
        "continuation": "auto",
        "continuation_opts": {"max_messages": 5},
        "provider_options": {},
        "workspace": {},
    }
    run = (await http.get(f"/v1/runs/{second['id']}")).json()
    assert (run["input"], run["metadata"], run["position"], run["status"]) == (INPUT["input"], {"n": 1}, 2, "pending")


async def test_a_finished_run_shows_its_result(http: httpx2.AsyncClient, world: World) -> None:
    """Output of a completed run, error of a failed one."""
    session_id = await new_session(http)
    done, failed = await world.running(session_id=session_id), None
    await world.queue.finish(done, an_outcome(output={"content": "forty-two"}, turn_count=2))
    run = (await http.get(f"/v1/runs/{done.run_id}")).json()
    assert (run["status"], run["output"], run["error"], run["turn_count"]) == (
        "completed",
        {"content": "forty-two"},
        None,
        2,
    )
    assert run["started_at"] < run["ended_at"]
    failed = await world.running(session_id=session_id)
    error = AsmError(ErrorCode.PROVIDER_ERROR, "it broke")
    await world.queue.finish(failed, an_outcome(RunStatus.FAILED, error=error))
    run = (await http.get(f"/v1/runs/{failed.run_id}")).json()
    assert (run["status"], run["error"]) == ("failed", {"code": "provider_error", "message": "it broke"})


async def test_runs_are_listed_by_session_status_and_provider(http: httpx2.AsyncClient, world: World) -> None:
    session_id, other = await new_session(http), await new_session(http)
    ids = [(await http.post(f"/v1/sessions/{session_id}/runs", json=INPUT)).json()["id"] for _ in range(3)]
    elsewhere = (await http.post(f"/v1/sessions/{other}/runs", json=INPUT)).json()["id"]
    await http.post(f"/v1/runs/{ids[0]}/cancel")

    async def listed(**params: Any) -> list[str]:
        return [run["id"] for run in (await http.get("/v1/runs", params=params)).json()["runs"]]

    assert await listed(session_id=session_id) == ids[::-1]
    assert await listed(status="cancelled") == ids[:1]
    assert await listed(provider="scripted", limit=1) == [elsewhere]
    assert await listed(provider="shell") == []
    assert await listed(session_id="ses_none") == []


async def test_a_full_queue_is_429_and_says_when_to_come_back(http: httpx2.AsyncClient, world: World) -> None:
    """The bound is exact under concurrent submits; a freed place is given out again."""
    session_id = await new_session(http, max_queued_runs=2)
    answers = await asyncio.gather(*(http.post(f"/v1/sessions/{session_id}/runs", json=INPUT) for _ in range(8)))
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert len(accepted) == 3  # one slot and two places
    for answer in answers:
        if answer.status_code != 202:
            problem = problem_in(answer, 429, "max_runs_exceeded")
            assert int(answer.headers["retry-after"]) >= 1
            assert problem["details"]["max_queued_runs"] == 2
    await http.post(f"/v1/runs/{accepted[0]}/cancel")
    assert (await http.post(f"/v1/sessions/{session_id}/runs", json=INPUT)).status_code == 202


@pytest.mark.parametrize("one_shot", [False, True])
async def test_ten_clients_with_one_key_make_one_run(http: httpx2.AsyncClient, world: World, one_shot: bool) -> None:
    """Everyone gets the same run, one of them as its maker; another body under the key is refused."""
    path = "/v1/runs" if one_shot else f"/v1/sessions/{await new_session(http, max_queued_runs=0)}/runs"
    headers = {"Idempotency-Key": "order-4711"}
    answers = await asyncio.gather(*(http.post(path, json=INPUT, headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.json()["replayed"] for answer in answers) == [False] + [True] * 9
    assert await world.value("SELECT count(*) FROM asm_runs") == 1
    assert await world.value("SELECT count(*) FROM asm_sessions") == 1
    other = {"input": {"prompt": "something else"}}
    problem = problem_in(await http.post(path, json=other, headers=headers), 409, "already_exists")
    assert "order-4711" in problem["detail"]
    fresh = await http.post(path, json=INPUT, headers={"Idempotency-Key": "order-4712"})
    assert fresh.status_code == (202 if one_shot else 429)


@pytest.mark.parametrize("field", [{"agent_id": "somebody"}, {"context": {"system_prompt": "Be brief."}}])
async def test_a_one_shots_session_is_part_of_what_its_key_stands_for(http: httpx2.AsyncClient, field: object) -> None:
    headers = {"Idempotency-Key": "order-1"}
    assert (await http.post("/v1/runs", json=INPUT, headers=headers)).status_code == 202
    problem_in(await http.post("/v1/runs", json=INPUT | field, headers=headers), 409, "already_exists")


async def test_a_key_belongs_to_its_session(http: httpx2.AsyncClient, world: World) -> None:
    """And is remembered after the session has ended, when a new run would be refused."""
    headers = {"Idempotency-Key": "same"}
    first, second = await new_session(http), await new_session(http)
    answers = [await http.post(f"/v1/sessions/{one}/runs", json=INPUT, headers=headers) for one in (first, second)]
    assert [answer.json()["replayed"] for answer in answers] == [False, False]
    await http.post(f"/v1/sessions/{first}/cancel", json={"queued": "cancel"})
    again = await http.post(f"/v1/sessions/{first}/runs", json=INPUT, headers=headers)
    assert again.status_code == 202
    assert (again.json()["replayed"], again.json()["status"]) == (True, "cancelled")


async def test_a_one_shot_brings_its_session_and_ends_it(http: httpx2.AsyncClient, world: World) -> None:
    body = INPUT | {"agent_id": "solo", "context": {"system_prompt": "once"}, "metadata": {"n": 1}}
    answer = (await http.post("/v1/runs", json=body)).json()
    session = (await http.get(f"/v1/sessions/{answer['session_id']}")).json()
    assert (session["status"], session["agent_id"], session["context"]) == ("active", "solo", {"system_prompt": "once"})
    lease = await world.claim(answer["session_id"], await world.worker())
    await world.queue.start(lease)
    await world.queue.finish(lease, an_outcome())
    session = (await http.get(f"/v1/sessions/{answer['session_id']}")).json()
    assert session["status"] == "completed"


async def test_wait_answers_when_the_run_ends(
    http: httpx2.AsyncClient, live: LiveApi, world: World, bus: RedisBus
) -> None:
    """202 with the row when the time is over, 200 as soon as the end is announced."""
    lease = await world.running(session_id=await new_session(http))
    early = await http.get(f"/v1/runs/{lease.run_id}/wait", params={"timeout_s": 0})
    assert (early.status_code, early.json()["status"]) == (202, "running")
    waiting = asyncio.create_task(http.get(f"/v1/runs/{lease.run_id}/wait", timeout=GUARD_S))
    await eventually(lambda: _follows(live), GUARD_S)
    finished = await world.queue.finish(lease, an_outcome())
    await bus.publish([(lease.session_id, finished.events)])
    answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.json() == (await http.get(f"/v1/runs/{lease.run_id}")).json()
    again = await http.get(f"/v1/runs/{lease.run_id}/wait")
    assert (again.status_code, again.json()) == (200, answer.json())


async def test_wait_notices_an_end_that_nobody_announced(http: httpx2.AsyncClient, live: LiveApi, world: World) -> None:
    lease = await world.running(session_id=await new_session(http))
    waiting = asyncio.create_task(http.get(f"/v1/runs/{lease.run_id}/wait", timeout=GUARD_S))
    await eventually(lambda: _follows(live), GUARD_S)
    await world.queue.finish(lease, an_outcome())
    assert (await waiting).status_code == 200


async def test_cancel_ends_a_queued_run_and_asks_a_running_one(http: httpx2.AsyncClient, world: World) -> None:
    """202 each time; one that has ended stays as it is."""
    session_id = await new_session(http)
    lease = await world.running(session_id=session_id)
    queued = (await world.submit(session_id)).run_id
    assert (await http.post(f"/v1/runs/{queued}/cancel")).json() == {
        "id": queued,
        "session_id": session_id,
        "status": "cancelled",
    }
    for _ in range(2):
        answer = await http.post(f"/v1/runs/{lease.run_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert (await world.queue.finish(lease, an_outcome())).status == "cancelled"
    answer = await http.post(f"/v1/runs/{lease.run_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert (await world.event_types(session_id=session_id)).count("run_cancelled") == 2


async def test_interrupt_is_for_runs_in_flight(http: httpx2.AsyncClient, world: World) -> None:
    """409 for a queued or ended one; the reason is in the terminal event."""
    session_id = await new_session(http)
    queued = (await world.submit(session_id)).run_id
    problem = problem_in(await http.post(f"/v1/runs/{queued}/interrupt"), 409, "invalid_operation")
    assert problem["details"]["status"] == "pending"
    lease = await world.claim(session_id, await world.worker())
    await world.queue.start(lease)
    assert (await http.post(f"/v1/runs/{queued}/interrupt")).status_code == 202
    await world.queue.finish(lease, an_outcome(RunStatus.CANCELLED))
    problem_in(await http.post(f"/v1/runs/{queued}/interrupt"), 409, "invalid_operation")
    events = (await http.get(f"/v1/sessions/{session_id}/events", params={"type": "run_cancelled"})).json()["events"]
    assert events[0]["data"]["reason"] == "interrupted"


@pytest.mark.parametrize("operation", ["pause", "resume", "input"])
async def test_what_no_provider_can_do_is_501(http: httpx2.AsyncClient, world: World, operation: str) -> None:
    run_id = (await world.submit(await new_session(http))).run_id
    problem = problem_in(await http.post(f"/v1/runs/{run_id}/{operation}"), 501, "capability_not_supported")
    assert operation in problem["detail"]
    assert "scripted" in problem["detail"]


def _follows(live: LiveApi) -> None:
    assert live.deps.hub.followers == 1
