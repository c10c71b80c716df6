"""
The records of every session store of ours: what the contract says, and how they live with the queue over them. Numbers
are those of the checks in spec/02 §22.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import RunStatus, SessionStatus, SessionVerb
from asm_core.ports.store import SessionStore
from asm_core.testing import SessionStoreContract
from asm_core.testing.contracts.answers import code_of, numbers_of
from tests.builders import World, a_session, an_outcome
from tests.conformance.conftest import OpenWorld


@pytest.fixture(params=["memory", "sqlite", "postgres", "resources_sqlite", "resources_postgres"])
def store_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def world(open_any: OpenWorld) -> AsyncIterator[World]:
    """Written to past the queue's rules, so it need not end sound."""
    async with open_any(ends_sound=False) as opened:
        yield opened


@pytest.fixture
def store(world: World) -> SessionStore:
    return world.store


class TestSessionStore(SessionStoreContract):
    """Memory, SQLite, Postgres; on the tables, and on the models of an application with columns of its own."""


async def test_a_session_that_is_saved_again_keeps_its_queue(world: World, store: SessionStore) -> None:
    """4: its queue goes on where it was."""
    session_id = await world.session(metadata={"k": 1})
    first = await world.submit(session_id)
    for status in (SessionStatus.PAUSED, SessionStatus.ACTIVE, SessionStatus.ACTIVE):
        session = await store.get_session(session_id, "default")
        await store.save_session(replace(session, status=status, metadata={}, max_queued_runs=5))
    saved = await store.get_session(session_id, "default")
    assert (saved.status, saved.metadata, saved.max_queued_runs) == (SessionStatus.ACTIVE, {}, 5)
    assert (first.position, (await world.submit(session_id)).position) == (1, 2)
    assert await numbers_of(store, session_id) == [1, 2]


async def test_a_saved_session_takes_runs(world: World, store: SessionStore) -> None:
    """It has its counter and its queue."""
    session = replace(a_session(), status=SessionStatus.ACTIVE)
    await store.save_session(session)
    lease = await world.running(session_id=session.id)
    await world.append(lease)
    assert (await store.queue_status(session.id, "default")).last_sequence == 1


async def test_a_deleted_session_leaves_no_row_behind(world: World, store: SessionStore) -> None:
    """8, 12, 84: runs, events, counter, queue, keys; its holder has lost its lease; others keep theirs."""
    lease = await world.running(idempotency_key="k")
    kept = await world.running()
    await world.append(lease)
    await world.append(kept)
    await store.delete_session(lease.session_id, "other")
    await store.get_session(lease.session_id, "default")
    for session_id in (lease.session_id, lease.session_id, "ses_none"):
        await store.delete_session(session_id, "default")
    assert await code_of(store.get_session(lease.session_id, "default")) is ErrorCode.SESSION_NOT_FOUND
    tables = "runs", "events", "session_sequences", "session_runtime", "run_leases", "idempotency_keys", "artifacts"
    for table in tables:
        assert await world.how_many(table, session_id=lease.session_id) == 0, table
    assert await world.queue.hand_back(lease.run_id, lease.fence, "unknown_lease") is None
    assert await numbers_of(store, kept.session_id) == [1, 2, 3]


async def test_nobody_overwrites_what_another_says(world: World, store: SessionStore) -> None:
    """
    Changes at once: each provider's handle stays beside what the session says else, a cancelled run stays so whatever
    is finished or saved meanwhile, and the log has one end for each run.
    """
    providers = [f"p{number}" for number in range(6)]
    session_id = await world.session(metadata={"mine": 1}, max_concurrent_runs=len(providers), tags=["t"])
    worker_id = await world.worker()
    for provider in providers:
        await world.submit(session_id, options={"provider": provider})
    leases = [await world.claim(session_id, worker_id) for _ in providers]
    runs = {lease.run_id: await store.get_run(lease.run_id, "default") for lease in leases}

    async def finish(lease: Any) -> None:
        metadata = {"provider_session_id": lease.run_id}
        outcome = an_outcome(RunStatus.COMPLETED, provider_metadata=metadata)
        await world.queue.start(lease)
        await world.queue.finish(lease, outcome)

    async def save(run_id: str) -> None:
        for _ in range(3):
            try:
                await store.save_run(runs[run_id])
            except AsmError as error:
                assert error.code is ErrorCode.INVALID_TRANSITION

    async def change(verb: SessionVerb) -> None:
        try:
            await world.queue.change_session(session_id, "default", verb)
        except AsmError as error:
            assert error.code is ErrorCode.INVALID_TRANSITION

    cancelled = [lease.run_id for lease in leases[:3]]
    await asyncio.gather(*(world.queue.request_cancel(run_id, "default", "cancel") for run_id in cancelled))
    verbs = [SessionVerb.PAUSE, SessionVerb.RESUME] * 3
    await asyncio.gather(*map(finish, leases), *map(change, verbs))
    await asyncio.gather(*map(save, runs))

    for run_id in runs:
        expected = RunStatus.CANCELLED if run_id in cancelled else RunStatus.COMPLETED
        assert (await store.get_run(run_id, "default")).status is expected
    session = await store.get_session(session_id, "default")
    handles = {runs[run_id].provider: {"provider_session_id": run_id} for run_id in runs}
    assert session.metadata == {"mine": 1, "provider_sessions": handles}
    assert (list(session.tags), session.max_concurrent_runs) == (["t"], len(providers))
    assert await world.peek.violations() == []


async def test_what_is_asked_of_the_queue_is_answered_alike(world: World, store: SessionStore) -> None:
    """Queue status, positions and figures over all."""
    session_id, worker_id = await world.session(max_queued_runs=3), await world.worker(slots=4)
    lease = await world.running(session_id=session_id, worker_id=worker_id)
    queued = [(await world.submit(session_id)).run_id for _ in range(2)]
    outside = (await world.submit(session_id, queued=False)).run_id
    status = await store.queue_status(session_id, "default")
    assert (status.in_flight_runs, status.queued_runs, status.parked_runs) == ([lease.run_id], queued, [])
    assert (status.max_concurrent_runs, status.max_queued_runs, status.state) == (1, 3, "active")
    assert (status.limiter_waiting, status.last_sequence, status.is_idle) == (False, 2, False)
    assert status.oldest_queued_age_ms is not None and status.oldest_queued_age_ms >= 0
    positions = [(await store.get_run(run_id, "default")).position for run_id in (lease.run_id, *queued, outside)]
    assert positions == [None, 1, 2, None]
    stats = await store.stats("default")
    assert (dict(stats.sessions), dict(stats.runs)) == ({"active": 1}, {"running": 1, "pending": 3})
    assert (stats.events, stats.slots, stats.in_flight) == (2, 4, 1)
    assert [worker["id"] for worker in stats.workers] == [worker_id]
    assert stats.oldest_pending_age_ms is not None
    assert await code_of(store.queue_status(session_id, "other")) is ErrorCode.SESSION_NOT_FOUND
