"""
The same commands to every store, side by side: the answers are equal, and in the end so are the logs.

Ids are given by the machine, so that the stores can be compared word by word; only times are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from asm_core.domain.errors import AsmError, ErrorCode, LeaseLost
from asm_core.domain.event import EventFrame, EventType
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import RunStatus, SessionVerb
from asm_core.domain.session import Session
from asm_core.ports.queue import Claimed
from asm_core.ports.store import EventFilter
from asm_core.wire import loads
from tests.builders import (
    HANDED_BACK,
    RETRY,
    World,
    a_run,
    a_session,
    a_submission,
    an_event,
    an_outcome,
    open_memory_world,
    open_sqlite_world,
    open_world,
    some_events,
)
from tests.fixtures.postgres import empty_database
from tests.fixtures.sqlite import empty_file

TENANT = "default"
OPTIONS = ({}, {}, RETRY, {"on_worker_lost": "resume", "max_attempts": 2}, {"provider": "claude"})
UNSPOKEN = {"timestamp", "created_at", "updated_at", "started_at", "ended_at", "remaining_ms", "oldest_queued_age_ms",
            "oldest_pending_age_ms"}  # fmt: skip
"""Times, and what follows from them."""


def comparable(answer: Any) -> Any:
    """An answer without times; lists in which order means nothing, sorted."""
    match answer:
        case AsmError():
            return ("refused", str(answer.code), answer.message, answer.details)
        case LeaseLost():
            return ("lost", answer.run_id)
        case EventFrame():
            return comparable(loads(answer.body))
        case Session():
            return (answer.id, str(answer.status), comparable(answer.metadata))
        case datetime():
            return "a time"
        case dict():
            return {key: comparable(value) for key, value in answer.items() if key not in UNSPOKEN}
        case list() | tuple():
            return [comparable(item) for item in answer]
        case _ if is_dataclass(answer):
            told = {field.name: getattr(answer, field.name) for field in fields(answer)}
            unordered = {name: sorted(told[name]) for name in ("wake", "nudges") if name in told}
            return (type(answer).__name__, comparable(told | unordered))
        case _:
            return answer


@dataclass
class Stores:
    """Where the worlds of one run come from."""

    loop: asyncio.AbstractEventLoop
    durable: list[World]
    """On SQLite and Postgres: opened once, emptied for each life."""
    empty: Callable[[], None]


class Agreement(RuleBasedStateMachine):
    stores: Stores

    def __init__(self) -> None:
        super().__init__()
        self.opened = AsyncExitStack()
        self.worlds: list[World] = []
        self.sessions: list[str] = []
        self.runs: list[str] = []
        self.terms: list[tuple[Lease, int]] = []
        """Every lease that was ever given, and how many events its holder has sent."""
        self.workers: list[str] = []
        self.ids = count(1)

    # Both ends

    @initialize(cap=st.integers(1, 3))
    def begin(self, cap: int) -> None:
        self.loop().run_until_complete(self._open())
        self.together(lambda world: world.queue.set_limiter("fleet", cap))
        for _ in range(2):
            self.register()
            self.create(activate=True, slots=2, room=3)

    async def _open(self) -> None:
        memory = await self.opened.enter_async_context(open_memory_world(limiter="fleet"))
        self.stores.empty()
        self.worlds = [memory, *(world.renewed() for world in self.stores.durable)]

    def teardown(self) -> None:
        try:
            self.logs_agree()
        finally:
            self.loop().run_until_complete(self._close())

    async def _close(self) -> None:
        await self.opened.aclose()
        assert await self.worlds[1].peek.violations() == []

    def loop(self) -> asyncio.AbstractEventLoop:
        return self.stores.loop

    def together(self, step: Callable[[World], Awaitable[Any]]) -> Any:
        """What the first store answers; the others must answer alike."""

        async def answers() -> list[Any]:
            return [await self._answer(step(world)) for world in self.worlds]

        first, *others = self.loop().run_until_complete(answers())
        for other in others:
            assert comparable(other) == comparable(first)
        return first

    async def _answer(self, step: Awaitable[Any]) -> Any:
        try:
            return await step
        except (AsmError, LeaseLost) as refusal:
            assert not isinstance(refusal, AsmError) or refusal.code is not ErrorCode.STORAGE_ERROR, refusal
            return refusal

    def one(self, given: list[Any], chosen: int) -> Any:
        return given[chosen % len(given)]

    # Commands

    @rule()
    def register(self) -> None:
        worker_id = f"wrk_{next(self.ids)}"
        self.workers.append(worker_id)
        self.together(lambda world: world.queue.register_worker(worker_id, hostname="h", pid=1, slots=4))

    @rule(activate=st.booleans(), slots=st.integers(1, 3), room=st.integers(0, 3))
    def create(self, activate: bool, slots: int, room: int) -> None:
        session = a_session(
            id=f"ses_{next(self.ids)}", max_concurrent_runs=slots, max_queued_runs=room, provider="scripted",
            metadata={"correlation_id": "c", "mine": [1]},
        )  # fmt: skip
        self.sessions.append(session.id)
        self.together(lambda world: world.queue.create_session(session, activate=activate))

    @rule(chosen=st.integers(0), verb=st.sampled_from(SessionVerb), cancel_queued=st.booleans(), fails=st.booleans())
    def change(self, chosen: int, verb: SessionVerb, cancel_queued: bool, fails: bool) -> None:
        session_id = self.one(self.sessions, chosen)
        error = AsmError(ErrorCode.PROVIDER_ERROR, "gone", details={"n": None, "m": [1]}) if fails else None
        self.together(
            lambda world: world.queue.change_session(
                session_id, TENANT, verb, cancel_queued=cancel_queued, error=error if verb == "fail" else None
            )
        )

    @rule(
        chosen=st.integers(0),
        options=st.sampled_from(OPTIONS),
        key=st.sampled_from([None, None, "k"]),
        asked=st.sampled_from(["same", "other"]),
        queued=st.sampled_from([True, True, True, False]),
        twice=st.booleans(),
    )
    def submit(self, chosen: int, options: Any, key: str | None, asked: str, queued: bool, twice: bool) -> None:
        submission = a_submission(
            self.one(self.sessions, chosen), run_id=f"run_{next(self.ids)}", options=options, idempotency_key=key,
            request_hash=asked, queued=queued,
        )  # fmt: skip
        self.runs.append(submission.run_id)
        for _ in range(1 + twice):
            self.together(lambda world: world.queue.submit(submission))

    @rule(key=st.sampled_from([None, "k"]))
    def submit_once(self, key: str | None) -> None:
        session = a_session(id=f"ses_{next(self.ids)}", max_queued_runs=2)
        submission = a_submission(
            session.id, run_id=f"run_{next(self.ids)}", new_session=session, idempotency_key=key, request_hash="same"
        )
        answer = self.together(lambda world: world.queue.submit(submission))
        self.sessions.append(answer.session_id)
        self.runs.append(submission.run_id)

    @rule(chosen=st.integers(0), by=st.integers(0), starts=st.booleans())
    def claim(self, chosen: int, by: int, starts: bool) -> None:
        session_id, worker_id = self.one(self.sessions, chosen), self.one(self.workers, by)
        self._begun(self.together(lambda world: world.queue.claim(session_id, worker_id)), starts)

    @precondition(lambda self: self.runs)
    @rule(chosen=st.integers(0), by=st.integers(0), starts=st.booleans())
    def claim_run(self, chosen: int, by: int, starts: bool) -> None:
        run_id, worker_id = self.one(self.runs, chosen), self.one(self.workers, by)
        self._begun(self.together(lambda world: world.queue.claim_run(run_id, TENANT, worker_id)), starts)

    def _begun(self, claim: Any, starts: bool) -> None:
        if isinstance(claim, Claimed):
            self.terms.append((claim.lease, 0))
            if starts:
                self.start(-1)

    @precondition(lambda self: self.terms)
    @rule(chosen=st.integers(0))
    def start(self, chosen: int) -> None:
        lease, _ = self.one(self.terms, chosen)
        self.together(lambda world: world.queue.start(lease))

    @precondition(lambda self: self.terms)
    @rule(
        chosen=st.lists(st.integers(0), min_size=1, max_size=3),
        how_many=st.integers(1, 3),
        spent=st.sampled_from([None, {"input_tokens": 7, "cost_usd": 0.1}, {"output_tokens": 2.5, "note_tokens": "x"}]),
        again=st.booleans(),
    )
    def append(self, chosen: list[int], how_many: int, spent: Any, again: bool) -> None:
        """Several terms in one call, zombies among them; sometimes what was sent before once more."""
        batch = []
        for index in sorted({index % len(self.terms) for index in chosen}):
            lease, sent = self.terms[index]
            first = 0 if again else sent
            events = some_events(lease, how_many, first=first)
            if spent is not None:
                usage = EventType.TOKEN_USAGE_UPDATED
                events += some_events(lease, first=first + how_many, kind=usage, data=spent)
            self.terms[index] = (lease, max(sent, first + len(events)))
            batch.append((lease, events))
        self.together(lambda world: world.queue.append(batch))

    @precondition(lambda self: self.terms)
    @rule(
        chosen=st.integers(0),
        status=st.sampled_from([RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.TIMEOUT]),
        hands_back=st.booleans(),
    )
    def finish(self, chosen: int, status: RunStatus, hands_back: bool) -> None:
        lease, _ = self.one(self.terms, chosen)
        error = AsmError(ErrorCode.TOOL_ERROR, "no", details={"x": 1}) if status is RunStatus.FAILED else None
        metadata = {"provider_session_id": lease.run_id, "model": None, "more": [1]}
        outcome = HANDED_BACK if hands_back else an_outcome(status, error=error, provider_metadata=metadata)
        self.together(lambda world: world.queue.finish(lease, outcome))

    @precondition(lambda self: self.terms)
    @rule(chosen=st.integers(0))
    def hand_back(self, chosen: int) -> None:
        lease, _ = self.one(self.terms, chosen)
        self.together(lambda world: world.queue.hand_back(lease.run_id, lease.fence, "unknown_lease"))

    @precondition(lambda self: self.runs)
    @rule(chosen=st.integers(0), kind=st.sampled_from(["cancel", "interrupt"]))
    def cancel(self, chosen: int, kind: Any) -> None:
        run_id = self.one(self.runs, chosen)
        self.together(lambda world: world.queue.request_cancel(run_id, TENANT, kind))

    @rule(by=st.integers(0))
    def die(self, by: int) -> None:
        worker_id = self.one(self.workers, by)
        self.together(lambda world: world.silence(worker_id))

    @rule(by=st.integers(0))
    def beat(self, by: int) -> None:
        worker_id = self.one(self.workers, by)

        async def step(world: World) -> Any:
            held = await world.queue.beat(worker_id)
            return held and sorted(held, key=lambda lease: lease.run_id)

        self.together(step)

    @rule()
    def sweep(self) -> None:
        """Which run is settled first is nobody's business."""

        async def step(world: World) -> Any:
            await world.make_sweep_due()
            swept = await world.queue.sweep()
            return swept.ran, swept.workers_lost, dict(swept.settled), sorted(swept.wake), len(swept.events)

        self.together(step)

    @rule(cap=st.integers(1, 4))
    def limit(self, cap: int) -> None:
        self.together(lambda world: world.queue.set_limiter("fleet", cap))

    @rule()
    def look(self) -> None:
        """Sessions that were never served come in any order."""

        async def step(world: World) -> Any:
            return sorted(await world.queue.claimable(1_000)), await world.store.stats(TENANT)

        self.together(step)

    @rule(chosen=st.integers(0))
    def look_at_a_queue(self, chosen: int) -> None:
        session_id = self.one(self.sessions, chosen)
        self.together(lambda world: world.store.queue_status(session_id, TENANT))
        self.together(lambda world: world.store.get_active_run(session_id, TENANT))

    # Plain writes beside them

    @rule(chosen=st.integers(0), also=st.booleans())
    def note(self, chosen: int, also: bool) -> None:
        """Events of the session itself."""
        session_id = self.one(self.sessions, chosen)
        events = [an_event(id=f"evt_{next(self.ids)}", session_id=session_id, data={"b": 1, "a": [None]})]
        events += [an_event(id=events[0].id, session_id="ses_1" if also else session_id)]
        self.together(lambda world: world.store.append_events(events, TENANT))

    @rule(chosen=st.integers(0), status=st.sampled_from([RunStatus.PENDING, RunStatus.COMPLETED]))
    def save(self, chosen: int, status: RunStatus) -> None:
        """Runs and sessions of other makers, beside the queue's."""
        run_id = f"run_{next(self.ids)}"
        run = a_run(status, id=run_id, session_id=f"saved_{chosen % 2}", cost_usd=0.5)
        session = a_session(id=run.session_id, tags=["t"])
        self.together(lambda world: world.store.save_session(session))
        self.together(lambda world: world.store.get_session(session.id, TENANT))
        if status is RunStatus.PENDING:
            self.together(lambda world: world.store.save_run(run))
            self.together(lambda world: world.store.get_run(run_id, TENANT))

    # The end

    def logs_agree(self) -> None:
        for session_id in self.sessions:
            self.together(lambda world, of=session_id: world.store.get_events(of, TENANT, EventFilter(), 10_000))
            self.together(lambda world, of=session_id: world.store.get_session(of, TENANT))
            self.together(lambda world, of=session_id: self.audit_log(world, of))
        for run_id in self.runs:
            self.together(lambda world, of=run_id: world.store.get_run(of, TENANT))

    async def audit_log(self, world: World, session_id: str) -> list[Any]:
        """Without ids: a database gives some out that a rollback takes back."""
        page = await world.audit.get_audit_log(session_id, TENANT, limit=10_000)
        return [(entry.action, entry.run_id, entry.data) for entry in page.items]


@pytest.fixture
def stores(sqlite_path: Path, emptied_database_url: str) -> Iterator[Stores]:
    def empty() -> None:
        empty_file(sqlite_path)
        empty_database(emptied_database_url)

    opened = AsyncExitStack()
    with asyncio.Runner() as runner:
        durable = [
            runner.run(opened.enter_async_context(world))
            for world in (
                open_sqlite_world(sqlite_path, limiter="fleet", ends_sound=False),
                open_world(emptied_database_url, limiter="fleet", ends_sound=False),
            )
        ]
        yield Stores(runner.get_loop(), durable, empty)
        runner.run(opened.aclose())


def test_all_stores_give_the_same_answers_and_keep_the_same_log(stores: Stores) -> None:
    """Memory and SQLite share their decisions, Postgres has its own."""
    machine = type("Agreement", (Agreement,), {"stores": stores})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=40, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # Phase.shrink takes minutes: every try opens three stores
        ),
    )  # fmt: skip
