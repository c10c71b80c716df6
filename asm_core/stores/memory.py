"""
Records in this process's memory: for scripts, notebooks and unit tests; gone with the process.

A transaction is one function call under a lock: nobody sees it half done, and what it wrote is taken back when it
raises. JSON values are kept encoded, so nothing that a caller can change is shared with the store, and everything reads
back in the form in which a database would give it.
"""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from asm_core.domain.event import Event, EventFrame
from asm_core.domain.fields import MAX_INTEGER, parse_datetime
from asm_core.domain.lifecycle import TERMINAL_RUNS
from asm_core.domain.run import Run, parse_run_status
from asm_core.domain.session import Session, parse_session_status
from asm_core.ports.clock import Clock
from asm_core.ports.store import EventFilter, FleetStats, Page, QueueStatus
from asm_core.stores import refusals
from asm_core.stores.local.append import number
from asm_core.stores.local.common import Tx, earliest, frames_of, in_order
from asm_core.stores.local.records import PRESENT, TABLES, Row, TableRule, Transaction, Where
from asm_core.stores.local.submit import position_of
from asm_core.stores.sql.convert import event_of, run_of, session_of
from asm_core.stores.sql.page_cursor import Binding, binding_of, check_limit, decode_cursor, encode_cursor
from asm_core.stores.sql.rows import bounds_row, event_rows, firsts, run_row, session_row
from asm_core.wire import dumps, loads

T = TypeVar("T")

Key = tuple[Any, ...]
Undo = Callable[[], None]


class MemoryRecords:
    """
    Safe to share between tasks and threads.

    Every call lets other tasks go first, as any store would: a loop that asks only this one must not hold them up.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._tables = {name: _EventTable(rule) if name == "events" else _Table(rule) for name, rule in TABLES.items()}

    async def write(self, work: Callable[[Transaction], T]) -> T:
        await asyncio.sleep(0)
        with self._turn:
            transaction = MemoryTransaction(self._tables)
            try:
                return work(transaction)
            except BaseException:
                transaction.undo()
                raise

    async def read(self, work: Callable[[MemoryTransaction], T]) -> T:
        await asyncio.sleep(0)
        with self._turn:
            return work(MemoryTransaction(self._tables))


class MemoryTransaction:
    """Writes at once, and remembers how to take it back."""

    def __init__(self, tables: Mapping[str, _Table]) -> None:
        self._tables = tables
        self._undo: list[Undo] = []

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()

    def find(self, table: str, *key: Any) -> Row | None:
        kept = self._tables[table].rows.get(key)
        return None if kept is None else _given(kept)

    def rows(self, table: str, where: Where, *, order_by: str | None = None, limit: int | None = None) -> list[Row]:
        found = self._tables[table].matching(where)
        ordered = found if order_by is None else sorted(found, key=lambda kept: kept[order_by])
        return [_given(kept) for kept in list(ordered)[:limit]]

    def column(self, table: str, name: str, where: Where) -> list[Any]:
        return [_decoded(kept[name]) for kept in self._tables[table].matching(where)]

    def insert(self, table: str, row: Row) -> Row:
        into = self._tables[table]
        kept = into.add({name: _kept(value) for name, value in into.rule.complete(row).items()})
        self._undo.append(lambda: into.remove(kept))
        return _given(kept)

    def insert_all(self, table: str, rows: Sequence[Row]) -> None:
        for row in rows:
            self.insert(table, row)

    def update(self, table: str, key: Any, **changes: Any) -> Row:
        within = self._tables[table]
        before = within.rows[(key,)]
        if unknown := changes.keys() - before.keys():
            raise KeyError(*unknown)
        after = {**before, **{name: _kept(value) for name, value in changes.items()}}
        within.replace(before, after)
        self._undo.append(lambda: within.replace(after, before))
        return _given(after)

    def delete(self, table: str, where: Where) -> None:
        for kept in list(self._tables[table].matching(where)):
            self._remove(self._tables[table], kept)

    def _remove(self, table: _Table, kept: Row) -> None:
        table.remove(kept)
        self._undo.append(lambda: table.restore(kept))

    def span(self, run_id: str, *, before_fence: int) -> tuple[int, int] | None:
        found = self._tables["events"].matching({"run_id": run_id})
        numbers = [kept["sequence_number"] for kept in found if (kept["fence"] or before_fence) < before_fence]
        return (min(numbers), max(numbers)) if numbers else None

    def events(self, session_id: str, *, after: int = 0, before: int | None = None) -> Iterable[Row]:
        """A session's events in order, by number (exclusive); what is not taken is not decoded."""
        table = self._tables["events"]
        assert isinstance(table, _EventTable)
        return (_given(table.rows[(session_id, number)]) for number in table.numbers(session_id, after, before))


@dataclass(frozen=True, slots=True)
class _Json:
    """A value that is not a scalar."""

    encoded: bytes


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        return _Json(dumps(value))
    return str(value) if isinstance(value, str) else value


def _decoded(value: Any) -> Any:
    return loads(value.encoded) if isinstance(value, _Json) else value


def _given(kept: Row) -> Row:
    return {name: _decoded(value) for name, value in kept.items()}


class _Table:
    """Rows by key, and by the columns they are looked for."""

    def __init__(self, rule: TableRule) -> None:
        self.rule = rule
        self.rows: dict[Key, Row] = {}
        self._lookups: dict[tuple[str, ...], dict[Key, dict[Key, Row]]] = {columns: {} for columns in rule.lookups}

    def add(self, kept: Row) -> Row:
        """Raises AsmError `validation_error`: the key is taken."""
        if self.rule.is_numbered:
            kept = {self.rule.key[0]: len(self.rows) + 1} | kept
        if self._key(kept) in self.rows:
            raise refusals.duplicate()
        self.restore(kept)
        return kept

    def restore(self, kept: Row) -> None:
        key = self._key(kept)
        self.rows[key] = kept
        for columns, found in self._lookups.items():
            found.setdefault(_values(kept, columns), {})[key] = kept

    def remove(self, kept: Row) -> None:
        key = self._key(kept)
        del self.rows[key]
        for columns, found in self._lookups.items():
            group = found[_values(kept, columns)]
            del group[key]
            if not group:
                del found[_values(kept, columns)]

    def replace(self, before: Row, after: Row) -> None:
        self.remove(before)
        self.restore(after)

    def matching(self, where: Where) -> Iterable[Row]:
        """In order of insertion, but for what was changed since."""
        return [
            kept for kept in self._candidates(where) if all(_meets(kept[name], given) for name, given in where.items())
        ]

    def _candidates(self, where: Where) -> Iterable[Row]:
        """Few rows, all that match among them."""
        if len(self.rule.key) == 1 and isinstance(keys := where.get(self.rule.key[0]), tuple):
            return [self.rows[(key,)] for key in keys if (key,) in self.rows]
        for columns, found in self._lookups.items():
            if all(name in where and where[name] is not PRESENT for name in columns):
                return [kept for values in _choices(where, columns) for kept in found.get(values, {}).values()]
        return self.rows.values()

    def _key(self, kept: Row) -> Key:
        return _values(kept, self.rule.key)


class _EventTable(_Table):
    """The logs: also by session and number, in order."""

    def __init__(self, rule: TableRule) -> None:
        super().__init__(rule)
        self._numbers: dict[str, list[int]] = {}

    def add(self, kept: Row) -> Row:
        if next(iter(self.matching({"id": kept["id"]})), None) is not None:
            raise refusals.duplicate()
        return super().add(kept)

    def restore(self, kept: Row) -> None:
        super().restore(kept)
        insort(self._numbers.setdefault(kept["session_id"], []), kept["sequence_number"])

    def remove(self, kept: Row) -> None:
        super().remove(kept)
        numbers = self._numbers[kept["session_id"]]
        del numbers[bisect_left(numbers, kept["sequence_number"])]

    def numbers(self, session_id: str, after: int, before: int | None) -> Sequence[int]:
        numbers = self._numbers.get(session_id, [])
        end = len(numbers) if before is None else bisect_left(numbers, before)
        return numbers[bisect_right(numbers, after) : end]


def _values(kept: Row, columns: Iterable[str]) -> Key:
    return tuple(kept[name] for name in columns)


def _choices(where: Where, columns: Sequence[str]) -> list[Key]:
    choices: list[Key] = [()]
    for name in columns:
        given = where[name] if isinstance(where[name], tuple) else (where[name],)
        choices = [(*chosen, value) for chosen in choices for value in given]
    return choices


def _meets(value: Any, condition: Any) -> bool:
    if condition is PRESENT:
        return value is not None
    return value in condition if isinstance(condition, tuple) else bool(value == condition)


class MemorySessionStore:
    """
    Args:
        records: shared with the queue.
        clock: the queue's; for ages.
    """

    def __init__(self, records: MemoryRecords, clock: Clock) -> None:
        self._records = records
        self._clock = clock

    async def get_session(self, session_id: str, tenant_id: str) -> Session:
        return await self._records.read(lambda db: session_of(_with_bounds(db, _session(db, session_id, tenant_id))))

    async def get_run(self, run_id: str, tenant_id: str) -> Run:
        def read(db: MemoryTransaction) -> Run:
            row = db.find("runs", run_id)
            if row is None or row["tenant_id"] != tenant_id:
                raise refusals.no_run(run_id)
            return _run(db, row)

        return await self._records.read(read)

    async def get_active_run(self, session_id: str, tenant_id: str) -> Run | None:
        def read(db: MemoryTransaction) -> Run | None:
            running = db.rows("runs", {"session_id": session_id, "tenant_id": tenant_id, "status": "running"})
            last = max(running, key=lambda run: (earliest(run["started_at"]), run["id"]), default=None)
            return None if last is None else _run(db, last)

        return await self._records.read(read)

    async def get_events(self, session_id: str, tenant_id: str, where: EventFilter, limit: int) -> list[EventFrame]:
        check_limit(limit)

        def read(db: MemoryTransaction) -> list[EventFrame]:
            found = (
                event
                for event in _log(db, session_id, where)
                if event["tenant_id"] == tenant_id and _admits(where, event)
            )
            return frames_of(islice(found, limit))

        return await self._records.read(read)

    async def latest_sequences(self, session_ids: Sequence[str]) -> Mapping[str, int]:
        def read(db: MemoryTransaction) -> Mapping[str, int]:
            counters = db.rows("session_sequences", {"session_id": tuple(session_ids)})
            return {counter["session_id"]: counter["last_sequence"] for counter in counters}

        return await self._records.read(read)

    async def queue_status(self, session_id: str, tenant_id: str) -> QueueStatus:
        return await self._records.read(lambda db: _queue_status(db, session_id, tenant_id, self._clock.now()))

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
        where: dict[str, Any] = {"tenant_id": tenant_id, "deleted_at": None}
        if status is not None:
            where["status"] = str(parse_session_status(status))
        if agent_id is not None:
            where["agent_id"] = agent_id

        def read(db: MemoryTransaction) -> Page[Session]:
            found = [row for row in db.rows("sessions", where) if tag is None or tag in row["tags"]]
            given = {"tenant_id": tenant_id, "status": status, "agent_id": agent_id, "tag": tag}
            rows, following = _page(found, binding_of("session", "created_at_desc", given), limit, cursor)
            return Page([session_of(_with_bounds(db, row)) for row in rows], following)

        return await self._records.read(read)

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
        where: dict[str, Any] = {"tenant_id": tenant_id}
        if session_id is not None:
            where["session_id"] = session_id
        if status is not None:
            where["status"] = str(parse_run_status(status))
        if provider is not None:
            where["provider"] = provider

        def read(db: MemoryTransaction) -> Page[Run]:
            given = {"tenant_id": tenant_id, "session_id": session_id, "status": status, "provider": provider}
            binding = binding_of("run", "created_at_desc", given)
            rows, following = _page(db.rows("runs", where), binding, limit, cursor)
            return Page([_run(db, row) for row in rows], following)

        return await self._records.read(read)

    async def stats(self, tenant_id: str) -> FleetStats:
        return await self._records.read(lambda db: _stats(db, tenant_id, self._clock.now()))

    # Writing

    async def save_session(self, session: Session) -> None:
        row, bounds = session_row(session), bounds_row(session)
        await self._records.write(lambda db: _save_session(db, row, bounds))

    async def save_run(self, run: Run) -> None:
        row = run_row(run)
        await self._records.write(lambda db: _save_run(db, row))

    async def delete_session(self, session_id: str, tenant_id: str) -> None:
        where = {"session_id": session_id, "tenant_id": tenant_id}

        def delete(db: Transaction) -> None:
            if db.rows("inherited_events", {"source_session_id": session_id, "tenant_id": tenant_id}, limit=1):
                raise refusals.has_forks(session_id)
            for table in TABLES_OF_A_SESSION:
                db.delete(table, where)
            db.delete("sessions", {"id": session_id, "tenant_id": tenant_id})

        await self._records.write(delete)

    async def append_events(self, events: Sequence[Event], tenant_id: str) -> list[Event]:
        rows = event_rows(events, tenant_id)
        return await self._records.write(lambda db: _append(Tx(db, self._clock.now()), rows))

    async def flush(self, session: Session, run: Run, events: Sequence[Event]) -> list[Event]:
        row, bounds, run_values = session_row(session), bounds_row(session), run_row(run)
        rows = event_rows(events, session.tenant_id)

        def store(db: Transaction) -> list[Event]:
            _save_session(db, row, bounds)
            _save_run(db, run_values)
            return _append(Tx(db, self._clock.now()), rows)

        return await self._records.write(store)


TABLES_OF_A_SESSION = (
    "events", "runs", "run_leases", "artifacts", "idempotency_keys", "session_sequences", "session_runtime",
    "inherited_events",
)  # fmt: skip
"""What goes with a session when it is deleted; its audit log stays."""


def _save_session(db: Transaction, row: Row, bounds: Row) -> None:
    known = db.find("sessions", row["id"])
    if known is not None and known["tenant_id"] != row["tenant_id"]:
        raise refusals.id_taken("session", row["id"])
    counter = db.find("session_sequences", row["id"])
    if counter is not None and counter["tenant_id"] != row["tenant_id"]:
        raise refusals.id_taken("session", row["id"])
    _save(db, "sessions", row, known)
    _save(db, "session_runtime", bounds, db.find("session_runtime", row["id"]))
    if counter is None:
        db.insert("session_sequences", {"session_id": row["id"], "tenant_id": row["tenant_id"]})


def _save_run(db: Transaction, row: Row) -> None:
    known = db.find("runs", row["id"])
    if known is not None and known["tenant_id"] != row["tenant_id"]:
        raise refusals.id_taken("run", row["id"])
    if known is not None and known["status"] in TERMINAL_RUNS and known["status"] != row["status"]:
        raise refusals.final(row["id"], known["status"], row["status"])
    session = db.find("sessions", row["session_id"])
    if session is not None and session["tenant_id"] != row["tenant_id"]:
        raise refusals.no_session(row["session_id"])
    _save(db, "runs", row, known)


def _save(db: Transaction, table: str, row: Row, known: Row | None) -> None:
    if known is None:
        db.insert(table, row)
    else:
        [key] = TABLES[table].key
        db.update(table, row[key], **row)


def _append(tx: Tx, rows: Sequence[Row]) -> list[Event]:
    for session_id in {row["session_id"] for row in rows}:
        counter = tx.db.find("session_sequences", session_id)
        if counter is not None and counter["tenant_id"] != rows[0]["tenant_id"]:
            raise refusals.no_session(session_id)
    stored = {event["id"]: event for event in tx.db.rows("events", {"id": tuple(row["id"] for row in rows)})}
    fresh = [row for row in firsts(rows) if row["id"] not in stored]
    number(tx, fresh)
    for row in fresh:
        stored[row["id"]] = tx.db.insert("events", row | {"stored_at": tx.now})
    for row in rows:
        found = stored[row["id"]]
        if (found["session_id"], found["tenant_id"]) != (row["session_id"], row["tenant_id"]):
            raise refusals.id_taken("event", row["id"])
    return [event_of(stored[row["id"]]) for row in rows]


# Reading


def _session(db: MemoryTransaction, session_id: str, tenant_id: str) -> Row:
    row = db.find("sessions", session_id)
    if row is None or row["tenant_id"] != tenant_id:
        raise refusals.no_session(session_id)
    return row


def _with_bounds(db: MemoryTransaction, session: Row) -> Row:
    return session | (db.find("session_runtime", session["id"]) or {})


def _run(db: MemoryTransaction, row: Row) -> Run:
    return run_of(row | {"position": position_of(db, row)})


def _log(db: MemoryTransaction, session_id: str, where: EventFilter) -> Iterator[Row]:
    """A fork's begins with events of the sessions that wrote them."""
    parts = db.rows("inherited_events", {"session_id": session_id}, order_by="first_sequence")
    for part in parts:
        after = max(where.after, part["first_sequence"] - 1)
        before = min(MAX_INTEGER if where.before is None else where.before, part["last_sequence"] + 1)
        if after < before:
            yield from db.events(part["source_session_id"], after=after, before=before)
    yield from db.events(session_id, after=where.after, before=where.before)


def _admits(where: EventFilter, event: Row) -> bool:
    return (
        (not where.types or event["type"] in where.types)
        and (where.run_id is None or event["run_id"] == where.run_id)
        and (where.since is None or event["timestamp"] > where.since)
    )


def _page(rows: list[Row], binding: Binding, limit: int, cursor: str | None) -> tuple[list[Row], str | None]:
    """Newest first, by (created_at, id)."""
    check_limit(limit)
    if cursor is not None:
        behind = decode_cursor(cursor, binding, parse_datetime)
        rows = [row for row in rows if (row["created_at"], row["id"]) < behind]
    newest = sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)
    if len(newest) <= limit:
        return newest, None
    last = newest[limit - 1]
    return newest[:limit], encode_cursor(binding, last["created_at"], last["id"])


def _queue_status(db: MemoryTransaction, session_id: str, tenant_id: str, now: datetime) -> QueueStatus:
    session = _with_bounds(db, _session(db, session_id, tenant_id))
    counter = db.find("session_sequences", session_id)
    waiting = in_order(db.rows("runs", {"session_id": session_id, "status": "pending", "submit_seq": PRESENT}))
    oldest = min((run["created_at"] for run in waiting), default=None)
    return QueueStatus(
        session_id=session_id,
        in_flight_runs=_ids(db, session_id, "running"),
        queued_runs=[run["id"] for run in waiting],
        parked_runs=_ids(db, session_id, "awaiting_approval"),
        max_concurrent_runs=session["max_concurrent_runs"],
        max_queued_runs=session["max_queued_runs"],
        oldest_queued_age_ms=None if oldest is None else _age_ms(oldest, now),
        limiter_waiting=session["limiter_waiting_since"] is not None,
        state=session["status"],
        last_sequence=counter["last_sequence"] if counter else 0,
    )


def _ids(db: MemoryTransaction, session_id: str, status: str) -> list[str]:
    return [run["id"] for run in in_order(db.rows("runs", {"session_id": session_id, "status": status}))]


def _age_ms(since: datetime, now: datetime) -> int:
    return int((now - since).total_seconds() * 1000)


def _stats(db: MemoryTransaction, tenant_id: str, now: datetime) -> FleetStats:
    mine = {"tenant_id": tenant_id}
    fleet = [_worker(db, worker) for worker in db.rows("workers", {"lost_at": None}, order_by="id")]
    oldest = min(db.column("runs", "created_at", mine | {"status": "pending"}), default=None)
    return FleetStats(
        sessions=Counter(db.column("sessions", "status", mine)),
        runs=Counter(db.column("runs", "status", mine)),
        events=sum(db.column("session_sequences", "last_sequence", mine))
        - sum(number or 0 for number in db.column("sessions", "forked_at", mine)),
        workers=fleet,
        slots=sum(worker["slots"] for worker in fleet if not worker["draining"]),
        in_flight=sum(worker["in_flight"] for worker in fleet),
        oldest_pending_age_ms=None if oldest is None else _age_ms(oldest, now),
    )


def _worker(db: MemoryTransaction, worker: Row) -> Row:
    told = {name: worker[name] for name in ("id", "hostname", "pid", "slots", "draining")}
    return told | {"in_flight": len(db.column("run_leases", "run_id", {"worker_id": worker["id"]}))}
