"""
Statements about our tables, said about the application's.

The stores' statements name our tables. Where a model of the domain stands on a table of the application's own, the
same statement is sent with that table in its place, so that its defaults, types and schema count for the stores too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.visitors import replacement_traverse

Substitutes = Mapping[sa.Table, sa.Table]
"""Our table to the application's, which has every column of ours."""

_EVENT = "before_execute"


class Substitution:
    def __init__(self, substitutes: Substitutes) -> None:
        self._substitutes = substitutes

    def of(self, engine: AsyncEngine) -> AsyncEngine:
        """The same engine, pool and all, through which statements are about the application's tables."""
        if not self._substitutes:
            return engine
        speaking = engine.execution_options()
        sa.event.listen(speaking.sync_engine, _EVENT, self._substitute, retval=True)
        return speaking

    @contextmanager
    def on(self, connection: AsyncConnection) -> Iterator[None]:
        """For the block, on a connection that is somebody else's."""
        if not self._substitutes:
            yield
            return
        target = connection.sync_connection
        sa.event.listen(target, _EVENT, self._substitute, retval=True)
        try:
            yield
        finally:
            sa.event.remove(target, _EVENT, self._substitute)

    def _substitute(self, _conn: Any, statement: Any, many: Any, one: Any, _options: Any) -> tuple[Any, Any, Any]:
        return replacement_traverse(statement, {}, self._replacement), many, one

    def _replacement(self, element: Any, **_: Any) -> Any:
        if isinstance(element, sa.Table):
            return self._substitutes.get(element)
        if isinstance(element, sa.Column) and element.table in self._substitutes:
            return self._substitutes[element.table].c[element.name]
        return None
