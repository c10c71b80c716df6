"""Who takes part: workers and their beats, limiters, and what could be claimed (see `postgres/80_beat.sql`)."""

from __future__ import annotations

from asm_core.ports.queue import HeldLease
from asm_core.stores.local.common import Tx, can_be_claimed, earliest
from asm_core.stores.local.records import PRESENT


def register(tx: Tx, worker_id: str, hostname: str, pid: int, slots: int) -> None:
    """Again after an unknown commit it changes nothing; a dead worker does not rise."""
    if tx.db.find("workers", worker_id) is None:
        worker = {"id": worker_id, "hostname": hostname, "pid": pid, "slots": slots}
        tx.db.insert("workers", worker | {"started_at": tx.now, "last_seen": tx.now})


def retire(tx: Tx, worker_id: str) -> None:
    """Marked lost rather than removed: what it may still hold is then swept at once."""
    worker = tx.db.find("workers", worker_id)
    if worker is not None and worker["lost_at"] is None:
        tx.db.update("workers", worker_id, lost_at=tx.now, draining=True)


def beat(tx: Tx, worker_id: str, *, draining: bool) -> list[HeldLease] | None:
    """What it holds and which of its runs were asked to stop; None when it was declared dead."""
    worker = tx.db.find("workers", worker_id)
    if worker is None or worker["lost_at"] is not None:
        return None
    tx.db.update("workers", worker_id, last_seen=tx.now, draining=draining)
    leases = {lease["run_id"]: lease for lease in tx.db.rows("run_leases", {"worker_id": worker_id})}
    kinds = {run["id"]: run["cancel_kind"] for run in tx.db.rows("runs", {"id": tuple(leases)})}
    return [
        HeldLease(run_id=run_id, session_id=lease["session_id"], fence=lease["fence"], cancel_kind=kinds[run_id])
        for run_id, lease in leases.items()
    ]


def set_limiter(tx: Tx, name: str, max_parallel_runs: int) -> None:
    """What is above a lowered cap may end in peace."""
    known = tx.db.find("limiters", name)
    if known is None:
        tx.db.insert("limiters", {"name": name, "max_parallel_runs": max_parallel_runs, "changed_at": tx.now})
    elif known["max_parallel_runs"] != max_parallel_runs:
        tx.db.update("limiters", name, max_parallel_runs=max_parallel_runs, changed_at=tx.now)


def claimable(tx: Tx, limit: int) -> list[str]:
    """Least recently served first; who waits for a limiter is woken by it."""
    with_work = set(tx.db.column("runs", "session_id", {"status": "pending", "submit_seq": PRESENT}))
    waiting = tx.db.rows("session_runtime", {"session_id": tuple(with_work), "limiter_waiting_since": None})
    found = [runtime for runtime in waiting if can_be_claimed(tx, runtime)]
    found.sort(key=lambda runtime: earliest(runtime["last_served_at"]))
    return [runtime["session_id"] for runtime in found[:limit]]
