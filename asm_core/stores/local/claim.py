"""Giving runs to workers, and the start mark (see `postgres/40_claim.sql`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from asm_core.domain.lifecycle import CLAIMABLE_SESSIONS
from asm_core.stores import refusals
from asm_core.stores.local.common import Tx, audit, free_slots, queued, slots_used, successors
from asm_core.stores.local.records import Row
from asm_core.stores.local.sessions import with_bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    run: Row
    session: Row
    wake: list[str]


@dataclass(frozen=True, slots=True)
class Refused:
    reason: Any
    wake: Sequence[str] = ()
    session_status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    attempt: int
    remaining_ms: int
    cancel_kind: Any
    superseded: tuple[int, int] | None


def claim(tx: Tx, session_id: str, worker_id: str) -> Given | Refused:
    """The head of a session's queue. Leases that nobody has swept yet count: slots are never over-committed."""
    if not _may_claim(tx, worker_id):
        return Refused("lost")
    runtime, session = tx.db.find("session_runtime", session_id), tx.db.find("sessions", session_id)
    if runtime is None or session is None:
        return Refused("empty")
    if session["status"] not in CLAIMABLE_SESSIONS:  # the wakeup was spent on nothing: hand a limiter's slot on
        return Refused("paused", successors(tx, session_id, runtime["limiter"]))
    if slots_used(tx, session_id) >= runtime["max_concurrent_runs"]:
        return Refused("full")
    head = tx.db.rows("runs", queued(session_id), order_by="submit_seq", limit=1)
    if not head:  # as above
        return Refused("empty", successors(tx, session_id, runtime["limiter"]))
    return _give(tx, head[0], runtime, worker_id)


def claim_run(tx: Tx, run_id: str, tenant_id: str, worker_id: str) -> Given | Refused:
    """One particular run, whatever its place: runs outside the queue, and a queue's head."""
    if not _may_claim(tx, worker_id):
        return Refused("lost")
    run = tx.db.find("runs", run_id)
    if run is None or run["tenant_id"] != tenant_id:
        raise refusals.no_run(run_id)
    session_id = run["session_id"]
    runtime, session = tx.db.find("session_runtime", session_id), tx.db.find("sessions", session_id)
    if runtime is None or session is None:
        raise refusals.no_session(session_id)
    if run["status"] != "pending":
        return Refused(run["status"])
    if session["status"] not in CLAIMABLE_SESSIONS:
        return Refused("session", session_status=session["status"])
    if run["submit_seq"] is not None and run["submit_seq"] > min(
        tx.db.column("runs", "submit_seq", queued(session_id))
    ):
        return Refused("queue")
    if slots_used(tx, session_id) >= runtime["max_concurrent_runs"]:
        return Refused("full")
    return _give(tx, run, runtime, worker_id)


def _may_claim(tx: Tx, worker_id: str) -> bool:
    worker = tx.db.find("workers", worker_id)
    return worker is not None and worker["lost_at"] is None


def _give(tx: Tx, run: Row, runtime: Row, worker_id: str) -> Given | Refused:
    """The run becomes the worker's, unless its limiter is full: then its session waits for that."""
    session_id, limiter = run["session_id"], runtime["limiter"]
    if limiter is not None and free_slots(tx, limiter) == 0:
        tx.db.update("session_runtime", session_id, limiter_waiting_since=runtime["limiter_waiting_since"] or tx.now)
        return Refused("limited")
    fence = runtime["fence_seq"] + 1
    served = {"fence_seq": fence, "last_served_at": tx.now, "limiter_waiting_since": None}
    tx.db.update("session_runtime", session_id, **served)
    given = tx.db.update(
        "runs", run["id"], status="running", claims=run["claims"] + 1, claimed_at=tx.now, worker_id=worker_id,
        fence=fence, first_fence=fence if run["first_fence"] is None else run["first_fence"],
    )  # fmt: skip
    lease = {"run_id": run["id"], "tenant_id": run["tenant_id"], "session_id": session_id, "limiter": limiter}
    tx.db.insert("run_leases", lease | {"fence": fence, "worker_id": worker_id, "claimed_at": tx.now})
    about = {"worker_id": worker_id, "fence": fence}
    audit(tx, "run.claimed", run["tenant_id"], session_id, run["id"], about)
    return Given(run=given, session=with_bounds(tx, session_id), wake=successors(tx, session_id))


def start(tx: Tx, run_id: str, fence: int) -> Mark | None:
    """
    The start mark, immediately before the provider is called; None when the lease is gone.

    The deadline counts from the first attempt's mark; the wait in the queue is over for good.
    """
    lease = held_lease(tx, run_id, fence)
    run = tx.db.find("runs", run_id)
    if lease is None or run is None:
        return None
    is_fresh = lease["started_at"] is None
    if is_fresh:
        tx.db.update("run_leases", run_id, started_at=tx.now)
    marked = tx.db.update(
        "runs", run_id, started_at=run["started_at"] or tx.now, attempt=run["attempt"] + is_fresh,
        deadline_at=run["deadline_at"] or tx.now + timedelta(milliseconds=run["options"]["timeout_ms"]),
        queue_deadline_at=None,
    )  # fmt: skip
    return Mark(
        attempt=marked["attempt"],
        remaining_ms=max(0, (marked["deadline_at"] - tx.now) // timedelta(milliseconds=1)),
        cancel_kind=marked["cancel_kind"],
        superseded=tx.db.span(run_id, before_fence=fence) if marked["attempt"] > 1 else None,
    )


def held_lease(tx: Tx, run_id: str, fence: int) -> Row | None:
    """The lease, if this very fence stands."""
    lease = tx.db.find("run_leases", run_id)
    return lease if lease is not None and lease["fence"] == fence else None
