"""
Work on SQLite that is not broken off half-way.

A statement runs in a thread, and nobody can call it back. Whoever stopped waiting for it would leave a connection in
the midst of a transaction, the file locked behind it. So a caller who is cancelled waits for the end of what he has
begun; then his cancellation goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


async def undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """To its end, however often the caller is cancelled meanwhile; then the cancellation goes on."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as request:
            cancelled = request
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # nobody is left to hear of it
    raise cancelled


class UndisturbedConnection(AsyncConnection):
    """A connection of which each step is undisturbed, also where its user's own code runs between the steps."""

    async def start(self, is_ctxmanager: bool = False) -> Self:
        try:
            await undisturbed(super().start(is_ctxmanager))
        except asyncio.CancelledError:
            if self.sync_connection is not None:
                await self.close()
            raise
        return self

    async def close(self) -> None:
        await undisturbed(super().close())

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        return await undisturbed(super().execute(*args, **kwargs))

    async def exec_driver_sql(self, *args: Any, **kwargs: Any) -> Any:
        return await undisturbed(super().exec_driver_sql(*args, **kwargs))
