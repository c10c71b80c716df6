"""
The Redis lock in front of a claim. It only dampens: when many wakeups of one session arrive at once, one of them asks
Postgres and the others leave at the cost of one Redis call. Postgres decides; the lock's expiry proves nothing, and
without Redis everybody asks.

No wakeup is swallowed: who finds the lock taken leaves a dirty flag first and tries once more (the owner may just have
left); the owner, on leaving, takes the flag down and sends a wakeup for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import uuid4

from redis.exceptions import RedisError

from asm_core.bus.redis import DOWN_S, open_redis
from asm_core.config import Settings
from asm_core.domain.topics import damper_key, dirty_key
from asm_core.ports.wakeups import Wakeups

log = logging.getLogger(__name__)

LOCK_MS = 5_000
DIRTY_MS = 30_000
_BROKEN = (RedisError, OSError, TimeoutError)

# KEYS lock, dirty; ARGV owner. Drops the lock if it is still ours; returns 1 and takes the flag down if it was set.
LEAVE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return redis.call('DEL', KEYS[2])
"""


class Damper:
    def __init__(self, settings: Settings, wakeups: Wakeups) -> None:
        self._client = open_redis(settings.redis_url)
        self._leave = self._client.register_script(LEAVE)
        self._prefix = settings.redis_prefix
        self._wakeups = wakeups
        self._down_until = 0.0

    def __call__(self, session_id: str) -> AbstractAsyncContextManager[bool]:
        """Enter with True: ask Postgres. False: somebody is asking for this session just now."""
        return self._around(session_id)

    @asynccontextmanager
    async def _around(self, session_id: str) -> AsyncIterator[bool]:
        owner = uuid4().hex
        entered = await self._enter(session_id, owner)
        try:
            yield entered
        finally:
            if entered and await self._exit(session_id, owner):
                self._wakeups.wake([session_id])

    async def _enter(self, session_id: str, owner: str) -> bool:
        if asyncio.get_running_loop().time() < self._down_until:
            return True
        lock, dirty = damper_key(self._prefix, session_id), dirty_key(self._prefix, session_id)
        try:
            if await self._client.set(lock, owner, nx=True, px=LOCK_MS):
                return True
            await self._client.set(dirty, 1, px=DIRTY_MS)
            return bool(await self._client.set(lock, owner, nx=True, px=LOCK_MS))
        except _BROKEN as error:
            self._went_down(error)
            return True

    async def _exit(self, session_id: str, owner: str) -> bool:
        if asyncio.get_running_loop().time() < self._down_until:
            return False
        keys = [damper_key(self._prefix, session_id), dirty_key(self._prefix, session_id)]
        try:
            return bool(await self._leave(keys=keys, args=[owner]))
        except _BROKEN as error:
            self._went_down(error)
            return False

    def _went_down(self, error: BaseException) -> None:
        self._down_until = asyncio.get_running_loop().time() + DOWN_S
        log.warning("claims go undamped: %s", type(error).__name__)

    async def close(self) -> None:
        await self._client.aclose()
