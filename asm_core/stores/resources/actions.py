"""
What may be done to each resource, by name: which attributes an action takes, and the statements it comes to.

Values are checked as the domain's records are, and written by the same functions as the stores' (`stores/sql/writes`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from asm_core.clock import new_id
from asm_core.domain import ids
from asm_core.domain.artifact import Artifact
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event
from asm_core.domain.lifecycle import TERMINAL_RUNS, RunStatus, SessionStatus
from asm_core.domain.retention import PROTECTED_TYPES
from asm_core.domain.run import Run, RunOptions
from asm_core.domain.session import Session
from asm_core.stores import refusals
from asm_core.stores.sql import tables, writes
from asm_core.stores.sql.dialect import Dialect
from asm_core.stores.sql.resting import lock_resting, not_forked
from asm_core.stores.sql.rows import Row, bounds_row, event_rows, run_row, session_row
from asm_core.stores.sql.tables import Instant

BOUNDS = frozenset({"max_concurrent_runs", "max_queued_runs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One action in one transaction."""

    connection: AsyncConnection
    dialect: Dialect
    table: sa.Table
    """Of the model: ours, or the application's with more columns."""
    stock: sa.Table
    """Ours."""
    tenant_id: str
    attributes: Mapping[str, Any]
    now: datetime

    @property
    def own(self) -> dict[str, Any]:
        """Attributes that are the record's."""
        return {name: value for name, value in self.attributes.items() if name not in self.extras}

    @property
    def extras(self) -> dict[str, Any]:
        """Attributes that the application has added."""
        return {
            name: value for name, value in self.attributes.items() if name in self.table.c and name not in self.stock.c
        }

    def this(self, *names: str) -> sa.ColumnElement[bool]:
        """The record that the attributes name."""
        conditions = [self.table.c[name] == self.attributes[name] for name in names if name in self.attributes]
        return sa.and_(self.table.c.tenant_id == self.tenant_id, *conditions)

    async def insert(self, row: Row) -> bool:
        """False where its place is taken."""
        statement = self.dialect.insert(self.table).values(row | self.extras).on_conflict_do_nothing()
        return (await self.connection.execute(statement.returning(self.table.c.tenant_id))).first() is not None

    async def update(self, where: sa.ColumnElement[bool], **values: Any) -> bool:
        """False where nothing is there."""
        statement = sa.update(self.table).where(where).values(values).returning(self.table.c.tenant_id)
        return (await self.connection.execute(statement)).first() is not None


Identity = Mapping[str, Any]
"""Columns that name one record of the tenant, with their values."""

Perform = Callable[[Call], Awaitable[Identity | None]]
"""Tells which record it has made or changed, when it is still there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    perform: Perform | None
    """None: it only finds."""
    accepts: frozenset[str] = frozenset()
    takes_extras: bool = False
    """Whether it takes the application's own columns too."""
    needs: frozenset[str] | None = None
    """Attributes that must be there; None: one of the resource's identities, which is taken beside the others."""

    def accepting(self, *names: str) -> Action:
        """The same action, which takes these attributes too."""
        return replace(self, accepts=self.accepts | set(names))


# Sessions


async def _create_session(call: Call) -> Identity:
    record = _session(call, call.own)
    runtime = call.dialect.insert(tables.session_runtime).values(bounds_row(record))
    await call.connection.execute(runtime.on_conflict_do_nothing())
    if not await call.insert(session_row(record)):
        raise refusals.id_taken("session", record.id)
    await writes.ensure_counters(call.connection, call.dialect, [record.id], call.tenant_id)
    return {"id": record.id}


async def _upsert_session(call: Call) -> Identity:
    record = _session(call, call.own)
    only = {*call.attributes, "updated_at"}
    row = session_row(record) | call.extras
    await writes.save_session(call.connection, call.dialect, row, bounds_row(record), table=call.table, only=only)
    return {"id": record.id}


async def _update_session(call: Call) -> Identity:
    session_id = call.attributes["id"]
    query = sa.select(call.table).where(call.this("id"))
    found = (await call.connection.execute(query)).mappings().first()
    if found is None:
        raise refusals.no_session(session_id)
    row = session_row(_session(call, dict(found) | {"updated_at": call.now} | call.own))
    named = {*call.own, "updated_at"} - {"id"}
    await call.update(call.this("id"), **{name: row[name] for name in named} | call.extras)
    return {"id": session_id}


async def _soft_delete_session(call: Call) -> Identity:
    deleted_at = sa.func.coalesce(call.table.c.deleted_at, sa.literal(call.now, Instant))
    if not await call.update(call.this("id"), deleted_at=deleted_at):
        raise refusals.no_session(call.attributes["id"])
    return {"id": call.attributes["id"]}


async def _destroy_session(call: Call) -> None:
    await writes.delete_session(call.connection, call.attributes["id"], call.tenant_id)


def _session(call: Call, given: Mapping[str, Any]) -> Session:
    default = {"status": SessionStatus.PENDING, "created_at": call.now, "updated_at": call.now}
    return Session.from_map(default | dict(given) | {"tenant_id": call.tenant_id})


# Runs


async def _upsert_run(call: Call) -> Identity:
    default = {"status": RunStatus.PENDING, "created_at": call.now}
    given = default | call.own | {"tenant_id": call.tenant_id}
    record = replace(Run.from_map(given), options=_options(given.get("options")))
    row = run_row(record) | call.extras
    await writes.save_run(call.connection, call.dialect, row, table=call.table, only=call.attributes.keys())
    return {"id": record.id}


def _options(given: Any) -> RunOptions | None:
    try:
        return RunOptions.from_map(given) if given else None
    except (TypeError, ValueError) as cause:
        raise _invalid("options", f"run options cannot be read ({type(cause).__name__})") from cause


async def _destroy_run(call: Call) -> None:
    """Not one that is queued, in flight or parked: others count on it. Its events stay in the log."""
    idle = sa.or_(
        call.table.c.status.in_(TERMINAL_RUNS),
        sa.and_(
            call.table.c.submit_seq.is_(None),
            ~sa.exists(sa.select(tables.run_leases.c.run_id).where(tables.run_leases.c.run_id == call.table.c.id)),
        ),
    )
    gone = sa.delete(call.table).where(call.this("id"), idle).returning(call.table.c.id)
    if (await call.connection.execute(gone)).first() is not None:
        keys = tables.idempotency_keys
        mine = (keys.c.run_id == call.attributes["id"], keys.c.tenant_id == call.tenant_id)
        await call.connection.execute(sa.delete(keys).where(*mine))
    elif await call.connection.scalar(sa.select(call.table.c.id).where(call.this("id"))) is not None:
        raise _refused(f"run {call.attributes['id']} has not ended")


# Events


async def _create_event(call: Call) -> Identity:
    """Under the number given; the counter is never behind it."""
    row, number = _event_row(call), call.attributes["sequence_number"]
    if number < 1:
        raise _invalid("sequence_number", f"a sequence number is at least 1, not {number}")
    session_id = row["session_id"]
    await writes.ensure_counters(call.connection, call.dialect, [session_id], call.tenant_id)
    last = await writes.lock_counters(call.connection, [session_id], call.tenant_id)
    if not await call.insert(row | {"sequence_number": number}):
        raise refusals.id_taken("event", f"{row['id']} or number {number} of session {session_id}")
    if number > last[session_id]:
        await writes.advance(call.connection, session_id, number - last[session_id])
    return {"id": row["id"]}


async def _append_event(call: Call) -> Identity:
    row = _event_row(call) | call.extras
    await writes.append(call.connection, call.dialect, [row], call.tenant_id)
    return {"id": row["id"]}


def _event_row(call: Call) -> Row:
    record = Event.new(**{"timestamp": call.now} | call.own)
    [row] = event_rows([record], call.tenant_id)
    return row


async def _destroy_event(call: Call) -> None:
    """As pruning does: accounted for, from a session at rest, and nothing that a log cannot do without."""
    query = sa.select(call.table).where(call.this("id", "session_id", "sequence_number"))
    event = (await call.connection.execute(query)).mappings().first()
    if event is None:
        return
    session_id, number = event["session_id"], event["sequence_number"]
    if not await lock_resting(call.connection, call.tenant_id, [session_id], not_forked()):
        raise _refused(f"session {session_id} of event {event['id']} has work or forks, or is gone")
    last = await writes.lock_counters(call.connection, [session_id], call.tenant_id)
    if event["type"] in PROTECTED_TYPES or number == last[session_id]:
        raise _refused(f"event {event['id']} ({event['type']}, number {number}) has to stay")
    doomed = {"tenant_id": call.tenant_id, "session_id": session_id, "numbers": [number]}
    await call.connection.execute(call.dialect.keep_usage, doomed)
    gone = sa.delete(call.table).where(call.table.c.id == event["id"]).returning(call.table.c.id)
    if (await call.connection.execute(gone)).first() is not None:
        counter = tables.session_sequences
        pruned = sa.update(counter).where(counter.c.session_id == session_id)
        await call.connection.execute(pruned.values(pruned_count=counter.c.pruned_count + 1))


# Counters and artifacts


async def _upsert_sequence(call: Call) -> Identity:
    """Forwards only: a counter that went back would give numbers out twice."""
    session_id, wanted = call.attributes["session_id"], call.attributes.get("last_sequence") or 0
    await writes.ensure_counters(call.connection, call.dialect, [session_id], call.tenant_id)
    last = await writes.lock_counters(call.connection, [session_id], call.tenant_id)
    if wanted > last[session_id]:
        await writes.advance(call.connection, session_id, wanted - last[session_id])
    values = {name: value for name, value in call.attributes.items() if name not in ("session_id", "last_sequence")}
    if values:
        await call.update(call.this("session_id"), **values)
    return {"session_id": session_id}


async def _create_artifact(call: Call) -> Identity:
    record = Artifact.new(call.own, id=new_id(ids.ARTIFACT), tenant_id=call.tenant_id, now=call.now)
    if not await call.insert(asdict(record)):
        raise refusals.id_taken("artifact", f"{record.id} or key {record.key}")
    return {"id": record.id}


async def _destroy_artifact(call: Call) -> None:
    """Hides the row: what it points at, and then the row, is removed by garbage collection."""
    live = sa.and_(call.this("id", "key"), call.table.c.deleted_at.is_(None))
    await call.update(live, deleted_at=call.now)


# What each resource can do


def _attributes(record: type[Any], table: sa.Table, *without: str) -> frozenset[str]:
    """What a record says of itself, and a row holds."""
    return frozenset(field.name for field in fields(record)) & frozenset(table.c.keys()) - {"tenant_id", *without}


def _scalars(table: sa.Table) -> frozenset[str]:
    """What can be looked for by value."""
    return frozenset(column.name for column in table.c if not isinstance(column.type, sa.JSON)) - {"tenant_id"}


_SESSION = _attributes(Session, tables.sessions, "forked_at") | BOUNDS
_EVENT = _attributes(Event, tables.events)
_ARTIFACT = _attributes(Artifact, tables.artifacts, "created_at", "deleted_at")
_REQUIRED_OF_ARTIFACT = ("key", "byte_size", "checksum_sha256", "storage_backend", "storage_ref")
_UPDATES = frozenset({"status", "metadata", "context", "tags", "updated_at", "deleted_at"})


def _writing(perform: Perform, accepts: frozenset[str], *needs: str) -> Action:
    return Action(perform=perform, accepts=accepts, takes_extras=True, needs=frozenset(needs))


def _reading(table: sa.Table) -> Action:
    return Action(perform=None, accepts=_scalars(table), takes_extras=True, needs=frozenset())


SESSION: Mapping[str, Action] = {
    "create": _writing(_create_session, _SESSION, "id", "agent_id"),
    "upsert": _writing(_upsert_session, _SESSION, "id", "agent_id"),
    "update": Action(perform=_update_session, accepts=_UPDATES),
    "soft_delete": Action(perform=_soft_delete_session),
    "read": _reading(tables.sessions),
    "destroy": Action(perform=_destroy_session),
}
RUN: Mapping[str, Action] = {
    "upsert": _writing(_upsert_run, _attributes(Run, tables.runs), "id", "session_id"),
    "read": _reading(tables.runs),
    "destroy": Action(perform=_destroy_run),
}
EVENT: Mapping[str, Action] = {
    "create": _writing(_create_event, _EVENT, "id", "type", "session_id", "sequence_number"),
    "append_with_sequence": _writing(_append_event, _EVENT - {"sequence_number"}, "id", "type", "session_id"),
    "read": _reading(tables.events),
    "destroy": Action(perform=_destroy_event),
}
SESSION_SEQUENCE: Mapping[str, Action] = {
    "upsert": _writing(_upsert_sequence, frozenset({"session_id", "last_sequence", "updated_at"}), "session_id"),
    "read": _reading(tables.session_sequences),
}
ARTIFACT: Mapping[str, Action] = {
    "create": _writing(_create_artifact, _ARTIFACT, *_REQUIRED_OF_ARTIFACT),
    "read": _reading(tables.artifacts),
    "destroy": Action(perform=_destroy_artifact),
}


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": field})


def _refused(message: str) -> AsmError:
    return AsmError(ErrorCode.INVALID_OPERATION, message)
