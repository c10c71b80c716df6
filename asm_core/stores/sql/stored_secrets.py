"""
Invariant 8: no secret is stored. Every text and every JSON value of every table is read, a page at a time, and looked
at with the rules by which it should have been redacted. What is told of a finding is its place and its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from asm_core.domain.invariants import MAX_SHOWN, SECRETS, Verdict
from asm_core.domain.redaction import SecretSearch
from asm_core.stores.sql.tables import metadata
from asm_core.stores.sql.transactions import pages

PAGE = 100
"""Rows held at once; an event may be large."""


async def search_secrets(connection: AsyncConnection, secrets: SecretSearch, tell: Callable[[str], None]) -> Verdict:
    """
    Args:
        tell: hears after each page how far it has come.
    """
    count, shown = 0, list[str]()
    for table in metadata.sorted_tables:
        seen = 0
        async for page in pages(connection, sa.select(*_columns(table)), PAGE):
            found = [place for row in page for place in _places(table, row, secrets)]
            count += len(found)
            shown += found[: MAX_SHOWN - len(shown)]
            seen += len(page)
            tell(f"{SECRETS} secrets: {seen:,} rows of {table.name}")
    return Verdict(SECRETS, count, shown)


def _columns(table: sa.Table) -> list[sa.Column[Any]]:
    """Those in which anything can stand, and the ids of the rows."""
    return [column for column in table.c if column in _ids(table) or _is_free(column)]


def _is_free(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.Text | sa.JSON)


def _ids(table: sa.Table) -> list[sa.Column[Any]]:
    return [table.c.id] if "id" in table.c else [*table.primary_key]


def _places(table: sa.Table, row: Mapping[str, Any], secrets: SecretSearch) -> Iterator[str]:
    for column in table.c:
        if not _is_free(column):
            continue
        for kind in secrets.kinds(row[column.name]):
            row_id = "/".join(str(row[part.name]) for part in _ids(table))
            yield f"{table.name}.{column.name} of {secrets.hide(row_id)}: {kind}"
