"""DESIGN §12: what belongs to another tenant does not exist, and an id of his tells nothing but that it is taken."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import SessionVerb
from asm_core.ports.store import EventFilter
from tests.builders import World, a_run, a_session, a_submission, an_event, an_outcome

PRIVATE = {"agent_id": "private", "metadata": {"of": "private"}, "context": {"system_prompt": "private"}}
PORTS = (
    "sessions", "runs", "events", "session_sequences", "session_runtime", "run_leases", "idempotency_keys", "audit_log",
    "inherited_events",
)  # fmt: skip


@pytest.fixture
async def theirs(world: World) -> tuple[str, str]:
    """The other tenant's session with a run in flight, and that run."""
    session_id = await world.session(tenant_id="other", **PRIVATE)
    lease = await world.running(session_id=session_id, tenant_id="other")
    await world.append(lease, data={"content": "private"})
    return session_id, lease.run_id


async def refusal(world: World, step: Awaitable[Any]) -> AsmError:
    """Of a step that changes nothing and repeats nothing of the other's."""
    before = {table: await world.rows(table) for table in PORTS}
    with pytest.raises(AsmError) as caught:
        await step
    assert {table: await world.rows(table) for table in PORTS} == before
    assert "private" not in str(caught.value.to_map())
    assert "other" not in str(caught.value.to_map())
    return caught.value


async def test_an_id_of_another_tenant_is_refused_without_a_word_about_it(
    world: World, theirs: tuple[str, str]
) -> None:
    """Created, submitted to or saved under: `already_exists`, and only the id that was given."""
    session_id, run_id = theirs
    mine = await world.session()
    one_shot = a_submission(session_id, new_session=a_session(id=session_id))
    keyed = a_submission(session_id, new_session=a_session(id=session_id), idempotency_key="k")
    steps = {
        "create": (world.queue.create_session(a_session(id=session_id)), session_id),
        "start": (world.queue.create_session(a_session(id=session_id), activate=False), session_id),
        "fork": (world.queue.fork_session(a_session(id=session_id, parent_session_id=mine), None), session_id),
        "one-shot": (world.queue.submit(one_shot), session_id),
        "one-shot with a key": (world.queue.submit(keyed), session_id),
        "submit": (world.queue.submit(a_submission(mine, run_id=run_id)), run_id),
        "save session": (world.store.save_session(a_session(id=session_id)), session_id),
        "save run": (world.store.save_run(a_run(id=run_id, session_id=mine)), run_id),
        "flush": (world.store.flush(a_session(id=session_id), a_run(session_id=session_id), []), session_id),
        "flush a run": (world.store.flush(a_session(), a_run(id=run_id, session_id=mine), []), run_id),
    }
    for name, (step, taken) in steps.items():
        error = await refusal(world, step)
        assert (error.code, error.details) == (ErrorCode.ALREADY_EXISTS, {"field": "id", "id": taken}), name


async def test_a_run_whose_id_is_taken_is_refused_with_a_key_too(world: World, theirs: tuple[str, str]) -> None:
    """And the key stays free."""
    mine = await world.session()
    error = await refusal(world, world.submit(mine, run_id=theirs[1], idempotency_key="k"))
    assert error.code in (ErrorCode.ALREADY_EXISTS, ErrorCode.VALIDATION_ERROR)
    assert not (await world.submit(mine, idempotency_key="k")).replayed


async def test_nothing_is_put_into_another_tenants_session(world: World, theirs: tuple[str, str]) -> None:
    """Neither runs, which would take its slots, nor events, nor a change of its status."""
    session_id, run_id = theirs
    for step in (
        world.queue.fork_session(a_session(parent_session_id=session_id), None),
        world.submit(session_id),
        world.submit(session_id, idempotency_key="k"),
        world.store.save_run(a_run(session_id=session_id)),
        world.store.append_events([an_event(session_id=session_id)], "default"),
        world.store.flush(a_session(), a_run(session_id=session_id), []),
        world.store.flush(a_session(), a_run(), [an_event(session_id=session_id)]),
        *(world.queue.change_session(session_id, "default", verb) for verb in SessionVerb),
    ):
        assert (await refusal(world, step)).code is ErrorCode.SESSION_NOT_FOUND
    for step in (
        world.queue.request_cancel(run_id, "default", "cancel"),
        world.queue.claim_run(run_id, "default", await world.worker()),
    ):
        assert (await refusal(world, step)).code is ErrorCode.RUN_NOT_FOUND


async def test_an_event_id_of_another_tenant_is_taken(world: World, theirs: tuple[str, str]) -> None:
    """The stored event does not come back as the answer to a repeated append."""
    [event, *_] = await world.rows("events", session_id=theirs[0])
    error = await refusal(world, world.store.append_events([an_event(id=event["id"])], "default"))
    assert (error.code, error.details["id"]) == (ErrorCode.ALREADY_EXISTS, event["id"])


async def test_nothing_of_another_tenant_is_read(world: World, theirs: tuple[str, str]) -> None:
    session_id, run_id = theirs
    for step in (world.store.get_session(session_id, "default"), world.store.queue_status(session_id, "default")):
        assert (await refusal(world, step)).code is ErrorCode.SESSION_NOT_FOUND
    assert (await refusal(world, world.store.get_run(run_id, "default"))).code is ErrorCode.RUN_NOT_FOUND
    assert await world.store.get_active_run(session_id, "default") is None
    assert await world.store.get_events(session_id, "default", EventFilter(), 100) == []
    assert (await world.store.list_sessions("default")).items == []
    assert (await world.store.list_runs("default")).items == []
    assert (await world.store.list_runs("default", session_id=session_id)).items == []
    stats = await world.store.stats("default")
    assert (stats.sessions, stats.runs, stats.events) == ({}, {}, 0)


async def test_nothing_of_another_tenant_is_deleted(world: World, theirs: tuple[str, str]) -> None:
    before = {table: await world.rows(table) for table in PORTS}
    await world.store.delete_session(theirs[0], "default")
    assert {table: await world.rows(table) for table in PORTS} == before


async def test_one_key_of_two_tenants_is_two_keys(world: World, theirs: tuple[str, str]) -> None:
    """Idempotency keys belong to their tenant, of sessions and of one-shots."""
    for tenant_id in ("other", "default"):
        new_session = a_session(tenant_id=tenant_id)
        given = a_submission(new_session.id, tenant_id=tenant_id, new_session=new_session, idempotency_key="k")
        assert not (await world.queue.submit(given)).replayed


async def test_a_log_without_a_session_keeps_its_tenant(world: World) -> None:
    """Events may come before their session; nobody else can then take the id, and its numbers with it."""
    await world.store.append_events([an_event(session_id="ses_1")], "other")
    error = await refusal(world, world.store.save_session(a_session(id="ses_1")))
    assert error.code is ErrorCode.ALREADY_EXISTS
    await world.store.save_session(a_session(id="ses_1", tenant_id="other"))
    assert (await world.store.queue_status("ses_1", "other")).last_sequence == 1


async def test_a_repeated_create_still_changes_nothing(world: World) -> None:
    """A lost commit is safe: the same tenant gets the session that is there."""
    session = a_session(agent_id="first")
    await world.queue.create_session(session)
    again = await world.queue.create_session(a_session(id=session.id, agent_id="second"))
    assert (again.session.agent_id, again.events) == ("first", [])
    lease = await world.running(session_id=session.id)
    await world.queue.finish(lease, an_outcome())
