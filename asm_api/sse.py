"""
A session's events as an event stream.

Data frames carry events and nothing else; everything about the stream itself is a comment: `: ping` as a sign of life,
`: idle` as the last line of a stream that ends because nothing is left to do. Any other end says: come back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from asm_core.domain.errors import AsmError
from asm_core.manager.subscribe import HEARTBEAT_S, Follower
from asm_core.ports.store import EventFilter

log = logging.getLogger(__name__)

PING_S = HEARTBEAT_S - 0.5
"""Silence after which a sign of life is sent; a little less than the follower's own beat, so that no beat is missed."""
RETRY_MS = (1_000, 5_000)
"""How long a browser waits before it comes back: spread, so that not all come at once."""
PING, IDLE = b": ping\n\n", b": idle\n\n"


class EventStream(StreamingResponse):
    """
    Args:
        follower: reads on behalf of the client's tenant.
        where: cursor and filter.
        until_idle: end when nothing is queued, in flight or parked.
    """

    media_type = "text/event-stream"

    def __init__(self, follower: Follower, session_id: str, where: EventFilter, *, until_idle: bool) -> None:
        self._chunks = _chunks(follower, session_id, where, until_idle)
        super().__init__(self._chunks, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):  # frees the watch of a client that left while it was being written to
            await super().__call__(scope, receive, send)


async def _chunks(
    follower: Follower, session_id: str, where: EventFilter, until_idle: bool
) -> AsyncGenerator[bytes, None]:
    clock = asyncio.get_running_loop().time
    yield b"retry: %d\n\n" % random.randint(*RETRY_MS)
    written_at = clock()
    try:
        async with aclosing(follower.follow(session_id, where, until_idle=until_idle)) as batches:
            async for frames in batches:
                if frames:
                    yield b"".join(frame.sse for frame in frames)
                elif clock() - written_at >= PING_S:
                    yield PING
                else:
                    continue
                written_at = clock()
        yield IDLE
    except AsmError as error:  # the headers are sent: end, the client resumes with its last id
        log.info("stream of %s ends: %s", session_id, error)
