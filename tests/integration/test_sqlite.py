"""What is special about a file: its one writer at a time, other processes, and times that are text."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import closing
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.clock import SystemClock
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lifecycle import SessionVerb
from asm_core.domain.retention import RetentionPolicy
from asm_core.ports.store import EventFilter
from asm_core.stores.sql import engine as engine_module
from asm_core.stores.sql import writes
from asm_core.stores.sql.dialect import dialect_of
from asm_core.stores.sql.engine import open_sqlite, sqlite_url
from asm_core.stores.sql.maintenance import SqlMaintenance
from asm_core.stores.sql.migrate import head, migrate
from asm_core.stores.sql.query import SqlQueryAPI
from asm_core.stores.sql.rows import event_rows
from asm_core.stores.sql.store import SqlSessionStore
from asm_core.stores.sql.tables import Instant
from asm_core.stores.sql.transactions import writing
from asm_core.stores.sql.verify import verify_database
from tests.builders import NOW, a_run, a_session, an_event, an_outcome, open_sqlite_world

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


async def cancelled_at(engine: AsyncEngine, place: int, work: Coroutine[Any, Any, Any], times: int) -> bool:
    """Whether it came to the place: the beginning of its n-th statement, where it is cancelled so many times."""
    task, loop, seen = asyncio.ensure_future(work), asyncio.get_running_loop(), count(1)

    def cancel(left: int) -> None:
        task.cancel()
        if left > 1:
            loop.call_soon(cancel, left - 1)

    def note(*_: Any) -> None:
        if next(seen) == place:
            cancel(times)

    sa.event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        await asyncio.wait({task})
    finally:
        sa.event.remove(engine.sync_engine, "before_cursor_execute", note)
    if not task.cancelled() and (error := task.exception()):
        raise error
    return next(seen) > place


def assert_free(path: Path) -> None:
    """Nobody holds the file: its write lock is to be had at once."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


@pytest.mark.parametrize("times", [1, 4])
async def test_a_transaction_has_ended_when_its_cancelled_caller_goes_on(path: Path, times: int) -> None:
    """At every statement, also when he insists: committed or rolled back, and the connection good for the next one."""
    engine = open_sqlite(path, pool_size=1)
    store, dialect = SqlSessionStore(engine), dialect_of(engine)

    async def write() -> None:
        async with writing(engine) as tx:
            await writes.append(tx, dialect, event_rows([an_event(), an_event()], "default"), "default")

    place = 1
    while await cancelled_at(engine, place, write(), times):
        assert_free(path)
        found = await numbers(store)
        assert found == [*range(1, len(found) + 1)]
        assert len(found) % 2 == 0
        place += 1
    assert place > 6, "BEGIN, the statements, COMMIT"
    await write()
    found = await numbers(store)
    assert found == [*range(1, len(found) + 1)]
    await engine.dispose()


@pytest.mark.parametrize("times", [1, 4])
async def test_a_snapshot_has_ended_when_its_cancelled_caller_goes_on(path: Path, times: int) -> None:
    """The next user of its connection sees the present, and may write."""
    async with open_sqlite_world(path) as world:
        lease = await world.running()
        await world.append(lease, 5)
        await world.queue.finish(lease, an_outcome())
    engine = open_sqlite(path, pool_size=1)
    store, query = SqlSessionStore(engine), SqlQueryAPI(engine)

    async def read_whole() -> None:
        assert [chunk async for chunk in query.stream_export(lease.session_id, "default", include_artifacts=True)]

    place, writes_done = 1, 0
    for work in (read_whole, lambda: query.get_session_stats(lease.session_id, "default")):
        while await cancelled_at(engine, place, work(), times):
            await store.append_events([an_event()], "default")
            writes_done += 1
            assert await numbers(store) == [*range(1, writes_done + 1)]
            place += 1
        assert place > 3
        place = 1
    await engine.dispose()


async def test_maintenance_may_be_cancelled_anywhere(path: Path) -> None:
    """Every session is whole or gone, and what is left is sound."""
    async with open_sqlite_world(path, ends_sound=False) as world:
        for _ in range(2):
            lease = await world.running()
            await world.append(lease, 6)
            await world.queue.finish(lease, an_outcome())
            await world.queue.change_session(lease.session_id, "default", SessionVerb.COMPLETE)
        later = await world.peek.now() + timedelta(days=365)
        engine = open_sqlite(path, pool_size=2)
        policy, place = RetentionPolicy(max_events_per_session=5, batch_size=2), 1
        while await cancelled_at(engine, place, SqlMaintenance(engine).execute(policy, "default", now=later), 2):
            assert_free(path)
            if place % 5 == 0:
                assert (await verify_database(sqlite_url(path))).violations == []
            place += 1
        assert place > 10
        assert (await verify_database(sqlite_url(path))).violations == []
        await engine.dispose()


async def test_random_cancellations_of_many_leave_the_file_free(path: Path) -> None:
    """Writers, maintenance and exports at once, on a pool that is too small for them."""
    engine, rng = open_sqlite(path, pool_size=2), random.Random(5)
    store, query, dialect = SqlSessionStore(engine), SqlQueryAPI(engine), dialect_of(engine)
    await store.save_session(a_session(id="ses_1"))

    async def write() -> None:
        async with writing(engine) as tx:
            await writes.append(tx, dialect, event_rows([an_event(), an_event()], "default"), "default")

    for _ in range(30):
        steps = (write(), store.append_events([an_event(), an_event()], "default"), write())
        reads = (query.export_session("ses_1", "default"), query.get_session_stats("ses_1", "default"))
        tasks = [asyncio.ensure_future(step) for step in (*steps, *reads)]
        for task in rng.choices(tasks, k=6):
            await asyncio.sleep(rng.random() * 0.004)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one for one in outcomes if isinstance(one, Exception)] == []
    assert_free(path)
    await write()
    found = await numbers(store)
    assert found == [*range(1, len(found) + 1)]
    assert len(found) % 2 == 0
    await engine.dispose()


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
