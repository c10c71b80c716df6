"""
Is this worker still fed? A canary message through its own queue says so; a worker that reconnected to its broker may
have stopped consuming without noticing.

Silent for too long with slots free:
- the broker does not answer: claim straight from Postgres until it does;
- the broker answers, the consumer is dead: stop claiming, let the runs end, leave; the supervisor starts a fresh one.
A worker without a free slot cannot consume a canary and is not asked.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any, Protocol

from celery import Celery

from asm_core.config import Settings
from asm_core.domain.errors import AsmError
from asm_core.ports.queue import RunQueue
from asm_workers.app import CANARY_TASK
from asm_workers.broker import BrokerThread
from asm_workers.leases import LeaseKeeper

log = logging.getLogger(__name__)

CHECKS_PER_OUTAGE = 6
DIRECT_CLAIM_S = 1.0


class Mine(Protocol):
    """What the canary may ask of its worker."""

    async def handle(self, session_id: str) -> str: ...

    async def give_up(self) -> None: ...


class Canary:
    """
    Args:
        queue_name: this worker's own queue.
        worker: told to look at sessions when the broker is away, and to leave when its consumer is dead.
    """

    def __init__(
        self,
        settings: Settings,
        app: Celery,
        broker: BrokerThread,
        *,
        queue_name: str,
        queue: RunQueue,
        leases: LeaseKeeper,
        worker: Mine,
    ) -> None:
        self._silence_s = settings.broker_outage_ms / 1000
        self._app = app
        self._broker = broker
        self._queue_name = queue_name
        self._queue = queue
        self._leases = leases
        self._worker = worker
        self._heard_at = time.monotonic()
        self._sent_at = time.monotonic()
        self._claims: set[asyncio.Task[str]] = set()

    def heard(self) -> None:
        """A canary came through; from any thread."""
        self._heard_at = time.monotonic()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._silence_s / CHECKS_PER_OUTAGE)
            if not self._leases.free_slots:
                self.heard()
                continue
            self._broker.put(self._send, keep=False)
            if time.monotonic() - self._heard_at > self._silence_s:
                await self._not_fed()

    async def _not_fed(self) -> None:
        if time.monotonic() - self._sent_at < self._silence_s / 2:
            if time.monotonic() - self._heard_at > 2 * self._silence_s:
                log.critical("the broker answers but nothing is consumed: leaving")
                await self._worker.give_up()
        else:
            log.warning("no broker for %.0f s: claiming straight from the store", self._silence_s)
            await self._claim_directly()

    async def _claim_directly(self) -> None:
        """Until a canary comes through again."""
        silent_since = self._heard_at
        while self._heard_at == silent_since and not self._leases.draining:
            self._broker.put(self._send, keep=True)
            try:
                free = self._leases.free_slots
                for session_id in await self._queue.claimable(free) if free > 0 else ():
                    claim = asyncio.create_task(self._worker.handle(session_id))
                    self._claims.add(claim)
                    claim.add_done_callback(self._claims.discard)
            except AsmError as error:
                log.warning("cannot claim directly: %s", error)
            await asyncio.sleep(DIRECT_CLAIM_S * random.uniform(0.5, 1.5))

    def _send(self, producer: Any) -> None:
        self._app.send_task(
            CANARY_TASK, queue=self._queue_name, producer=producer, retry=False, ignore_result=True,
            expires=self._silence_s,
        )  # fmt: skip
        self._sent_at = time.monotonic()
