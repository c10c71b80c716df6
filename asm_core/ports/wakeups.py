"""Wakeups: hints that a session has something to claim. Losing or doubling one is harmless."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Wakeups(Protocol):
    def wake(self, session_ids: Sequence[str]) -> None:
        """Sends one wakeup per session, in the background. Never raises, never waits."""


class Nudges(Protocol):
    async def nudge(self, worker_id: str, run_id: str, kind: str) -> None:
        """Tells a worker what the run's row says already. Never raises; bounded by a short timeout."""
