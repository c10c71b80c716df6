"""SessionStore over a domain."""

from __future__ import annotations

from asm_core.ports.clock import Clock
from asm_core.stores.resources.domain import Domain
from asm_core.stores.sql.store import SqlSessionStore


class ResourceSessionStore(SqlSessionStore):
    """
    `SqlSessionStore` on the tables of the domain's models.

    Args:
        clock: on SQLite, which has none of its own, the one of its queue.
    """

    def __init__(self, domain: Domain, clock: Clock | None = None) -> None:
        super().__init__(domain.engine, clock)

    async def close(self) -> None:
        """Leaves the engine alone: it is the application's."""
