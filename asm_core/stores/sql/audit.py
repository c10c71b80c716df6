"""The audit log over SQLAlchemy Core, on Postgres and SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.domain.audit import AuditEntry
from asm_core.ports.audit import EVERYTHING, AuditFilter
from asm_core.ports.clock import Clock
from asm_core.ports.store import Page
from asm_core.stores.audit_page import AuditPager, entry_of, entry_row
from asm_core.stores.sql.dialect import dialect_of
from asm_core.stores.sql.tables import audit_log, session_runtime
from asm_core.stores.sql.transactions import fetch, in_transaction, with_connection


class SqlAuditLog:
    """
    Args:
        engine: from `open_engine` or `open_sqlite`.
        clock: on SQLite, which has none of its own, the one of its queue.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock | None = None) -> None:
        self._engine = engine
        self._dialect = dialect_of(engine, clock)

    async def get_audit_log(
        self,
        session_id: str,
        tenant_id: str,
        where: AuditFilter = EVERYTHING,
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[AuditEntry]:
        pager = AuditPager(session_id=session_id, tenant_id=tenant_id, where=where, limit=limit, cursor=cursor)
        mine = (audit_log.c.session_id == session_id, audit_log.c.tenant_id == tenant_id)
        query = sa.select(audit_log).where(*mine, audit_log.c.id > pager.after(), *_conditions(where))
        page = query.order_by(audit_log.c.id).limit(limit + 1)
        return pager.cut(await with_connection(self._engine, lambda connection: fetch(connection, page)))

    async def record(self, entry: AuditEntry) -> AuditEntry:
        row = entry_row(entry)
        turn = sa.select(session_runtime.c.session_id).where(session_runtime.c.session_id == entry.session_id)

        async def store(connection: AsyncConnection) -> AuditEntry:
            # as every transaction of the session does: ids are given out in the order of commits
            await connection.execute(turn.with_for_update())
            insert = sa.insert(audit_log).values(**row, at=self._dialect.now()).returning(*audit_log.c)
            return entry_of(dict((await connection.execute(insert)).mappings().one()))

        return await in_transaction(self._engine, store)


def _conditions(where: AuditFilter) -> Iterator[sa.ColumnElement[Any]]:
    if where.run_id is not None:
        yield audit_log.c.run_id == where.run_id
    if where.actions:
        yield audit_log.c.action.in_(where.actions)
    if where.since is not None:
        yield audit_log.c.at > where.since
