"""
Which sessions maintenance may touch: those at rest, without a run that is queued, in flight or parked.

Every transaction that could give a session work locks its runtime row first (submit, claim, finish, …). So whoever
holds that row, and only then sees the session at rest, may take its time.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from asm_core.domain.lifecycle import TERMINAL_RUNS, RunStatus
from asm_core.domain.retention import RetentionPolicy
from asm_core.stores.sql.dialect import Dialect
from asm_core.stores.sql.tables import inherited_events, run_leases, runs, session_runtime, sessions

Condition = sa.ColumnElement[bool]

_WORKING = [status for status in RunStatus if status not in TERMINAL_RUNS]


def at_rest() -> Condition:
    """Of a session."""
    leased = sa.exists(sa.select(run_leases.c.run_id).where(run_leases.c.session_id == sessions.c.id))
    working = sa.exists(sa.select(runs.c.id).where(runs.c.session_id == sessions.c.id, runs.c.status.in_(_WORKING)))
    return sa.and_(~leased, ~working)


def not_forked() -> Condition:
    """Of a session: no other log begins with its events."""
    referring = sa.select(inherited_events.c.session_id).where(inherited_events.c.source_session_id == sessions.c.id)
    return ~sa.exists(referring)


def not_exempt(policy: RetentionPolicy, dialect: Dialect) -> Condition:
    """Of a session: neither its status nor a tag protects it."""
    conditions: list[Condition] = []
    if policy.exempt_statuses:
        conditions.append(sessions.c.status.not_in(policy.exempt_statuses))
    if policy.exempt_tags:
        conditions.append(~dialect.has_any(sessions.c.tags, policy.exempt_tags))
    return sa.and_(sa.true(), *conditions)


async def lock_resting(
    tx: AsyncConnection, tenant_id: str, session_ids: Sequence[str], *conditions: Condition
) -> list[str]:
    """
    Those of the sessions that are at rest and fulfil the conditions; they stay so until the transaction ends.

    Two statements: what the second sees was committed before the locks were taken. Sessions that somebody is busy with
    are skipped, not waited for.
    """
    locking = (
        sa.select(session_runtime.c.session_id)
        .where(session_runtime.c.tenant_id == tenant_id, session_runtime.c.session_id.in_(session_ids))
        .order_by(session_runtime.c.session_id)
        .with_for_update(skip_locked=True)
    )
    locked = (await tx.scalars(locking)).all()
    resting = sa.select(sessions.c.id).where(sessions.c.tenant_id == tenant_id, sessions.c.id.in_(locked))
    return [*(await tx.scalars(resting.where(at_rest(), *conditions).order_by(sessions.c.id))).all()]
