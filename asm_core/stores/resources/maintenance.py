"""Maintenance over a domain."""

from __future__ import annotations

from asm_core.stores.resources.domain import Domain
from asm_core.stores.sql.maintenance import Blobs, SqlMaintenance


class ResourceMaintenance(SqlMaintenance):
    """`SqlMaintenance` on the tables of the domain's models; `blobs` as there."""

    def __init__(self, domain: Domain, *, blobs: Blobs | None = None) -> None:
        super().__init__(domain.engine, blobs=blobs)
