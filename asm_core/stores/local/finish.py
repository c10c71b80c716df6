"""Ending a run, and taking it from its holder (see `postgres/60_finish.sql`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asm_core.domain.event import TERMINAL_EVENT_TYPES
from asm_core.domain.lifecycle import TERMINAL_RUNS
from asm_core.stores.local.claim import held_lease
from asm_core.stores.local.common import Tx, audit, end_run, successors
from asm_core.stores.local.records import Row

_GIVEN_UP = {
    "worker_lost": "the worker that executed the run died",
    "worker_shutdown": "the worker that executed the run shut down",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    status: str
    events: list[Row] = field(default_factory=list)
    wake: list[str] = field(default_factory=list)


def finish(tx: Tx, run_id: str, fence: int, outcome: Mapping[str, Any]) -> Settled | None:
    """
    On behalf of its holder; None when the lease is gone. A cancel that was asked for before wins over whatever the
    provider said. Repeated after an unknown commit it finds the run terminal under its own fence, and says so.

    Args:
        outcome: `{status, output, error, data, provider_metadata, turn_count, metadata}`, as plain JSON.
    """
    lease, run = held_lease(tx, run_id, fence), tx.db.find("runs", run_id)
    if lease is None or run is None:
        return _finished_before(tx, run, fence)
    tx.db.delete("run_leases", {"run_id": run_id})
    status, error, data = outcome["status"], outcome["error"], dict(outcome["data"])
    if run["cancel_requested_at"] is not None and status != "cancelled":
        data["completed_after_cancel"] = status == "completed"
        status, error = "cancelled", None
    if status == "cancelled":
        data |= cancel_reason(run["cancel_kind"])
    if outcome["metadata"]:
        tx.db.update("runs", run_id, metadata={**run["metadata"], **outcome["metadata"]})
    events = end_run(
        tx, run, status, error=error, data=data, output=outcome["output"], fence=fence,
        provider_metadata=outcome["provider_metadata"], turn_count=outcome["turn_count"],
    )  # fmt: skip
    return Settled(status=status, events=events, wake=successors(tx, run["session_id"], lease["limiter"]))


def cancel_reason(kind: str | None) -> dict[str, str]:
    """What `run_cancelled` says of why."""
    reason = {"interrupt": "interrupted", "approval": "approval_requested"}.get(kind or "")
    return {"reason": reason} if reason else {}


def _finished_before(tx: Tx, run: Row | None, fence: int) -> Settled | None:
    if run is None or run["fence"] != fence or run["status"] not in TERMINAL_RUNS:
        return None
    ends = tx.db.rows("events", {"run_id": run["id"], "type": tuple(TERMINAL_EVENT_TYPES)})
    return Settled(status=run["status"], events=[event for event in ends if event["fence"] == fence])


def release(tx: Tx, run_id: str, fence: int, reason: str, max_claims: int, *, from_lost: bool) -> Settled | None:
    """
    Take a run from its holder without a result; None when there is nothing to take.

    In this order: a requested cancel is honoured; a run that never started goes back to its place, up to `max_claims`;
    a started one may start again if its options allow; else it has failed, as has one without a place to go back to.

    Args:
        from_lost: act only if the holder was declared dead.
    """
    lease, run = held_lease(tx, run_id, fence), tx.db.find("runs", run_id)
    if lease is None or run is None or (from_lost and not _is_lost(tx, lease["worker_id"])):
        return None
    tx.db.delete("run_leases", {"run_id": run_id})
    status, events = _becomes(tx, run, lease, max_claims), []
    if status == "pending":
        tx.db.update("runs", run_id, status="pending", worker_id=None)
        audit(tx, "run.requeued", run["tenant_id"], run["session_id"], run_id, {"reason": reason})
    else:
        data = cancel_reason(run["cancel_kind"]) if status == "cancelled" else {}
        events = end_run(tx, run, status, error=_why(run, lease, status, reason), data=data, fence=fence)
    return Settled(status=status, events=events, wake=successors(tx, run["session_id"], lease["limiter"]))


def _is_lost(tx: Tx, worker_id: str) -> bool:
    worker = tx.db.find("workers", worker_id)
    return worker is not None and worker["lost_at"] is not None


def _becomes(tx: Tx, run: Row, lease: Row, max_claims: int) -> str:
    if run["cancel_requested_at"] is not None:
        return "cancelled"
    if run["deadline_at"] is not None and run["deadline_at"] <= tx.now:
        return "timeout"
    if run["submit_seq"] is None:
        return "failed"
    if lease["started_at"] is None:
        return "pending" if run["claims"] < max_claims else "failed"
    may_repeat = run["options"]["on_worker_lost"] != "fail" and run["attempt"] < run["options"]["max_attempts"]
    return "pending" if may_repeat else "failed"


def _why(run: Row, lease: Row, status: str, reason: str) -> dict[str, Any] | None:
    if status == "timeout":
        details = {"reason": reason, "timeout_ms": run["options"].get("timeout_ms")}
        return {"code": "timeout", "message": "the run's time limit has passed", "details": details}
    if status == "cancelled":
        return None
    details = {"reason": reason, "worker_id": lease["worker_id"], "claims": run["claims"], "attempt": run["attempt"]}
    message = _GIVEN_UP.get(reason, "the run was given up by its worker")
    return {"code": "internal_error", "message": message, "details": details}
