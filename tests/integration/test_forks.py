"""Forks as users meet them: queries, retention, continuity, HTTP, the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_api.client import AsyncAsmClient
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import SessionVerb
from asm_core.domain.retention import RetentionPolicy
from asm_core.ports.query import EventSearch
from asm_core.stores.sql.engine import open_engine
from asm_core.stores.sql.maintenance import SqlMaintenance
from asm_core.stores.sql.query import SqlQueryAPI
from tests.builders import World, a_session, an_outcome
from tests.fixtures.api import LiveApi, new_session, problem_in
from tests.fixtures.dev import asm

TENANT = "default"


@pytest.fixture
async def engine(world: World, database_url: str) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(database_url, application_name="test")
    yield opened
    await opened.dispose()


async def a_family(world: World) -> tuple[str, str]:
    """A parent with eight events and a fork at its fifth, both at rest and completed long ago."""
    lease = await world.running()
    await world.append(lease, 5)
    await world.queue.finish(lease, an_outcome())
    parent_id = lease.session_id
    fork = (await world.queue.fork_session(a_session(parent_session_id=parent_id), 5)).session
    for session_id in (parent_id, fork.id):
        await world.queue.change_session(session_id, TENANT, SessionVerb.COMPLETE)
    return parent_id, fork.id


async def test_queries_see_a_fork_as_one_log(world: World, engine: AsyncEngine) -> None:
    """Search, counts, statistics and export; asked for parent and fork together, each event comes once."""
    parent_id, fork_id = await a_family(world)
    query = SqlQueryAPI(engine)
    found = await query.search_events(TENANT, EventSearch(session_ids=[fork_id]))
    assert [frame.sequence_number for frame in found.items] == [*range(1, 9)]
    assert await query.count_events(TENANT, EventSearch(session_ids=[fork_id], types=["session_created"])) == 2
    both = await query.count_events(TENANT, EventSearch(session_ids=[parent_id, fork_id]))
    assert both == await world.how_many("events")
    assert (await query.get_session_stats(fork_id, TENANT)).event_count == 8
    assert (await query.get_session_stats(fork_id, TENANT)).run_count == 0
    exported = await query.export_session(fork_id, TENANT)
    assert [frame.sequence_number for frame in exported.events] == [*range(1, 9)]
    lines = b"".join([chunk async for chunk in query.stream_export(fork_id, TENANT)]).splitlines()
    assert sum("event" in json.loads(line) for line in lines) == 8


async def test_retention_leaves_alone_what_a_fork_refers_to(world: World, engine: AsyncEngine) -> None:
    """Neither pruned nor hard deleted as long as the fork is there; afterwards it goes like any other."""
    parent_id, fork_id = await a_family(world)
    maintenance = SqlMaintenance(engine)
    policy = RetentionPolicy(
        max_completed_session_age_days=1, hard_delete_after_days=1, exempt_statuses=(), max_events_per_session=3,
        prune_event_types_first=(EventType.MESSAGE_STREAMED,),
    )  # fmt: skip
    assert await maintenance.prune_session_events(parent_id, TENANT, policy) == 0
    later = await world.peek.now() + timedelta(days=10)
    await maintenance.soft_delete_expired_sessions(policy, TENANT, now=later)
    much_later = later + timedelta(days=10)
    first = await maintenance.hard_delete_expired_sessions(policy, TENANT, now=much_later)
    second = await maintenance.hard_delete_expired_sessions(policy, TENANT, now=much_later)
    assert first.count + second.count == 2
    assert await world.how_many("events") == await world.how_many("inherited_events") == 0
    assert fork_id


async def test_a_fork_over_http_is_followed_like_any_session(
    client: AsyncAsmClient, http: httpx2.AsyncClient, world: World
) -> None:
    """201 with what it took over; pages and streams begin with the parent's events and resume by number."""
    given = {"provider": "scripted", "context": {"system_prompt": "Be brief"}, "tags": ["a"], "max_queued_runs": 3}
    parent = await client.create_session("writer", metadata={"only": "parent"}, **given)
    fork = await client.fork_session(parent["id"], metadata={"branch": 2}, model="m-2")
    assert {name: fork[name] for name in given} == given
    assert (fork["agent_id"], fork["model"], fork["metadata"]) == ("writer", "m-2", {"branch": 2})
    assert (fork["parent_session_id"], fork["forked_at"], fork["status"]) == (parent["id"], 2, "active")
    page = await client.events(fork["id"])
    assert [event["sequence_number"] for event in page["events"]] == [1, 2, 3, 4]
    assert [event["session_id"] for event in page["events"]] == [parent["id"]] * 2 + [fork["id"]] * 2
    assert page["latest"] == 4
    assert [event async for event in client.follow(fork["id"], until_idle=True)] == page["events"]
    assert [event async for event in client.follow(fork["id"], after=1, until_idle=True)] == page["events"][1:]
    assert (await client.fork_session(fork["id"], at=3))["forked_at"] == 3


@pytest.mark.parametrize(
    ("body", "field"), [({"at": 0}, "at"), ({"at": "2"}, "at"), ({"at": 99}, "at"), ({"until": 2}, "until")]
)
async def test_a_fork_that_cannot_be_is_refused(http: httpx2.AsyncClient, body: dict[str, object], field: str) -> None:
    """422 naming the field; nothing is made."""
    session_id = await new_session(http)
    problem = problem_in(await http.post(f"/v1/sessions/{session_id}/fork", json=body), 422, "validation_error")
    assert field in json.dumps(problem)
    assert len((await http.get("/v1/sessions")).json()["sessions"]) == 1


async def test_forks_of_nothing_or_for_nobody_are_refused(http: httpx2.AsyncClient) -> None:
    problem_in(await http.post("/v1/sessions/ses_x/fork"), 404, "session_not_found")
    session_id = await new_session(http)
    body = {"provider": "nobody"}
    problem_in(await http.post(f"/v1/sessions/{session_id}/fork", json=body), 422, "validation_error")


def test_the_command_prints_the_forks_id(live: LiveApi) -> None:
    with httpx2.Client(base_url=live.base_url) as http:
        parent = http.post("/v1/sessions", json={"agent_id": "a"}).json()["id"]
        answer = asm("fork", parent, "--at", "1", "--server", live.base_url)
        assert answer.returncode == 0, answer.stderr
        fork = http.get(f"/v1/sessions/{answer.stdout.strip()}").json()
    assert (fork["parent_session_id"], fork["forked_at"]) == (parent, 1)
    refused = asm("fork", parent, "--at", "9", "--server", live.base_url)
    assert refused.returncode == 2
    assert "numbers 1 to 2" in refused.stderr
