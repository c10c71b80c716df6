"""
Removing events of sessions at rest, without making anything that remains a lie.

The doomed are chosen and archived without a lock (events never change); then one transaction per session and batch
locks the session, looks again whether it is at rest and prunable, adds the usage that goes to what its runs say of
pruned usage, deletes, and counts. So `verify` still accounts for every number and every sum.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import to_jsonable
from asm_core.domain.retention import PROTECTED_TYPES, RetentionPolicy
from asm_core.ports.query import Step
from asm_core.stores.sql.dialect import Dialect
from asm_core.stores.sql.resting import at_rest, lock_resting, not_exempt, not_forked
from asm_core.stores.sql.tables import events, session_sequences, sessions
from asm_core.stores.sql.transactions import fetch, with_connection, writing
from asm_core.wire import dumps

_forks = sessions.alias("forks")
_REFERRED = sa.select(_forks.c.forked_at).where(_forks.c.id == session_sequences.c.session_id).scalar_subquery()
STORED = session_sequences.c.last_sequence - session_sequences.c.pruned_count - sa.func.coalesce(_REFERRED, 0)
"""How many events a session has of its own."""

Condition = sa.ColumnElement[bool]


class Pruning:
    """
    Under one policy, for one tenant.

    Contract: the policy is valid, and the caller holds the turn.
    """

    def __init__(self, engine: AsyncEngine, dialect: Dialect, policy: RetentionPolicy, tenant_id: str) -> None:
        self._engine = engine
        self._dialect = dialect
        self._policy = policy
        self._tenant_id = tenant_id

    async def prune_all(self) -> Step:
        """Each session down to its bound, then the oldest events wherever they are, down to the tenant's."""
        count, errors = 0, list[str]()
        for session_id in await self._oversized():
            try:
                async for gone in self.prune_session(session_id):
                    count += gone
            except AsmError as error:
                errors.append(f"session {session_id}: {error.message}")
        total = await self._prune_total()
        return Step(count=count + total.count, errors=[*errors, *total.errors])

    async def prune_session(self, session_id: str) -> AsyncIterator[int]:
        """How many events each batch removed. Raises AsmError; what was yielded is done."""
        bound = self._policy.max_events_per_session
        if bound is None:
            return
        excess = await self._stored(session_sequences.c.session_id == session_id) - bound
        for worth in self._passes():
            after = 0
            while excess > 0:
                numbers = await self._doomed_of(session_id, worth, after, excess)
                if not numbers:
                    break
                gone = await self._remove(session_id, numbers)
                yield gone
                excess -= gone
                after = numbers[-1]

    async def _prune_total(self) -> Step:
        bound = self._policy.max_total_events
        if bound is None:
            return Step()
        excess = await self._stored() - bound
        count, errors = 0, list[str]()
        for worth in self._passes():
            place: Sequence[Condition] = ()
            while excess > count:
                rows = await self._doomed_of_all(worth, place, excess - count)
                if not rows:
                    break
                for session_id, numbers in _by_session(rows):
                    try:
                        count += await self._remove(session_id, numbers)
                    except AsmError as error:
                        errors.append(f"session {session_id}: {error.message}")
                place = (_behind(rows[-1]),)
        return Step(count=count, errors=errors)

    async def _oversized(self) -> Sequence[str]:
        bound = self._policy.max_events_per_session
        if bound is None:
            return []
        query = (
            sa.select(session_sequences.c.session_id)
            .join(sessions, sessions.c.id == session_sequences.c.session_id)
            .where(session_sequences.c.tenant_id == self._tenant_id, bound < STORED)
            .where(not_exempt(self._policy, self._dialect))
            .order_by(session_sequences.c.session_id)
        )
        return [row["session_id"] for row in await self._read(query)]

    async def _stored(self, *conditions: Condition) -> int:
        query = sa.select(sa.func.coalesce(sa.func.sum(STORED), 0).label("stored"))
        [row] = await self._read(query.where(session_sequences.c.tenant_id == self._tenant_id, *conditions))
        return int(row["stored"])

    def _passes(self) -> tuple[Condition, Condition]:
        """What is worth least, then the rest; neither holds a protected type."""
        least = events.c.type.in_(self._policy.prune_event_types_first)
        return least, sa.and_(~least, events.c.type.not_in(PROTECTED_TYPES))

    async def _doomed_of(self, session_id: str, worth: Condition, after: int, most: int) -> list[int]:
        """
        The next batch of a session: one walk along its primary key, with all about the session asked beside it.

        Its newest event is never in it: who follows the session from its beginning would otherwise wait for the
        counter's number for ever.
        """
        last = sa.select(session_sequences.c.last_sequence).where(
            session_sequences.c.session_id == session_id, session_sequences.c.tenant_id == self._tenant_id
        )
        prunable = sa.select(sessions.c.id).where(sessions.c.id == session_id, sessions.c.tenant_id == self._tenant_id)
        query = sa.select(events.c.sequence_number).where(
            events.c.tenant_id == self._tenant_id,
            events.c.session_id == session_id,
            events.c.sequence_number > after,
            events.c.sequence_number < last.scalar_subquery(),
            worth,
            sa.exists(prunable.where(at_rest(), not_forked(), not_exempt(self._policy, self._dialect))),
        )
        query = query.order_by(events.c.session_id, events.c.sequence_number)
        return [row["sequence_number"] for row in await self._read(query.limit(self._batch(most)))]

    async def _doomed_of_all(self, worth: Condition, place: Sequence[Condition], most: int) -> Sequence[dict[str, Any]]:
        """The next batch of the tenant, by the events' own time; of each session as `_doomed_of`."""
        query = (
            sa.select(events.c.session_id, events.c.sequence_number, events.c.timestamp, events.c.id)
            .join(session_sequences, session_sequences.c.session_id == events.c.session_id)
            .join(sessions, sessions.c.id == events.c.session_id)
            .where(events.c.tenant_id == self._tenant_id, worth, *place)
            .where(events.c.sequence_number < session_sequences.c.last_sequence)
            .where(at_rest(), not_forked(), not_exempt(self._policy, self._dialect))
            .order_by(events.c.timestamp, events.c.id)
        )
        return await self._read(query.limit(self._batch(most)))

    def _batch(self, most: int) -> int:
        return min(most, self._policy.batch_size)

    async def _remove(self, session_id: str, numbers: Sequence[int]) -> int:
        """How many went: none when the session has work again, or is exempt by now."""
        if self._policy.archive_before_prune:
            await self._archive(session_id, numbers)
        doomed = {"tenant_id": self._tenant_id, "session_id": session_id, "numbers": [*numbers]}
        async with writing(self._engine) as tx:
            exempt = not_exempt(self._policy, self._dialect)
            if not await lock_resting(tx, self._tenant_id, [session_id], exempt, not_forked()):
                return 0
            await tx.execute(self._dialect.keep_usage, doomed)
            gone = (await tx.execute(sa.delete(events).where(*self._these(session_id, numbers)))).rowcount
            counted = {"pruned_count": session_sequences.c.pruned_count + gone}
            mine = (session_sequences.c.session_id == session_id, session_sequences.c.tenant_id == self._tenant_id)
            await tx.execute(sa.update(session_sequences).where(*mine).values(counted))
        return int(gone)

    async def _archive(self, session_id: str, numbers: Sequence[int]) -> None:
        """The rows as JSON Lines, compressed; the same rows make the same bytes under the same key."""
        store = self._policy.archive_store
        assert store is not None, "the policy is valid"
        query = sa.select(events).where(*self._these(session_id, numbers)).order_by(events.c.sequence_number)
        lines = b"".join(dumps(to_jsonable(row)) + b"\n" for row in await self._read(query))
        key = f"archive/{session_id}/{min(numbers)}-{max(numbers)}.jsonl.gz"
        try:
            await store.put(key, gzip.compress(lines, mtime=0))
        except Exception as cause:  # whatever the store raises: nothing was archived, so nothing goes
            message = f"cannot archive {key} ({type(cause).__name__})"
            raise AsmError(ErrorCode.MAINTENANCE_ERROR, message, details={"key": key}) from cause

    def _these(self, session_id: str, numbers: Sequence[int]) -> tuple[Condition, ...]:
        return (
            events.c.tenant_id == self._tenant_id,
            events.c.session_id == session_id,
            events.c.sequence_number.in_(numbers),
        )

    async def _read(self, query: sa.Select[Any]) -> Sequence[dict[str, Any]]:
        return await with_connection(self._engine, lambda connection: fetch(connection, query))


def _by_session(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    place = itemgetter("session_id", "sequence_number")
    grouped = groupby(sorted(rows, key=place), key=itemgetter("session_id"))
    return [(session_id, [row["sequence_number"] for row in group]) for session_id, group in grouped]


def _behind(row: dict[str, Any]) -> Condition:
    at = sa.literal(row["timestamp"], events.c.timestamp.type)
    return sa.tuple_(events.c.timestamp, events.c.id) > sa.tuple_(at, sa.literal(row["id"]))
