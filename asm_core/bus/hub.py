"""
Fan-out in one process: one bus subscription per followed session, shared by all its followers, each with a buffer of
its own and a bound. A follower that falls behind loses its buffer, not its events: it reads the store from its cursor.

Once a second one query asks the store for the counters of all followed sessions, so that even a lost last message is
noticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from asm_core.background import background
from asm_core.domain.errors import AsmError
from asm_core.domain.event import EventFrame
from asm_core.ports.bus import BusListener, EventBus
from asm_core.ports.store import SessionStore
from asm_core.wire import up_to_date

log = logging.getLogger(__name__)

POLL_S = 1.0


class BufferedWatch:
    """One follower's live end of a session."""

    def __init__(self, buffer: int) -> None:
        self._frames: deque[EventFrame] = deque()
        self._buffer = buffer
        self._news = asyncio.Event()
        self._stale = False
        self.latest = 0
        """Highest number known to exist."""
        self.closing = False
        """The process shuts down: end the stream, the client resumes elsewhere."""

    async def wait(self, timeout_s: float) -> None:
        """Until there is something new, or the time is over."""
        if not self._news.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return
        self._news.clear()

    def take(self) -> tuple[list[EventFrame], bool]:
        """What has arrived, and whether something may have been missed."""
        frames, stale = [*self._frames], self._stale
        self._frames.clear()
        self._stale = False
        return frames, stale

    def offer(self, frames: Sequence[EventFrame]) -> None:
        """Frames from the bus; none of them means that the store knows more."""
        if frames and len(self._frames) + len(frames) <= self._buffer:
            self._frames.extend(frames)
            self.latest = max(self.latest, frames[-1].sequence_number)
        else:
            self.mark_stale()
        self._news.set()

    def mark_stale(self) -> None:
        self._frames.clear()
        self._stale = True
        self._news.set()

    def close(self) -> None:
        self.closing = True
        self._news.set()


class Hub:
    """
    Args:
        bus: where stored events are announced.
        store: asked for counters, for all sessions at once.
        buffer: frames held for one follower.
    """

    def __init__(self, bus: EventBus, store: SessionStore, buffer: int) -> None:
        self._bus = bus
        self._store = store
        self._buffer = buffer
        self._watches: dict[str, set[BufferedWatch]] = {}
        self._listener: BusListener | None = None
        self._closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Hub]:
        """The hub with its connection and its poll; ends all watches when it is left."""
        async with self._bus.listen() as listener:
            self._listener = listener
            async with background(self._receive(listener), self._poll()):
                try:
                    yield self
                finally:
                    self.close_watches()

    @asynccontextmanager
    async def watch(self, session_id: str) -> AsyncIterator[BufferedWatch]:
        """A live end of the session. When it is entered the bus subscription stands, if the bus is there at all."""
        watch = BufferedWatch(self._buffer)
        if self._closing:
            watch.close()
        self._watches.setdefault(session_id, set()).add(watch)
        assert self._listener is not None, "the hub is not running"
        try:
            await self._listener.watch(session_id)
            yield watch
        finally:
            watches = self._watches[session_id]
            watches.discard(watch)
            if not watches:
                del self._watches[session_id]
                await self._listener.unwatch(session_id)

    @property
    def followers(self) -> int:
        return sum(map(len, self._watches.values()))

    def close_watches(self) -> None:
        """Tell every follower to end, and those that still come: this process shuts down."""
        self._closing = True
        for watch in self._all():
            watch.close()

    async def _receive(self, listener: BusListener) -> None:
        async for session_id, frames in listener.messages():
            if session_id:
                ready = [*map(up_to_date, frames)]
                for watch in self._watches.get(session_id, ()):
                    watch.offer(ready)
            else:
                for watch in self._all():
                    watch.mark_stale()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            if not self._watches:
                continue
            try:
                counters = await self._store.latest_sequences([*self._watches])
            except AsmError as error:
                log.warning("cannot look for missed events: %s", error)
                continue
            for session_id, latest in counters.items():
                for watch in self._watches.get(session_id, ()):
                    if latest > watch.latest:
                        watch.latest = latest
                        watch.mark_stale()

    def _all(self) -> list[BufferedWatch]:
        return [watch for watches in self._watches.values() for watch in watches]
