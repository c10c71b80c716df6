"""
Following a session: every stored event once, in order, from a cursor on, whatever the bus loses.

Subscribe to the bus first, read the store from the cursor, then pass on what arrives live; what is already seen is
dropped, and where a number is missing the store is read again. Waiting for a run, for idleness and for the next event
(long poll) are readers of the same stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from asm_core.domain.cursor import Cursor
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventFrame
from asm_core.domain.run import Run
from asm_core.ports.bus import Watch, WatchSource
from asm_core.ports.store import EventFilter, SessionStore

PAGE = 1_000
REORDER_S = 0.05
"""How long a gap may close by itself before the store is read."""
HEARTBEAT_S = 15.0
RESYNC_S = 1.0
"""Waiting for a run looks at its row this often, in case every message was lost."""


@dataclass(frozen=True, slots=True)
class Follower:
    """Reads on behalf of one tenant."""

    hub: WatchSource
    store: SessionStore
    tenant_id: str

    async def follow(
        self, session_id: str, where: EventFilter, *, until_idle: bool = False
    ) -> AsyncGenerator[Sequence[EventFrame], None]:
        """
        The session's events behind `where.after`, for as long as the caller iterates.

        Args:
            where: `after` is the cursor (0: from the beginning); `types` and `run_id` narrow what is delivered.
            until_idle: end when everything is delivered and no run is queued, in flight or parked.

        Yields:
            Events in order, some at a time; an empty list at least every 15 s, as a sign of life.

        Raises:
            AsmError: `session_not_found` at the first step; `storage_connection_failed` when the store stays away;
                `stream_closed` when this process shuts down.
        """
        await self.store.get_session(session_id, self.tenant_id)
        clock = asyncio.get_running_loop().time
        async with self.hub.watch(session_id) as live:
            cursor = Cursor(where.after)
            missed = True
            whole_at = clock()
            while not live.closing:
                if missed:
                    async for frames in self._refill(session_id, cursor):
                        yield [frame for frame in frames if where.admits(frame)]
                    live.latest = max(live.latest, cursor.position)
                if until_idle and await self._is_idle(session_id, cursor):
                    return
                await live.wait(REORDER_S if cursor.has_gap else RESYNC_S if until_idle else HEARTBEAT_S)
                if not cursor.has_gap:
                    whole_at = clock()
                arrived, missed = live.take()
                ready = cursor.offer(arrived)
                if ready:
                    whole_at = clock()
                # by time, not by silence: later events may keep coming all the while
                missed = missed or (cursor.has_gap and clock() - whole_at >= REORDER_S)
                yield [frame for frame in ready if where.admits(frame)]
        raise AsmError(ErrorCode.STREAM_CLOSED, "this process shuts down; resume the stream elsewhere")

    async def _refill(self, session_id: str, cursor: Cursor) -> AsyncGenerator[Sequence[EventFrame], None]:
        """Pages from the store until a short one. Unfiltered: only whole numbers show a gap."""
        while True:
            page = await self.store.get_events(session_id, self.tenant_id, EventFilter(after=cursor.position), PAGE)
            frames = cursor.refill(page)
            if frames:
                yield frames
            if len(page) < PAGE:
                return

    async def _is_idle(self, session_id: str, cursor: Cursor) -> bool:
        status = await self.store.queue_status(session_id, self.tenant_id)
        return status.is_idle and cursor.position >= status.last_sequence

    async def next_events(self, session_id: str, where: EventFilter, *, limit: int, wait_s: float) -> list[EventFrame]:
        """
        A page of events; when there are none yet, the first that arrive within `wait_s` (long poll).

        Subscribing comes before asking, so nothing that is stored in between is missed.
        """
        await self.store.get_session(session_id, self.tenant_id)
        if wait_s <= 0:
            return await self.store.get_events(session_id, self.tenant_id, where, limit)
        deadline = asyncio.get_running_loop().time() + wait_s
        async with self.hub.watch(session_id) as live:
            while True:
                page = await self.store.get_events(session_id, self.tenant_id, where, limit)
                left = deadline - asyncio.get_running_loop().time()
                if page or left <= 0 or live.closing:
                    return page
                await live.wait(left)
                live.take()

    async def await_run(self, run_id: str, *, timeout_s: float) -> Run:
        """
        The run's row when it is terminal, or as it stands when the time is over. Waiting holds no connection.

        Raises:
            AsmError: `run_not_found`.
        """
        run = await self.store.get_run(run_id, self.tenant_id)
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with self.hub.watch(run.session_id) as live:
            while True:
                run = await self.store.get_run(run_id, self.tenant_id)
                if run.is_terminal:
                    return run
                if not await self._until_terminal_event(live, run_id, deadline):
                    return run

    async def _until_terminal_event(self, live: Watch, run_id: str, deadline: float) -> bool:
        """Wait for the run's end to be announced, or for a reason to look at its row. False: the time is over."""
        loop = asyncio.get_running_loop()
        look_again_at = loop.time() + RESYNC_S
        while not live.closing:
            left = min(deadline, look_again_at) - loop.time()
            if left <= 0:
                return loop.time() < deadline
            await live.wait(left)
            frames, missed = live.take()
            if missed or any(frame.run_id == run_id and frame.is_terminal for frame in frames):
                return True
        return False

    async def drain(self, session_id: str, *, timeout_s: float) -> None:
        """
        Wait until nothing of the session is queued, in flight or parked. Does not stop new submits.

        Raises:
            AsmError: `timeout`; the work goes on. `stream_closed` when this process shuts down.
        """
        status = await self.store.queue_status(session_id, self.tenant_id)
        try:
            async with asyncio.timeout(timeout_s):
                where = EventFilter(after=status.last_sequence)
                async for _ in self.follow(session_id, where, until_idle=True):
                    pass
        except TimeoutError as cause:
            message = f"session {session_id} was not idle within {timeout_s:g} s"
            raise AsmError(ErrorCode.TIMEOUT, message, details={"reason": "drain_timeout"}) from cause
