"""The audit log over HTTP, and by the client."""

from __future__ import annotations

from datetime import timedelta

import httpx2
import pytest

from asm_api.client import AsmClient, AsyncAsmClient
from asm_core.domain.audit import AuditEntry
from tests.builders import World, an_outcome
from tests.fixtures.api import LiveApi, new_session, problem_in


async def test_what_was_done_to_a_session_is_told_in_order(client: AsyncAsmClient, world: World) -> None:
    """spec/03 §10; as it is stored, with the filters of the store."""
    lease = await world.running()
    await world.queue.finish(lease, an_outcome())
    whole = await client.audit(lease.session_id)
    stored = await world.audit.get_audit_log(lease.session_id, "default")
    assert whole == {"entries": [entry.to_map() for entry in stored.items], "cursor": None}
    assert [entry["action"] for entry in whole["entries"]] == [
        "session.created", "run.submitted", "run.claimed", "run.completed",
    ]  # fmt: skip
    told = whole["entries"]
    for where, expected in (
        ({"run_id": lease.run_id}, told[1:]),
        ({"actions": ["run.claimed", "run.completed"]}, told[2:]),
        ({"since": told[2]["at"]}, told[3:]),
        ({"actions": ["no.such"], "limit": 1}, []),
    ):
        assert (await client.audit(lease.session_id, **where))["entries"] == expected


async def test_pages_follow_each_other(client: AsyncAsmClient, world: World) -> None:
    session_id = await world.session(max_queued_runs=5)
    for _ in range(4):
        await world.submit(session_id)
    seen, cursor = [], None
    for size in (2, 2, 1):
        page = await client.audit(session_id, limit=2, cursor=cursor)
        assert len(page["entries"]) == size
        seen, cursor = seen + page["entries"], page["cursor"]
    assert cursor is None
    assert seen == (await client.audit(session_id))["entries"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "since=yesterday", "action=", "run_id="])
async def test_a_question_that_makes_no_sense_is_refused(ask: httpx2.AsyncClient, query: str) -> None:
    session_id = await new_session(ask)
    problem_in(await ask.get(f"/v1/sessions/{session_id}/audit?{query}"), 422, "validation_error")


async def test_a_cursor_of_another_list_is_refused(ask: httpx2.AsyncClient) -> None:
    session_id = await new_session(ask)
    problem_in(await ask.get(f"/v1/sessions/{session_id}/audit?cursor=abc"), 422, "invalid_cursor")


async def test_unknown_sessions_and_those_of_others_are_not_there(http: httpx2.AsyncClient, world: World) -> None:
    await world.audit.record(AuditEntry(action="session.created", tenant_id="other", session_id="ses_other"))
    for session_id in ("ses_none", "ses_other"):
        problem_in(await http.get(f"/v1/sessions/{session_id}/audit"), 404, "session_not_found")


async def test_a_deleted_session_is_still_told_of(http: httpx2.AsyncClient, world: World) -> None:
    session_id = await world.session()
    await world.store.delete_session(session_id, "default")
    answer = (await http.get(f"/v1/sessions/{session_id}/audit")).json()
    assert [entry["action"] for entry in answer["entries"]] == ["session.created"]


async def test_a_time_without_its_zone_is_utc(client: AsyncAsmClient, world: World) -> None:
    session_id = await world.session()
    [entry] = (await world.audit.get_audit_log(session_id, "default")).items
    assert entry.at is not None
    before = (entry.at - timedelta(microseconds=1)).replace(tzinfo=None).isoformat()
    assert len((await client.audit(session_id, since=before))["entries"]) == 1


def test_the_blocking_client_asks_alike(api: LiveApi) -> None:
    with AsmClient(api.base_url) as client:
        session_id = client.create_session("tester")["id"]
        assert [entry["action"] for entry in client.audit(session_id)["entries"]] == ["session.created"]
