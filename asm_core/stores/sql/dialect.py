"""What Postgres and SQLite say differently."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite

from asm_core.ports.clock import Clock
from asm_core.stores.sql.tables import Instant, sessions


class Dialect(Protocol):
    def now(self) -> sa.ColumnElement[datetime]:
        """The store's clock."""

    def has_tag(self, tag: str) -> sa.ColumnElement[bool]:
        """Of a session."""

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that knows `on_conflict_do_update` and `on_conflict_do_nothing`."""


class PostgresDialect:
    def now(self) -> sa.ColumnElement[datetime]:
        return sa.func.clock_timestamp(type_=Instant)

    def has_tag(self, tag: str) -> sa.ColumnElement[bool]:
        return sa.type_coerce(sessions.c.tags, pg.ARRAY(sa.Text)).contains([tag])

    def insert(self, table: sa.Table) -> Any:
        return pg.insert(table)


class SqliteDialect:
    """
    Args:
        clock: of the process; a file has none.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> sa.ColumnElement[datetime]:
        return sa.literal(self._clock.now(), Instant)

    def has_tag(self, tag: str) -> sa.ColumnElement[bool]:
        each = sa.func.json_each(sessions.c.tags).table_valued("value")
        return sa.exists(sa.select(each.c.value).where(each.c.value == tag))

    def insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table)
