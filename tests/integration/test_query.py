"""What `QueryAPIContract` does not ask: requests that cannot be made, and how the databases answer."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.ports.query import (
    MAX_EXPORT_EVENTS,
    EventSearch,
    Found,
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
from tests.builders import NOW, PostgresWorld, World, an_outcome, open_world
from tests.fixtures.resources import extended_domain
from tests.fixtures.sql import DATABASES, SqlWorld

TENANT = "default"
HOUR = timedelta(hours=1)
POSTGRES = PostgresDialect()


@pytest.fixture(params=[*DATABASES, "resources"])
def kind(request: pytest.FixtureRequest) -> str:
    """`resources`: models of an application with columns of its own, in a SQLite file."""
    return str(request.param)


@pytest.fixture
def world(sql_world: SqlWorld) -> SqlWorld:
    return sql_world


@pytest.fixture
async def query(world: SqlWorld, kind: str) -> SqlQueryAPI:
    if kind == "resources":
        return ResourceQueryAPI(await extended_domain(world.engine))
    return SqlQueryAPI(world.engine)


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[PostgresWorld]:
    """For what only its planner and its transactions can show."""
    async with open_world(database_url) as opened:
        yield opened


@pytest.fixture
async def postgres_engine(postgres: PostgresWorld) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(postgres.url, application_name="test")
    yield opened
    await opened.dispose()


async def sessions_of_hours(world: SqlWorld, how_many: int, **fields: Any) -> list[str]:
    """Sessions created one hour apart and last changed in the opposite order."""
    ids = [await world.session(**fields) for _ in range(how_many)]
    for number, session_id in enumerate(ids):
        times = {"created_at": NOW + number * HOUR, "updated_at": NOW - number * HOUR}
        await world.change("sessions", {"id": session_id}, **times)
    return ids


async def a_finished_run(
    world: World,
    *,
    session_id: str | None = None,
    provider: str | None = "claude",
    usage: dict[str, Any] | None = None,
    model: str | None = None,
    status: RunStatus = RunStatus.COMPLETED,
    began: int = 0,
) -> str:
    """A run that spent `usage` and ended; it began `began` hours after NOW."""
    lease = await world.running(session_id=session_id, options={"provider": provider or "claude"})
    if usage:
        await world.append(lease, kind=EventType.TOKEN_USAGE_UPDATED, data=usage)
    metadata = {"model": model} if model else {}
    await world.queue.finish(lease, an_outcome(status, provider_metadata=metadata))
    await world.change("runs", {"id": lease.run_id}, started_at=NOW + began * HOUR, provider=provider)
    return lease.run_id


def ids(found: Found[Session] | Found[Run]) -> list[str]:
    return [item.id for item in found.items]


async def all_pages(ask: Any, where: Any) -> list[Any]:
    """Every item, page by page, as `has_more` says."""
    items: list[Any] = []
    while True:
        found = await ask(TENANT, where)
        items += found.items
        if not found.has_more:
            return items
        where = replace(where, cursor=found.cursor)


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


async def test_a_waiting_run_is_shown_with_its_place(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Check 112."""
    await world.submit(await world.session())
    [shown] = (await query.search_runs(TENANT, RunSearch(status="pending"))).items
    assert shown.position == 1


async def test_a_total_is_not_counted_for_ever(
    world: SqlWorld, query: SqlQueryAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more than MAX_TOTAL means: even more."""
    monkeypatch.setattr(sql_query, "MAX_TOTAL", 2)
    await sessions_of_hours(world, 5)
    assert (await query.search_sessions(TENANT, SessionSearch(limit=1))).total_count == 3


def price_of_model_a(provider: str | None, model: str | None, usage: Any) -> Decimal | None:
    if (provider, model) != ("claude", "model-a"):
        return None
    return usage["input_tokens"] * Decimal("0.1") + usage["output_tokens"] * Decimal("0.2")


async def test_summaries_of_many_runs_are_one_grouped_statement(
    postgres: PostgresWorld, postgres_engine: AsyncEngine
) -> None:
    """Check 123: the database groups 100,000 runs; what comes back is one row per group."""
    await postgres.sql(
        "INSERT INTO asm_runs (id, session_id, status, provider, token_usage, provider_metadata, created_at, ended_at)"
        " SELECT 'run_' || n, 'ses_' || mod(n, 100), 'cancelled', 'p' || mod(n, 3),"
        " jsonb_build_object('input_tokens', mod(n, 7)), jsonb_build_object('model', 'm'), now(), now()"
        " FROM generate_series(1, 100000) n"
    )
    statements: list[tuple[str, int]] = []

    @sa.event.listens_for(postgres_engine.sync_engine, "after_cursor_execute")
    def count(_conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append((statement, cursor.rowcount))

    query = SqlQueryAPI(postgres_engine, price_of=lambda *_: 1)
    usage = await query.get_usage_summary(TENANT, UsageSearch())
    cost = await query.get_cost_summary(TENANT, UsageSearch())

    assert (usage.run_count, cost.run_count, cost.total_cost_usd) == (100_000, 100_000, 3.0)
    assert usage.totals.input_tokens == sum(n % 7 for n in range(1, 100_001))
    asked = [(text, rows) for text, rows in statements if "asm_runs" in text]
    assert [rows for _, rows in asked] == [3, 3]
    assert all("GROUP BY" in text for text, _ in asked)
    await postgres.sql("TRUNCATE asm_runs")


@pytest.mark.parametrize(
    ("kind", "index"),
    [
        ("session", "asm_sessions_updated_index"),
        ("run", "asm_runs_began_index"),
        ("event", "asm_events_timestamp_index"),
    ],
)
async def test_a_page_begins_in_an_index_at_its_cursor(
    postgres: PostgresWorld, postgres_engine: AsyncEngine, kind: str, index: str
) -> None:
    """W11: the row values are an index condition, not a filter over everything before; nothing is sorted."""
    await a_finished_run(postgres)
    statement = await page_behind_a_cursor(SqlQueryAPI(postgres_engine), kind)
    for planner in ("seqscan", "sort", "bitmapscan"):
        await postgres.sql(f"SET enable_{planner} = off")
    text = str(statement.compile(dialect=psycopg_dialect(), compile_kwargs={"literal_binds": True}))
    plan = "\n".join(row["QUERY PLAN"] for row in await postgres.sql("EXPLAIN " + text.replace("%", "%%")))
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


async def some_log(world: World) -> tuple[str, str, str, str]:
    """Two sessions with a run each: (session, run) twice."""
    first, second = [await world.running(options={"provider": name}) for name in ("claude", "codex")]
    for number in range(3):
        at = NOW + number * HOUR
        await world.append(first, kind=EventType.MESSAGE_STREAMED, timestamp=at, correlation_id=f"c{number}")
        await world.append(second, kind=EventType.MESSAGE_RECEIVED, timestamp=at + HOUR / 2, provider="codex")
    for lease in (first, second):
        await world.queue.finish(lease, an_outcome())
    return first.session_id, first.run_id, second.session_id, second.run_id


async def test_an_export_tells_of_live_artifacts_when_asked(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 130, 131: runs by their start, events by number, live registry rows only when asked for."""
    session_id = await world.session()
    late = await a_finished_run(world, session_id=session_id, began=2)
    early = await a_finished_run(world, session_id=session_id, began=1)
    stored = {"byte_size": 3, "checksum_sha256": "c", "storage_backend": "file", "metadata": {}, "created_at": NOW}
    for artifact_id, deleted_at in (("art_1", None), ("art_0", NOW)):
        given = {"session_id": session_id, "key": "k", "storage_ref": f"/{artifact_id}", "deleted_at": deleted_at}
        await world.insert("artifacts", id=artifact_id, **stored | given)

    exported = (await query.export_session(session_id, TENANT)).to_map()

    assert list(exported) == ["session", "runs", "events"]
    assert exported["session"]["id"] == session_id
    assert [run["id"] for run in exported["runs"]] == [early, late]
    assert [event["sequence_number"] for event in exported["events"]] == [1, 2, 3, 4]
    whole = (await query.export_session(session_id, TENANT, include_artifacts=True)).to_map()
    assert whole["artifacts"] == [
        {
            "id": "art_1", "session_id": session_id, "run_id": None, "key": "k", "content_type": None, "byte_size": 3,
            "checksum_sha256": "c", "storage_backend": "file", "storage_ref": "/art_1", "metadata": {},
            "created_at": "2025-06-01T12:00:00.000000Z",
        }
    ]  # fmt: skip
    chunks = [chunk async for chunk in query.stream_export(session_id, TENANT, include_artifacts=True)]
    assert as_one(chunks) == whole
    assert "artifacts" not in as_one([chunk async for chunk in query.stream_export(session_id, TENANT)])


def as_one(chunks: Sequence[bytes]) -> dict[str, Any]:
    """The dict form of an exported stream."""
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    exported: dict[str, Any] = {}
    for line in b"".join(chunks).splitlines():
        [(kind, value)] = json.loads(line).items()
        if kind == "session":
            exported["session"] = value
        else:
            exported.setdefault(f"{kind}s", []).append(value)
    return exported


async def test_an_export_sees_one_state(world: SqlWorld, query: SqlQueryAPI, monkeypatch: pytest.MonkeyPatch) -> None:
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
    world: SqlWorld, query: SqlQueryAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W13: one value has a bound."""
    assert MAX_EXPORT_EVENTS == 10_000
    monkeypatch.setattr(sql_query, "MAX_EXPORT_EVENTS", 1)
    session_id = await world.session()
    with pytest.raises(AsmError) as caught:
        await query.export_session(session_id, TENANT)
    assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert len([chunk async for chunk in query.stream_export(session_id, TENANT)]) == 2


async def test_a_snapshot_cannot_write(postgres_engine: AsyncEngine) -> None:
    """W13: REPEATABLE READ, READ ONLY; the pool's other users are not touched by it."""
    async with snapshot(postgres_engine) as connection:
        for name, value in (("transaction_isolation", "repeatable read"), ("transaction_read_only", "on")):
            assert await connection.scalar(sa.text(f"SHOW {name}")) == value
    async with postgres_engine.connect() as connection:
        assert await connection.scalar(sa.text("SHOW transaction_read_only")) == "off"


async def test_forged_cursors_are_refused(world: SqlWorld, query: SqlQueryAPI) -> None:
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


async def test_padded_and_unpadded_cursors_are_the_same(world: SqlWorld, query: SqlQueryAPI) -> None:
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
