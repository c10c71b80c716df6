"""
RunQueue without Postgres: each method runs the transaction of the same name in the files beside this one, and turns
its answer into values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from asm_core.config import FleetTimes
from asm_core.domain.errors import AsmError, LeaseLost
from asm_core.domain.event import Event
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import RunStatus, SessionVerb
from asm_core.domain.run import RunOutcome
from asm_core.domain.session import Session
from asm_core.ports.clock import Clock
from asm_core.ports.queue import (
    CancelKind,
    CancelRequest,
    Claimed,
    Finished,
    HeldLease,
    NotClaimed,
    SessionChange,
    Started,
    Submission,
    Submitted,
    Swept,
)
from asm_core.stores import refusals
from asm_core.stores.local import append, cancel, claim, finish, sessions, submit, sweep, workers
from asm_core.stores.local.common import Tx, frames_of, storable
from asm_core.stores.local.finish import Settled
from asm_core.stores.local.records import Records
from asm_core.stores.requests import append_map, numbered, outcome_map, session_map, submission_map
from asm_core.stores.sql.convert import run_of, session_of

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")


class LocalRunQueue:
    """
    Args:
        records: where everything is kept; all queues and stores over the same records see each other.
        times: liveness and repair intervals.
        clock: the one clock of this store.
        limiter: name of the limiter that new sessions fall under, if any.
    """

    def __init__(self, records: Records, times: FleetTimes, clock: Clock, *, limiter: str | None = None) -> None:
        self._records = records
        self._times = times
        self._clock = clock
        self._limiter = limiter

    async def create_session(self, session: Session, *, activate: bool = True) -> SessionChange:
        given = storable(session_map(session))
        return _change(await self._write(sessions.create_session, given, self._limiter, activate=activate))

    async def fork_session(self, session: Session, at: int | None) -> SessionChange:
        return _change(await self._write(sessions.fork_session, storable(session_map(session)), self._limiter, at))

    async def change_session(
        self,
        session_id: str,
        tenant_id: str,
        verb: SessionVerb,
        *,
        cancel_queued: bool = False,
        error: AsmError | None = None,
    ) -> SessionChange:
        data = storable(error.to_event_data() if error else {})
        change = sessions.change_session
        return _change(await self._write(change, session_id, tenant_id, verb, data, cancel_queued=cancel_queued))

    async def submit(self, submission: Submission) -> Submitted:
        answer = await self._write(submit.submit, storable(submission_map(submission)), self._limiter)
        return Submitted(
            run_id=answer.run["id"],
            session_id=answer.run["session_id"],
            status=RunStatus(answer.run["status"]),
            position=answer.position,
            replayed=answer.replayed,
            wake=answer.wake,
            events=frames_of(answer.events),
        )

    async def claim(self, session_id: str, worker_id: str) -> Claimed | NotClaimed:
        answer = await self._write(claim.claim, session_id, worker_id)
        if isinstance(answer, claim.Refused):
            return NotClaimed(answer.reason, answer.wake)
        return _claimed(answer)

    async def claim_run(self, run_id: str, tenant_id: str, worker_id: str) -> Claimed:
        answer = await self._write(claim.claim_run, run_id, tenant_id, worker_id)
        if isinstance(answer, claim.Refused):
            raise refusals.not_startable(run_id, answer.reason, answer.session_status)
        return _claimed(answer)

    async def start(self, lease: Lease) -> Started:
        mark = await self._write(claim.start, lease.run_id, lease.fence)
        if mark is None:
            raise LeaseLost(lease.run_id)
        return Started(
            attempt=mark.attempt,
            remaining_ms=mark.remaining_ms,
            cancel_kind=mark.cancel_kind,
            superseded=mark.superseded,
        )

    async def append(self, batches: Sequence[tuple[Lease, Sequence[Event]]]) -> list[list[Event] | LeaseLost]:
        batch = storable([append_map(lease, events) for lease, events in batches])
        numbers = await self._write(append.append, batch)
        return [numbered(lease, events, numbers) for lease, events in batches]

    async def finish(self, lease: Lease, outcome: RunOutcome) -> Finished:
        if outcome.status is RunStatus.PENDING:
            settled = await self._release(lease.run_id, lease.fence, outcome.data["reason"], from_lost=False)
        else:
            settled = await self._write(finish.finish, lease.run_id, lease.fence, outcome_map(outcome))
        if settled is None:
            raise LeaseLost(lease.run_id)
        return _finished(settled)

    async def hand_back(self, run_id: str, fence: int, reason: str) -> Finished | None:
        settled = await self._release(run_id, fence, reason, from_lost=False)
        return _finished(settled) if settled else None

    async def _release(self, run_id: str, fence: int, reason: str, *, from_lost: bool) -> Settled | None:
        return await self._write(finish.release, run_id, fence, reason, self._times.max_claims, from_lost=from_lost)

    async def request_cancel(
        self, run_id: str, tenant_id: str, kind: CancelKind, approval: Mapping[str, Any] | None = None
    ) -> CancelRequest:
        stated = None if approval is None else storable(approval)
        answer = await self._write(cancel.cancel, run_id, tenant_id, kind, stated)
        return CancelRequest(
            run_id=run_id,
            session_id=answer.session_id,
            status=RunStatus(answer.status),
            worker_id=answer.worker_id,
            events=frames_of(answer.events),
            wake=answer.wake,
        )

    async def claimable(self, limit: int) -> list[str]:
        return await self._write(workers.claimable, limit)

    async def register_worker(self, worker_id: str, *, hostname: str, pid: int, slots: int) -> None:
        await self._write(workers.register, worker_id, hostname, pid, slots)

    async def retire_worker(self, worker_id: str) -> None:
        await self._write(workers.retire, worker_id)

    async def beat(self, worker_id: str, *, draining: bool = False) -> list[HeldLease] | None:
        return await self._write(workers.beat, worker_id, draining=draining)

    async def set_limiter(self, name: str, max_parallel_runs: int) -> None:
        """Create or change a cap on runs in flight over all sessions."""
        await self._write(workers.set_limiter, name, max_parallel_runs)

    async def sweep(self) -> Swept:
        lost = await self._write(sweep.begin, self._times)
        if lost is None:
            return Swept()
        due = await self._write(sweep.due)
        settled: dict[str, Settled] = {}
        for reason, terms in (("worker_lost", due.leases), ("deadline", due.overdue)):
            for run_id, fence in terms:
                given = (run_id, fence, reason, self._times.max_claims)
                settled |= await self._settled(run_id, finish.release, *given, from_lost=reason == "worker_lost")
        for run_id in due.expired:
            settled |= await self._settled(run_id, sweep.expire, run_id)
        stale = await self._write(sweep.wake_stale, self._times.stale_wake)
        return Swept(
            ran=True,
            workers_lost=lost,
            settled={run_id: RunStatus(answer.status) for run_id, answer in settled.items()},
            events=[frame for answer in settled.values() for frame in frames_of(answer.events)],
            wake=[*(session_id for answer in settled.values() for session_id in answer.wake), *stale],
        )

    async def _settled(
        self,
        run_id: str,
        decide: Callable[Concatenate[Tx, P], Settled | None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> dict[str, Settled]:
        """The run and what became of it. One that cannot be decided is left to the next pass and holds up no other."""
        try:
            answer = await self._write(decide, *args, **kwargs)
        except AsmError as error:
            if error.retryable:
                raise
            log.error("run %s cannot be settled: %s", run_id, error)
            return {}
        except (LookupError, TypeError, ValueError):
            log.exception("run %s cannot be settled: its row is wrong", run_id)
            return {}
        return {run_id: answer} if answer else {}

    async def _write(self, work: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._records.write(lambda db: work(Tx(db, self._clock.now()), *args, **kwargs))


def _change(changed: sessions.Changed) -> SessionChange:
    return SessionChange(
        session=session_of(changed.session),
        events=frames_of(changed.events),
        wake=changed.wake,
        nudges=changed.nudges,
    )


def _claimed(given: claim.Given) -> Claimed:
    run = run_of(given.run)
    lease = Lease(
        run_id=run.id,
        session_id=run.session_id,
        fence=given.run["fence"],
        worker_id=given.run["worker_id"],
        tenant_id=run.tenant_id,
    )
    return Claimed(lease=lease, run=run, session=session_of(given.session), wake=given.wake)


def _finished(settled: Settled) -> Finished:
    return Finished(status=RunStatus(settled.status), events=frames_of(settled.events), wake=settled.wake)
