"""Fan-out of stored events. The bus may lose, double or reorder; followers heal from the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from asm_core.domain.event import EventFrame

SessionBatch = tuple[str, Sequence[EventFrame]]
"""A session id and some of its events in order. Empty: something was stored, read it from the store."""


class EventBus(Protocol):
    async def publish(self, batch: Sequence[SessionBatch]) -> None:
        """One message per session. Never raises: losing it costs latency only."""

    def listen(self) -> AbstractAsyncContextManager[BusListener]:
        """One connection for all sessions that this process follows."""


class BusListener(Protocol):
    async def watch(self, session_id: str) -> None:
        """Returns when the subscription stands, or at once when the bus is down (it is made good later)."""

    async def unwatch(self, session_id: str) -> None: ...

    def messages(self) -> AsyncIterator[SessionBatch]:
        """
        Batches as they arrive. A message with session id `""` says that the connection was made anew, so that
        anything may have been missed.
        """


class Watch(Protocol):
    """One follower's live end of a session, with a bounded buffer."""

    latest: int
    """Highest number known to exist."""
    closing: bool
    """The process shuts down: end the stream, the client resumes elsewhere."""

    async def wait(self, timeout_s: float) -> None:
        """Until there is something new, or the time is over."""

    def take(self) -> tuple[list[EventFrame], bool]:
        """What has arrived, and whether something may have been missed."""


class WatchSource(Protocol):
    def watch(self, session_id: str) -> AbstractAsyncContextManager[Watch]:
        """When it is entered, what is stored from then on is announced, if the bus is there at all."""
