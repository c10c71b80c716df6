"""`asm verify` in one call: the invariants, asked of a database."""

from __future__ import annotations

from asm_core.manager.verify import Report, verify
from asm_core.stores.sql.verify import inspect_database


async def verify_database(database_url: str) -> Report:
    """
    Check every invariant of DESIGN §9 on one snapshot of a database, at rest or at work.

    Args:
        database_url: `postgresql://…`

    Raises:
        AsmError: `storage_connection_failed`, `migration_required`, `query_error`: nothing is known.
    """
    async with inspect_database(database_url) as inspection:
        return await verify(inspection)
