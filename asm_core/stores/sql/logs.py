"""Where a session's log stands: its own events, and behind a fork's beginning those of the sessions it refers to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from asm_core.stores.sql.tables import events, inherited_events
from asm_core.stores.sql.transactions import fetch


class Part(NamedTuple):
    """Consecutive numbers of one log, stored with the session that wrote them."""

    session_id: str
    first: int = 1
    last: int | None = None
    """None: whatever is stored."""

    @property
    def holds(self) -> sa.ColumnElement[bool]:
        """Of an event."""
        conditions = [events.c.session_id == self.session_id]
        if self.last is not None:
            conditions.append(events.c.sequence_number.between(self.first, self.last))
        return sa.and_(*conditions)


async def parts_of(
    connection: AsyncConnection, session_ids: Sequence[str], tenant_id: str, *, after: int = 0
) -> list[Part]:
    """The parts of a log that reach beyond `after`, in order of their numbers; of several logs, log by log."""
    if not session_ids:
        return []
    inherited = inherited_events.c
    query = (
        sa.select(inherited.source_session_id, inherited.first_sequence, inherited.last_sequence)
        .where(inherited.session_id.in_(session_ids), inherited.tenant_id == tenant_id)
        .where(inherited.last_sequence > after)
        .order_by(inherited.session_id, inherited.first_sequence)
    )
    rows = await fetch(connection, query)
    referred = [Part(row["source_session_id"], row["first_sequence"], row["last_sequence"]) for row in rows]
    return [*referred, *map(Part, session_ids)]


def any_of(parts: Sequence[Part]) -> sa.ColumnElement[bool]:
    """Of an event: it stands in one of the parts."""
    return sa.or_(*(part.holds for part in parts))
