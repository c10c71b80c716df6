"""The event bus within one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from asm_core.ports.bus import SessionBatch


class MemoryBus:
    """Every listener gets every message of the sessions it watches, in order; nothing is lost."""

    def __init__(self) -> None:
        self._listeners: set[MemoryListener] = set()

    async def publish(self, batch: Sequence[SessionBatch]) -> None:
        for listener in self._listeners:
            listener.hand_over(batch)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[MemoryListener]:
        listener = MemoryListener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class MemoryListener:
    def __init__(self) -> None:
        self._watched: set[str] = set()
        self._arrived: asyncio.Queue[SessionBatch] = asyncio.Queue()

    async def watch(self, session_id: str) -> None:
        self._watched.add(session_id)

    async def unwatch(self, session_id: str) -> None:
        self._watched.discard(session_id)

    def hand_over(self, batch: Sequence[SessionBatch]) -> None:
        for session_id, frames in batch:
            if session_id in self._watched:
                self._arrived.put_nowait((session_id, frames))

    async def messages(self) -> AsyncIterator[SessionBatch]:
        while True:
            yield await self._arrived.get()
