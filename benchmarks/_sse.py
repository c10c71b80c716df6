"""An SSE client without a library between it and the clock."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from typing import NamedTuple


class Seen(NamedTuple):
    """When each event was emitted and when it came, in seconds of this machine's clock."""

    emitted: list[float]
    arrived: list[float]

    @property
    def latencies(self) -> list[float]:
        return [late - early for early, late in zip(self.emitted, self.arrived, strict=True)]

    @property
    def per_s(self) -> float:
        return len(self.arrived) / (self.arrived[-1] - self.emitted[0])


class SseClient:
    """
    Args:
        timed: whether it decodes what it reads and notes the times.
    """

    def __init__(self, port: int, session_id: str, *, timed: bool) -> None:
        self._port = port
        self._path = f"/v1/sessions/{session_id}/events/stream?type=message_streamed"
        self._timed = timed
        self.seen = Seen([], [])

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"GET {self._path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        await self._reader.readuntil(b"retry: ")

    async def read(self, count: int) -> None:
        """The next `count` chunks of text, then hang up."""
        while count:
            line = await self._reader.readline()
            assert line, "the stream ended"
            if line.startswith(b"data: "):
                count -= 1
                if self._timed:
                    self._note(line[6:])
        self._writer.close()

    def _note(self, event: bytes) -> None:
        self.seen.arrived.append(time.time())
        self.seen.emitted.append(datetime.fromisoformat(json.loads(event)["timestamp"]).timestamp())
