"""The event bus on Redis pub/sub: fire and forget, after commit. Losing any of it costs latency only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from asm_core.bus.frames import pack, unpack
from asm_core.domain.topics import session_topic
from asm_core.ports.bus import SessionBatch

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 1.0
HEALTH_CHECK_S = 10
DOWN_S = 1.0
"""After a failure the bus is not tried again for this long, so that a dead Redis does not slow commits down."""
RECONNECT_S = 0.25
_BROKEN = (RedisError, OSError, asyncio.TimeoutError)


def open_redis(url: str, *, blocking: bool = False) -> Redis:
    """
    A client with bounded waits and no hidden retries.

    Args:
        blocking: for a connection that waits for messages: no read timeout, health checks instead.
    """
    return Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=None if blocking else COMMAND_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=HEALTH_CHECK_S,
        max_connections=1_000,
        retry=Retry(NoBackoff(), 0),
    )


class RedisBus:
    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self._client = open_redis(url)
        self._down_until = 0.0

    async def publish(self, batch: Sequence[SessionBatch]) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._down_until:
            return
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for session_id, frames in batch:
                    pipe.publish(session_topic(self._prefix, session_id), pack(frames))
                await pipe.execute()
        except _BROKEN as error:
            self._down_until = now + DOWN_S
            log.warning("events not published, followers will read the store: %s", type(error).__name__)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[RedisListener]:
        listener = RedisListener(self._url, self._prefix)
        try:
            yield listener
        finally:
            await listener.close()

    async def close(self) -> None:
        await self._client.aclose()


class RedisListener:
    """One pub/sub connection; made anew when it breaks, with everything it listened to."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = open_redis(url, blocking=True)
        self._prefix = prefix
        self._topics: dict[str, asyncio.Event] = {}
        self._pubsub: PubSub | None = None

    async def watch(self, session_id: str) -> None:
        topic = session_topic(self._prefix, session_id)
        stands = self._topics.setdefault(topic, asyncio.Event())
        with suppress(*_BROKEN):
            if self._pubsub is not None and not stands.is_set():
                await self._pubsub.subscribe(topic)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await stands.wait()

    async def unwatch(self, session_id: str) -> None:
        topic = session_topic(self._prefix, session_id)
        self._topics.pop(topic, None)
        with suppress(*_BROKEN):
            if self._pubsub is not None:
                await self._pubsub.unsubscribe(topic)

    async def messages(self) -> AsyncIterator[SessionBatch]:
        while True:
            try:
                async for batch in self._one_connection():
                    yield batch
            except _BROKEN as error:
                log.warning("event bus connection lost: %s", type(error).__name__)
            self._pubsub = None
            for stands in self._topics.values():
                stands.clear()
            await asyncio.sleep(RECONNECT_S)

    async def _one_connection(self) -> AsyncIterator[SessionBatch]:
        prefix_length = len(session_topic(self._prefix, "x")) - 1
        async with self._client.pubsub() as pubsub:
            # a channel of our own keeps the connection subscribed while nobody follows anything
            await pubsub.subscribe(session_topic(self._prefix, "-"), *self._topics)
            self._pubsub = pubsub
            yield "", ()
            async for message in _incoming(pubsub):
                topic = message["channel"].decode()
                if message["type"] == "subscribe" and topic in self._topics:
                    self._topics[topic].set()
                elif message["type"] == "message":
                    session_id = topic[prefix_length:]
                    yield session_id, unpack(session_id, message["data"])

    async def close(self) -> None:
        await self._client.aclose()


async def _incoming(pubsub: PubSub) -> AsyncIterator[dict[str, Any]]:
    while True:
        message = await pubsub.get_message(timeout=HEALTH_CHECK_S)
        if message is not None:
            yield message
