"""The audit log among the records in memory."""

from __future__ import annotations

from asm_core.domain.audit import AuditEntry
from asm_core.ports.audit import EVERYTHING, AuditFilter
from asm_core.ports.clock import Clock
from asm_core.ports.store import Page
from asm_core.stores.audit_page import AuditPager, Row, entry_of, entry_row
from asm_core.stores.local.records import Transaction
from asm_core.stores.memory import MemoryRecords


class MemoryAuditLog:
    """
    Args:
        records: shared with the queue.
        clock: the queue's.
    """

    def __init__(self, records: MemoryRecords, clock: Clock) -> None:
        self._records = records
        self._clock = clock

    async def get_audit_log(
        self,
        session_id: str,
        tenant_id: str,
        where: AuditFilter = EVERYTHING,
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[AuditEntry]:
        pager = AuditPager(session_id=session_id, tenant_id=tenant_id, where=where, limit=limit, cursor=cursor)
        after = pager.after()

        def read(db: Transaction) -> Page[AuditEntry]:
            mine = db.rows("audit_log", {"session_id": session_id, "tenant_id": tenant_id}, order_by="id")
            found = [entry for entry in mine if entry["id"] > after and _admits(where, entry)]
            return pager.cut(found[: limit + 1])

        return await self._records.read(read)

    async def record(self, entry: AuditEntry) -> AuditEntry:
        row = entry_row(entry)
        return await self._records.write(lambda db: entry_of(db.insert("audit_log", row | {"at": self._clock.now()})))


def _admits(where: AuditFilter, entry: Row) -> bool:
    return (
        (not where.actions or entry["action"] in where.actions)
        and (where.run_id is None or entry["run_id"] == where.run_id)
        and (where.since is None or entry["at"] > where.since)
    )
