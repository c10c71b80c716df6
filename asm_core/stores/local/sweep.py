"""Repairs, each a transaction of its own and derived from state (see `postgres/90_sweep.sql`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from asm_core.config import FleetTimes
from asm_core.stores.local.common import MAX_WAKEUPS, Tx, can_be_claimed, earliest, end_run, woken
from asm_core.stores.local.finish import Settled
from asm_core.stores.local.records import PRESENT, Row

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_PATIENCE_WITH_HOLDERS = timedelta(seconds=60)
"""A holder stops its run at the deadline by itself; one that has not by then never will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What a pass has to decide, run by run."""

    leases: list[tuple[str, int]]
    """(run id, fence) held by dead workers."""
    overdue: list[tuple[str, int]]
    expired: list[str]
    """Pending runs whose time in the queue is over."""


def begin(tx: Tx, times: FleetTimes) -> list[str] | None:
    """
    Open a pass, unless another had its turn within the interval (None), and declare dead who has not beaten.

    If the last pass is older than three intervals the store itself was away; then nobody is marked for one ttl.
    """
    known = tx.db.find("sweeper", 1) or tx.db.insert("sweeper", {"id": 1, "last_pass_at": _NEVER})
    if known["last_pass_at"] >= tx.now - times.sweep_interval:
        return None
    was_away = known["last_pass_at"] < tx.now - 3 * times.sweep_interval
    quiet_until = tx.now + times.lease_ttl if was_away else known["quiet_until"]
    tx.db.update("sweeper", 1, last_pass_at=tx.now, quiet_until=quiet_until)
    return [] if quiet_until is not None and tx.now <= quiet_until else _mark_lost(tx, times.lease_ttl)


def _mark_lost(tx: Tx, ttl: timedelta) -> list[str]:
    alive = tx.db.rows("workers", {"lost_at": None}, order_by="id")
    lost = [worker["id"] for worker in alive if worker["last_seen"] < tx.now - ttl]
    for worker_id in lost:
        tx.db.update("workers", worker_id, lost_at=tx.now)
    return lost


def due(tx: Tx) -> Due:
    lost = tuple(tx.db.column("workers", "id", {"lost_at": PRESENT}))
    late = tx.now - _PATIENCE_WITH_HOLDERS
    held = tx.db.rows("runs", {"status": "running", "deadline_at": PRESENT})
    waiting = tx.db.rows("runs", {"status": "pending", "queue_deadline_at": PRESENT})
    overdue = tuple(run["id"] for run in held if run["deadline_at"] < late)
    return Due(
        leases=_terms(tx.db.rows("run_leases", {"worker_id": lost})),
        overdue=_terms(tx.db.rows("run_leases", {"run_id": overdue})),
        expired=[run["id"] for run in waiting if run["queue_deadline_at"] < tx.now],
    )


def _terms(leases: list[Row]) -> list[tuple[str, int]]:
    return [(lease["run_id"], lease["fence"]) for lease in leases]


def expire(tx: Tx, run_id: str) -> Settled | None:
    """A pending run that waited longer than its queue timeout."""
    run = tx.db.find("runs", run_id)
    if run is None or run["status"] != "pending" or run["queue_deadline_at"] is None:
        return None
    if run["queue_deadline_at"] >= tx.now:
        return None
    details = {"reason": "queue_timeout", "queue_timeout_ms": run["options"].get("queue_timeout_ms")}
    message = "the run waited in its queue longer than its queue timeout"
    error = {"code": "timeout", "message": message, "details": details}
    return Settled(status="timeout", events=end_run(tx, run, "timeout", error=error))


def wake_stale(tx: Tx, stale_wake: timedelta) -> list[str]:
    """Sessions with work, a free slot and no recent wakeup; at most as many as the fleet has free slots."""
    free = _free_slots_of_the_fleet(tx)
    if free <= 0:
        return []
    with_work = set(tx.db.column("runs", "session_id", {"status": "pending", "submit_seq": PRESENT}))
    stale = [
        runtime
        for runtime in tx.db.rows("session_runtime", {"session_id": tuple(with_work)})
        if (runtime["last_wake_at"] or _NEVER) < tx.now - stale_wake and can_be_claimed(tx, runtime)
    ]
    stale.sort(key=lambda runtime: earliest(runtime["last_wake_at"]))
    return woken(tx, [runtime["session_id"] for runtime in stale[: min(free, MAX_WAKEUPS)]])


def _free_slots_of_the_fleet(tx: Tx) -> int:
    """What a draining worker holds takes no slot of the others."""
    return sum(
        worker["slots"] - len(tx.db.column("run_leases", "run_id", {"worker_id": worker["id"]}))
        for worker in tx.db.rows("workers", {"lost_at": None, "draining": False})
    )
