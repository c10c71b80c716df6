"""Waiting without sleeping: until something holds, or on a clock that only moves when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from asm_core.testing.builders import NOW

LOOK_AGAIN_S = 0.01


async def eventually(assertion: Callable[[], Awaitable[object]], timeout_s: float = 5.0) -> None:
    """
    Await `assertion()` until it holds.

    Raises:
        AssertionError: its last failure, when the time is over.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            await assertion()
        except AssertionError:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        else:
            return
        await asyncio.sleep(LOOK_AGAIN_S)


class SteppedClock:
    """Time that passes only when somebody sleeps or says so."""

    def __init__(self, now: datetime = NOW) -> None:
        self.started = now
        self.elapsed = 0.0
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return self.started + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.elapsed += seconds
        await asyncio.sleep(0)
