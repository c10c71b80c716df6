"""The schema's way up, down and up again; and that the model in code is the schema in the database."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import TERMINAL_EVENTS
from asm_core.domain.lifecycle import RunStatus, SessionStatus
from asm_core.ports.store import EventFilter
from asm_core.stores.local.records import TABLES
from asm_core.stores.sql.engine import sqlalchemy_url, sqlite_url
from asm_core.stores.sql.migrate import head, migrate, revision_of
from asm_core.stores.sql.tables import metadata
from asm_core.stores.sql.verify import verify_database
from tests.builders import NOW, an_outcome, open_sqlite_world, open_world

NOW_AND_A_BIT = NOW + timedelta(microseconds=1)
FUNCTIONS = "SELECT proname, prosrc FROM pg_proc WHERE proname LIKE 'asm\\_%' ORDER BY 1"


def catalogue(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Everything of ours in a database, by kind."""
    queries = {
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default, numeric_precision"
        " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
        "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
        "constraints": "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1",
        "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
        "functions": FUNCTIONS,
    }
    with psycopg.connect(url) as connection:
        return {kind: connection.execute(query).fetchall() for kind, query in queries.items()}


def test_an_empty_database_is_brought_to_the_head(empty_database_url: str) -> None:
    assert migrate(empty_database_url) == head()
    assert {row[0] for row in catalogue(empty_database_url)["functions"]} >= {
        "asm_submit", "asm_claim", "asm_start", "asm_append", "asm_finish", "asm_cancel", "asm_sweep_begin", "asm_beat",
    }  # fmt: skip


def test_migrating_again_changes_nothing(database_url: str) -> None:
    """Every process may do it at its start."""
    before = catalogue(database_url)
    assert migrate(database_url) == head()
    assert catalogue(database_url) == before


def test_functions_are_replaced_as_a_whole(database_url: str) -> None:
    """Their text has one home: an old or altered body does not survive."""
    before = catalogue(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION asm_instant(t timestamptz) RETURNS text LANGUAGE sql AS 'SELECT 1'"
        )
    assert catalogue(database_url) != before
    migrate(database_url)
    assert catalogue(database_url)["functions"] == before["functions"]


def test_percent_signs_reach_the_functions_as_they_are(database_url: str) -> None:
    """Drivers double them on the way."""
    bodies = dict(catalogue(database_url)["functions"])
    assert "'%\\_tokens'" in str(bodies["asm_end_run"])


@pytest.mark.parametrize("target", ["asm_0002", "asm_0001", "base"])
def test_down_and_up_again_is_the_same_schema(database_url: str, target: str) -> None:
    before = catalogue(database_url)
    assert migrate(database_url, target) == ("" if target == "base" else target)
    assert migrate(database_url) == head()
    assert catalogue(database_url) == before


async def test_the_records_survive_the_way_down_and_up(database_url: str) -> None:
    """Sessions, runs and events belong to the first revisions; the queue is new afterwards, and works."""
    async with open_world(database_url) as world:
        lease = await world.running()
        await world.append(lease, 2)
        await world.queue.finish(lease, an_outcome())
        events = await world.sql("SELECT * FROM asm_events ORDER BY session_id, sequence_number")
    for target in ("asm_0002", "head"):
        await asyncio.to_thread(migrate, database_url, target)
    async with open_world(database_url) as world:
        assert await world.sql("SELECT * FROM asm_events ORDER BY session_id, sequence_number") == events
        await world.queue.finish(await world.running(), an_outcome())


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_the_model_has_the_columns_of_the_database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Queries are written against `tables.py`; a column that one side lacks is a failure at night."""
    url = request.getfixturevalue("database_url") if kind == "postgres" else sqlite_url(tmp_path / "asm.db")
    if kind == "sqlite":
        migrate(url)
    engine = sa.create_engine(sqlalchemy_url(url))
    try:
        for table in metadata.tables.values():
            assert_same(table, sa.inspect(engine), engine.dialect)
    finally:
        engine.dispose()


def assert_same(table: sa.Table, inspector: sa.Inspector, dialect: sa.Dialect) -> None:
    found = {column["name"]: column for column in inspector.get_columns(table.name)}
    assert set(found) == set(table.columns.keys()), table.name
    for column in table.columns:
        actual = found[column.name]
        assert actual["nullable"] == column.nullable, f"{table.name}.{column.name}"
        expected = column.type.dialect_impl(dialect)
        if isinstance(expected, sa.types.TypeDecorator):
            expected = expected.impl_instance
        assert isinstance(actual["type"], type(expected).__mro__[1]) or str(actual["type"]) == str(
            column.type.compile(dialect)
        ), f"{table.name}.{column.name}: {actual['type']!r}"
    key = inspector.get_pk_constraint(table.name)["constrained_columns"]
    assert set(key) == {column.name for column in table.primary_key}, table.name


def test_a_row_of_the_local_queue_has_the_columns_of_the_model() -> None:
    """`TABLES` says what every store must keep; SQLite and Postgres keep what `tables.py` says."""
    for name, rule in TABLES.items():
        table = metadata.tables[f"asm_{name}"]
        assert {*rule.key, *rule.required, *rule.defaults} == set(table.columns.keys()), name
        assert set(rule.key) == {column.name for column in table.primary_key}, name
        unset = {column for column, value in rule.defaults.items() if value is None}
        assert unset == {column.name for column in table.columns if column.nullable} - {*rule.required}, name


def test_the_checks_of_the_database_know_every_status(database_url: str) -> None:
    """The constraint, the lifecycle tables and the terminal events speak of the same words."""
    constraints = dict(catalogue(database_url)["constraints"])
    for name, statuses in (("asm_runs_status_check", RunStatus), ("asm_sessions_status_check", SessionStatus)):
        text = str(constraints[name])
        assert {word for word in text.split("'") if word.isidentifier()} >= {str(status) for status in statuses}
    bodies = dict(catalogue(database_url)["functions"])
    for kind in TERMINAL_EVENTS.values():
        assert f"'{kind}'" in str(bodies["asm_finished_before"])


async def test_many_processes_may_migrate_at_once(empty_database_url: str) -> None:
    """They take turns behind a lock of the transaction."""
    revisions = await asyncio.gather(*(asyncio.to_thread(migrate, empty_database_url) for _ in range(4)))
    assert revisions == [head()] * 4
    assert (await verify_database(empty_database_url)).is_sound


def test_an_unmigrated_database_has_no_revision(empty_database_url: str) -> None:
    engine = sa.create_engine(sqlalchemy_url(empty_database_url))
    with engine.connect() as connection:
        assert revision_of(connection) == ""
    engine.dispose()


def test_a_database_that_cannot_be_reached_is_said_so() -> None:
    with pytest.raises(AsmError) as caught:
        migrate("postgresql://nobody:secret@127.0.0.1:1/none")
    assert caught.value.code is ErrorCode.STORAGE_CONNECTION_FAILED
    assert "secret" not in str(caught.value.to_map())


# SQLite


FILLED = {
    "asm_sessions": {
        "id": "ses_1", "agent_id": "a", "status": "active", "tags": '["x"]', "metadata": '{"k": {"n": 1}}',
        "created_at": "2025-06-01T12:00:00.000001Z", "updated_at": "2025-06-01T12:00:00.000001Z",
    },
    "asm_runs": {
        "id": "run_1", "session_id": "ses_1", "status": "completed", "output": '{"content": "x"}',
        "created_at": "2025-06-01T12:00:01.000000Z", "started_at": "2025-06-01T12:00:02.000000Z",
    },
    "asm_events": {
        "id": "evt_1", "type": "run_completed", "timestamp": "2025-06-01T12:00:03.000000Z", "session_id": "ses_1",
        "run_id": "run_1", "sequence_number": 1, "data": '{"content": "x"}',
    },
    "asm_session_sequences": {"session_id": "ses_1", "last_sequence": 1},
}  # fmt: skip
"""Rows as a database of the first revision holds them."""


def fill(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        for table, row in FILLED.items():
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
    connection.close()


async def test_a_filled_file_of_the_first_revision_comes_to_the_head(tmp_path: Path) -> None:
    """Checks 89, 90: what is there is read as before, and the queue works with it."""
    path = tmp_path / "asm.db"
    url = sqlite_url(path)
    assert await asyncio.to_thread(migrate, url, "asm_0001") == "asm_0001"
    fill(path)
    assert await asyncio.to_thread(migrate, url) == head()
    async with open_sqlite_world(path) as world:
        session, run = await world.store.get_session("ses_1", "default"), await world.store.get_run("run_1", "default")
        assert (session.metadata, list(session.tags), session.created_at) == ({"k": {"n": 1}}, ["x"], NOW_AND_A_BIT)
        assert (run.status, run.output, run.options) == (RunStatus.COMPLETED, {"content": "x"}, None)
        [frame] = await world.store.get_events("ses_1", "default", EventFilter(), 10)
        assert json.loads(frame.body)["data"] == {"content": "x"}
        lease = await world.running(session_id="ses_1")
        assert [event.sequence_number for event in await world.append(lease)] == [2]
        await world.queue.finish(lease, an_outcome())


def test_a_file_goes_down_and_up_again(tmp_path: Path) -> None:
    """Check 83."""
    path = tmp_path / "asm.db"

    def schema() -> set[str]:
        with sqlite3.connect(path) as connection:
            rows = connection.execute("SELECT type || ' ' || name FROM sqlite_master").fetchall()
        connection.close()
        return {row[0] for row in rows}

    migrate(sqlite_url(path))
    before = schema()
    for target in ("asm_0002", "asm_0001", "base"):
        assert migrate(sqlite_url(path), target) == ("" if target == "base" else target)
    assert {name for name in schema() if "alembic" not in name} == set()
    assert migrate(sqlite_url(path)) == head()
    assert schema() == before


async def test_many_processes_may_migrate_one_file_at_once(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "asm.db")
    assert await asyncio.gather(*(asyncio.to_thread(migrate, url) for _ in range(4))) == [head()] * 4


async def test_a_file_that_was_never_migrated_is_said_so(tmp_path: Path) -> None:
    """Check 81: the message names the command."""
    async with open_sqlite_world(tmp_path / "empty.db", ends_sound=False) as world:
        for step in (world.store.get_run("run_1", "default"), world.session()):
            with pytest.raises(AsmError, match="asm migrate") as caught:
                await step
            assert caught.value.code is ErrorCode.MIGRATION_REQUIRED
