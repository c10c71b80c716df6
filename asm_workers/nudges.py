"""Control messages between processes: they repeat what a row says already, only sooner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from asm_core.bus.redis import RECONNECT_S, open_redis
from asm_core.config import Settings
from asm_core.domain.topics import control_topic
from asm_core.wire import dumps, loads

log = logging.getLogger(__name__)

NUDGE_TIMEOUT_S = 0.5
_BROKEN = (RedisError, OSError, TimeoutError)


class RedisNudges:
    def __init__(self, settings: Settings) -> None:
        self._client = open_redis(settings.redis_url)
        self._prefix = settings.redis_prefix

    async def nudge(self, worker_id: str, run_id: str, kind: str) -> None:
        """Never raises, never takes longer than half a second."""
        message = dumps({"run_id": run_id, "kind": kind})
        try:
            async with asyncio.timeout(NUDGE_TIMEOUT_S):
                await self._client.publish(control_topic(self._prefix, worker_id), message)
        except _BROKEN as error:
            log.warning("nudge for %s lost, the worker's beat will see the row: %s", run_id, type(error).__name__)

    async def close(self) -> None:
        await self._client.aclose()


class NudgeListener:
    """
    Receives this worker's nudges.

    Args:
        worker_id: the current id; it changes when the worker had to register anew.
        deliver: called on the loop with (run id, kind).
    """

    def __init__(self, settings: Settings, worker_id: Callable[[], str], deliver: Callable[[str, str], None]) -> None:
        self._client = open_redis(settings.redis_url, blocking=True)
        self._prefix = settings.redis_prefix
        self._worker_id = worker_id
        self._deliver = deliver

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    await self._listen(self._worker_id())
                except _BROKEN as error:
                    log.warning("control channel lost: %s", type(error).__name__)
                await asyncio.sleep(RECONNECT_S)
        finally:
            await self._client.aclose()

    async def _listen(self, worker_id: str) -> None:
        async with self._client.pubsub() as pubsub:
            await pubsub.subscribe(control_topic(self._prefix, worker_id))
            while worker_id == self._worker_id():
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=1.0)
                if message is not None:
                    nudge = loads(message["data"])
                    self._deliver(nudge["run_id"], nudge["kind"])
