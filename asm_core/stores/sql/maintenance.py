"""
Maintenance over SQLAlchemy Core: retention, orphans, health; for one tenant per call.

One maintenance of a tenant at a time (`turns.py`). That only saves work: every step locks what it changes, in batches,
skips what others hold, and looks again before it acts, so a turn that outlives its holder delays maintenance and
endangers nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import parse_datetime
from asm_core.domain.retention import RetentionPolicy
from asm_core.ports.query import MaintenanceReport, Step
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.sql import writes
from asm_core.stores.sql.dialect import dialect_of
from asm_core.stores.sql.pruning import Pruning
from asm_core.stores.sql.resting import at_rest, lock_resting, not_exempt, not_forked
from asm_core.stores.sql.tables import (
    artifacts,
    audit_log,
    events,
    runs,
    session_sequences,
    sessions,
)
from asm_core.stores.sql.transactions import fetch, snapshot, with_connection, writing
from asm_core.stores.sql.turns import turn

log = logging.getLogger(__name__)

MAX_SHOWN = 20
"""Sessions with a wrong counter that a health check names."""

Condition = sa.ColumnElement[bool]


class Blobs(Protocol):
    """Where the contents of artifacts are, each under its row's `storage_ref`; every `ArtifactStore` is one."""

    @property
    def backend(self) -> str: ...

    async def delete(self, key: str) -> object: ...


class SqlMaintenance:
    """
    Args:
        engine: from `open_engine`; two connections are used at a time.
        blobs: contents of the artifacts of deleted sessions are removed from here; when omitted they stay. The store
            that holds the bytes, as for `collect_garbage`: what lies in stores of another kind is left alone.

    Raises:
        AsmError: `validation_error` for a `RegisteringArtifactStore`: it knows artifacts by key and deletes no bytes.
    """

    def __init__(self, engine: AsyncEngine, *, blobs: Blobs | None = None) -> None:
        if isinstance(blobs, RegisteringArtifactStore):
            message = "blobs must be the store below a RegisteringArtifactStore"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "blobs"})
        self._engine = engine
        self._dialect = dialect_of(engine)
        self._blobs = blobs

    async def execute(
        self, policy: RetentionPolicy, tenant_id: str, *, now: datetime | None = None
    ) -> MaintenanceReport:
        policy.validate()
        began = time.monotonic()
        async with self._turn(tenant_id) as is_mine:
            if not is_mine:
                return MaintenanceReport(already_running=True)
            now = now or await self._now()
            soft = await _attempt("soft delete", self._soft_delete(policy, tenant_id, now))
            hard = await _attempt("hard delete", self._hard_delete(policy, tenant_id, now))
            pruned = await _attempt("prune", Pruning(self._engine, self._dialect, policy, tenant_id).prune_all())
            orphans = await _attempt("artifacts", self._clean_artifacts(tenant_id, policy.batch_size))
            counters = await _attempt("sequences", self._clean_sequences(tenant_id, policy.batch_size))
        report = MaintenanceReport(
            sessions_soft_deleted=soft.count,
            sessions_hard_deleted=hard.count,
            events_pruned=pruned.count,
            artifacts_cleaned=orphans.count,
            orphaned_sequences_cleaned=counters.count,
            duration_ms=int((time.monotonic() - began) * 1000),
            errors=[error for step in (soft, hard, pruned, orphans, counters) for error in step.errors],
        )
        log.info("maintenance of tenant %s: %s", tenant_id, report.to_map())
        return report

    async def soft_delete_expired_sessions(
        self, policy: RetentionPolicy, tenant_id: str, *, now: datetime | None = None
    ) -> int:
        policy.validate()
        async with self._own_turn(tenant_id):
            return (await self._soft_delete(policy, tenant_id, now or await self._now())).count

    async def hard_delete_expired_sessions(
        self, policy: RetentionPolicy, tenant_id: str, *, now: datetime | None = None
    ) -> Step:
        policy.validate()
        async with self._own_turn(tenant_id):
            return await self._hard_delete(policy, tenant_id, now or await self._now())

    async def prune_session_events(self, session_id: str, tenant_id: str, policy: RetentionPolicy) -> int:
        policy.validate()
        async with self._own_turn(tenant_id):
            pruning = Pruning(self._engine, self._dialect, policy, tenant_id)
            return sum([gone async for gone in pruning.prune_session(session_id)])

    async def clean_orphaned_artifacts(self, tenant_id: str, *, batch_size: int = 100) -> int:
        RetentionPolicy(batch_size=batch_size).validate()
        async with self._own_turn(tenant_id):
            return (await self._clean_artifacts(tenant_id, batch_size)).count

    async def health_check(self, tenant_id: str) -> list[str]:
        async with snapshot(self._engine) as connection:
            found = []
            for table, name in ((events, "events"), (runs, "runs")):
                count = await connection.scalar(_ownerless(table, tenant_id))
                if count:
                    found.append(f"{count} {name} reference missing sessions")
            wrong = await fetch(connection, _counters_behind(tenant_id))
        return found + [
            f"sequence mismatch for {row['session_id']}: {row['last_sequence']}, {row['highest']}" for row in wrong
        ]

    def _turn(self, tenant_id: str) -> AbstractAsyncContextManager[bool]:
        """Whether nobody else maintains this tenant now; held until the block ends."""
        return turn(self._engine, f"asm maintenance {tenant_id}")

    @asynccontextmanager
    async def _own_turn(self, tenant_id: str) -> AsyncIterator[None]:
        """Raises AsmError `maintenance_error` when somebody else maintains this tenant."""
        async with self._turn(tenant_id) as is_mine:
            if not is_mine:
                message = f"maintenance of tenant {tenant_id} is already running"
                raise AsmError(ErrorCode.MAINTENANCE_ERROR, message, details={"reason": "already_running"})
            yield

    async def _now(self) -> datetime:
        query = sa.select(self._dialect.now())
        return parse_datetime(await with_connection(self._engine, lambda connection: connection.scalar(query)))

    async def _soft_delete(self, policy: RetentionPolicy, tenant_id: str, now: datetime) -> Step:
        expired = _expired(policy, now)
        if expired is None:
            return Step()
        conditions = (sessions.c.deleted_at.is_(None), expired, not_exempt(policy, self._dialect))
        count = 0
        async for found in self._batches(tenant_id, policy.batch_size, *conditions, at_rest()):
            async with writing(self._engine) as tx:
                ids = await lock_resting(tx, tenant_id, found, *conditions)
                mine = (sessions.c.id.in_(ids), sessions.c.tenant_id == tenant_id)
                await tx.execute(sa.update(sessions).where(*mine).values(deleted_at=now))
            count += len(ids)
        return Step(count=count)

    async def _hard_delete(self, policy: RetentionPolicy, tenant_id: str, now: datetime) -> Step:
        """One transaction per session: it goes whole or stays whole."""
        age = policy.hard_delete_after
        if age is None:
            return Step()
        gone_long_ago = sa.and_(sessions.c.deleted_at < now - age, not_forked())
        count, errors = 0, list[str]()
        async for found in self._batches(tenant_id, policy.batch_size, gone_long_ago, at_rest()):
            for session_id in found:
                try:
                    refs = await self._delete_session(session_id, tenant_id, gone_long_ago)
                    count += refs is not None
                    errors += await self._delete_blobs(refs or ())
                except AsmError as error:
                    errors.append(f"session {session_id}: {error.message}")
        return Step(count=count, errors=errors)

    async def _batches(self, tenant_id: str, size: int, *conditions: Condition) -> AsyncIterator[Sequence[str]]:
        """Ids of sessions, each once, in their order: what could not be dealt with is passed, not met again."""
        after = ""
        while True:
            query = sa.select(sessions.c.id).where(sessions.c.tenant_id == tenant_id, sessions.c.id > after)
            query = query.where(*conditions).order_by(sessions.c.id).limit(size)
            rows = await self._all(query)
            if not rows:
                return
            yield [row["id"] for row in rows]
            after = rows[-1]["id"]

    async def _all(self, query: sa.Select[Any]) -> Sequence[dict[str, Any]]:
        return await with_connection(self._engine, lambda connection: fetch(connection, query))

    async def _delete_session(self, session_id: str, tenant_id: str, *conditions: Condition) -> list[str] | None:
        """Where the contents of its artifacts lie; None when it is not to be deleted after all."""
        async with writing(self._engine) as tx:
            if not await lock_resting(tx, tenant_id, [session_id], *conditions):
                return None
            refs = await self._refs_of(tx, session_id, tenant_id)
            await writes.delete_session(tx, session_id, tenant_id)
            trace = {"tenant_id": tenant_id, "action": "session.deleted", "session_id": session_id, "data": {}}
            await tx.execute(sa.insert(audit_log).values(trace))
        return refs

    async def _refs_of(self, tx: AsyncConnection, session_id: str, tenant_id: str) -> list[str]:
        """In the store of contents, hidden rows' too."""
        if self._blobs is None:
            return []
        mine = (artifacts.c.session_id == session_id, artifacts.c.tenant_id == tenant_id)
        refs = sa.select(artifacts.c.storage_ref).distinct().order_by(artifacts.c.storage_ref)
        held_here = artifacts.c.storage_backend == self._blobs.backend
        return [*(await tx.scalars(refs.where(*mine, held_here))).all()]

    async def _delete_blobs(self, refs: Sequence[str]) -> list[str]:
        """What went wrong: the rows are gone, so all that is left behind is told. What another row holds stays."""
        if self._blobs is None or not refs:
            return []
        kept = await self._referenced(refs)
        errors = []
        for ref in refs:
            if ref in kept:
                continue
            try:
                await self._blobs.delete(ref)
            except Exception as cause:  # whatever the store raises
                errors.append(f"artifact content {ref} could not be deleted ({type(cause).__name__})")
        return errors

    async def _referenced(self, refs: Sequence[str]) -> set[str]:
        """Those that a row points at, whosever it is."""
        found: set[str] = set()
        for start in range(0, len(refs), writes.MAX_CHOICES):
            some = artifacts.c.storage_ref.in_(refs[start : start + writes.MAX_CHOICES])
            found |= {row["storage_ref"] for row in await self._all(sa.select(artifacts.c.storage_ref).where(some))}
        return found

    async def _clean_artifacts(self, tenant_id: str, batch_size: int) -> Step:
        ownerless = (artifacts.c.session_id.is_not(None), ~_has_session(artifacts))
        return await self._delete_orphans(artifacts, artifacts.c.id, tenant_id, batch_size, *ownerless)

    async def _clean_sequences(self, tenant_id: str, batch_size: int) -> Step:
        """Only of sessions without events too: a counter that began again would give numbers out twice."""
        has_events = sa.exists(sa.select(events.c.id).where(events.c.session_id == session_sequences.c.session_id))
        ownerless = (~_has_session(session_sequences), ~has_events)
        key = session_sequences.c.session_id
        return await self._delete_orphans(session_sequences, key, tenant_id, batch_size, *ownerless)

    async def _delete_orphans(
        self, table: sa.Table, key: sa.ColumnElement[str], tenant_id: str, size: int, *conditions: Condition
    ) -> Step:
        orphans = sa.select(key).where(table.c.tenant_id == tenant_id, *conditions).order_by(key).limit(size)
        count = 0
        while True:
            async with writing(self._engine) as tx:
                keys = (await tx.scalars(orphans.with_for_update(skip_locked=True))).all()
                await tx.execute(sa.delete(table).where(table.c.tenant_id == tenant_id, key.in_(keys)))
            count += len(keys)
            if len(keys) < size:
                return Step(count=count)


def _expired(policy: RetentionPolicy, now: datetime) -> Condition | None:
    """Of a session; its last change stands for its completion."""
    ages: Sequence[tuple[sa.ColumnElement[datetime], timedelta | None]] = (
        (sessions.c.updated_at, policy.max_completed_session_age),
        (sessions.c.created_at, policy.max_session_age),
    )
    conditions = [column < now - age for column, age in ages if age is not None]
    return sa.or_(*conditions) if conditions else None


def _has_session(table: sa.Table) -> Condition:
    return sa.exists(sa.select(sessions.c.id).where(sessions.c.id == table.c.session_id))


def _ownerless(table: sa.Table, tenant_id: str) -> sa.Select[int]:
    return sa.select(sa.func.count()).where(table.c.tenant_id == tenant_id, ~_has_session(table))


def _counters_behind(tenant_id: str) -> sa.Select[Any]:
    """A counter may be ahead of the highest number that is left, never behind it."""
    highest = (
        sa.select(events.c.session_id, sa.func.max(events.c.sequence_number).label("highest"))
        .where(events.c.tenant_id == tenant_id)
        .group_by(events.c.session_id)
        .subquery()
    )
    columns: tuple[sa.ColumnElement[Any], ...] = (
        session_sequences.c.session_id,
        session_sequences.c.last_sequence,
        highest.c.highest,
    )
    return (
        sa.select(*columns)
        .join(highest, highest.c.session_id == session_sequences.c.session_id)
        .where(session_sequences.c.tenant_id == tenant_id, session_sequences.c.last_sequence < highest.c.highest)
        .order_by(session_sequences.c.session_id)
        .limit(MAX_SHOWN)
    )


async def _attempt(name: str, step: Awaitable[Step]) -> Step:
    """A step that fails counts nothing and says why."""
    try:
        return await step
    except AsmError as error:
        return Step(errors=[f"{name}: {error.message}"])
