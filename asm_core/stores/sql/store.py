"""SessionStore over SQLAlchemy Core, on Postgres and SQLite; the tenant stands in every statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.clock import SystemClock
from asm_core.domain.event import Event, EventFrame
from asm_core.domain.run import Run, parse_run_status
from asm_core.domain.session import Session, parse_session_status
from asm_core.ports.clock import Clock
from asm_core.ports.store import EventFilter, FleetStats, Page, QueueStatus
from asm_core.stores import refusals
from asm_core.stores.sql import writes
from asm_core.stores.sql.convert import EVENT_WIRE_COLUMNS, frame_of, run_of, session_of
from asm_core.stores.sql.dialect import Dialect, PostgresDialect, SqliteDialect
from asm_core.stores.sql.page_cursor import check_limit, decode_cursor, encode_cursor
from asm_core.stores.sql.rows import bounds_row, event_rows, run_row, session_row
from asm_core.stores.sql.tables import (
    Instant,
    events,
    run_leases,
    runs,
    session_runtime,
    session_sequences,
    sessions,
    workers,
)
from asm_core.stores.sql.transactions import in_transaction, with_connection

_queue = runs.alias("queue")
_position = (
    sa.select(sa.func.count())
    .where(
        _queue.c.session_id == runs.c.session_id, _queue.c.status == "pending", _queue.c.submit_seq <= runs.c.submit_seq
    )
    .scalar_subquery()
)
_is_queued = sa.and_(runs.c.status == "pending", runs.c.submit_seq.is_not(None))
_RUN_COLUMNS = (*runs.c, sa.case((_is_queued, _position)).label("position"))
_SESSION_COLUMNS = (*sessions.c, session_runtime.c.max_concurrent_runs, session_runtime.c.max_queued_runs)
_SESSIONS = sessions.join(session_runtime, session_runtime.c.session_id == sessions.c.id)
_EVENT_COLUMNS = tuple(events.c[name] for name in EVENT_WIRE_COLUMNS)


class SqlSessionStore:
    """
    Args:
        engine: from `open_engine` or `open_sqlite`; its pool is this store's only state.
        clock: on SQLite, which has none of its own, the one of its queue.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock | None = None) -> None:
        self._engine = engine
        is_sqlite = engine.dialect.name == "sqlite"
        self._dialect: Dialect = SqliteDialect(clock or SystemClock()) if is_sqlite else PostgresDialect()

    async def close(self) -> None:
        await self._engine.dispose()

    async def get_session(self, session_id: str, tenant_id: str) -> Session:
        query = sa.select(*_SESSION_COLUMNS).select_from(_SESSIONS)
        row = await self._one(query.where(sessions.c.id == session_id, sessions.c.tenant_id == tenant_id))
        if row is None:
            raise refusals.no_session(session_id)
        return session_of(row)

    async def get_run(self, run_id: str, tenant_id: str) -> Run:
        row = await self._one(sa.select(*_RUN_COLUMNS).where(runs.c.id == run_id, runs.c.tenant_id == tenant_id))
        if row is None:
            raise refusals.no_run(run_id)
        return run_of(row)

    async def get_active_run(self, session_id: str, tenant_id: str) -> Run | None:
        query = sa.select(*_RUN_COLUMNS).where(
            runs.c.session_id == session_id, runs.c.tenant_id == tenant_id, runs.c.status == "running"
        )
        row = await self._one(query.order_by(runs.c.started_at.desc().nulls_last(), runs.c.id.desc()).limit(1))
        return None if row is None else run_of(row)

    async def get_events(self, session_id: str, tenant_id: str, where: EventFilter, limit: int) -> list[EventFrame]:
        check_limit(limit)
        query = sa.select(*_EVENT_COLUMNS).where(
            events.c.session_id == session_id, events.c.tenant_id == tenant_id, *_conditions(where)
        )
        rows = await self._all(query.order_by(events.c.sequence_number).limit(limit))
        return [frame_of(row) for row in rows]

    async def latest_sequences(self, session_ids: Sequence[str]) -> Mapping[str, int]:
        query = sa.select(session_sequences.c.session_id, session_sequences.c.last_sequence)
        rows = await self._all(query.where(session_sequences.c.session_id.in_(session_ids)))
        return {row["session_id"]: row["last_sequence"] for row in rows}

    async def queue_status(self, session_id: str, tenant_id: str) -> QueueStatus:
        return await with_connection(
            self._engine, lambda connection: self._queue_status(connection, session_id, tenant_id)
        )

    async def _queue_status(self, connection: AsyncConnection, session_id: str, tenant_id: str) -> QueueStatus:
        # runs first, then the counter: who finds no run left is told a number not before its terminal event
        active = await _every(
            connection,
            sa.select(runs.c.id, runs.c.status, runs.c.created_at, self._dialect.now().label("now"))
            .where(runs.c.session_id == session_id)
            .where(sa.or_(_is_queued, runs.c.status.in_(("running", "awaiting_approval"))))
            .order_by(runs.c.submit_seq),
        )
        row = await _first(
            connection,
            sa.select(*session_runtime.c, sessions.c.status, session_sequences.c.last_sequence)
            .select_from(_SESSIONS.join(session_sequences, session_sequences.c.session_id == sessions.c.id))
            .where(sessions.c.id == session_id, sessions.c.tenant_id == tenant_id),
        )
        if row is None:
            raise refusals.no_session(session_id)
        return _queue_status(session_id, row, active)

    async def list_sessions(
        self,
        tenant_id: str,
        *,
        status: str | None = None,
        agent_id: str | None = None,
        tag: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Session]:
        query = sa.select(*_SESSION_COLUMNS).select_from(_SESSIONS)
        query = query.where(sessions.c.tenant_id == tenant_id, sessions.c.deleted_at.is_(None))
        if status is not None:
            query = query.where(sessions.c.status == parse_session_status(status))
        if agent_id is not None:
            query = query.where(sessions.c.agent_id == agent_id)
        if tag is not None:
            query = query.where(self._dialect.has_tag(tag))
        rows, following = await self._page(query, sessions, "session", limit, cursor)
        return Page([session_of(row) for row in rows], following)

    async def list_runs(
        self,
        tenant_id: str,
        *,
        session_id: str | None = None,
        status: str | None = None,
        provider: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Run]:
        query = sa.select(*_RUN_COLUMNS).where(runs.c.tenant_id == tenant_id)
        if session_id is not None:
            query = query.where(runs.c.session_id == session_id)
        if status is not None:
            query = query.where(runs.c.status == parse_run_status(status))
        if provider is not None:
            query = query.where(runs.c.provider == provider)
        rows, following = await self._page(query, runs, "run", limit, cursor)
        return Page([run_of(row) for row in rows], following)

    async def stats(self, tenant_id: str) -> FleetStats:
        return await with_connection(self._engine, lambda connection: self._stats(connection, tenant_id))

    async def _stats(self, connection: AsyncConnection, tenant_id: str) -> FleetStats:
        session_counts = await _counts(connection, sessions, tenant_id)
        run_counts = await _counts(connection, runs, tenant_id)
        stored = sa.select(sa.func.coalesce(sa.func.sum(session_sequences.c.last_sequence), 0))
        event_count = await connection.scalar(stored.where(session_sequences.c.tenant_id == tenant_id))
        held = sa.select(sa.func.count()).where(run_leases.c.worker_id == workers.c.id).scalar_subquery()
        told = (workers.c[name] for name in ("id", "hostname", "pid", "slots", "draining"))
        alive = sa.select(*told, held.label("in_flight")).where(workers.c.lost_at.is_(None))
        fleet = await _every(connection, alive.order_by(workers.c.id))
        waiting = sa.select(sa.func.min(runs.c.created_at), self._dialect.now())
        waiting = waiting.where(runs.c.tenant_id == tenant_id, runs.c.status == "pending")
        oldest, now = (await connection.execute(waiting)).one()
        return FleetStats(
            sessions=session_counts,
            runs=run_counts,
            events=int(event_count or 0),
            workers=fleet,
            slots=sum(worker["slots"] for worker in fleet if not worker["draining"]),
            in_flight=sum(worker["in_flight"] for worker in fleet),
            oldest_pending_age_ms=_age_ms(oldest, now) if oldest is not None else None,
        )

    async def ping(self) -> str:
        """The schema's revision. Raises `storage_connection_failed`, `migration_required`."""
        query = sa.text("SELECT version_num FROM asm_alembic_version")
        return str(await with_connection(self._engine, lambda connection: connection.scalar(query)))

    async def _page(
        self, query: sa.Select[Any], table: sa.Table, kind: str, limit: int, cursor: str | None
    ) -> tuple[Sequence[Mapping[str, Any]], str | None]:
        """Newest first, by (created_at, id): keyset pages neither repeat nor skip."""
        check_limit(limit)
        if cursor is not None:
            at, record_id = decode_cursor(cursor, kind)
            behind = sa.tuple_(sa.literal(at, Instant), sa.literal(record_id))
            query = query.where(sa.tuple_(table.c.created_at, table.c.id) < behind)
        rows = await self._all(query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit + 1))
        if len(rows) <= limit:
            return rows, None
        last = rows[limit - 1]
        return rows[:limit], encode_cursor(kind, last["created_at"], last["id"])

    async def _one(self, query: sa.Select[Any]) -> Mapping[str, Any] | None:
        return await with_connection(self._engine, lambda connection: _first(connection, query))

    async def _all(self, query: sa.Select[Any]) -> Sequence[Mapping[str, Any]]:
        return await with_connection(self._engine, lambda connection: _every(connection, query))

    # Writing

    async def save_session(self, session: Session) -> None:
        row, bounds = session_row(session), bounds_row(session)
        await in_transaction(
            self._engine, lambda connection: writes.save_session(connection, self._dialect, row, bounds)
        )

    async def save_run(self, run: Run) -> None:
        row = run_row(run)
        await in_transaction(self._engine, lambda connection: writes.save_run(connection, self._dialect, row))

    async def delete_session(self, session_id: str, tenant_id: str) -> None:
        await in_transaction(self._engine, lambda connection: writes.delete_session(connection, session_id, tenant_id))

    async def append_events(self, events: Sequence[Event], tenant_id: str) -> list[Event]:
        rows = event_rows(events, tenant_id)
        return await in_transaction(
            self._engine, lambda connection: writes.append(connection, self._dialect, rows, tenant_id)
        )

    async def flush(self, session: Session, run: Run, events: Sequence[Event]) -> list[Event]:
        row, bounds, run_values = session_row(session), bounds_row(session), run_row(run)
        rows = event_rows(events, session.tenant_id)

        async def store(connection: AsyncConnection) -> list[Event]:
            await writes.save_session(connection, self._dialect, row, bounds)
            await writes.save_run(connection, self._dialect, run_values)
            return await writes.append(connection, self._dialect, rows, session.tenant_id)

        return await in_transaction(self._engine, store)


async def _first(connection: AsyncConnection, query: sa.Select[Any]) -> Mapping[str, Any] | None:
    row = (await connection.execute(query)).mappings().first()
    return None if row is None else dict(row)


async def _every(connection: AsyncConnection, query: sa.Select[Any]) -> list[Mapping[str, Any]]:
    return [dict(row) for row in (await connection.execute(query)).mappings()]


async def _counts(connection: AsyncConnection, table: sa.Table, tenant_id: str) -> dict[str, int]:
    query = sa.select(table.c.status, sa.func.count()).where(table.c.tenant_id == tenant_id).group_by(table.c.status)
    rows = (await connection.execute(query)).all()
    return {row[0]: row[1] for row in rows}


def _conditions(where: EventFilter) -> list[sa.ColumnElement[bool]]:
    conditions = [events.c.sequence_number > where.after]
    if where.before is not None:
        conditions.append(events.c.sequence_number < where.before)
    if where.types:
        conditions.append(events.c.type.in_(where.types))
    if where.run_id is not None:
        conditions.append(events.c.run_id == where.run_id)
    if where.since is not None:
        conditions.append(events.c.timestamp > where.since)
    return conditions


def _queue_status(session_id: str, row: Mapping[str, Any], active: Sequence[Mapping[str, Any]]) -> QueueStatus:
    by_status: dict[str, list[Mapping[str, Any]]] = {}
    for run in active:
        by_status.setdefault(run["status"], []).append(run)
    queued = by_status.get("pending", [])
    oldest: datetime | None = min((run["created_at"] for run in queued), default=None)
    age_ms = _age_ms(oldest, queued[0]["now"]) if oldest else None
    return QueueStatus(
        session_id=session_id,
        in_flight_runs=[run["id"] for run in by_status.get("running", [])],
        queued_runs=[run["id"] for run in queued],
        parked_runs=[run["id"] for run in by_status.get("awaiting_approval", [])],
        max_concurrent_runs=row["max_concurrent_runs"],
        max_queued_runs=row["max_queued_runs"],
        oldest_queued_age_ms=age_ms,
        limiter_waiting=row["limiter_waiting_since"] is not None,
        state=row["status"],
        last_sequence=row["last_sequence"],
    )


def _age_ms(since: datetime, now: datetime) -> int:
    return int((now - since).total_seconds() * 1000)
