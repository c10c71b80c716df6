"""
Everything goes wrong at once, again and again, and nothing is lost.

ASM_FLEET_ROUNDS sets the length (`make fleet`), ASM_FLEET_SEED repeats the choices of an earlier run (its timing not).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4

import pytest

from asm_core.domain.errors import AsmError
from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.fleet import ROUNDS, Event, Fleet, Step

SEED = int(os.environ.get("ASM_FLEET_SEED", "0")) or random.randrange(1, 2**32)
SLOTS = (1, 1, 2, 2, 3, 3)
"""Of the sessions of a round."""
RUNS = 60
"""Per round."""
WORKERS, WORKER_SLOTS = 3, 5
SETTLE_S = 60.0
"""Guard: from the last fault until everything has ended; expected are a takeover and what is left of the queues."""
FROZEN_S = 4.2
"""Past the fast profile's ttl."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A run as it was asked for."""

    run_id: str
    text: str
    """What it says when it completes."""
    repeats: bool


class Storm:
    """One round after the other on one fleet."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        self.tally: Counter[str] = Counter()
        self.violations: list[str] = []
        self._fleet = fleet
        self._rng = rng
        self._asked: list[Asked] = []
        self._cancelled: set[str] = set()
        self._thaws: set[asyncio.Task[None]] = set()

    async def round(self) -> None:
        fleet, rng = self._fleet, self._rng
        self._asked, self._cancelled = [], set()
        sessions = [await fleet.session(max_concurrent_runs=slots, max_queued_runs=RUNS) for slots in SLOTS]
        for number, session in enumerate(sessions):
            if number % 2:
                fleet.follow(session)
            else:
                fleet.follow_remotely(session)
        broker = fleet.lossy_broker(rng, drop=0.2, double=0.2)
        async with broker.at_work(hands=2):
            users = asyncio.create_task(self._use(sessions))
            await self._rage()
            await users
        await asyncio.gather(*self._thaws)
        self.tally["wakeups dropped"] += broker.dropped
        self.tally["wakeups doubled"] += broker.doubled
        await self._judge()
        await fleet.unfollow()
        self.tally["rounds"] += 1

    # What users do meanwhile

    async def _use(self, sessions: list[str]) -> None:
        for number in range(RUNS):
            asked = await self._submit(self._rng.choice(sessions), number)
            self._asked.append(asked)
            self.tally["runs"] += 1
            if self._rng.random() < 0.15:
                await self._cancel(self._rng.choice(self._asked).run_id)
            await asyncio.sleep(self._rng.uniform(0, 0.2))

    async def _submit(self, session: str, number: int) -> Asked:
        """Over the API, as often as it takes, with one key: exactly one run comes of it."""
        assert self._fleet.api is not None
        key, repeats = uuid4().hex, self._rng.random() < 0.5
        text = f"number {number} " + "x" * self._rng.randrange(40)
        script: list[Step] = [
            {"usage": {"input_tokens": self._rng.randrange(100), "output_tokens": 1}},
            {"say": text, "chunks": self._rng.randrange(1, 20), "delay_ms": self._rng.randrange(60)},
            {"tool": {"name": "look", "input": {"at": number}, "output": "seen"}, "delay_ms": self._rng.randrange(100)},
            {"sleep_ms": self._rng.randrange(300)},
        ]
        if self._rng.random() < 0.1:
            script.append({"fail": {"code": "provider_error", "message": "no more"}})
        policy = "retry" if repeats else "fail"
        answer = await self._stubbornly(
            lambda api: api.submit(session, {"script": script}, idempotency_key=key, on_worker_lost=policy)
        )
        return Asked(run_id=answer["id"], text=text, repeats=repeats)

    async def _cancel(self, run_id: str) -> None:
        answer = await self._stubbornly(lambda api: api.cancel(run_id))
        if answer["status"] in (RunStatus.RUNNING, RunStatus.CANCELLED):
            self._cancelled.add(run_id)

    async def _stubbornly(self, call: Callable[..., Awaitable[Event]]) -> Event:
        while True:
            try:
                return await call(self._fleet.api)
            except AsmError as error:
                if not error.retryable and error.details.get("reason") != "server_unreachable":
                    raise
            await asyncio.sleep(0.2)

    # What goes wrong meanwhile

    async def _rage(self) -> None:
        faults = [self._kill] * 3 + [self._freeze, self._restart_redis, self._flush_redis]
        faults += [self._restart_postgres, self._restart_api, self._double_wakeups]
        self._rng.shuffle(faults)
        for fault in faults:
            await asyncio.sleep(self._rng.uniform(0.3, 1.3))
            await fault()
            with suppress(AsmError):  # no store to look into just now
                self.violations += await self._fleet.violations()

    async def _kill(self) -> None:
        self._rng.choice(self._fleet.workers).kill()
        self.tally["kills"] += 1

    async def _freeze(self) -> None:
        worker = self._rng.choice(self._fleet.workers)
        worker.stop()
        self.tally["freezes"] += 1

        async def thaw() -> None:
            await asyncio.sleep(FROZEN_S)
            worker.cont()

        self._thaws.add(asyncio.create_task(thaw()))

    async def _restart_redis(self) -> None:
        redis = self._fleet.servers.redis
        await self._fleet.servers.do(redis.kill)
        await asyncio.sleep(self._rng.uniform(0, 2))
        await self._fleet.servers.do(redis.restart)
        self.tally["redis restarts"] += 1

    async def _flush_redis(self) -> None:
        await self._fleet.flush_redis()
        self.tally["redis flushes"] += 1

    async def _restart_postgres(self) -> None:
        postgres = self._fleet.servers.postgres
        await self._fleet.servers.do(self._rng.choice([postgres.stop, postgres.kill]))
        await asyncio.sleep(self._rng.uniform(0, 2))
        await self._fleet.servers.do(postgres.restart)
        self.tally["postgres restarts"] += 1

    async def _restart_api(self) -> None:
        self._fleet.restart_api()
        self.tally["api restarts"] += 1

    async def _double_wakeups(self) -> None:
        rows = await self._fleet.sql("SELECT id FROM asm_sessions")
        self._fleet.deps.submitter.wakeups.wake([row["id"] for row in rows] * 5)

    # What must hold nevertheless

    async def _judge(self) -> None:
        try:
            await self._fleet.ends_well(SETTLE_S)
        except AssertionError as failure:
            self.violations.append(str(failure))
            raise
        rows = {row["id"]: row for row in await self._fleet.sql("SELECT * FROM asm_runs")}
        assert len(rows) == self.tally["runs"], "a submit was lost or doubled"
        for asked in self._asked:
            row = rows[asked.run_id]
            events = await self._fleet.events_of(asked.run_id)
            said = "".join(
                event["data"]["content"]
                for event in events
                if event["type"] == "message_streamed" and event["attempt"] == row["attempt"]
            )
            expected = {
                "is cancelled if asked": asked.run_id not in self._cancelled or row["status"] == "cancelled",
                "has said all": row["status"] != "completed" or said == asked.text,
                "started once": asked.repeats or row["attempt"] <= 1,
                "started at most three times": row["attempt"] <= 3,
            }
            self.violations += [f"{asked.run_id}: not true: {what}" for what, holds in expected.items() if not holds]
        assert not self.violations

    def summary(self) -> str:
        told = ("rounds", "kills", "freezes", "redis restarts", "postgres restarts", "runs")
        more = ("api restarts", "redis flushes", "wakeups dropped", "wakeups doubled")
        counts = ", ".join(f"{what} {self.tally[what]}" for what in told)
        return f"{counts}, violations {len(self.violations)} (seed {SEED}, {self._more(more)})"

    def _more(self, names: tuple[str, ...]) -> str:
        return ", ".join(f"{what} {self.tally[what]}" for what in names)


@pytest.mark.timeout(60 + 150 * ROUNDS)
async def test_chaos_leaves_every_run_ended_and_every_log_whole(fleet: Fleet) -> None:
    """Kills, frozen workers, lost and doubled wakeups, restarts of everything: invariants 1 to 7, and whole streams."""
    print(f"\nchaos with ASM_FLEET_SEED={SEED}")
    await fleet.start(WORKERS, WORKER_SLOTS)
    await fleet.start_api()
    fleet.supervise()
    storm = Storm(fleet, random.Random(SEED))
    try:
        for _ in range(ROUNDS):
            await storm.round()
    finally:
        print(storm.summary())
