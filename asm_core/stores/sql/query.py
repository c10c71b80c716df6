"""
QueryAPI over SQLAlchemy Core. The statements are built by pure functions (tenant, request, dialect), so that their
plans can be looked at; aggregates are grouped by the database, never over rows in this process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventFrame
from asm_core.domain.fields import parse_datetime, to_jsonable
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.ports.query import (
    MAX_EXPORT_EVENTS,
    MAX_TOTAL,
    UNKNOWN,
    CostSummary,
    EventSearch,
    Found,
    ModelCost,
    PriceOf,
    ProviderCost,
    ProviderUsage,
    RunSearch,
    SessionExport,
    SessionSearch,
    SessionStats,
    TokenTotals,
    UsageSearch,
    UsageSummary,
    filters_of,
    no_price,
)
from asm_core.stores import refusals
from asm_core.stores.sql.convert import frame_of, run_of, session_of
from asm_core.stores.sql.dialect import Dialect, dialect_of
from asm_core.stores.sql.logs import Part, any_of, parts_of
from asm_core.stores.sql.page_cursor import PageOrder, Pager, parse_integer
from asm_core.stores.sql.tables import (
    EVENT_COLUMNS,
    RUN_COLUMNS,
    SESSION_COLUMNS,
    SESSIONS,
    artifacts,
    events,
    runs,
    sessions,
)
from asm_core.stores.sql.transactions import fetch, first, pages, snapshot, with_connection
from asm_core.wire import dumps

EXPORT_PAGE = 1_000
"""Rows that an export holds at once."""
ARTIFACT_KEYS = (
    "id",
    "session_id",
    "run_id",
    "key",
    "content_type",
    "byte_size",
    "checksum_sha256",
    "storage_backend",
    "storage_ref",
    "metadata",
    "created_at",
)
PRICED_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens")

BEGAN = sa.func.coalesce(runs.c.started_at, runs.c.created_at)
"""When a run started; one that has not yet, or never will, counts from its submit."""

Condition = sa.ColumnElement[bool]

_SESSION_ORDERS = {
    name: PageOrder("session", name, key, sessions.c.id, descending, parse_datetime)
    for name, key, descending in (
        ("updated_at_desc", sessions.c.updated_at, True),
        ("created_at_desc", sessions.c.created_at, True),
        ("created_at_asc", sessions.c.created_at, False),
    )
}
_EVENT_ORDERS = {
    "sequence_asc": PageOrder("event", "sequence_asc", events.c.sequence_number, events.c.id, False, parse_integer),
    "timestamp_asc": PageOrder("event", "timestamp_asc", events.c.timestamp, events.c.id, False, parse_datetime),
    "timestamp_desc": PageOrder("event", "timestamp_desc", events.c.timestamp, events.c.id, True, parse_datetime),
}


class SqlQueryAPI:
    """
    Args:
        engine: from `open_engine`; may lead to a replica.
        price_of: of runs whose cost is not stored; knows no price when omitted.
    """

    def __init__(self, engine: AsyncEngine, *, price_of: PriceOf = no_price) -> None:
        self._engine = engine
        self._dialect = dialect_of(engine)
        self._price_of = price_of

    async def search_sessions(self, tenant_id: str, where: SessionSearch) -> Found[Session]:
        pager = session_pager(tenant_id, where)
        query = sessions_query(tenant_id, where, self._dialect)
        cut = pager.cut(await self._all(pager.apply(query)))
        total = await self._scalar(total_query(query)) if where.include_total else None
        items = [session_of(row) for row in cut.rows]
        return Found(items=items, cursor=cut.cursor, has_more=cut.has_more, total_count=total)

    async def get_session_stats(self, session_id: str, tenant_id: str) -> SessionStats:
        async with snapshot(self._engine) as connection:
            await _session(connection, session_id, tenant_id)
            groups = await fetch(connection, stats_query(session_id, tenant_id, self._dialect))
            [log] = await fetch(connection, log_query(await parts_of(connection, [session_id], tenant_id), tenant_id))
        return _stats(groups, log)

    async def search_runs(self, tenant_id: str, where: RunSearch) -> Found[Run]:
        pager = run_pager(tenant_id, where, self._dialect)
        cut = pager.cut(await self._all(pager.apply(runs_query(tenant_id, where, self._dialect))))
        return Found(items=[run_of(row) for row in cut.rows], cursor=cut.cursor, has_more=cut.has_more)

    async def get_usage_summary(self, tenant_id: str, where: UsageSearch) -> UsageSummary:
        return _usage(await self._all(usage_query(tenant_id, where, self._dialect)))

    async def get_cost_summary(
        self, tenant_id: str, where: UsageSearch, *, price_of: PriceOf | None = None
    ) -> CostSummary:
        groups = await self._all(cost_query(tenant_id, where, self._dialect))
        return _costs(groups, price_of or self._price_of)

    async def search_events(self, tenant_id: str, where: EventSearch) -> Found[EventFrame]:
        pager = event_pager(tenant_id, where)

        async def read(connection: AsyncConnection) -> Sequence[dict[str, Any]]:
            parts = await parts_of(connection, where.session_ids or (), tenant_id)
            return await fetch(connection, pager.apply(events_query(tenant_id, where, parts)))

        cut = pager.cut(await with_connection(self._engine, read))
        return Found(items=[frame_of(row) for row in cut.rows], cursor=cut.cursor, has_more=cut.has_more)

    async def count_events(self, tenant_id: str, where: EventSearch) -> int:
        async def read(connection: AsyncConnection) -> int | None:
            parts = await parts_of(connection, where.session_ids or (), tenant_id)
            query = sa.select(sa.func.count()).select_from(events)
            return await connection.scalar(query.where(*_event_conditions(tenant_id, where, parts)))

        return await with_connection(self._engine, read) or 0

    async def export_session(
        self, session_id: str, tenant_id: str, *, include_artifacts: bool = False
    ) -> SessionExport:
        async with snapshot(self._engine) as connection:
            session = await _session(connection, session_id, tenant_id)
            parts = await parts_of(connection, [session_id], tenant_id)
            [log] = await fetch(connection, log_query(parts, tenant_id))
            if log["event_count"] > MAX_EXPORT_EVENTS:
                message = f"session {session_id} has {log['event_count']} events; export it as a stream"
                raise AsmError(ErrorCode.PAYLOAD_TOO_LARGE, message, details={"max_events": MAX_EXPORT_EVENTS})
            export = _Export(connection, session_id, tenant_id, parts)
            return SessionExport(
                session=session,
                runs=[run_of(row) async for page in export.runs() for row in page],
                events=[frame_of(row) async for page in export.events() for row in page],
                artifacts=[_artifact_map(row) async for page in export.artifacts() for row in page]
                if include_artifacts
                else None,
            )

    async def stream_export(
        self, session_id: str, tenant_id: str, *, include_artifacts: bool = False
    ) -> AsyncIterator[bytes]:
        async with snapshot(self._engine) as connection:
            session = await _session(connection, session_id, tenant_id)
            yield _lines("session", [dumps(session.to_map())])
            parts = await parts_of(connection, [session_id], tenant_id)
            export = _Export(connection, session_id, tenant_id, parts)
            async for page in export.runs():
                yield _lines("run", (dumps(run_of(row).to_map()) for row in page))
            async for page in export.events():
                yield _lines("event", (frame_of(row).body for row in page))
            if include_artifacts:
                async for page in export.artifacts():
                    yield _lines("artifact", (dumps(_artifact_map(row)) for row in page))

    async def _all(self, query: sa.Select[Any]) -> Sequence[dict[str, Any]]:
        return await with_connection(self._engine, lambda connection: fetch(connection, query))

    async def _scalar(self, query: sa.Select[int]) -> int | None:
        return await with_connection(self._engine, lambda connection: connection.scalar(query))


def session_pager(tenant_id: str, where: SessionSearch) -> Pager:
    return _pager(_SESSION_ORDERS[where.order_by], tenant_id, where)


def run_pager(tenant_id: str, where: RunSearch, dialect: Dialect) -> Pager:
    if where.order_by == "token_usage_desc":
        tokens = sa.cast(_total_tokens(dialect), sa.BigInteger)
        return _pager(PageOrder("run", where.order_by, tokens, runs.c.id, True, parse_integer), tenant_id, where)
    descending = where.order_by == "started_at_desc"
    return _pager(PageOrder("run", where.order_by, BEGAN, runs.c.id, descending, parse_datetime), tenant_id, where)


def event_pager(tenant_id: str, where: EventSearch) -> Pager:
    return _pager(_EVENT_ORDERS[where.order_by], tenant_id, where)


def sessions_query(tenant_id: str, where: SessionSearch, dialect: Dialect) -> sa.Select[Any]:
    query = sa.select(*SESSION_COLUMNS).select_from(SESSIONS).where(sessions.c.tenant_id == tenant_id)
    if not where.include_deleted:
        query = query.where(sessions.c.deleted_at.is_(None))
    if where.agent_id is not None:
        query = query.where(sessions.c.agent_id == where.agent_id)
    if where.status:
        query = query.where(sessions.c.status.in_(where.status))
    if where.provider:
        ran = sa.select(runs.c.id).where(runs.c.session_id == sessions.c.id, runs.c.tenant_id == tenant_id)
        query = query.where(sa.exists(ran.where(runs.c.provider.in_(where.provider))))
    if where.tags:
        query = query.where(dialect.has_all(sessions.c.tags, where.tags))
    return query.where(*_between(sessions.c.created_at, where.created_after, where.created_before))


def total_query(query: sa.Select[Any]) -> sa.Select[int]:
    """How many rows `query` has, without counting beyond what is told anyway."""
    counted = query.with_only_columns(sa.literal(1)).limit(MAX_TOTAL + 1).subquery()
    return sa.select(sa.func.count()).select_from(counted)


def runs_query(tenant_id: str, where: RunSearch, dialect: Dialect) -> sa.Select[Any]:
    query = sa.select(*RUN_COLUMNS).where(runs.c.tenant_id == tenant_id)
    if where.session_id is not None:
        query = query.where(runs.c.session_id == where.session_id)
    if where.provider:
        query = query.where(runs.c.provider.in_(where.provider))
    if where.status:
        query = query.where(runs.c.status.in_(where.status))
    if where.min_tokens is not None:
        query = query.where(_total_tokens(dialect) >= where.min_tokens)
    return query.where(*_between(BEGAN, where.started_after, where.started_before))


def events_query(tenant_id: str, where: EventSearch, parts: Sequence[Part]) -> sa.Select[Any]:
    """`parts`: of the logs of `where.session_ids`."""
    return sa.select(*EVENT_COLUMNS).where(*_event_conditions(tenant_id, where, parts))


def stats_query(session_id: str, tenant_id: str, dialect: Dialect) -> sa.Select[Any]:
    """One row per run status and provider."""
    return (
        sa.select(runs.c.status, runs.c.provider, sa.func.count().label("run_count"), *_token_sums(dialect))
        .where(runs.c.session_id == session_id, runs.c.tenant_id == tenant_id)
        .group_by(runs.c.status, runs.c.provider)
    )


def log_query(parts: Sequence[Part], tenant_id: str) -> sa.Select[Any]:
    """What is stored of a session's log: how many events, from when to when."""
    at = events.c.timestamp
    facts: tuple[sa.ColumnElement[Any], ...] = (
        sa.func.count().label("event_count"),
        sa.func.min(at).label("first_at"),
        sa.func.max(at).label("last_at"),
    )
    return sa.select(*facts).where(any_of(parts), events.c.tenant_id == tenant_id)


def usage_query(tenant_id: str, where: UsageSearch, dialect: Dialect) -> sa.Select[Any]:
    """One row per provider."""
    return (
        sa.select(runs.c.provider, sa.func.count().label("run_count"), *_token_sums(dialect))
        .where(*_usage_conditions(tenant_id, where))
        .group_by(runs.c.provider)
    )


def cost_query(tenant_id: str, where: UsageSearch, dialect: Dialect) -> sa.Select[Any]:
    """
    One row per provider, model and whether the cost is stored. Prices are linear in tokens, so the runs without a
    stored cost are priced by their sums, once per row.
    """
    reported = dialect.text(runs.c.provider_metadata, "model")
    model = sa.func.coalesce(reported, dialect.text(runs.c.options, "model"))
    is_stored = runs.c.cost_usd.is_not(None)
    scoped = (
        sa.select(
            runs.c.provider,
            model.label("model"),
            is_stored.label("is_stored"),
            runs.c.cost_usd,
            *(_tokens(name, dialect).label(name) for name in PRICED_TOKENS),
        )
        .where(*_usage_conditions(tenant_id, where))
        .subquery()
    )
    group = (scoped.c.provider, scoped.c.model, scoped.c.is_stored)
    sums = (sa.func.sum(scoped.c[name]).label(name) for name in PRICED_TOKENS)
    stored = sa.func.sum(scoped.c.cost_usd).label("stored_usd")
    return sa.select(*group, sa.func.count().label("run_count"), stored, *sums).group_by(*group)


def _pager(order: PageOrder, tenant_id: str, where: SessionSearch | RunSearch | EventSearch) -> Pager:
    assert where.limit is not None, "requests settle their limit"
    return Pager(order, where.limit, filters_of(where) | {"tenant_id": tenant_id}, where.cursor)


def _between(column: sa.ColumnElement[Any], since: Any, until: Any) -> Iterator[Condition]:
    if since is not None:
        yield column >= since
    if until is not None:
        yield column <= until


def _event_conditions(tenant_id: str, where: EventSearch, parts: Sequence[Part]) -> Iterator[Condition]:
    yield events.c.tenant_id == tenant_id
    if parts:
        yield any_of(parts)
    for column, wanted in (
        (events.c.run_id, where.run_ids),
        (events.c.type, where.types),
        (events.c.provider, where.providers),
    ):
        if wanted:
            yield column.in_(wanted)
    if where.correlation_id is not None:
        yield events.c.correlation_id == where.correlation_id
    yield from _between(events.c.timestamp, where.since, where.until)


def _usage_conditions(tenant_id: str, where: UsageSearch) -> Iterator[Condition]:
    yield runs.c.tenant_id == tenant_id
    if where.session_id is not None:
        yield runs.c.session_id == where.session_id
    if where.agent_id is not None:
        of_agent = sa.select(sessions.c.id).where(sessions.c.tenant_id == tenant_id)
        yield runs.c.session_id.in_(of_agent.where(sessions.c.agent_id == where.agent_id))
    if where.provider:
        yield runs.c.provider.in_(where.provider)
    yield from _between(BEGAN, where.since, where.until)


def _tokens(name: str, dialect: Dialect) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(dialect.number(runs.c.token_usage, name), 0)


def _total_tokens(dialect: Dialect) -> sa.ColumnElement[Any]:
    """As stated, else input and output."""
    both = _tokens("input_tokens", dialect) + _tokens("output_tokens", dialect)
    return sa.func.coalesce(dialect.number(runs.c.token_usage, "total_tokens"), both)


def _token_sums(dialect: Dialect) -> Iterator[sa.ColumnElement[Any]]:
    for name in ("input_tokens", "output_tokens"):
        yield sa.func.sum(_tokens(name, dialect)).label(name)
    yield sa.func.sum(_total_tokens(dialect)).label("total_tokens")


def _stats(groups: Sequence[Mapping[str, Any]], log: Mapping[str, Any]) -> SessionStats:
    counts: dict[str, int] = {}
    for group in groups:
        counts[group["status"]] = counts.get(group["status"], 0) + group["run_count"]
    return SessionStats(
        event_count=log["event_count"],
        run_count=sum(counts.values()),
        token_totals=sum(map(_totals, groups), TokenTotals()),
        providers_used=sorted({group["provider"] for group in groups} - {None}),
        status_counts=dict(sorted(counts.items())),
        first_event_at=log["first_at"],
        last_event_at=log["last_at"],
    )


def _usage(groups: Sequence[Mapping[str, Any]]) -> UsageSummary:
    by_provider = {
        group["provider"] or UNKNOWN: ProviderUsage(run_count=group["run_count"], **_token_fields(group))
        for group in groups
    }
    return UsageSummary(
        totals=sum(map(_totals, groups), TokenTotals()),
        run_count=sum(group["run_count"] for group in groups),
        by_provider=dict(sorted(by_provider.items())),
    )


def _totals(group: Mapping[str, Any]) -> TokenTotals:
    return TokenTotals(**_token_fields(group))


def _token_fields(group: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(group[name]) for name in ("input_tokens", "output_tokens", "total_tokens")}


def _costs(groups: Sequence[Mapping[str, Any]], price_of: PriceOf) -> CostSummary:
    providers: dict[str, list[tuple[Decimal, Mapping[str, Any]]]] = {}
    models: dict[str, list[tuple[Decimal, Mapping[str, Any]]]] = {}
    unmapped, total = 0, Decimal()
    for group in groups:
        cost = _cost(group, price_of)
        if cost is None:
            unmapped += group["run_count"]
            continue
        total += cost
        providers.setdefault(group["provider"] or UNKNOWN, []).append((cost, group))
        models.setdefault(group["model"] or UNKNOWN, []).append((cost, group))
    return CostSummary(
        total_cost_usd=float(total),
        run_count=sum(group["run_count"] for group in groups),
        by_provider={name: _provider_cost(priced) for name, priced in sorted(providers.items())},
        by_model={name: _model_cost(priced) for name, priced in sorted(models.items())},
        unmapped_runs=unmapped,
    )


def _cost(group: Mapping[str, Any], price_of: PriceOf) -> Decimal | None:
    if group["is_stored"]:
        return Decimal(str(group["stored_usd"]))
    price = price_of(group["provider"], group["model"], {name: int(group[name]) for name in PRICED_TOKENS})
    return None if price is None else Decimal(price)


def _provider_cost(priced: Sequence[tuple[Decimal, Mapping[str, Any]]]) -> ProviderCost:
    return ProviderCost(
        cost_usd=float(sum(cost for cost, _ in priced)), run_count=sum(group["run_count"] for _, group in priced)
    )


def _model_cost(priced: Sequence[tuple[Decimal, Mapping[str, Any]]]) -> ModelCost:
    return ModelCost(
        cost_usd=float(sum(cost for cost, _ in priced)),
        input_tokens=sum(int(group["input_tokens"]) for _, group in priced),
        output_tokens=sum(int(group["output_tokens"]) for _, group in priced),
    )


async def _session(connection: AsyncConnection, session_id: str, tenant_id: str) -> Session:
    query = sa.select(*SESSION_COLUMNS).select_from(SESSIONS)
    row = await first(connection, query.where(sessions.c.id == session_id, sessions.c.tenant_id == tenant_id))
    if row is None:
        raise refusals.no_session(session_id)
    return session_of(row)


class _Export:
    """The parts of one session, page by page, within one snapshot."""

    def __init__(self, connection: AsyncConnection, session_id: str, tenant_id: str, parts: Sequence[Part]) -> None:
        self._connection = connection
        self._session_id = session_id
        self._tenant_id = tenant_id
        self._parts = parts

    def runs(self) -> AsyncIterator[Sequence[dict[str, Any]]]:
        return self._pages(RUN_COLUMNS, runs, self._mine(runs), BEGAN, runs.c.id)

    def events(self) -> AsyncIterator[Sequence[dict[str, Any]]]:
        return self._pages(EVENT_COLUMNS, events, any_of(self._parts), events.c.sequence_number)

    def artifacts(self) -> AsyncIterator[Sequence[dict[str, Any]]]:
        """Those that are there: what was deleted or replaced can no longer be read."""
        columns = [artifacts.c[name] for name in ARTIFACT_KEYS]
        live = sa.and_(self._mine(artifacts), artifacts.c.deleted_at.is_(None))
        return self._pages(columns, artifacts, live, artifacts.c.created_at, artifacts.c.id)

    def _mine(self, table: sa.Table) -> Condition:
        return table.c.session_id == self._session_id

    def _pages(
        self,
        columns: Sequence[sa.ColumnElement[Any]],
        table: sa.Table,
        condition: Condition,
        *order: sa.ColumnElement[Any],
    ) -> AsyncIterator[Sequence[dict[str, Any]]]:
        query = sa.select(*columns).where(condition, table.c.tenant_id == self._tenant_id)
        return pages(self._connection, query.order_by(*order), EXPORT_PAGE)


def _artifact_map(row: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = to_jsonable({name: row[name] for name in ARTIFACT_KEYS})
    return shown


def _lines(kind: str, bodies: Iterable[bytes]) -> bytes:
    """JSON Lines, each value under its kind."""
    return b"".join(b'{"%s":%s}\n' % (kind.encode(), body) for body in bodies)
