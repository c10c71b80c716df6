"""
RunQueue on Postgres: each method calls the function of the same name in the `.sql` files beside this one, where the
locks are explained, and turns its answer into values.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

from psycopg.errors import LockNotAvailable

from asm_core.config import FleetTimes
from asm_core.domain.errors import AsmError, LeaseLost
from asm_core.domain.event import Event, EventFrame
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import SESSION_VERBS, RunStatus, SessionVerb
from asm_core.domain.run import RunOutcome
from asm_core.domain.session import Session
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
from asm_core.stores.postgres.pool import Pool
from asm_core.stores.requests import append_map, numbered, outcome_map, session_map, submission_map
from asm_core.stores.sql.convert import run_of, session_of
from asm_core.wire import dumps_text, frame_of_map

log = logging.getLogger(__name__)

MAX_WAKEUPS_PER_PASS = 200


class PostgresRunQueue:
    """
    Args:
        database_url: `postgresql://…`
        application_name: shown in pg_stat_activity, for example `asm-worker`.
        times: liveness and repair intervals; the same for the whole fleet.
        limiter: name of the fleet-wide limiter that new sessions fall under, if any.
        max_size: connections at most.
    """

    def __init__(
        self,
        database_url: str,
        *,
        application_name: str,
        times: FleetTimes,
        limiter: str | None = None,
        max_size: int = 8,
    ) -> None:
        self._pool = Pool(database_url, application_name=application_name, max_size=max_size)
        self._times = times
        self._limiter = limiter

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def create_session(self, session: Session, *, activate: bool = True) -> SessionChange:
        answer = await self._pool.call(
            "SELECT asm_create_session(%s, %s, %s)", _session_json(session), self._limiter, activate
        )
        if "refused" in answer:
            raise _refusal(answer, session_id=session.id)
        return await self._created(session, answer)

    async def fork_session(self, session: Session, at: int | None) -> SessionChange:
        answer = await self._pool.call("SELECT asm_fork_session(%s, %s, %s)", _session_json(session), self._limiter, at)
        if "refused" in answer:
            raise _refusal(answer, session_id=session.parent_session_id or "", at=at)
        return await self._created(session, answer)

    async def _created(self, session: Session, answer: Mapping[str, Any]) -> SessionChange:
        row = await self._session_row(session.id)
        return SessionChange(session=session_of(row), events=_frames(answer["events"]))

    async def change_session(
        self,
        session_id: str,
        tenant_id: str,
        verb: SessionVerb,
        *,
        cancel_queued: bool = False,
        error: AsmError | None = None,
    ) -> SessionChange:
        rule = SESSION_VERBS[verb]
        answer = await self._pool.call(
            "SELECT asm_change_session(%s, %s, %s, %s, %s, %s, %s)",
            session_id, tenant_id, rule.to, [*rule.sources], rule.event, cancel_queued,
            dumps_text(error.to_event_data() if error else {}),
        )  # fmt: skip
        if "refused" in answer:
            raise _refusal(answer, session_id=session_id, to=rule.to)
        return SessionChange(
            session=session_of(await self._session_row(session_id)),
            events=_frames(answer["events"]),
            wake=answer["wake"],
            nudges=[(worker, run) for worker, run in answer["nudges"]],
        )

    async def _session_row(self, session_id: str) -> Mapping[str, Any]:
        row: Mapping[str, Any] = await self._pool.call(
            "SELECT to_jsonb(s) || jsonb_build_object('max_concurrent_runs', r.max_concurrent_runs,"
            " 'max_queued_runs', r.max_queued_runs)"
            " FROM asm_sessions s JOIN asm_session_runtime r ON r.session_id = s.id WHERE s.id = %s",
            session_id,
        )
        return row

    async def submit(self, submission: Submission) -> Submitted:
        answer = await self._pool.call(
            "SELECT asm_submit(%s, %s)", dumps_text(submission_map(submission)), self._limiter
        )
        if "refused" in answer:
            raise _refusal(answer, session_id=submission.session_id, key=submission.idempotency_key or "")
        return Submitted(
            run_id=answer["run_id"],
            session_id=answer["session_id"],
            status=RunStatus(answer["status"]),
            position=answer["position"],
            replayed=answer["replayed"],
            wake=answer.get("wake", ()),
            events=_frames(answer.get("events", ())),
        )

    async def claim(self, session_id: str, worker_id: str) -> Claimed | NotClaimed:
        answer = await self._pool.call("SELECT asm_claim(%s, %s)", session_id, worker_id)
        if "reason" in answer:
            return NotClaimed(answer["reason"], answer.get("wake", ()))
        return _claimed(answer, worker_id)

    async def claim_run(self, run_id: str, tenant_id: str, worker_id: str) -> Claimed:
        answer = await self._pool.call("SELECT asm_claim_run(%s, %s, %s)", run_id, tenant_id, worker_id)
        if answer is None:
            raise refusals.no_run(run_id)
        if "reason" in answer:
            raise refusals.not_startable(run_id, answer["reason"], answer.get("status"))
        return _claimed(answer, worker_id)

    async def start(self, lease: Lease) -> Started:
        answer = await self._pool.call("SELECT asm_start(%s, %s)", lease.run_id, lease.fence)
        if answer is None:
            raise LeaseLost(lease.run_id)
        superseded = (answer["first"], answer["last"]) if answer["first"] is not None else None
        return Started(
            attempt=answer["attempt"],
            remaining_ms=answer["remaining_ms"],
            cancel_kind=answer["cancel_kind"],
            superseded=superseded,
        )

    async def append(self, batches: Sequence[tuple[Lease, Sequence[Event]]]) -> list[list[Event] | LeaseLost]:
        batch = [append_map(lease, events) for lease, events in batches]
        rows = await self._pool.rows("SELECT id, sequence_number FROM asm_append(%s)", dumps_text(batch))
        numbers: dict[str, int] = dict(rows)
        return [numbered(lease, events, numbers) for lease, events in batches]

    async def finish(self, lease: Lease, outcome: RunOutcome) -> Finished:
        if outcome.status is RunStatus.PENDING:
            reason = outcome.data["reason"]
            answer = await self._release(lease.run_id, lease.fence, reason, from_lost=False)
        else:
            answer = await self._pool.call(
                "SELECT asm_finish(%s, %s, %s)", lease.run_id, lease.fence, dumps_text(outcome_map(outcome))
            )
        if answer is None:
            raise LeaseLost(lease.run_id)
        return _finished(answer)

    async def hand_back(self, run_id: str, fence: int, reason: str) -> Finished | None:
        """Give up a lease without a result; None when it is gone already."""
        answer = await self._release(run_id, fence, reason, from_lost=False)
        return _finished(answer) if answer else None

    async def _release(self, run_id: str, fence: int, reason: str, *, from_lost: bool) -> Mapping[str, Any] | None:
        answer: Mapping[str, Any] | None = await self._pool.call(
            "SELECT asm_release(%s, %s, %s, %s, %s)", run_id, fence, reason, self._times.max_claims, from_lost
        )
        return answer

    async def request_cancel(
        self, run_id: str, tenant_id: str, kind: CancelKind, approval: Mapping[str, Any] | None = None
    ) -> CancelRequest:
        stated = None if approval is None else dumps_text(approval)
        answer = await self._pool.call("SELECT asm_cancel(%s, %s, %s, %s)", run_id, tenant_id, kind, stated)
        if answer is None:
            raise refusals.no_run(run_id)
        return CancelRequest(
            run_id=run_id,
            session_id=answer["session_id"],
            status=RunStatus(answer["status"]),
            worker_id=answer["worker_id"],
            events=_frames(answer["events"]),
            wake=answer["wake"],
        )

    async def claimable(self, limit: int) -> list[str]:
        return [row[0] for row in await self._pool.rows("SELECT asm_claimable(%s)", limit)]

    async def register_worker(self, worker_id: str, *, hostname: str, pid: int, slots: int) -> None:
        await self._pool.rows(
            "INSERT INTO asm_workers (id, hostname, pid, slots, started_at, last_seen)"
            " VALUES (%s, %s, %s, %s, clock_timestamp(), clock_timestamp()) ON CONFLICT DO NOTHING RETURNING id",
            worker_id, hostname, pid, slots,
        )  # fmt: skip

    async def retire_worker(self, worker_id: str) -> None:
        """Marked lost rather than removed: what it may still hold is then swept at once."""
        await self._pool.rows(
            "UPDATE asm_workers SET lost_at = clock_timestamp(), draining = true WHERE id = %s AND lost_at IS NULL"
            " RETURNING id",
            worker_id,
        )

    async def set_limiter(self, name: str, max_parallel_runs: int) -> None:
        """Create or change a fleet-wide cap on runs in flight; what is above a lowered one may end in peace."""
        await self._pool.rows(
            "INSERT INTO asm_limiters (name, max_parallel_runs) VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET max_parallel_runs = excluded.max_parallel_runs,"
            " changed_at = CASE WHEN asm_limiters.max_parallel_runs = excluded.max_parallel_runs"
            " THEN asm_limiters.changed_at ELSE clock_timestamp() END RETURNING name",
            name, max_parallel_runs,
        )  # fmt: skip

    async def beat(self, worker_id: str, *, draining: bool = False) -> list[HeldLease] | None:
        held = await self._pool.call("SELECT asm_beat(%s, %s)", worker_id, draining)
        return None if held is None else [HeldLease(**lease) for lease in held]

    async def sweep(self) -> Swept:
        times = self._times
        begun = await self._pool.call("SELECT asm_sweep_begin(%s, %s)", times.sweep_interval, times.lease_ttl)
        if begun is None:
            return Swept()
        due = await self._pool.call("SELECT asm_sweep_due()")
        answers: dict[str, Mapping[str, Any]] = {}
        for run_id, fence in due["leases"]:
            answers |= await _settled(run_id, self._release(run_id, fence, "worker_lost", from_lost=True))
        for run_id, fence in due["overdue"]:
            answers |= await _settled(run_id, self._release(run_id, fence, "deadline", from_lost=False))
        for run_id in due["expired"]:
            answers |= await _settled(run_id, self._pool.call("SELECT asm_expire(%s)", run_id))
        stale = await self._pool.call("SELECT asm_sweep_wake(%s, %s)", times.stale_wake, MAX_WAKEUPS_PER_PASS)
        return Swept(
            ran=True,
            workers_lost=begun["lost"],
            settled={run_id: RunStatus(answer["status"]) for run_id, answer in answers.items()},
            events=[frame for answer in answers.values() for frame in _frames(answer["events"])],
            wake=[*(session for answer in answers.values() for session in answer["wake"]), *stale],
        )


def _session_json(session: Session) -> str:
    return dumps_text(session_map(session))


def _claimed(answer: Mapping[str, Any], worker_id: str) -> Claimed:
    run, session = run_of(answer["run"]), session_of(answer["session"])
    lease = Lease(
        run_id=run.id, session_id=session.id, fence=answer["fence"], worker_id=worker_id, tenant_id=run.tenant_id
    )
    return Claimed(lease=lease, run=run, session=session, wake=answer["wake"])


def _frames(maps: Iterable[Mapping[str, Any]]) -> list[EventFrame]:
    return [frame_of_map(value) for value in maps]


def _finished(answer: Mapping[str, Any]) -> Finished:
    return Finished(status=RunStatus(answer["status"]), events=_frames(answer["events"]), wake=answer["wake"])


async def _settled(run_id: str, decision: Awaitable[Mapping[str, Any] | None]) -> dict[str, Mapping[str, Any]]:
    """The run and what became of it. One that cannot be decided is left to the next pass and holds up no other."""
    try:
        answer = await decision
    except AsmError as error:
        is_the_stores = error.retryable and not isinstance(error.__cause__, LockNotAvailable)
        if is_the_stores:
            raise
        log.error("run %s cannot be settled: %s", run_id, error)
        return {}
    return {run_id: answer} if answer else {}


def _refusal(
    answer: Mapping[str, Any], *, session_id: str, to: str = "", key: str = "", at: int | None = None
) -> AsmError:
    match answer["refused"]:
        case "session_not_found":
            return refusals.no_session(session_id)
        case "no_such_event":
            return refusals.no_such_event(session_id, at or 0, answer["latest"])
        case "already_exists":
            return refusals.key_reused(session_id, key, answer["run_id"])
        case "id_taken":
            return refusals.id_taken(answer["record"], answer["id"])
        case "max_runs_exceeded":
            return refusals.queue_full(
                session_id, queued=answer["queued"], in_flight=answer["in_flight"], limits=answer
            )
        case "invalid_transition":
            return refusals.no_such_change(session_id, answer["from"], to)
        case _ if "status" in answer:
            return refusals.session_ended(session_id, answer["status"])
        case _:
            return refusals.session_has_work(session_id, queued=answer["queued"], in_flight=answer["in_flight"])
