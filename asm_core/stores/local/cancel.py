"""Cancelling a run (see `postgres/70_cancel.sql`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asm_core.domain.lifecycle import TERMINAL_RUNS
from asm_core.ports.queue import CancelKind
from asm_core.stores import refusals
from asm_core.stores.local.common import WAITING_RUNS, Tx, audit, emit, end_run, successors
from asm_core.stores.local.finish import cancel_reason
from asm_core.stores.local.records import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    session_id: str
    status: str
    worker_id: str | None = None
    events: list[Row] = field(default_factory=list)
    wake: list[str] = field(default_factory=list)


def cancel(
    tx: Tx, run_id: str, tenant_id: str, kind: CancelKind, approval: Mapping[str, Any] | None = None
) -> Cancelled:
    """
    A queued run ends here and never reaches a provider; for a running one the wish is stored (first one wins) and its
    holder told; a terminal one stays as it is.

    Args:
        approval: what is to be approved before the work may go on; stated before the run's end, whoever writes that.
    """
    run = tx.db.find("runs", run_id)
    if run is None or run["tenant_id"] != tenant_id:
        raise refusals.no_run(run_id)
    session_id, status = run["session_id"], run["status"]
    if status in TERMINAL_RUNS:
        return Cancelled(session_id=session_id, status=status)
    is_first = run["cancel_requested_at"] is None
    events = [_approval_event(tx, run, approval)] if is_first and approval is not None else []
    if status in WAITING_RUNS:
        events += end_run(tx, run, "cancelled", data=cancel_reason(kind))
        return Cancelled(session_id=session_id, status="cancelled", events=events, wake=successors(tx, session_id))
    if is_first:
        tx.db.update("runs", run_id, cancel_requested_at=tx.now, cancel_kind=kind)
        audit(tx, "run.cancel_requested", tenant_id, session_id, run_id, {"kind": kind})
    return Cancelled(session_id=session_id, status=status, worker_id=run["worker_id"], events=events)


def _approval_event(tx: Tx, run: Row, data: Mapping[str, Any]) -> Row:
    return emit(
        tx, run["session_id"], "tool_approval_requested", data, run_id=run["id"], attempt=run["attempt"] or None,
        provider=run["provider"] or run["options"].get("provider"),
    )  # fmt: skip
