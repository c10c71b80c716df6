"""Questions across sessions, on a real Postgres and on SQLite: filters, pages, sums, exports."""

from __future__ import annotations

import asyncio
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
from asm_core.domain.lifecycle import RunStatus, SessionStatus, SessionVerb
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.ports.query import (
    MAX_EXPORT_EVENTS,
    EventSearch,
    Found,
    ModelCost,
    ProviderCost,
    ProviderUsage,
    RunSearch,
    SessionSearch,
    TokenTotals,
    UsageSearch,
    as_query_api,
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


def test_only_a_query_api_is_one(query: SqlQueryAPI) -> None:
    """Check 92."""
    assert as_query_api(query) is query
    refused(ErrorCode.VALIDATION_ERROR, lambda: as_query_api({"module": "query"}))


async def test_sessions_are_found_by_what_they_are(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 98, 99, 104."""
    first, second, third = await sessions_of_hours(world, 3, agent_id="writer")
    other = await world.session(agent_id="reader")
    await world.queue.change_session(second, TENANT, SessionVerb.PAUSE)
    await world.queue.change_session(third, TENANT, SessionVerb.COMPLETE)

    async def found(**filters: Any) -> set[str]:
        answer = await query.search_sessions(TENANT, SessionSearch(**filters))
        assert answer.total_count == len(answer.items)
        return set(ids(answer))

    assert await found() == {first, second, third, other}
    assert await found(agent_id="writer") == {first, second, third}
    assert await found(status="paused") == {second}
    assert await found(status=SessionStatus.PAUSED) == {second}
    assert await found(status=["paused", "completed"]) == {second, third}
    assert await found(created_after=NOW + HOUR, created_before=NOW + HOUR) == {second}
    assert await found(created_before=NOW + HOUR, agent_id="writer") == {first, second}


async def test_the_total_ignores_limit_and_cursor(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 100, 108; counted only when asked for, and only as far as it is told."""
    await sessions_of_hours(world, 3, tags=["a"])
    await sessions_of_hours(world, 2)
    page = await query.search_sessions(TENANT, SessionSearch(limit=2))
    assert (len(page.items), page.total_count, page.has_more) == (2, 5, True)
    following = await query.search_sessions(TENANT, SessionSearch(limit=2, cursor=page.cursor))
    assert following.total_count == 5
    tagged = await query.search_sessions(TENANT, SessionSearch(limit=2, tags=["a"], include_total=False))
    assert tagged.total_count is None
    assert (await query.search_sessions(TENANT, SessionSearch(limit=2, tags=["a"]))).total_count == 3


async def test_a_total_is_not_counted_for_ever(
    world: SqlWorld, query: SqlQueryAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more than MAX_TOTAL means: even more."""
    monkeypatch.setattr(sql_query, "MAX_TOTAL", 2)
    await sessions_of_hours(world, 5)
    assert (await query.search_sessions(TENANT, SessionSearch(limit=1))).total_count == 3


async def test_deleted_sessions_are_hidden_unless_asked_for(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Check 101."""
    gone, here = await sessions_of_hours(world, 2)
    await world.change("sessions", {"id": gone}, deleted_at=NOW)
    assert ids(await query.search_sessions(TENANT, SessionSearch())) == [here]
    found = await query.search_sessions(TENANT, SessionSearch(include_deleted=True))
    assert set(ids(found)) == {gone, here}
    assert {session.id for session in found.items if session.deleted_at} == {gone}


async def test_sessions_are_found_by_the_providers_of_their_runs(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Check 102; one name or several."""
    first, second, third = [await world.session() for _ in range(3)]
    for session_id, provider in ((first, "claude"), (first, "claude"), (second, "codex"), (third, "amp")):
        await a_finished_run(world, session_id=session_id, provider=provider)
    assert ids(await query.search_sessions(TENANT, SessionSearch(provider="claude"))) == [first]
    assert set(ids(await query.search_sessions(TENANT, SessionSearch(provider=["codex", "amp"])))) == {second, third}


async def test_sessions_are_found_by_all_their_tags(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Check 103."""
    both, one = await world.session(tags=["a", "b"]), await world.session(tags=["a"])
    assert set(ids(await query.search_sessions(TENANT, SessionSearch(tags=["a"])))) == {both, one}
    assert ids(await query.search_sessions(TENANT, SessionSearch(tags=["b", "a"]))) == [both]


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [("updated_at_desc", [0, 1, 2]), ("created_at_desc", [2, 1, 0]), ("created_at_asc", [0, 1, 2])],
)
async def test_pages_of_sessions_follow_each_other(
    world: SqlWorld, query: SqlQueryAPI, order_by: str, expected: list[int]
) -> None:
    """Checks 105, 106."""
    created = await sessions_of_hours(world, 3)
    seen, cursor = [], None
    for more in (True, True, False):
        found = await query.search_sessions(TENANT, SessionSearch(order_by=order_by, limit=1, cursor=cursor))
        assert isinstance(found.cursor, str)
        assert found.has_more is more
        seen += ids(found)
        cursor = found.cursor
    assert seen == [created[index] for index in expected]
    behind = await query.search_sessions(TENANT, SessionSearch(order_by=order_by, cursor=cursor))
    assert (behind.items, behind.cursor, behind.has_more) == ([], None, False)


async def test_an_empty_page_has_no_cursor(query: SqlQueryAPI) -> None:
    """Check 107."""
    for found in (
        await query.search_sessions(TENANT, SessionSearch()),
        await query.search_runs(TENANT, RunSearch()),
        await query.search_events(TENANT, EventSearch()),
    ):
        assert (found.items, found.cursor, found.has_more) == ([], None, False)


async def test_equal_sort_keys_are_neither_repeated_nor_lost(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Check 109."""
    created = [await world.session() for _ in range(100)]
    await world.change("sessions", created_at=NOW, updated_at=NOW)
    for order_by in ("updated_at_desc", "created_at_desc", "created_at_asc"):
        seen = await all_pages(query.search_sessions, SessionSearch(order_by=order_by, limit=7))
        assert [session.id for session in seen] == sorted(created, reverse=order_by.endswith("desc"))


async def test_stats_add_up_a_session(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Check 110, with the specification's figures: (3, 4, 7) and (10, 5, 15)."""
    session_id = await world.session()
    for usage, status, provider in (
        ({"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}, RunStatus.COMPLETED, "codex"),
        ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}, RunStatus.FAILED, "claude"),
    ):
        await a_finished_run(world, session_id=session_id, usage=usage, status=status, provider=provider)
    await world.submit(session_id)
    await a_finished_run(world, usage={"input_tokens": 1_000})

    stats = await query.get_session_stats(session_id, TENANT)

    assert stats.event_count == 6
    assert stats.run_count == 3
    assert stats.token_totals == TokenTotals(input_tokens=13, output_tokens=9, total_tokens=22)
    assert stats.providers_used == ["claude", "codex", "scripted"]
    assert stats.status_counts == {"completed": 1, "failed": 1, "pending": 1}
    times = [row["timestamp"] for row in await world.rows("events", session_id=session_id)]
    assert (stats.first_event_at, stats.last_event_at) == (min(times), max(times))


async def test_what_belongs_to_nobody_or_to_another_tenant_does_not_exist(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 111, 132; the tenant stands in every statement."""
    theirs = await world.session(tenant_id="other")
    lease = await world.running(session_id=theirs, tenant_id="other")
    await world.queue.finish(lease, an_outcome())
    for session_id in (theirs, "ses_none"):
        for ask in (query.get_session_stats(session_id, TENANT), query.export_session(session_id, TENANT)):
            with pytest.raises(AsmError) as caught:
                await ask
            assert caught.value.code is ErrorCode.SESSION_NOT_FOUND
        with pytest.raises(AsmError):
            await anext(query.stream_export(session_id, TENANT))
    for tenant_id, count in ((TENANT, 0), ("other", 1)):
        assert len((await query.search_sessions(tenant_id, SessionSearch())).items) == count
        assert len((await query.search_runs(tenant_id, RunSearch())).items) == count
        assert (await query.get_usage_summary(tenant_id, UsageSearch())).run_count == count
        assert (await query.get_cost_summary(tenant_id, UsageSearch())).run_count == count
        assert await query.count_events(tenant_id, EventSearch()) == 3 * count
        assert len((await query.search_events(tenant_id, EventSearch())).items) == 3 * count


async def test_runs_are_found_by_what_they_are(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 112, 113, 122; a run that has not started counts from its submit."""
    session_id = await world.session()
    small = await a_finished_run(world, session_id=session_id, usage={"input_tokens": 60, "output_tokens": 60})
    large = await a_finished_run(
        world, provider="codex", usage={"total_tokens": 300, "input_tokens": 1}, status=RunStatus.FAILED, began=1
    )
    waiting = (await world.submit(await world.session(), options={"provider": "amp"})).run_id

    async def found(**filters: Any) -> list[str]:
        return ids(await query.search_runs(TENANT, RunSearch(**filters)))

    assert set(await found()) == {small, large, waiting}
    assert await found(provider="claude") == [small]
    assert set(await found(provider=["claude", "codex"])) == {small, large}
    assert await found(session_id=session_id) == [small]
    assert await found(status="failed") == [large]
    assert set(await found(status=["failed", RunStatus.PENDING])) == {large, waiting}
    assert await found(min_tokens=200) == [large]
    assert await found(min_tokens=120, order_by="token_usage_desc") == [large, small]
    assert set(await found(min_tokens=0)) == {small, large, waiting}
    assert await found(order_by="token_usage_desc") == [large, small, waiting]
    assert await found(order_by="started_at_asc") == [small, large, waiting]
    assert await found(started_after=NOW + HOUR, started_before=NOW + HOUR) == [large]
    [shown] = (await query.search_runs(TENANT, RunSearch(status="pending"))).items
    assert shown.position == 1


@pytest.mark.parametrize("order_by", ["started_at_desc", "started_at_asc", "token_usage_desc"])
async def test_pages_of_runs_follow_each_other(world: SqlWorld, query: SqlQueryAPI, order_by: str) -> None:
    """Checks 114, 122: ties, missing usage and runs that never started are all met once."""
    session_id = await world.session(max_concurrent_runs=9)
    for tokens in (5, 9, 9, 0, 7):
        usage = {"input_tokens": tokens} if tokens else None
        await a_finished_run(world, session_id=session_id, usage=usage, began=tokens % 3)
    await world.submit(session_id)
    whole = await query.search_runs(TENANT, RunSearch(order_by=order_by))
    paged = await all_pages(query.search_runs, RunSearch(order_by=order_by, limit=2))
    assert [run.id for run in paged] == ids(whole)
    assert len({run.id for run in paged}) == 6
    if order_by == "token_usage_desc":
        assert [run.token_usage.get("input_tokens", 0) for run in paged] == [9, 9, 7, 5, 0, 0]


async def test_usage_is_added_up_by_provider(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 115, 116, 119, 121: a total that is not stated is input and output; runs without a provider count."""
    session_id = await world.session(agent_id="writer")
    await a_finished_run(world, session_id=session_id, usage={"input_tokens": 100, "output_tokens": 50})
    await a_finished_run(
        world, provider="codex", usage={"input_tokens": 200, "output_tokens": 80, "total_tokens": 280}, began=2
    )
    await a_finished_run(world, provider=None, began=-2)
    await world.change("sessions", {"id": session_id}, deleted_at=NOW)

    usage = await query.get_usage_summary(TENANT, UsageSearch())

    assert usage.totals == TokenTotals(input_tokens=300, output_tokens=130, total_tokens=430)
    assert usage.run_count == 3
    assert usage.by_provider == {
        "claude": ProviderUsage(input_tokens=100, output_tokens=50, total_tokens=150, run_count=1),
        "codex": ProviderUsage(input_tokens=200, output_tokens=80, total_tokens=280, run_count=1),
        "unknown": ProviderUsage(run_count=1),
    }
    for where, total in (
        (UsageSearch(provider="codex"), 280),
        (UsageSearch(session_id=session_id), 150),
        (UsageSearch(agent_id="writer"), 150),
        (UsageSearch(since=NOW + 2 * HOUR), 280),
        (UsageSearch(until=NOW), 150),
        (UsageSearch(session_id="ses_none"), 0),
    ):
        assert (await query.get_usage_summary(TENANT, where)).totals.total_tokens == total


async def test_cost_is_what_is_stored_else_what_the_tokens_come_to(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 117, 118, 119, with the specification's figures: 12.5 stored, 10 x 0.1 + 5 x 0.2, and one unpriced."""
    session_id = await world.session(agent_id="writer")
    stored = {"input_tokens": 100, "output_tokens": 50, "cost_usd": 12.5}
    await a_finished_run(world, session_id=session_id, usage=stored, model="model-b")
    priced = {"input_tokens": 10, "output_tokens": 5}
    await a_finished_run(world, usage=priced, model="model-a", began=1)
    await a_finished_run(world, provider="codex", usage=priced, model="model-x")

    cost = await query.get_cost_summary(TENANT, UsageSearch(), price_of=price_of_model_a)

    assert (cost.total_cost_usd, cost.run_count, cost.unmapped_runs) == (14.5, 3, 1)
    assert cost.by_provider == {"claude": ProviderCost(cost_usd=14.5, run_count=2)}
    assert cost.by_model == {
        "model-a": ModelCost(cost_usd=2.0, input_tokens=10, output_tokens=5),
        "model-b": ModelCost(cost_usd=12.5, input_tokens=100, output_tokens=50),
    }
    for where, total in (
        (UsageSearch(session_id=session_id), 12.5),
        (UsageSearch(agent_id="writer"), 12.5),
        (UsageSearch(provider="codex"), 0.0),
        (UsageSearch(provider=["claude", "codex"], since=NOW + HOUR), 2.0),
    ):
        assert (await query.get_cost_summary(TENANT, where, price_of=price_of_model_a)).total_cost_usd == total
    blind = await query.get_cost_summary(TENANT, UsageSearch())
    assert (blind.total_cost_usd, blind.unmapped_runs) == (12.5, 2)


def price_of_model_a(provider: str | None, model: str | None, usage: Any) -> Decimal | None:
    if (provider, model) != ("claude", "model-a"):
        return None
    return usage["input_tokens"] * Decimal("0.1") + usage["output_tokens"] * Decimal("0.2")


async def test_a_stored_cost_of_nothing_is_known(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 119, 120; a model is the one reported, else the one asked for."""
    await a_finished_run(world, provider=None, usage={"input_tokens": 1, "cost_usd": 0.0})
    lease = await world.running(options={"provider": "claude", "model": "asked"})
    await world.queue.finish(lease, an_outcome())

    cost = await query.get_cost_summary(TENANT, UsageSearch(), price_of=lambda *_: 3)

    assert (cost.total_cost_usd, cost.unmapped_runs) == (3.0, 0)
    assert cost.by_provider["unknown"] == ProviderCost(cost_usd=0.0, run_count=1)
    assert cost.by_model == {
        "asked": ModelCost(cost_usd=3.0, input_tokens=0, output_tokens=0),
        "unknown": ModelCost(cost_usd=0.0, input_tokens=1, output_tokens=0),
    }


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


async def test_events_are_found_by_what_they_are(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 124, 125, 126, 129."""
    session_id, run_id, _, other_run = await some_log(world)

    async def found(**filters: Any) -> list[tuple[str, int]]:
        where = EventSearch(**filters)
        frames = (await query.search_events(TENANT, where)).items
        assert await query.count_events(TENANT, where) >= len(frames)
        return [(frame.type, frame.sequence_number) for frame in frames]

    streamed = [("message_streamed", number) for number in (3, 4, 5)]
    assert await found(session_ids=[session_id], types="message_streamed") == streamed
    assert await found(run_ids=[run_id]) == [*streamed, ("run_completed", 6)]
    assert len(await found(run_ids=[run_id, other_run])) == 8
    assert await found(providers=["codex"], types=["message_received"]) == [
        ("message_received", number) for number in (3, 4, 5)
    ]
    assert await found(correlation_id="c1") == [("message_streamed", 4)]
    assert await found(order_by="timestamp_desc", limit=1, types=["message_streamed"]) == [("message_streamed", 5)]
    assert await found(since=NOW + HOUR, until=NOW + HOUR) == [("message_streamed", 4)]
    assert await query.count_events(TENANT, EventSearch(session_ids=[session_id])) == 6
    assert await query.count_events(TENANT, EventSearch(session_ids=[session_id], types="run_completed", limit=1)) == 1


@pytest.mark.parametrize("order_by", ["sequence_asc", "timestamp_asc", "timestamp_desc"])
async def test_pages_of_events_follow_each_other(world: SqlWorld, query: SqlQueryAPI, order_by: str) -> None:
    """Check 127, across sessions; ties of numbers and times are met once."""
    await some_log(world)
    whole = await query.search_events(TENANT, EventSearch(order_by=order_by))
    assert len(whole.items) == 12
    paged = await all_pages(query.search_events, EventSearch(order_by=order_by, limit=5))
    assert paged == whole.items


async def test_an_event_is_told_as_it_was_stored(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Check 128: keys that nobody knows, at any depth; and no column of ours beside the event's own."""
    lease = await world.running()
    [event] = await world.append(lease, data={"novel": {"deeper": [{"k\u00e9y": 1}]}})
    await world.queue.finish(lease, an_outcome())
    [frame] = (await query.search_events(TENANT, EventSearch(types=event.type))).items
    assert json.loads(frame.body) == event.to_map()


async def test_an_export_is_the_whole_session(world: SqlWorld, query: SqlQueryAPI) -> None:
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


async def test_cursors_are_bound_to_their_list_order_and_filters(world: SqlWorld, query: SqlQueryAPI) -> None:
    """Checks 133, 135."""
    await sessions_of_hours(world, 2)
    await a_finished_run(world)
    found = await query.search_sessions(TENANT, SessionSearch(limit=1, agent_id="tester"))
    same = SessionSearch(limit=2, agent_id="tester", cursor=found.cursor)
    assert (await query.search_sessions(TENANT, same)).items
    forged = json.loads(urlsafe_b64decode(str(found.cursor) + "=="))
    for ask in (
        query.search_sessions(TENANT, SessionSearch(cursor=found.cursor)),
        query.search_sessions("other", same),
        query.search_sessions(TENANT, replace(same, order_by="created_at_desc")),
        query.search_sessions(TENANT, replace(same, status="active")),
        query.search_runs(TENANT, RunSearch(cursor=found.cursor)),
        query.search_events(TENANT, EventSearch(cursor=found.cursor)),
        query.search_events(TENANT, EventSearch(cursor="rubbish")),
        query.search_events(TENANT, EventSearch(cursor="\u00e9")),
        query.search_events(TENANT, EventSearch(cursor="")),
        query.search_events(TENANT, EventSearch(cursor=7)),  # type: ignore[arg-type]
        *(
            query.search_sessions(TENANT, replace(same, cursor=as_cursor(forged | change)))
            for change in ({"s": 7}, {"s": None}, {"s": "soon"}, {"i": 7}, {"v": 2}, {"f": None})
        ),
        query.search_sessions(TENANT, replace(same, cursor=as_cursor({}))),
        query.search_sessions(TENANT, replace(same, cursor=as_cursor([]))),
    ):
        with pytest.raises(AsmError) as caught:
            await ask
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


async def test_questions_may_be_asked_at_once(world: SqlWorld, query: SqlQueryAPI) -> None:
    """The engine's pool is the only state."""
    await a_finished_run(world)
    await asyncio.gather(*(query.get_usage_summary(TENANT, UsageSearch()) for _ in range(20)))
