"""What Postgres and SQLite say differently."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.clock import SystemClock
from asm_core.ports.clock import Clock
from asm_core.stores.sql.tables import Instant

Condition = sa.ColumnElement[bool]


class Dialect(Protocol):
    def number(self, column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[Any]:
        """The number under a key of a JSON object; null when there is none."""

    def text(self, column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[str]:
        """The text under a key of a JSON object; null when there is none."""

    def has_all(self, tags: sa.ColumnElement[Any], wanted: Sequence[str]) -> Condition: ...

    def has_any(self, tags: sa.ColumnElement[Any], unwanted: Sequence[str]) -> Condition: ...

    def now(self) -> sa.ColumnElement[datetime]:
        """The store's clock."""

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that knows `on_conflict_do_update` and `on_conflict_do_nothing`."""

    keep_usage: sa.TextClause
    """Adds the usage events `numbers` of `session_id` of `tenant_id` to what their runs say of pruned usage."""


class PostgresDialect:
    def number(self, column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[Any]:
        value = sa.type_coerce(column, pg.JSONB)[key]
        return sa.case((sa.func.jsonb_typeof(value) == "number", sa.cast(value.astext, sa.Numeric)))

    def text(self, column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[str]:
        value = sa.type_coerce(column, pg.JSONB)[key]
        return sa.case((sa.func.jsonb_typeof(value) == "string", value.astext))

    def has_all(self, tags: sa.ColumnElement[Any], wanted: Sequence[str]) -> Condition:
        return sa.type_coerce(tags, pg.ARRAY(sa.Text)).contains(list(wanted))

    def has_any(self, tags: sa.ColumnElement[Any], unwanted: Sequence[str]) -> Condition:
        found: Condition = sa.type_coerce(tags, pg.ARRAY(sa.Text)).overlap(list(unwanted))
        return found

    def now(self) -> sa.ColumnElement[datetime]:
        return sa.func.clock_timestamp(type_=Instant)

    def insert(self, table: sa.Table) -> Any:
        return pg.insert(table)

    keep_usage = sa.text("""
        UPDATE asm_runs AS r SET pruned_usage = kept.usage FROM (
          SELECT run_id, jsonb_object_agg(key, total) AS usage FROM (
            SELECT run_id, key, sum(amount) AS total FROM (
              SELECT e.run_id, kv.key, CAST(kv.value AS numeric) AS amount
                FROM asm_events e, jsonb_each(CASE jsonb_typeof(e.data) WHEN 'object' THEN e.data ELSE '{}' END) kv
               WHERE e.tenant_id = :tenant_id AND e.session_id = :session_id AND e.sequence_number IN :numbers
                 AND e.type = 'token_usage_updated' AND e.run_id IS NOT NULL AND jsonb_typeof(kv.value) = 'number'
                 AND (kv.key LIKE '%\\_tokens' OR kv.key = 'cost_usd')
              UNION ALL
              SELECT o.id, kv.key, CAST(kv.value AS numeric) FROM asm_runs o, jsonb_each(o.pruned_usage) kv
               WHERE o.tenant_id = :tenant_id AND o.session_id = :session_id) parts
             GROUP BY run_id, key) sums
           GROUP BY run_id) kept
         WHERE r.id = kept.run_id AND r.tenant_id = :tenant_id AND r.pruned_usage IS DISTINCT FROM kept.usage
        """).bindparams(sa.bindparam("numbers", expanding=True))


class SqliteDialect:
    """
    Args:
        clock: of the process; a file has none.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def number(self, column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[Any]:
        path = f"$.{key}"
        is_number = sa.func.json_type(column, path).in_(("integer", "real"))
        return sa.case((is_number, sa.func.json_extract(column, path)))

    def text(self, column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[str]:
        path = f"$.{key}"
        return sa.case((sa.func.json_type(column, path) == "text", sa.func.json_extract(column, path, type_=sa.Text)))

    def has_all(self, tags: sa.ColumnElement[Any], wanted: Sequence[str]) -> Condition:
        each = sa.func.json_each(tags).table_valued("value")
        found = sa.select(sa.func.count(each.c.value.distinct())).where(each.c.value.in_(wanted))
        return found.scalar_subquery() == len(set(wanted))

    def has_any(self, tags: sa.ColumnElement[Any], unwanted: Sequence[str]) -> Condition:
        each = sa.func.json_each(tags).table_valued("value")
        return sa.exists(sa.select(each.c.value).where(each.c.value.in_(unwanted)))

    def now(self) -> sa.ColumnElement[datetime]:
        return sa.literal(self._clock.now(), Instant)

    def insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table)

    keep_usage = sa.text("""
        UPDATE asm_runs AS r SET pruned_usage = kept.usage FROM (
          SELECT run_id, json_group_object(key, total) AS usage FROM (
            SELECT run_id, key, sum(amount) AS total FROM (
              SELECT e.run_id, kv.key, kv.value AS amount FROM asm_events e, json_each(e.data) kv
               WHERE e.tenant_id = :tenant_id AND e.session_id = :session_id AND e.sequence_number IN :numbers
                 AND e.type = 'token_usage_updated' AND e.run_id IS NOT NULL AND kv.type IN ('integer', 'real')
                 AND (kv.key LIKE '%\\_tokens' ESCAPE '\\' OR kv.key = 'cost_usd')
              UNION ALL
              SELECT o.id, kv.key, kv.value FROM asm_runs o, json_each(o.pruned_usage) kv
               WHERE o.tenant_id = :tenant_id AND o.session_id = :session_id AND o.pruned_usage IS NOT NULL) parts
             GROUP BY run_id, key) sums
           GROUP BY run_id) kept
         WHERE r.id = kept.run_id AND r.tenant_id = :tenant_id AND r.pruned_usage IS NOT kept.usage
        """).bindparams(sa.bindparam("numbers", expanding=True))


def dialect_of(engine: AsyncEngine, clock: Clock | None = None) -> Dialect:
    """
    Args:
        clock: on SQLite, which has none of its own; the system's when omitted.
    """
    return SqliteDialect(clock or SystemClock()) if engine.dialect.name == "sqlite" else PostgresDialect()
