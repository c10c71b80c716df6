"""The queue's records in a SQLite file: one machine, durable, also between processes; never for a fleet of workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.stores.local.records import PRESENT, TABLES, Row, Transaction, Where
from asm_core.stores.sql import tables
from asm_core.stores.sql.transactions import in_transaction

T = TypeVar("T")

_TABLES: Mapping[str, sa.Table] = {name: tables.metadata.tables[f"asm_{name}"] for name in TABLES}
_MAX_CHOICES = 30_000
"""In one condition: SQLite takes 32,766 parameters in a statement."""


class SqliteRecords:
    """
    Args:
        engine: from `open_sqlite`.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def write(self, work: Callable[[Transaction], T]) -> T:
        async def run(connection: AsyncConnection) -> T:
            return await connection.run_sync(lambda inner: work(SqliteTransaction(inner)))

        return await in_transaction(self._engine, run)


class SqliteTransaction:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def find(self, table: str, *key: Any) -> Row | None:
        found = self.rows(table, dict(zip(TABLES[table].key, key, strict=True)))
        return found[0] if found else None

    def rows(self, table: str, where: Where, *, order_by: str | None = None, limit: int | None = None) -> list[Row]:
        source = _TABLES[table]
        query = sa.select(source)
        if order_by is not None:
            query = query.order_by(source.c[order_by])
        rows = [
            row for part in _parts(where) for row in self._all(query.where(*_conditions(source, part)).limit(limit))
        ]
        return rows[:limit]

    def column(self, table: str, name: str, where: Where) -> list[Any]:
        source = _TABLES[table]
        query = sa.select(source.c[name])
        return [row[name] for part in _parts(where) for row in self._all(query.where(*_conditions(source, part)))]

    def insert(self, table: str, row: Row) -> Row:
        statement = sa.insert(_TABLES[table]).values(TABLES[table].complete(row)).returning(*_TABLES[table].c)
        [stored] = self._all(statement)
        return stored

    def insert_all(self, table: str, rows: Sequence[Row]) -> None:
        if rows:
            self._connection.execute(sa.insert(_TABLES[table]), [TABLES[table].complete(row) for row in rows])

    def update(self, table: str, key: Any, **changes: Any) -> Row:
        target, [name] = _TABLES[table], TABLES[table].key
        if unknown := changes.keys() - target.c.keys():
            raise KeyError(*unknown)
        [row] = self._all(sa.update(target).where(target.c[name] == key).values(changes).returning(*target.c))
        return row

    def delete(self, table: str, where: Where) -> None:
        self._connection.execute(sa.delete(_TABLES[table]).where(*_conditions(_TABLES[table], where)))

    def span(self, run_id: str, *, before_fence: int) -> tuple[int, int] | None:
        number, log = tables.events.c.sequence_number, tables.events
        query = sa.select(sa.func.min(number), sa.func.max(number))
        first, last = self._connection.execute(query.where(log.c.run_id == run_id, log.c.fence < before_fence)).one()
        return None if first is None else (first, last)

    def _all(self, statement: Any) -> list[Row]:
        return [dict(row) for row in self._connection.execute(statement).mappings()]


def _conditions(source: sa.Table, where: Where) -> list[sa.ColumnElement[bool]]:
    return [_condition(source.c[name], given) for name, given in where.items()]


def _condition(column: sa.Column[Any], given: Any) -> sa.ColumnElement[bool]:
    if given is PRESENT:
        return column.is_not(None)
    if isinstance(given, tuple):
        return column.in_(given)
    return column.is_(None) if given is None else column == given


def _parts(where: Where) -> list[Where]:
    """The same conditions, with one long choice cut into pieces that a statement can hold."""
    for name, given in where.items():
        if isinstance(given, tuple) and len(given) > _MAX_CHOICES:
            pieces = [given[start : start + _MAX_CHOICES] for start in range(0, len(given), _MAX_CHOICES)]
            return [{**where, name: piece} for piece in pieces]
    return [where]
