"""
Values for tests, with defaults that follow from what is asked: `a_run(status=COMPLETED)` has ended, a later attempt has
been claimed. `World` is a fresh store with the queue over it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Protocol, Self

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.clock import SystemClock, new_id
from asm_core.config import FleetTimes
from asm_core.domain.event import Event, EventFrame, EventType
from asm_core.domain.ids import event_id
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.run import OnWorkerLost, Run, RunOptions, RunOutcome
from asm_core.domain.session import Session
from asm_core.pipeline.context import RunContext
from asm_core.ports.audit import AuditLog
from asm_core.ports.provider import Execution
from asm_core.ports.queue import Claimed, NotClaimed, Submission, Submitted
from asm_core.ports.store import SessionStore
from asm_core.stores.local.queue import LocalRunQueue
from asm_core.stores.local.records import TABLES, Records, Transaction
from asm_core.stores.memory import MemoryRecords, MemorySessionStore
from asm_core.stores.memory_audit import MemoryAuditLog
from asm_core.stores.postgres.queue import PostgresRunQueue
from asm_core.stores.sql.audit import SqlAuditLog
from asm_core.stores.sql.engine import open_engine, open_sqlite
from asm_core.stores.sql.sqlite import SqliteRecords
from asm_core.stores.sql.store import SqlSessionStore
from asm_core.stores.sql.verify import verify_database
from asm_core.testing.builders import NOW as NOW
from asm_core.testing.builders import build_event, build_execution, build_run, build_session
from asm_core.testing.waiting import SteppedClock as SteppedClock
from asm_core.testing.waiting import eventually as eventually
from tests.soundness import TABLES as CHECKED_TABLES
from tests.soundness import violations


def a_session(now: datetime = NOW, **fields: Any) -> Session:
    """Under an id of its own."""
    return build_session(**{"id": new_id("ses"), "agent_id": "tester", "created_at": now, "updated_at": now} | fields)


def a_run(status: RunStatus = RunStatus.PENDING, **fields: Any) -> Run:
    """As it would be stored under this status, and under an id of its own."""
    given = {"id": new_id("run"), "session_id": "ses_1", "input": {"prompt": "hello"}, "status": status}
    return build_run(**given | fields)


def a_lease(**fields: Any) -> Lease:
    given = {"run_id": new_id("run"), "session_id": "ses_1", "fence": 1, "worker_id": "wrk_1"} | fields
    return Lease(**given)


def an_execution(script: Sequence[Mapping[str, Any]] | None = None, *, attempt: int = 1, **given: Any) -> Execution:
    """One attempt at a scripted run, or at the input given."""
    return build_execution({"script": list(script)} if script is not None else given, attempt=attempt)


def an_event(kind: EventType = EventType.MESSAGE_RECEIVED, **fields: Any) -> Event:
    """Under an id of its own."""
    return build_event(**{"id": new_id("evt"), "type": kind, "session_id": "ses_1"} | fields)


def some_events(
    lease: Lease, how_many: int = 1, *, first: int = 0, kind: EventType = EventType.MESSAGE_STREAMED, **fields: Any
) -> list[Event]:
    """Events `first`, `first` + 1, … of a lease's holder, under the ids that the pipeline would give them."""
    return [
        an_event(
            kind,
            id=event_id(lease.run_id, lease.fence, ordinal),
            session_id=lease.session_id,
            run_id=lease.run_id,
            **{"data": {"content": f"part {ordinal}"}, "provider": "scripted", "attempt": 1} | fields,
        )
        for ordinal in range(first, first + how_many)
    ]


def a_frame(number: int, session_id: str = "ses_1") -> EventFrame:
    return EventFrame(
        session_id=session_id, sequence_number=number, type="message_streamed", run_id="run_1", body=b"%d" % number
    )


def a_context(**fields: Any) -> RunContext:
    given = {"session_id": "ses_1", "run_id": "run_1", "fence": 1, "attempt": 1, "provider": "scripted"} | fields
    return RunContext(**{"clock": SteppedClock()} | given)


def an_outcome(status: RunStatus = RunStatus.COMPLETED, **fields: Any) -> RunOutcome:
    defaults: dict[str, Any] = {}
    if status is RunStatus.COMPLETED:
        defaults = {"output": {"content": "done"}, "data": {"stop_reason": "end_turn"}, "turn_count": 1}
    return RunOutcome(status=status, **defaults | fields)


HANDED_BACK = RunOutcome(status=RunStatus.PENDING, data={"reason": "worker_shutdown"})


def a_submission(session_id: str, **fields: Any) -> Submission:
    """`options` may be given as keywords of RunOptions."""
    options = RunOptions(**{"provider": "scripted"} | fields.pop("options", {}))
    given: dict[str, Any] = {"run_id": new_id("run"), "session_id": session_id, "tenant_id": "default"}
    if fields.get("idempotency_key") is not None:
        given["request_hash"] = "same"
    return Submission(**given | {"input": {"prompt": "hello"}, "options": options} | fields)


RETRY = {"on_worker_lost": OnWorkerLost.RETRY, "max_attempts": 3}
"""Options of a run that another worker may start again."""


class Peek(Protocol):
    """A look into a store past its ports, and a hand on its rows. Tables are named without their prefix."""

    async def rows(self, table: str, where: Mapping[str, Any]) -> list[dict[str, Any]]: ...

    async def change(self, table: str, where: Mapping[str, Any], changes: Mapping[str, Any]) -> None: ...

    async def now(self) -> datetime: ...

    async def violations(self) -> list[str]:
        """What is not sound (DESIGN §9), at one moment."""


@dataclass
class World:
    """A fresh store of any kind with the queue over it, and the few steps that most tests begin with."""

    queue: Any
    """RunQueue, with `set_limiter`."""
    store: SessionStore
    audit: AuditLog
    peek: Peek
    times: FleetTimes
    _ordinals: dict[tuple[str, int], int] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def renewed(self) -> Self:
        """A new look at the same store, which somebody has emptied."""
        return replace(self, _ordinals={}, _numbers=count(1))

    async def session(self, **fields: Any) -> str:
        session = a_session(**fields)
        await self.queue.create_session(session)
        return session.id

    async def worker(self, slots: int = 100) -> str:
        worker_id = f"wrk_{next(self._numbers)}"
        await self.queue.register_worker(worker_id, hostname="here", pid=1, slots=slots)
        return worker_id

    async def submit(self, session_id: str, **fields: Any) -> Submitted:
        return await self.queue.submit(a_submission(session_id, **fields))

    async def claim(self, session_id: str, worker_id: str) -> Lease:
        claim = await self.queue.claim(session_id, worker_id)
        assert isinstance(claim, Claimed), claim
        return claim.lease

    async def refused_claim(self, session_id: str, worker_id: str) -> NotClaimed:
        claim = await self.queue.claim(session_id, worker_id)
        assert isinstance(claim, NotClaimed), claim
        return claim

    async def running(self, *, session_id: str | None = None, worker_id: str | None = None, **fields: Any) -> Lease:
        """A run under way: submitted, claimed, started."""
        session_id = session_id or await self.session()
        worker_id = worker_id or await self.worker()
        await self.submit(session_id, **fields)
        lease = await self.claim(session_id, worker_id)
        await self.queue.start(lease)
        return lease

    async def append(self, lease: Lease, how_many: int = 1, **fields: Any) -> list[Event]:
        """The next events of the lease's holder, stored."""
        key = (lease.run_id, lease.fence)
        first = self._ordinals.get(key, 0)
        self._ordinals[key] = first + how_many
        [answer] = await self.queue.append([(lease, some_events(lease, how_many, first=first, **fields))])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def rows(self, table: str, **where: Any) -> list[dict[str, Any]]:
        """Those with these values (a tuple: any of them); events in order."""
        found = await self.peek.rows(table, where)
        return (
            sorted(found, key=lambda row: (row["session_id"], row["sequence_number"])) if table == "events" else found
        )

    async def row(self, table: str, **where: Any) -> dict[str, Any]:
        [row] = await self.rows(table, **where)
        return row

    async def how_many(self, table: str, **where: Any) -> int:
        return len(await self.rows(table, **where))

    async def change(self, table: str, where: Mapping[str, Any] | None = None, /, **changes: Any) -> None:
        """As nobody may: past every rule of the queue."""
        await self.peek.change(table, where or {}, changes)

    async def run_row(self, run_id: str) -> dict[str, Any]:
        return await self.row("runs", id=run_id)

    async def event_types(self, *, session_id: str | None = None, run_id: str | None = None) -> list[str]:
        where = {"session_id": session_id} if session_id else {"run_id": run_id}
        return [row["type"] for row in await self.rows("events", **where)]

    async def silence(self, worker_id: str) -> None:
        """The worker's last beat was long ago."""
        await self.change("workers", {"id": worker_id}, last_seen=await self.peek.now() - timedelta(hours=1))

    async def make_sweep_due(self) -> None:
        """As if the last pass had been one and a half intervals ago, and no outage before it."""
        due = await self.peek.now() - 1.5 * self.times.sweep_interval
        await self.change("sweeper", last_pass_at=due, quiet_until=None)

    async def lose(self, worker_id: str) -> None:
        """The worker dies and is marked; its leases stand until the next pass."""
        await self.silence(worker_id)
        await self.change("workers", {"id": worker_id}, lost_at=await self.peek.now())
        await self.make_sweep_due()


# Worlds of each kind


@dataclass
class LocalPeek:
    records: Records

    async def rows(self, table: str, where: Mapping[str, Any]) -> list[dict[str, Any]]:
        return await self.records.write(lambda db: db.rows(table, where))

    async def change(self, table: str, where: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        [key] = TABLES[table].key

        def work(db: Transaction) -> None:
            if table == "sweeper" and not db.rows(table, {}):  # comes with the first pass
                db.insert(table, {"id": 1, "last_pass_at": NOW})
            for row in db.rows(table, where):
                db.update(table, row[key], **changes)

        await self.records.write(work)

    async def now(self) -> datetime:
        return SystemClock().now()

    async def violations(self) -> list[str]:
        return violations(await self.records.write(lambda db: {table: db.rows(table, {}) for table in CHECKED_TABLES}))


@asynccontextmanager
async def open_memory_world(
    *, times: FleetTimes | None = None, limiter: str | None = None, ends_sound: bool = True
) -> AsyncIterator[World]:
    """Ends with a look whether everything is sound."""
    records, clock, times = MemoryRecords(), SystemClock(), times or FleetTimes()
    queue = LocalRunQueue(records, times, clock, limiter=limiter)
    audit = MemoryAuditLog(records, clock)
    world = World(queue, MemorySessionStore(records, clock), audit, LocalPeek(records), times)
    yield world
    if ends_sound:
        assert await world.peek.violations() == []


@asynccontextmanager
async def open_sqlite_world(
    path: Path, *, times: FleetTimes | None = None, limiter: str | None = None, ends_sound: bool = True
) -> AsyncIterator[World]:
    """Over a migrated file; ends with a look whether everything is sound."""
    engine = open_sqlite(path)
    try:
        async with sqlite_world(engine, times=times, limiter=limiter, ends_sound=ends_sound) as world:
            yield world
    finally:
        await engine.dispose()


@asynccontextmanager
async def sqlite_world(
    engine: AsyncEngine, *, times: FleetTimes | None = None, limiter: str | None = None, ends_sound: bool = True
) -> AsyncIterator[World]:
    """As `open_sqlite_world`, on an engine that outlives it."""
    records, clock, times = SqliteRecords(engine), SystemClock(), times or FleetTimes()
    queue = LocalRunQueue(records, times, clock, limiter=limiter)
    store, audit = SqlSessionStore(engine, clock), SqlAuditLog(engine, clock)
    world = World(queue, store, audit, LocalPeek(records), times)
    yield world
    if ends_sound:
        assert await world.peek.violations() == []


@dataclass
class PostgresPeek:
    url: str
    connection: psycopg.AsyncConnection[dict[str, Any]]

    async def rows(self, table: str, where: Mapping[str, Any]) -> list[dict[str, Any]]:
        query = sql.SQL("SELECT * FROM {} WHERE {}").format(_table(table), _conditions(where))
        return await (await self.connection.execute(query, _values(where))).fetchall()

    async def change(self, table: str, where: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        named = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in changes)
        query = sql.SQL("UPDATE {} SET {} WHERE {}").format(_table(table), named, _conditions(where))
        given = [Jsonb(value) if isinstance(value, dict) else value for value in changes.values()]
        await self.connection.execute(query, [*given, *_values(where)])

    async def now(self) -> datetime:
        [row] = await (await self.connection.execute("SELECT clock_timestamp() AS now")).fetchall()
        return row["now"]

    async def violations(self) -> list[str]:
        return (await verify_database(self.url)).violations


def _table(name: str) -> sql.Identifier:
    return sql.Identifier(f"asm_{name}")


def _conditions(where: Mapping[str, Any]) -> sql.Composable:
    conditions = [
        sql.SQL("{} = ANY (%s)" if isinstance(value, tuple) else "{} IS NOT DISTINCT FROM %s").format(
            sql.Identifier(name)
        )
        for name, value in where.items()
    ]
    return sql.SQL(" AND ").join([sql.SQL("true"), *conditions])


def _values(where: Mapping[str, Any]) -> list[Any]:
    return [list(value) if isinstance(value, tuple) else value for value in where.values()]


@dataclass(kw_only=True)
class PostgresWorld(World):
    """With a connection for what only Postgres has: locks held still, triggers, functions."""

    url: str
    connection: psycopg.AsyncConnection[dict[str, Any]]

    async def sql(self, query: str, *params: Any) -> list[dict[str, Any]]:
        cursor = await self.connection.execute(query, params)
        return await cursor.fetchall() if cursor.description else []

    async def value(self, query: str, *params: Any) -> Any:
        [row] = await self.sql(query, *params)
        [value] = row.values()
        return value


@asynccontextmanager
async def open_world(
    database_url: str, *, times: FleetTimes | None = None, ends_sound: bool = True, **options: Any
) -> AsyncIterator[PostgresWorld]:
    """Ends with `verify`: whatever the test did through the queue, the database is sound."""
    times = times or FleetTimes()
    queue = PostgresRunQueue(database_url, application_name="test", times=times, **options)
    await queue.open()
    engine = open_engine(database_url, application_name="test")
    connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True, row_factory=dict_row)
    try:
        peek = PostgresPeek(database_url, connection)
        store, audit = SqlSessionStore(engine), SqlAuditLog(engine)
        yield PostgresWorld(queue, store, audit, peek, times, url=database_url, connection=connection)
    finally:
        await connection.close()
        await engine.dispose()
        await queue.close()
    if ends_sound:
        report = await verify_database(database_url)
        assert report.is_sound, report.violations
