"""Reading and writing the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from asm_core.domain.audit import AuditEntry
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import parse_datetime
from asm_core.ports.store import Page


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which entries of a session; all conditions hold together."""

    run_id: str | None = None
    actions: str | Sequence[str] = ()
    """Any of them; empty: every action."""
    since: datetime | None = None
    """The store's clock, exclusive."""

    def __post_init__(self) -> None:
        """Raises AsmError `validation_error` for a time that is none."""
        try:
            since = None if self.since is None else parse_datetime(self.since)
        except ValueError as cause:
            raise AsmError(ErrorCode.VALIDATION_ERROR, f"since: {cause}", details={"field": "since"}) from cause
        object.__setattr__(self, "since", since)
        object.__setattr__(self, "actions", (self.actions,) if isinstance(self.actions, str) else tuple(self.actions))


EVERYTHING = AuditFilter()


class AuditLog(Protocol):
    """
    What the queue's transactions record of themselves (submit, claim, cancel, end, requeue; a session's creation and
    every change of its status), and what `manager.audit.AuditLogger` adds.

    Raises (every method): AsmError `storage_connection_failed`, `query_error`, `migration_required`.
    """

    async def get_audit_log(
        self,
        session_id: str,
        tenant_id: str,
        where: AuditFilter = EVERYTHING,
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[AuditEntry]:
        """
        Oldest first; of a deleted session too. An unknown session has none.

        A page misses nothing that is committed later: entries of a session become visible in their order.

        Raises AsmError `validation_error` for a limit below 1, `invalid_cursor`.
        """

    async def record(self, entry: AuditEntry) -> AuditEntry:
        """The entry as it is stored. Each call is an entry of its own. Raises AsmError `validation_error`."""
