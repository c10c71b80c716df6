"""SessionStore over SQLAlchemy Core, on Postgres and SQLite; the tenant stands in every statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.domain.event import Event, EventFrame
from asm_core.domain.fields import parse_datetime
from asm_core.domain.run import Run, parse_run_status
from asm_core.domain.session import Session, parse_session_status
from asm_core.ports.clock import Clock
from asm_core.ports.store import EventFilter, FleetStats, Page, QueueStatus
from asm_core.stores import refusals
from asm_core.stores.sql import writes
from asm_core.stores.sql.convert import frame_of, run_of, session_of
from asm_core.stores.sql.dialect import dialect_of
from asm_core.stores.sql.logs import parts_of
from asm_core.stores.sql.page_cursor import PageOrder, Pager, check_limit
from asm_core.stores.sql.rows import bounds_row, event_rows, run_row, session_row
from asm_core.stores.sql.tables import (
    EVENT_COLUMNS,
    IS_QUEUED,
    RUN_COLUMNS,
    SESSION_COLUMNS,
    SESSIONS,
    events,
    run_leases,
    runs,
    session_runtime,
    session_sequences,
    sessions,
    workers,
)
from asm_core.stores.sql.transactions import fetch, first, in_transaction, with_connection

_SESSION_ORDER = PageOrder("session", "created_at_desc", sessions.c.created_at, sessions.c.id, True, parse_datetime)
_RUN_ORDER = PageOrder("run", "created_at_desc", runs.c.created_at, runs.c.id, True, parse_datetime)


class SqlSessionStore:
    """
    Args:
        engine: from `open_engine` or `open_sqlite`; its pool is this store's only state.
        clock: on SQLite, which has none of its own, the one of its queue.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock | None = None) -> None:
        self._engine = engine
        self._dialect = dialect_of(engine, clock)

    async def close(self) -> None:
        await self._engine.dispose()

    async def get_session(self, session_id: str, tenant_id: str) -> Session:
        query = sa.select(*SESSION_COLUMNS).select_from(SESSIONS)
        row = await self._one(query.where(sessions.c.id == session_id, sessions.c.tenant_id == tenant_id))
        if row is None:
            raise refusals.no_session(session_id)
        return session_of(row)

    async def get_run(self, run_id: str, tenant_id: str) -> Run:
        row = await self._one(sa.select(*RUN_COLUMNS).where(runs.c.id == run_id, runs.c.tenant_id == tenant_id))
        if row is None:
            raise refusals.no_run(run_id)
        return run_of(row)

    async def get_active_run(self, session_id: str, tenant_id: str) -> Run | None:
        query = sa.select(*RUN_COLUMNS).where(
            runs.c.session_id == session_id, runs.c.tenant_id == tenant_id, runs.c.status == "running"
        )
        row = await self._one(query.order_by(runs.c.started_at.desc().nulls_last(), runs.c.id.desc()).limit(1))
        return None if row is None else run_of(row)

    async def get_events(self, session_id: str, tenant_id: str, where: EventFilter, limit: int) -> list[EventFrame]:
        check_limit(limit)
        query = sa.select(*EVENT_COLUMNS).where(events.c.tenant_id == tenant_id, *_conditions(where))
        query = query.order_by(events.c.sequence_number)

        async def read(connection: AsyncConnection) -> list[EventFrame]:
            rows: list[Mapping[str, Any]] = []
            for part in await parts_of(connection, [session_id], tenant_id, after=where.after):
                if len(rows) < limit:
                    rows += await fetch(connection, query.where(part.holds).limit(limit - len(rows)))
            return [frame_of(row) for row in rows]

        return await with_connection(self._engine, read)

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
        active = await fetch(
            connection,
            sa.select(runs.c.id, runs.c.status, runs.c.created_at, self._dialect.now().label("now"))
            .where(runs.c.session_id == session_id, runs.c.tenant_id == tenant_id)
            .where(sa.or_(IS_QUEUED, runs.c.status.in_(("running", "awaiting_approval"))))
            .order_by(runs.c.submit_seq),
        )
        row = await first(
            connection,
            sa.select(*session_runtime.c, sessions.c.status, session_sequences.c.last_sequence)
            .select_from(SESSIONS.join(session_sequences, session_sequences.c.session_id == sessions.c.id))
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
        query = sa.select(*SESSION_COLUMNS).select_from(SESSIONS)
        query = query.where(sessions.c.tenant_id == tenant_id, sessions.c.deleted_at.is_(None))
        if status is not None:
            query = query.where(sessions.c.status == parse_session_status(status))
        if agent_id is not None:
            query = query.where(sessions.c.agent_id == agent_id)
        if tag is not None:
            query = query.where(self._dialect.has_all(sessions.c.tags, [tag]))
        given = {"tenant_id": tenant_id, "status": status, "agent_id": agent_id, "tag": tag}
        rows, following = await self._page(query, Pager(_SESSION_ORDER, limit, given, cursor))
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
        query = sa.select(*RUN_COLUMNS).where(runs.c.tenant_id == tenant_id)
        if session_id is not None:
            query = query.where(runs.c.session_id == session_id)
        if status is not None:
            query = query.where(runs.c.status == parse_run_status(status))
        if provider is not None:
            query = query.where(runs.c.provider == provider)
        given = {"tenant_id": tenant_id, "session_id": session_id, "status": status, "provider": provider}
        rows, following = await self._page(query, Pager(_RUN_ORDER, limit, given, cursor))
        return Page([run_of(row) for row in rows], following)

    async def stats(self, tenant_id: str) -> FleetStats:
        return await with_connection(self._engine, lambda connection: self._stats(connection, tenant_id))

    async def _stats(self, connection: AsyncConnection, tenant_id: str) -> FleetStats:
        session_counts = await _counts(connection, sessions, tenant_id)
        run_counts = await _counts(connection, runs, tenant_id)
        kept = session_sequences.c.last_sequence - session_sequences.c.pruned_count
        stored = sa.select(sa.func.coalesce(sa.func.sum(kept), 0)).where(session_sequences.c.tenant_id == tenant_id)
        referred = sa.select(sa.func.coalesce(sa.func.sum(sessions.c.forked_at), 0))
        not_stored = await connection.scalar(referred.where(sessions.c.tenant_id == tenant_id))
        event_count = int(await connection.scalar(stored) or 0) - int(not_stored or 0)
        held = sa.select(sa.func.count()).where(run_leases.c.worker_id == workers.c.id).scalar_subquery()
        told = (workers.c[name] for name in ("id", "hostname", "pid", "slots", "draining"))
        alive = sa.select(*told, held.label("in_flight")).where(workers.c.lost_at.is_(None))
        fleet = await fetch(connection, alive.order_by(workers.c.id))
        waiting = sa.select(sa.func.min(runs.c.created_at), self._dialect.now())
        waiting = waiting.where(runs.c.tenant_id == tenant_id, runs.c.status == "pending")
        oldest, now = (await connection.execute(waiting)).one()
        return FleetStats(
            sessions=session_counts,
            runs=run_counts,
            events=event_count,
            workers=fleet,
            slots=sum(worker["slots"] for worker in fleet if not worker["draining"]),
            in_flight=sum(worker["in_flight"] for worker in fleet),
            oldest_pending_age_ms=_age_ms(oldest, now) if oldest is not None else None,
        )

    async def ping(self) -> str:
        """The schema's revision. Raises `storage_connection_failed`, `migration_required`."""
        query = sa.text("SELECT version_num FROM asm_alembic_version")
        return str(await with_connection(self._engine, lambda connection: connection.scalar(query)))

    async def _page(self, query: sa.Select[Any], pager: Pager) -> tuple[Sequence[Mapping[str, Any]], str | None]:
        """The rows, and the cursor when there are more."""
        cut = pager.cut(await self._all(pager.apply(query)))
        return cut.rows, cut.cursor if cut.has_more else None

    async def _one(self, query: sa.Select[Any]) -> Mapping[str, Any] | None:
        return await with_connection(self._engine, lambda connection: first(connection, query))

    async def _all(self, query: sa.Select[Any]) -> Sequence[dict[str, Any]]:
        return await with_connection(self._engine, lambda connection: fetch(connection, query))

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
