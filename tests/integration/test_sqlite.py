"""What is special about a file: its one writer at a time, other processes, and times that are text."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from asm_core.clock import SystemClock
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.ports.store import EventFilter
from asm_core.stores.sql import engine as engine_module
from asm_core.stores.sql.engine import open_sqlite, sqlite_url
from asm_core.stores.sql.migrate import head, migrate
from asm_core.stores.sql.store import SqlSessionStore
from asm_core.stores.sql.tables import Instant
from tests.builders import NOW, a_run, an_event, open_sqlite_world

APPENDER = """
import asyncio, sys
from asm_core.stores.sql.engine import open_sqlite
from asm_core.stores.sql.store import SqlSessionStore
from tests.builders import an_event

async def main():
    engine = open_sqlite(sys.argv[1])
    store = SqlSessionStore(engine)
    async def write():
        for _ in range(100):
            await store.append_events([an_event()], "default")
    await asyncio.gather(*(write() for _ in range(2)))
    await engine.dispose()

asyncio.run(main())
"""
"""Two writers of 100 appends each."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "asm.db"
    migrate(sqlite_url(file))
    return file


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqlSessionStore]:
    engine = open_sqlite(path)
    yield SqlSessionStore(engine)
    await engine.dispose()


async def numbers(store: SqlSessionStore) -> list[int]:
    return [frame.sequence_number for frame in await store.get_events("ses_1", "default", EventFilter(), 10_000)]


async def test_several_processes_append_to_one_file(path: Path, store: SqlSessionStore) -> None:
    """Check 91: eight writers in four processes; nobody is told that the file is locked, no number is missing."""
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", APPENDER, str(path)) for _ in range(3)]

    async def write() -> None:
        for _ in range(100):
            await store.append_events([an_event()], "default")

    await asyncio.gather(write(), write())
    assert [await process.wait() for process in processes] == [0, 0, 0]
    assert await numbers(store) == [*range(1, 801)]


async def test_a_writer_waits_for_another_process_and_begins_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond SQLite's own patience the transaction is run again as a whole."""
    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT_S", 0.02)
    engine = open_sqlite(path)
    store = SqlSessionStore(engine)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        append = asyncio.create_task(store.append_events([an_event()], "default"))
        done, _ = await asyncio.wait({append}, timeout=0.2)
        assert not done
        assert await numbers(store) == [], "readers do not wait"
        other.execute("COMMIT")
        await append
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AsmError) as caught:
            await store.append_events([an_event()], "default")
        assert caught.value.code is ErrorCode.STORAGE_CONNECTION_FAILED, "retryable: the file stayed locked"
    assert await numbers(store) == [1]
    await engine.dispose()


async def test_who_is_cancelled_leaves_the_file_free(store: SqlSessionStore) -> None:
    """Wherever it is interrupted: what was begun is stored whole or not at all."""
    rng = random.Random(3)
    for _ in range(40):
        steps = (store.append_events([an_event(), an_event()], "default"), numbers(store), store.stats("default"))
        tasks = [asyncio.create_task(step) for step in steps]
        await asyncio.sleep(rng.random() * 0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await store.append_events([an_event()], "default")
    found = await numbers(store)
    assert found == [*range(1, len(found) + 1)]
    assert len(found) % 2 == 1


async def test_what_is_stored_is_there_when_the_file_is_opened_again(path: Path) -> None:
    """Queue and log survive their process."""
    async with open_sqlite_world(path) as world:
        session_id = await world.session(tags=["t"])
        lease = await world.running(session_id=session_id)
        await world.append(lease, 2)
        queued = (await world.submit(session_id)).run_id
        await world.queue.request_cancel(lease.run_id, "default", "cancel")
    async with open_sqlite_world(path) as world:
        await world.queue.retire_worker(lease.worker_id)
        await world.make_sweep_due()
        swept = await world.queue.sweep()
        assert (dict(swept.settled), swept.wake) == ({lease.run_id: "cancelled"}, [session_id])
        await world.queue.register_worker("wrk_later", hostname="here", pid=2, slots=1)
        assert (await world.claim(session_id, "wrk_later")).run_id == queued
        assert (await world.store.latest_sequences([session_id])) == {session_id: 5}


async def test_times_are_text_of_one_length_in_utc(path: Path, store: SqlSessionStore) -> None:
    """Text order is time order, also for who looks at the file with other tools."""
    await store.save_run(a_run(id="run_1"))
    with closing(sqlite3.connect(path)) as connection:
        [row] = connection.execute("SELECT created_at FROM asm_runs").fetchall()
    assert row == ("2025-06-01T12:00:00.000000Z",)


def test_a_time_without_its_zone_is_refused() -> None:
    """It would be stored as something else than was meant."""
    engine = sa.create_engine("sqlite://")
    for value in (NOW, None):
        assert (
            Instant().process_result_value(Instant().process_bind_param(value, engine.dialect), engine.dialect) == value
        )
    with pytest.raises(ValueError, match="without its zone"):
        Instant().process_bind_param(datetime(2025, 6, 1), engine.dialect)
    engine.dispose()


async def test_a_file_is_opened_for_one_writer_and_many_readers(path: Path) -> None:
    engine = open_sqlite(path)
    async with engine.connect() as connection:
        found = [await connection.scalar(sa.text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")]
    assert found == ["wal", 1]
    assert await SqlSessionStore(engine, SystemClock()).ping() == head()
    await engine.dispose()
