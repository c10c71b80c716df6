"""Cancelling a run (see `postgres/70_cancel.sql`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from asm_core.ports.queue import CancelKind
from asm_core.stores import refusals
from asm_core.stores.local.common import WAITING_RUNS, Tx, audit, end_run, successors
from asm_core.stores.local.finish import cancel_reason
from asm_core.stores.local.records import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    session_id: str
    status: str
    worker_id: str | None = None
    events: list[Row] = field(default_factory=list)
    wake: list[str] = field(default_factory=list)


def cancel(tx: Tx, run_id: str, tenant_id: str, kind: CancelKind) -> Cancelled:
    """
    A queued run ends here and never reaches a provider; for a running one the wish is stored (first one wins) and its
    holder told; a terminal one stays as it is.
    """
    run = tx.db.find("runs", run_id)
    if run is None or run["tenant_id"] != tenant_id:
        raise refusals.no_run(run_id)
    session_id, status = run["session_id"], run["status"]
    if status in WAITING_RUNS:
        events = end_run(tx, run, "cancelled", data=cancel_reason(kind))
        return Cancelled(session_id=session_id, status="cancelled", events=events, wake=successors(tx, session_id))
    if status != "running":
        return Cancelled(session_id=session_id, status=status)
    if run["cancel_requested_at"] is None:
        tx.db.update("runs", run_id, cancel_requested_at=tx.now, cancel_kind=kind)
        audit(tx, "run.cancel_requested", tenant_id, session_id, run_id, {"kind": kind})
    return Cancelled(session_id=session_id, status=status, worker_id=run["worker_id"])
