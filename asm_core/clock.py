"""The system's clock, and identifiers made from it. The domain takes `now` and ids as arguments instead."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import uuid_utils


def new_id(prefix: str) -> str:
    """A new identifier, `prefix_` + 32 hex digits of a UUIDv7: unique, and ordered by time of creation."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


class SystemClock:
    """Wall time for records, monotonic time for waiting."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
