"""What reaches a running execution from outside: cancel, a lost lease, shutdown."""

from __future__ import annotations

import asyncio
from enum import StrEnum


class StopCause(StrEnum):
    CANCELLED = "cancelled"
    """Somebody asked; the row says so already."""
    LEASE_LOST = "lease_lost"
    """The run belongs to another worker now."""
    DEADLINE = "deadline"
    """The run's execution time is over."""
    SHUTDOWN = "shutdown"
    """This worker ends: hand the run back, or fail it."""


class RunSignals:
    """Tells one execution to stop. The first cause counts, but a lost lease overrides: then nothing may be written."""

    def __init__(self) -> None:
        self.cause: StopCause | None = None
        self._stopped = asyncio.Event()

    def stop(self, cause: StopCause) -> None:
        """From the event loop's thread."""
        if self.cause is None or cause is StopCause.LEASE_LOST:
            self.cause = cause
        self._stopped.set()

    async def wait(self) -> None:
        await self._stopped.wait()
