"""What `QueryAPIContract` does not ask: requests that cannot be made, and how Postgres answers."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.ports.query import (
    MAX_EXPORT_EVENTS,
    EventSearch,
    RunSearch,
    SessionSearch,
    UsageSearch,
)
from asm_core.resources import ResourceQueryAPI
from asm_core.stores.sql import query as sql_query
from asm_core.stores.sql.dialect import PostgresDialect
from asm_core.stores.sql.engine import open_engine, sqlalchemy_url
from asm_core.stores.sql.query import SqlQueryAPI
from asm_core.stores.sql.transactions import snapshot
from asm_core.testing.contracts.query_api import as_one, ids
from tests.builders import NOW, World, an_outcome
from tests.fixtures.resources import extended_domain

TENANT = "default"
HOUR = timedelta(hours=1)
POSTGRES = PostgresDialect()


@pytest.fixture
async def engine(world: World) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(world.url, application_name="test")
    yield opened
    await opened.dispose()


@pytest.fixture(params=["tables", "resources"])
async def query(engine: AsyncEngine, request: pytest.FixtureRequest) -> SqlQueryAPI:
    """Resources: of an application with columns of its own."""
    return SqlQueryAPI(engine) if request.param == "tables" else ResourceQueryAPI(await extended_domain(engine))


async def sessions_of_hours(world: World, how_many: int, **fields: Any) -> list[str]:
    """Sessions created one hour apart and last changed in the opposite order."""
    ids = [await world.session(**fields) for _ in range(how_many)]
    for number, session_id in enumerate(ids):
        await world.sql(
            "UPDATE asm_sessions SET created_at = %s, updated_at = %s WHERE id = %s",
            NOW + number * HOUR, NOW - number * HOUR, session_id,
        )  # fmt: skip
    return ids


@pytest.mark.parametrize("search", [SessionSearch, RunSearch, EventSearch])
@pytest.mark.parametrize("limit", [-1, 0, 1_001, 100_000, "7", True])
def test_limits_out_of_range_are_refused(search: type, limit: object) -> None:
    """Check 93."""
    refused(ErrorCode.VALIDATION_ERROR, lambda: search(limit=limit))


@pytest.mark.parametrize("status", [{"is": "active"}, "happy", ["active", "happy"], 7, [7]])
@pytest.mark.parametrize("search", [SessionSearch, RunSearch])
def test_statuses_that_cannot_be_are_refused(search: type, status: object) -> None:
    """Check 94."""
    refused(ErrorCode.VALIDATION_ERROR, lambda: search(status=status))


def test_types_orders_and_times_that_cannot_be_are_refused() -> None:
    """Check 95."""
    refused(ErrorCode.VALIDATION_ERROR, lambda: EventSearch(types="run_startd"))
    refused(ErrorCode.VALIDATION_ERROR, lambda: EventSearch(order_by="timestamp"))
    refused(ErrorCode.VALIDATION_ERROR, lambda: SessionSearch(order_by="started_at_desc"))
    refused(ErrorCode.VALIDATION_ERROR, lambda: RunSearch(started_after="yesterday"))  # type: ignore[arg-type]


@pytest.mark.parametrize("min_tokens", [-1, "7", True, 1.5])
def test_a_negative_token_bound_is_refused(min_tokens: Any) -> None:
    """Check 96."""
    refused(ErrorCode.QUERY_ERROR, lambda: RunSearch(min_tokens=min_tokens))


def refused(code: ErrorCode, ask: Any) -> None:
    with pytest.raises(AsmError) as caught:
        ask()
    assert caught.value.code is code


def test_defaults() -> None:
    """Check 97; and no filter is the same as an empty one."""
    assert (SessionSearch().limit, RunSearch().limit, EventSearch().limit) == (50, 50, 100)
    assert SessionSearch(status=[], tags=[], provider=[]) == SessionSearch()
    assert EventSearch(session_ids=[], run_ids=[], providers=[], types=[]) == EventSearch()


async def test_a_total_is_not_counted_for_ever(
    world: World, query: SqlQueryAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more than MAX_TOTAL means: even more."""
    monkeypatch.setattr(sql_query, "MAX_TOTAL", 2)
    await sessions_of_hours(world, 5)
    assert (await query.search_sessions(TENANT, SessionSearch(limit=1))).total_count == 3


async def test_a_waiting_run_is_shown_with_its_place(world: World, query: SqlQueryAPI) -> None:
    """Check 112."""
    await world.submit(await world.session())
    [shown] = (await query.search_runs(TENANT, RunSearch(status="pending"))).items
    assert shown.position == 1


async def test_summaries_of_many_runs_are_one_grouped_statement(world: World, engine: AsyncEngine) -> None:
    """Check 123: the database groups 100,000 runs; what comes back is one row per group."""
    await world.sql(
        "INSERT INTO asm_runs (id, session_id, status, provider, token_usage, provider_metadata, created_at, ended_at)"
        " SELECT 'run_' || n, 'ses_' || mod(n, 100), 'cancelled', 'p' || mod(n, 3),"
        " jsonb_build_object('input_tokens', mod(n, 7)), jsonb_build_object('model', 'm'), now(), now()"
        " FROM generate_series(1, 100000) n"
    )
    statements: list[tuple[str, int]] = []

    @sa.event.listens_for(engine.sync_engine, "after_cursor_execute")
    def count(_conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append((statement, cursor.rowcount))

    query = SqlQueryAPI(engine, price_of=lambda *_: 1)
    usage = await query.get_usage_summary(TENANT, UsageSearch())
    cost = await query.get_cost_summary(TENANT, UsageSearch())

    assert (usage.run_count, cost.run_count, cost.total_cost_usd) == (100_000, 100_000, 3.0)
    assert usage.totals.input_tokens == sum(n % 7 for n in range(1, 100_001))
    asked = [(text, rows) for text, rows in statements if "asm_runs" in text]
    assert [rows for _, rows in asked] == [3, 3]
    assert all("GROUP BY" in text for text, _ in asked)
    await world.sql("TRUNCATE asm_runs")


@pytest.mark.parametrize(
    ("kind", "index"),
    [
        ("session", "asm_sessions_updated_index"),
        ("run", "asm_runs_began_index"),
        ("event", "asm_events_timestamp_index"),
    ],
)
async def test_a_page_begins_in_an_index_at_its_cursor(world: World, query: SqlQueryAPI, kind: str, index: str) -> None:
    """W11: the row values are an index condition, not a filter over everything before; nothing is sorted."""
    lease = await world.running()
    await world.queue.finish(lease, an_outcome())
    statement = await page_behind_a_cursor(query, kind)
    for planner in ("seqscan", "sort", "bitmapscan"):
        await world.sql(f"SET enable_{planner} = off")
    text = str(statement.compile(dialect=psycopg_dialect(), compile_kwargs={"literal_binds": True}))
    plan = "\n".join(row["QUERY PLAN"] for row in await world.sql("EXPLAIN " + text.replace("%", "%%")))
    assert f"using {index}" in plan, plan
    condition = next(line for line in plan.split(index)[1].splitlines() if "Index Cond" in line)
    assert "ROW(" in condition, plan
    assert "Sort" not in plan, plan


async def page_behind_a_cursor(query: SqlQueryAPI, kind: str) -> sa.Select[Any]:
    """The statement of a second page in the default order (of events: by time)."""
    if kind == "session":
        sessions = SessionSearch(cursor=(await query.search_sessions(TENANT, SessionSearch())).cursor)
        pager = sql_query.session_pager(TENANT, sessions)
        return pager.apply(sql_query.sessions_query(TENANT, sessions, POSTGRES))
    if kind == "run":
        runs = RunSearch(cursor=(await query.search_runs(TENANT, RunSearch())).cursor)
        return sql_query.run_pager(TENANT, runs, POSTGRES).apply(sql_query.runs_query(TENANT, runs, POSTGRES))
    events = EventSearch(order_by="timestamp_desc")
    events = replace(events, cursor=(await query.search_events(TENANT, events)).cursor)
    return sql_query.event_pager(TENANT, events).apply(sql_query.events_query(TENANT, events, []))


def psycopg_dialect() -> sa.Dialect:
    return sa.create_engine(sqlalchemy_url("postgresql://nowhere/none")).dialect


async def test_an_export_tells_of_artifacts_when_asked(world: World, query: SqlQueryAPI) -> None:
    """Check 131: deleted ones too."""
    session_id = await world.session()
    await world.sql(
        "INSERT INTO asm_artifacts (id, session_id, key, byte_size, checksum_sha256, storage_backend, storage_ref,"
        " created_at, deleted_at) VALUES ('art_1', %s, 'k', 3, 'c', 'file', '/k', %s, %s)",
        session_id, NOW, NOW,
    )  # fmt: skip
    assert "artifacts" not in (await query.export_session(session_id, TENANT)).to_map()
    whole = (await query.export_session(session_id, TENANT, include_artifacts=True)).to_map()
    assert whole["artifacts"] == [
        {
            "id": "art_1", "session_id": session_id, "run_id": None, "key": "k", "content_type": None, "byte_size": 3,
            "checksum_sha256": "c", "storage_backend": "file", "storage_ref": "/k", "metadata": {},
            "created_at": "2025-06-01T12:00:00.000000Z",
        }
    ]  # fmt: skip
    chunks = [chunk async for chunk in query.stream_export(session_id, TENANT, include_artifacts=True)]
    assert as_one(chunks) == whole
    assert "artifacts" not in as_one([chunk async for chunk in query.stream_export(session_id, TENANT)])


async def test_an_export_sees_one_state(world: World, query: SqlQueryAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """W13: what is stored after its first chunk is not in it."""
    monkeypatch.setattr(sql_query, "EXPORT_PAGE", 2)
    lease = await world.running()
    await world.append(lease, 5)
    stream = query.stream_export(lease.session_id, TENANT)
    chunks = [await anext(stream)]
    await world.append(lease, 5)
    await world.queue.finish(lease, an_outcome())
    chunks += [chunk async for chunk in stream]
    exported = as_one(chunks)
    assert [run["status"] for run in exported["runs"]] == ["running"]
    assert [event["sequence_number"] for event in exported["events"]] == [1, 2, 3, 4, 5, 6, 7]
    assert max(chunk.count(b"\n") for chunk in chunks) == 2


async def test_a_long_session_is_exported_as_a_stream_only(
    world: World, query: SqlQueryAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W13: one value has a bound."""
    assert MAX_EXPORT_EVENTS == 10_000
    monkeypatch.setattr(sql_query, "MAX_EXPORT_EVENTS", 1)
    session_id = await world.session()
    with pytest.raises(AsmError) as caught:
        await query.export_session(session_id, TENANT)
    assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert len([chunk async for chunk in query.stream_export(session_id, TENANT)]) == 2


async def test_a_snapshot_cannot_write(engine: AsyncEngine, world: World) -> None:
    """W13: REPEATABLE READ, READ ONLY; the pool's other users are not touched by it."""
    async with snapshot(engine) as connection:
        for name, value in (("transaction_isolation", "repeatable read"), ("transaction_read_only", "on")):
            assert await connection.scalar(sa.text(f"SHOW {name}")) == value
    async with engine.connect() as connection:
        assert await connection.scalar(sa.text("SHOW transaction_read_only")) == "off"


async def test_forged_cursors_are_refused(world: World, query: SqlQueryAPI) -> None:
    """Check 135."""
    await sessions_of_hours(world, 2)
    found = await query.search_sessions(TENANT, SessionSearch(limit=1))
    forged = json.loads(urlsafe_b64decode(str(found.cursor) + "=="))
    changes = ({"s": 7}, {"s": None}, {"s": "soon"}, {"i": 7}, {"v": 2}, {"f": None})
    for payload in (*(forged | change for change in changes), {}, []):
        with pytest.raises(AsmError) as caught:
            await query.search_sessions(TENANT, SessionSearch(limit=2, cursor=as_cursor(payload)))
        assert caught.value.code is ErrorCode.INVALID_CURSOR


def as_cursor(payload: Any) -> str:
    return urlsafe_b64encode(json.dumps(payload).encode()).decode()


async def test_padded_and_unpadded_cursors_are_the_same(world: World, query: SqlQueryAPI) -> None:
    """Check 134."""
    await sessions_of_hours(world, 2)
    for agent_id in ("tester", None):
        found = await query.search_sessions(TENANT, SessionSearch(limit=1, agent_id=agent_id))
        cursor = str(found.cursor).rstrip("=")
        answers = [
            ids(await query.search_sessions(TENANT, SessionSearch(agent_id=agent_id, cursor=given)))
            for given in (cursor, cursor + "=" * (-len(cursor) % 4))
        ]
        assert answers[0] == answers[1] != []


async def test_failures_of_the_store_are_told_without_their_statement(empty_database_url: str) -> None:
    """A missing schema and a missing server are two things; neither leaks SQL or values."""
    for url, code in (
        (empty_database_url, ErrorCode.MIGRATION_REQUIRED),
        ("postgresql://nobody:secret@127.0.0.1:1/none", ErrorCode.STORAGE_CONNECTION_FAILED),
    ):
        engine = open_engine(url, application_name="test")
        query = SqlQueryAPI(engine)
        for ask in (
            query.search_sessions(TENANT, SessionSearch(agent_id="private")),
            query.get_session_stats("ses_1", TENANT),
            query.get_cost_summary(TENANT, UsageSearch()),
        ):
            with pytest.raises(AsmError) as caught:
                await ask
            assert caught.value.code is code
            assert not {"SELECT", "private", "secret"} & set(str(caught.value.to_map()).split())
        await engine.dispose()
