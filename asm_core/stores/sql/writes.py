"""
Plain writes of records, inside a transaction of the caller's.

Lock order, so that they and the queue's own transactions never wait for each other in a circle: the session's runtime
row, the session, the run, the counters in session order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from asm_core.domain.event import Event
from asm_core.domain.lifecycle import TERMINAL_RUNS
from asm_core.stores import refusals
from asm_core.stores.sql.convert import event_of
from asm_core.stores.sql.dialect import Dialect
from asm_core.stores.sql.rows import Row, firsts
from asm_core.stores.sql.tables import (
    artifacts,
    events,
    idempotency_keys,
    inherited_events,
    run_leases,
    runs,
    session_runtime,
    session_sequences,
    sessions,
)

MAX_CHOICES = 10_000
"""Ids in one condition; a database takes some 30,000 parameters in a statement."""

_OF_A_SESSION = (
    events, runs, run_leases, artifacts, idempotency_keys, session_sequences, session_runtime, inherited_events,
)  # fmt: skip
"""What goes with a session when it is deleted; its audit log stays."""


async def save_session(
    connection: AsyncConnection,
    dialect: Dialect,
    row: Row,
    bounds: Row,
    *,
    table: sa.Table = sessions,
    only: Collection[str] | None = None,
) -> None:
    """
    Insert, or replace.

    Args:
        table: when it is not ours, but one that holds more columns.
        only: what is replaced of a known row; everything when omitted.

    Raises:
        AsmError: `already_exists`: the id is another tenant's.
    """
    is_mine = await replace(connection, dialect, session_runtime, "session_id", bounds, only=only)
    if not is_mine or not await replace(connection, dialect, table, "id", row, only=only):
        raise refusals.id_taken("session", row["id"])
    await ensure_counters(connection, dialect, [row["id"]], row["tenant_id"])
    owner = sa.select(session_sequences.c.tenant_id).where(session_sequences.c.session_id == row["id"])
    if await connection.scalar(owner) != row["tenant_id"]:  # a log without a session
        raise refusals.id_taken("session", row["id"])


async def save_run(
    connection: AsyncConnection,
    dialect: Dialect,
    row: Row,
    *,
    table: sa.Table = runs,
    only: Collection[str] | None = None,
) -> None:
    """
    As `save_session`.

    Raises:
        AsmError: `already_exists`: the id is another tenant's; `invalid_transition`: its status is final;
            `session_not_found`: the session is another tenant's.
    """
    keeps_status = only is not None and "status" not in only
    same_or_open = sa.or_(table.c.status.not_in(TERMINAL_RUNS), table.c.status == row["status"])
    conditions = () if keeps_status else (same_or_open,)
    if not await replace(connection, dialect, table, "id", row, *conditions, only=only):
        query = sa.select(runs.c.status).where(runs.c.id == row["id"], runs.c.tenant_id == row["tenant_id"])
        status = await connection.scalar(query)
        if status is None:
            raise refusals.id_taken("run", row["id"])
        raise refusals.final(row["id"], status, row["status"])
    owner = await connection.scalar(sa.select(sessions.c.tenant_id).where(sessions.c.id == row["session_id"]))
    if owner not in (None, row["tenant_id"]):
        raise refusals.no_session(row["session_id"])


async def replace(
    connection: AsyncConnection,
    dialect: Dialect,
    table: sa.Table,
    key: str,
    row: Row,
    *conditions: sa.ColumnElement[bool],
    only: Collection[str] | None = None,
) -> bool:
    """Insert, or replace the columns that the row names (of them `only` these); False where what is there must stay."""
    insert = dialect.insert(table).values(row)
    names = [name for name in row if name not in (key, "tenant_id") and (only is None or name in only)]
    changes = {name: insert.excluded[name] for name in names or [key]}
    is_mine = table.c.tenant_id == row["tenant_id"]
    statement = insert.on_conflict_do_update(index_elements=[key], set_=changes, where=sa.and_(is_mine, *conditions))
    return (await connection.execute(statement.returning(table.c[key]))).first() is not None


async def append(connection: AsyncConnection, dialect: Dialect, rows: Sequence[Row], tenant_id: str) -> list[Event]:
    """
    Number the events behind their sessions' last ones and store them; known ids come back as they were stored.

    The counters stay locked until commit, so that commit order is sequence order.

    Raises:
        AsmError: `already_exists`: an id of another session; `session_not_found`: the session is another tenant's.
    """
    session_ids = sorted({row["session_id"] for row in rows})
    await ensure_counters(connection, dialect, session_ids, tenant_id)
    await lock_counters(connection, session_ids, tenant_id)
    ids = [row["id"] for row in rows]
    known = await _stored(connection, ids)
    fresh = [row for row in firsts(rows) if row["id"] not in known]
    if fresh:
        await _insert(connection, fresh)
    stored = await _stored(connection, ids)
    for row in rows:
        found = stored[row["id"]]
        if (found["session_id"], found["tenant_id"]) != (row["session_id"], tenant_id):
            raise refusals.id_taken("event", row["id"])
    return [event_of(stored[event_id]) for event_id in ids]


async def _insert(connection: AsyncConnection, fresh: Sequence[Row]) -> None:
    added = Counter(row["session_id"] for row in fresh)
    numbers = {session_id: count(await advance(connection, session_id, many)) for session_id, many in added.items()}
    numbered = [row | {"sequence_number": next(numbers[row["session_id"]])} for row in fresh]
    await connection.execute(sa.insert(events), numbered)


async def allocate(
    connection: AsyncConnection, dialect: Dialect, session_id: str, tenant_id: str, how_many: int = 1
) -> int:
    """
    Numbers behind all that the session has given out; nobody else gets them, nor any between.

    Returns:
        The first of them.

    Raises:
        AsmError: `session_not_found`: the session is another tenant's.
    """
    await ensure_counters(connection, dialect, [session_id], tenant_id)
    await lock_counters(connection, [session_id], tenant_id)
    return await advance(connection, session_id, how_many)


async def advance(connection: AsyncConnection, session_id: str, how_many: int) -> int:
    """The first of the next numbers. Contract: the counter is there, and the tenant's."""
    counter = sa.update(session_sequences).where(session_sequences.c.session_id == session_id)
    moved = counter.values(last_sequence=session_sequences.c.last_sequence + how_many)
    last = await connection.scalar(moved.returning(session_sequences.c.last_sequence))
    return int(last or 0) - how_many + 1


async def ensure_counters(
    connection: AsyncConnection, dialect: Dialect, session_ids: Sequence[str], tenant_id: str
) -> None:
    rows = [{"session_id": session_id, "tenant_id": tenant_id, "last_sequence": 0} for session_id in session_ids]
    if rows:
        await connection.execute(dialect.insert(session_sequences).on_conflict_do_nothing(), rows)


async def lock_counters(connection: AsyncConnection, session_ids: Sequence[str], tenant_id: str) -> Mapping[str, int]:
    """Session to its last number, which stays so until commit. Raises AsmError `session_not_found`, as `allocate`."""
    counters: dict[str, int] = {}
    for session_id in session_ids:
        query = sa.select(session_sequences).where(session_sequences.c.session_id == session_id).with_for_update()
        counter = (await connection.execute(query)).mappings().one()
        if counter["tenant_id"] != tenant_id:
            raise refusals.no_session(session_id)
        counters[session_id] = counter["last_sequence"]
    return counters


async def _stored(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for start in range(0, len(ids), MAX_CHOICES):
        query = sa.select(events).where(events.c.id.in_(ids[start : start + MAX_CHOICES]))
        found |= {row["id"]: dict(row) for row in (await connection.execute(query)).mappings()}
    return found


async def delete_session(connection: AsyncConnection, session_id: str, tenant_id: str) -> None:
    """With everything that belongs to it. Raises AsmError `invalid_operation`: a fork's log begins with its events."""
    mine = (session_runtime.c.session_id == session_id, session_runtime.c.tenant_id == tenant_id)
    await connection.execute(sa.select(session_runtime.c.session_id).where(*mine).with_for_update())
    referring = (inherited_events.c.source_session_id == session_id, inherited_events.c.tenant_id == tenant_id)
    if await connection.scalar(sa.select(sa.exists().where(*referring))):
        raise refusals.has_forks(session_id)
    for table in _OF_A_SESSION:
        await connection.execute(
            sa.delete(table).where(table.c.session_id == session_id, table.c.tenant_id == tenant_id)
        )
    await connection.execute(sa.delete(sessions).where(sessions.c.id == session_id, sessions.c.tenant_id == tenant_id))
