"""Stored events go to the bus in commit order: one publisher per process, behind every writer and every finish."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby

from asm_core.background import background
from asm_core.domain.event import EventFrame
from asm_core.ports.bus import EventBus, SessionBatch

SETTLE_S = 2.0
"""For the last events to reach the bus when the process ends."""


class Publisher:
    """
    Hands committed batches to the bus in the order they came. Never raises into the work, never grows without bound:
    beyond `buffer` waiting batches, frames are dropped and followers are told to read the store instead.
    """

    def __init__(self, bus: EventBus, buffer: int) -> None:
        self._bus = bus
        self._buffer = buffer
        self._waiting: deque[SessionBatch] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Publisher]:
        """The publisher at work; when the block ends, what it was given leaves first, within `SETTLE_S`."""
        async with background(self._run()):
            yield self
            await self.settle(SETTLE_S)

    def publish(self, frames: Sequence[EventFrame]) -> None:
        """Call only with what is committed; frames of one session in order, of any number of sessions."""
        for session_id, part in groupby(frames, key=lambda frame: frame.session_id):
            self._waiting.append((session_id, [*part] if len(self._waiting) < self._buffer else ()))
            self._idle.clear()
            self._work.set()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            batch = [*self._waiting]
            self._waiting.clear()
            self._work.clear()
            await self._bus.publish(merged(batch))
            if not self._waiting:
                self._idle.set()

    async def settle(self, timeout_s: float) -> None:
        """Wait, bounded, until everything handed in so far has left."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return


def merged(batch: Sequence[SessionBatch]) -> list[SessionBatch]:
    """One entry per session, frames in order; a dropped part turns its session's entry into a bare notice."""
    frames: dict[str, list[EventFrame]] = {}
    dropped: set[str] = set()
    for session_id, part in batch:
        frames.setdefault(session_id, []).extend(part)
        if not part:
            dropped.add(session_id)
    return [(session_id, () if session_id in dropped else part) for session_id, part in frames.items()]
