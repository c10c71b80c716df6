"""
Many workers, everything at once, in an order nobody chose: submits, claims, appends with repetitions, finishes,
cancels, pauses, deaths, zombies, sweeps. Whatever happens, the store is sound, nothing acknowledged is missing, and
every run comes to its end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from asm_core.config import FleetTimes
from asm_core.domain.errors import AsmError, ErrorCode, LeaseLost
from asm_core.domain.event import Event, EventType
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import TERMINAL_RUNS, RunStatus, SessionVerb
from asm_core.domain.run import RunOutcome
from asm_core.ports.queue import Claimed
from tests.builders import HANDED_BACK, RETRY, World, a_session, a_submission, an_outcome, some_events
from tests.conformance.conftest import OpenWorld

SESSIONS, WORKERS, CAP = 6, 6, 5
STEPS = {"memory": 400, "sqlite": 60, "postgres": 400}
"""Of one worker."""
TIMES = FleetTimes(stale_wake=timedelta(milliseconds=50))
REFUSALS = {ErrorCode.MAX_RUNS_EXCEEDED, ErrorCode.INVALID_OPERATION, ErrorCode.INVALID_TRANSITION}


@pytest.fixture
async def limited(open_any: OpenWorld) -> AsyncIterator[World]:
    async with open_any(limiter="fleet", times=TIMES) as world:
        await world.queue.set_limiter("fleet", CAP)
        yield world


@dataclass
class Term:
    """A lease as its holder sees it; it may be out of date."""

    lease: Lease
    attempt: int = 0
    emitted: int = 0


@dataclass
class Life:
    """One worker's doings; it dies now and then, and its former self goes on writing."""

    world: World
    rng: random.Random
    sessions: list[str]
    wakeups: list[str]
    """Shared by all."""
    steps: int
    worker_id: str = ""
    terms: list[Term] = field(default_factory=list)
    zombies: list[Term] = field(default_factory=list)
    one_shots: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)

    async def live(self) -> None:
        steps: dict[Callable[[], Awaitable[None]], int] = {
            self.submit: 8, self.claim: 8, self.append: 12, self.end: 5, self.cancel: 1, self.hand_back: 1,
            self.pause: 1, self.resume: 3, self.die: 1, self.haunt: 2, self.sweep: 2,
        }  # fmt: skip
        self.worker_id = await self.world.worker(slots=20)
        for step in self.rng.choices(list(steps), weights=list(steps.values()), k=self.steps):
            try:
                await step()
            except AsmError as refusal:
                if refusal.code not in REFUSALS:
                    raise
        while self.terms:
            await self.end()

    async def submit(self) -> None:
        options = self.rng.choice([{}, {}, RETRY, {"queue_timeout_ms": 30}])
        session = a_session() if self.rng.random() < 0.1 else None
        session_id = session.id if session else self.rng.choice(self.sessions)
        key = self.rng.choice([None, None, "a", "b"]) if session is None else None
        submission = a_submission(session_id, options=options, idempotency_key=key, new_session=session)
        for _ in range(self.twice()):
            self.wake((await self.world.queue.submit(submission)).wake)
        if session:
            self.sessions.append(session_id)
            del self.sessions[SESSIONS:-SESSIONS]
            self.one_shots.append(session_id)

    async def claim(self) -> None:
        claim = await self.world.queue.claim(self.a_session_to_look_at(), self.worker_id)
        self.wake(claim.wake)
        if isinstance(claim, Claimed):
            term = Term(claim.lease)
            self.terms.append(term)
            if self.rng.random() < 0.9:
                await self.mine(self.start(term), term)
        elif claim.reason == "lost":
            await self.die()

    def a_session_to_look_at(self) -> str:
        """A wakeup that somebody sent; some are lost, some are wrong."""
        return self.wakeups.pop(0) if self.wakeups and self.rng.random() < 0.8 else self.rng.choice(self.sessions)

    def wake(self, sessions: Sequence[str]) -> None:
        self.wakeups += [one for one in sessions if self.rng.random() < 0.9]

    async def start(self, term: Term) -> None:
        term.attempt = (await self.world.queue.start(term.lease)).attempt

    async def append(self) -> None:
        """Several runs in one call, sometimes twice; zombies of this process may be among them."""
        chosen = [term for term in [*self.terms, *self.zombies] if term.attempt and self.rng.random() < 0.7]
        if chosen:
            await self.write(chosen)

    async def write(self, chosen: list[Term]) -> None:
        batch: list[tuple[Lease, list[Event]]] = []
        for term in chosen:
            how_many = self.rng.randint(1, 4)
            events = some_events(term.lease, how_many, first=term.emitted, attempt=term.attempt)
            if self.rng.random() < 0.3:
                spent = {"input_tokens": self.rng.randint(0, 9), "cost_usd": self.rng.random()}
                events += some_events(
                    term.lease, first=term.emitted + how_many, kind=EventType.TOKEN_USAGE_UPDATED, data=spent,
                    attempt=term.attempt,
                )  # fmt: skip
            term.emitted += len(events)
            batch.append((term.lease, events))
        for _ in range(self.twice()):
            answers = await self.world.queue.append(batch)
            for (_, events), answer, term in zip(batch, answers, chosen, strict=True):
                if isinstance(answer, LeaseLost):
                    self.forget(term)
                else:
                    self.acknowledged.update(event.id for event in events)

    async def end(self) -> None:
        if self.terms:
            term = self.rng.choice(self.terms)
            status = self.rng.choice([RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.TIMEOUT, RunStatus.PENDING])
            outcome = HANDED_BACK if status is RunStatus.PENDING else an_outcome(status)
            for _ in range(self.twice()):
                await self.mine(self.finish(term, outcome), term)
            self.forget(term)

    async def finish(self, term: Term, outcome: RunOutcome) -> None:
        self.wake((await self.world.queue.finish(term.lease, outcome)).wake)

    async def cancel(self) -> None:
        for row in await self.one_of("runs"):
            kind = self.rng.choice(["cancel", "interrupt"])
            self.wake((await self.world.queue.request_cancel(row["id"], "default", kind)).wake)

    async def hand_back(self) -> None:
        """Also of a lease that is not this worker's: its claim's answer was lost."""
        for row in await self.one_of("run_leases"):
            given = await self.world.queue.hand_back(row["run_id"], row["fence"], "unknown_lease")
            self.wake(given.wake if given else ())

    async def pause(self) -> None:
        await self.world.queue.change_session(self.rng.choice(self.sessions), "default", SessionVerb.PAUSE)

    async def resume(self) -> None:
        for row in await self.world.rows("sessions", status="paused"):
            change = await self.world.queue.change_session(row["id"], "default", SessionVerb.RESUME)
            self.wake(change.wake)

    async def die(self) -> None:
        await self.world.silence(self.worker_id)
        self.zombies += self.terms
        self.terms = []
        self.worker_id = await self.world.worker(slots=20)

    async def haunt(self) -> None:
        if self.zombies:
            term = self.rng.choice(self.zombies)
            await self.mine(self.finish(term, an_outcome()), term)

    async def sweep(self) -> None:
        await self.world.make_sweep_due()
        self.wake((await self.world.queue.sweep()).wake)

    async def one_of(self, table: str) -> list[dict[str, Any]]:
        """Any row, if there is one."""
        rows = await self.world.rows(table)
        return [self.rng.choice(rows)] if rows else []

    async def mine(self, step: Awaitable[object], term: Term) -> None:
        try:
            await step
        except LeaseLost:
            self.forget(term)

    def forget(self, term: Term) -> None:
        self.terms = [one for one in self.terms if one is not term]
        self.zombies = [one for one in self.zombies if one is not term]

    def twice(self) -> int:
        """How often a call is made, given that its first answer may be lost."""
        return 2 if self.rng.random() < 0.2 else 1


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_the_store_is_sound(limited: World, store_name: str, seed: int) -> None:
    """DESIGN §9 at the end, and in the midst of it."""
    rng = random.Random(seed)
    sessions = [await limited.session(max_concurrent_runs=rng.randint(1, 3)) for _ in range(SESSIONS)]
    wakeups: list[str] = []
    lives = [
        Life(limited, random.Random(f"{seed}-{number}"), sessions, wakeups, STEPS[store_name])
        for number in range(WORKERS)
    ]
    work = asyncio.gather(*(life.live() for life in lives))
    while not work.done():
        assert await limited.peek.violations() == []
        await asyncio.wait({work}, timeout=0.5)
    await work

    await bring_to_an_end(limited, [*sessions[:SESSIONS], *(one for life in lives for one in life.one_shots)])

    stored = {row["id"] for row in await limited.rows("events")}
    for life in lives:
        assert life.acknowledged <= stored
    assert sum(len(life.acknowledged) for life in lives) > STEPS[store_name] / 2, "something happened"


async def bring_to_an_end(world: World, sessions: list[str]) -> None:
    """Everybody has died: sweep, resume, and execute what is left."""
    for worker in await world.rows("workers", lost_at=None):
        await world.silence(worker["id"])
    await world.make_sweep_due()
    await world.queue.sweep()
    assert await world.how_many("run_leases") == 0
    worker_id = await world.worker()
    for session_id in sessions:
        if await world.how_many("sessions", id=session_id, status="paused"):
            await world.queue.change_session(session_id, "default", SessionVerb.RESUME)
        while isinstance(claim := await world.queue.claim(session_id, worker_id), Claimed):
            await world.queue.start(claim.lease)
            await world.queue.finish(claim.lease, an_outcome())
    assert {run["status"] for run in await world.rows("runs")} <= TERMINAL_RUNS
