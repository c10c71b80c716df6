"""Servers that do not answer, and how long a client goes on trying."""

from __future__ import annotations

import asyncio
import random
import time

from asm_core.domain.errors import AsmError, ErrorCode

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
_TRANSIENT = (ErrorCode.STORAGE_CONNECTION_FAILED, ErrorCode.STREAM_CLOSED)


class ServerUnreachable(AsmError):
    """Nobody answers at the server's address, or the connection broke before the answer came."""

    def __init__(self, url: str, cause: str, *, was_sent: bool = True) -> None:
        super().__init__(
            ErrorCode.INTERNAL_ERROR,
            f"cannot reach the server at {url} ({cause}); start one with `asm dev`, or set ASM_SERVER",
            details={"reason": "server_unreachable", "url": url},
        )
        self.was_sent = was_sent
        """Whether the server may have acted on the request."""


class Patience:
    """Pauses between tries, growing and jittered, until `budget_s` have passed since the first failure."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._failed_at: float | None = None
        self._pause_s = FIRST_PAUSE_S

    async def pause(self, error: AsmError) -> None:
        """Raises the error when it will not pass, or when patience is exhausted."""
        now = time.monotonic()
        self._failed_at = self._failed_at or now
        will_pass = isinstance(error, ServerUnreachable) or error.code in _TRANSIENT
        if not will_pass or now - self._failed_at >= self._budget_s:
            raise error
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
