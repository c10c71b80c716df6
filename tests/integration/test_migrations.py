"""The schema's way up, down and up again; and that the model in code is the schema in the database."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
import sqlalchemy as sa

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import TERMINAL_EVENTS
from asm_core.domain.lifecycle import RunStatus, SessionStatus
from asm_core.stores.sql.engine import sqlalchemy_url
from asm_core.stores.sql.migrate import head, migrate, revision_of
from asm_core.stores.sql.tables import metadata
from asm_core.stores.sql.verify import verify_database
from tests.builders import an_outcome, open_world

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


def test_the_model_has_the_columns_of_the_database(database_url: str) -> None:
    """Queries are written against `tables.py`; a column that one side lacks is a failure at night."""
    engine = sa.create_engine(sqlalchemy_url(database_url))
    inspector = sa.inspect(engine)
    for table in metadata.tables.values():
        found = {column["name"]: column for column in inspector.get_columns(table.name)}
        assert set(found) == set(table.columns.keys()), table.name
        for column in table.columns:
            actual = found[column.name]
            assert actual["nullable"] == column.nullable, f"{table.name}.{column.name}"
            expected = column.type.dialect_impl(engine.dialect)
            expected = expected.impl_instance if isinstance(expected, sa.types.TypeDecorator) else expected
            assert isinstance(actual["type"], type(expected).__mro__[1]) or str(actual["type"]) == str(
                column.type.compile(engine.dialect)
            ), f"{table.name}.{column.name}: {actual['type']!r}"
        key = inspector.get_pk_constraint(table.name)["constrained_columns"]
        assert set(key) == {column.name for column in table.primary_key}, table.name
    engine.dispose()


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
