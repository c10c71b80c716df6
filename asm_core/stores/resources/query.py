"""QueryAPI over a domain."""

from __future__ import annotations

from asm_core.ports.query import PriceOf, no_price
from asm_core.stores.resources.domain import Domain
from asm_core.stores.sql.query import SqlQueryAPI


class ResourceQueryAPI(SqlQueryAPI):
    """`SqlQueryAPI` on the tables of the domain's models; `price_of` as there."""

    def __init__(self, domain: Domain, *, price_of: PriceOf = no_price) -> None:
        super().__init__(domain.engine, price_of=price_of)
