"""A session store and an artifact store in one hand: spec 02 §13, checks 183-188."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import RunStatus
from asm_core.ports.artifacts import ArtifactStore
from asm_core.ports.store import EventFilter
from asm_core.stores.artifacts.file import FileArtifactStore
from asm_core.stores.composite import CompositeSessionStore
from asm_core.stores.sql.store import SqlSessionStore
from asm_core.testing import CrashingArtifactStore
from tests.builders import World, an_outcome
from tests.fixtures.artifacts import engine_of


class Parked(FileArtifactStore):
    """Its reads wait until they are let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.entered, self.released = asyncio.Event(), asyncio.Event()

    async def get(self, key: str) -> bytes:
        self.entered.set()
        await self.released.wait()
        return await super().get(key)


class Waiting(SqlSessionStore):
    """Its `get_events` is a long poll: it answers when there is an event."""

    entered: asyncio.Event

    async def get_events(self, session_id: str, tenant_id: str, where: EventFilter, limit: int) -> Any:
        self.entered.set()
        while not (found := await super().get_events(session_id, tenant_id, where, limit)):
            await asyncio.sleep(0.01)
        return found


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[SqlSessionStore]:
    async with engine_of(database_url) as engine:
        yield SqlSessionStore(engine)


async def calls_of(artifacts: ArtifactStore) -> list[Any]:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    return [
        artifacts.put("key", b"x"),
        artifacts.put_stream("key", chunks()),
        artifacts.get("key"),
        anext(artifacts.open_read("key")),
        artifacts.head("key"),
        artifacts.delete("key"),
    ]


async def test_each_store_gets_its_own_calls_and_answers_itself(
    world: World, sessions: SqlSessionStore, tmp_path: Path
) -> None:
    """Check 183: the session store is handed out as it is; what goes to the artifacts arrives there."""
    files = FileArtifactStore(tmp_path)
    store = CompositeSessionStore(sessions, files)
    assert store.sessions is sessions
    lease = await world.running()
    await world.append(lease, 2)
    assert (await store.sessions.get_session(lease.session_id, "default")).id == lease.session_id
    assert (await store.sessions.get_run(lease.run_id, "default")).id == lease.run_id
    latest = await store.sessions.latest_sequences([lease.session_id])
    events = await store.sessions.get_events(lease.session_id, "default", EventFilter(), 100)
    assert latest[lease.session_id] == events[-1].sequence_number
    await store.artifacts.put("key", b"x")
    assert await files.get("key") == b"x"
    assert store.artifacts.backend == "file"
    await world.queue.finish(lease, an_outcome())


async def test_a_deleted_session_leaves_its_artifacts(world: World, sessions: SqlSessionStore, tmp_path: Path) -> None:
    """Check 184: the stores share nothing."""
    store = CompositeSessionStore(sessions, FileArtifactStore(tmp_path))
    session_id = await world.session()
    await store.artifacts.put(f"{session_id}/patch", b"x")
    await store.sessions.delete_session(session_id, "default")
    with pytest.raises(AsmError):
        await store.sessions.get_session(session_id, "default")
    assert await store.artifacts.get(f"{session_id}/patch") == b"x"


@pytest.mark.parametrize("error", [RuntimeError("secret words"), KeyError("x"), OSError(5, "x"), TimeoutError()])
async def test_a_crashing_artifact_store_is_a_storage_error_and_stops_nothing_else(
    world: World, sessions: SqlSessionStore, tmp_path: Path, error: Exception
) -> None:
    """Check 185."""
    store = CompositeSessionStore(sessions, CrashingArtifactStore(FileArtifactStore(tmp_path), error))
    session_id = await world.session()
    for call in await calls_of(store.artifacts):
        with pytest.raises(AsmError, match="'key'") as caught:
            await call
        assert caught.value.code is ErrorCode.STORAGE_ERROR
        assert caught.value.__cause__ is error
        assert "secret words" not in str(caught.value.to_map())
        assert (await store.sessions.get_session(session_id, "default")).id == session_id


@pytest.mark.parametrize("code", [ErrorCode.NOT_FOUND, ErrorCode.STORAGE_CONNECTION_FAILED])
async def test_an_error_with_a_code_passes_as_it_is(sessions: SqlSessionStore, tmp_path: Path, code: ErrorCode) -> None:
    error = AsmError(code, "as it is")
    crashing = CrashingArtifactStore(FileArtifactStore(tmp_path), error)
    for call in await calls_of(CompositeSessionStore(sessions, crashing).artifacts):
        with pytest.raises(AsmError) as caught:
            await call
        assert caught.value is error


async def test_a_long_poll_passes_through_with_its_whole_wait(world: World, database_url: str, tmp_path: Path) -> None:
    """Checks 186, 188: nothing bounds it, and meanwhile all other calls are answered."""
    async with engine_of(database_url) as engine:
        waiting = Waiting(engine)
        waiting.entered = asyncio.Event()
        store = CompositeSessionStore(waiting, FileArtifactStore(tmp_path))
        lease = await world.running()
        latest = (await store.sessions.latest_sequences([lease.session_id]))[lease.session_id]
        poll = asyncio.create_task(
            store.sessions.get_events(lease.session_id, "default", EventFilter(after=latest), 10)
        )
        await waiting.entered.wait()
        assert (await store.sessions.get_run(lease.run_id, "default")).status is RunStatus.RUNNING
        await store.artifacts.put("key", b"x")
        assert await store.artifacts.get("key") == b"x"
        assert not poll.done()
        [event] = await world.append(lease)
        assert [frame.sequence_number for frame in await poll] == [event.sequence_number]
        await world.queue.finish(lease, an_outcome())


async def test_a_parked_artifact_call_holds_up_no_session_call(
    world: World, sessions: SqlSessionStore, tmp_path: Path
) -> None:
    """Check 188, the other way round."""
    parked = Parked(tmp_path)
    store = CompositeSessionStore(sessions, parked)
    await store.artifacts.put("key", b"x")
    read = asyncio.create_task(store.artifacts.get("key"))
    await parked.entered.wait()
    session_id = await world.session()
    assert (await store.sessions.get_session(session_id, "default")).id == session_id
    await store.artifacts.put("other", b"y")
    parked.released.set()
    assert await read == b"x"


async def test_a_runs_life_with_a_snapshot_beside_it(world: World, sessions: SqlSessionStore, tmp_path: Path) -> None:
    """Check 187."""
    store = CompositeSessionStore(sessions, FileArtifactStore(tmp_path))
    lease = await world.running()
    await store.artifacts.put(f"{lease.run_id}/snapshot", b"tree", metadata={"run_id": lease.run_id})
    await world.append(lease, 3)
    await world.queue.finish(lease, an_outcome())
    assert (await store.sessions.get_run(lease.run_id, "default")).status is RunStatus.COMPLETED
    assert await store.artifacts.get(f"{lease.run_id}/snapshot") == b"tree"
