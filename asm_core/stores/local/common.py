"""Shared by the transactions (see `postgres/10_common.sql`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from asm_core.domain.event import TERMINAL_EVENTS, EventFrame
from asm_core.domain.fields import MAX_INTEGER
from asm_core.domain.lifecycle import CLAIMABLE_SESSIONS, TERMINAL_SESSIONS, RunStatus, SessionStatus
from asm_core.domain.run import is_number
from asm_core.stores import refusals
from asm_core.stores.local.records import PRESENT, Row, Transaction, Where
from asm_core.stores.sql.convert import EVENT_WIRE_COLUMNS, frame_of
from asm_core.wire import dumps_text, loads

MAX_WAKEUPS = 200
"""At once, where no limiter bounds them."""

OPEN_SESSIONS = tuple(str(status) for status in SessionStatus if status not in TERMINAL_SESSIONS)
WAITING_RUNS = (str(RunStatus.PENDING), str(RunStatus.AWAITING_APPROVAL))
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Tx:
    """A transaction under way."""

    db: Transaction
    now: datetime
    """The one instant at which everything in it happens."""


def storable(value: Any) -> Any:
    """`value` as plain JSON. Raises AsmError `validation_error` for text with NUL, which Postgres refuses too."""
    text = dumps_text(value)
    if "\\u0000" in text and _NUL.search(text):
        raise refusals.unstorable()
    return loads(text)


def frames_of(events: Iterable[Row]) -> list[EventFrame]:
    return [frame_of({name: event[name] for name in EVENT_WIRE_COLUMNS}) for event in events]


def queued(session_id: str) -> Where:
    """The runs that wait in a session's queue; a pending run without a place is started by whoever asked for it."""
    return {"session_id": session_id, "status": "pending", "submit_seq": PRESENT}


def in_order(runs: Iterable[Row]) -> list[Row]:
    """By place in the queue; those without one behind them, by id."""
    return sorted(runs, key=lambda run: (run["submit_seq"] is None, run["submit_seq"], run["id"]))


def emit(
    tx: Tx,
    session_id: str,
    kind: str,
    data: Mapping[str, Any],
    *,
    run_id: str | None = None,
    fence: int | None = None,
    attempt: int | None = None,
    provider: str | None = None,
) -> Row:
    """Store one event that the store itself states. Its id derives from its number."""
    session, number = tx.db.find("sessions", session_id) or {}, reserve(tx, session_id, 1)
    correlation_id = session.get("metadata", {}).get("correlation_id")
    return tx.db.insert(
        "events",
        {
            "id": f"evt_{hashlib.md5(f'{session_id}|{number}'.encode(), usedforsecurity=False).hexdigest()}",
            "tenant_id": session.get("tenant_id", "default"),
            "type": kind,
            "timestamp": tx.now,
            "session_id": session_id,
            "run_id": run_id,
            "fence": fence,
            "attempt": attempt,
            "sequence_number": number,
            "data": dict(data),
            "provider": provider or session.get("provider"),
            "correlation_id": _text(correlation_id),
            "stored_at": tx.now,
        },
    )


def reserve(tx: Tx, session_id: str, how_many: int, tenant_id: str = "default") -> int:
    """The first of `how_many` new numbers in the session's log."""
    counter = tx.db.find("session_sequences", session_id)
    if counter is None:
        counter = tx.db.insert("session_sequences", {"session_id": session_id, "tenant_id": tenant_id})
    last: int = counter["last_sequence"]
    tx.db.update("session_sequences", session_id, last_sequence=last + how_many, updated_at=tx.now)
    return last + 1


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else dumps_text(value)


def audit(tx: Tx, action: str, tenant_id: str, session_id: str, run_id: str | None, data: Mapping[str, Any]) -> None:
    given = {"tenant_id": tenant_id, "at": tx.now, "session_id": session_id, "run_id": run_id, "data": dict(data)}
    tx.db.insert("audit_log", {"action": action} | given)


def slots_used(tx: Tx, session_id: str) -> int:
    """A lease each, and a parked run keeps its place in the conversation."""
    parked = {"session_id": session_id, "status": "awaiting_approval"}
    return len(tx.db.column("run_leases", "run_id", {"session_id": session_id})) + len(
        tx.db.column("runs", "id", parked)
    )


def can_be_claimed(tx: Tx, runtime: Row) -> bool:
    """Whether a wakeup for the session would find work and a free slot."""
    session_id = runtime["session_id"]
    session = tx.db.find("sessions", session_id)
    return (
        session is not None
        and session["status"] in CLAIMABLE_SESSIONS
        and slots_used(tx, session_id) < runtime["max_concurrent_runs"]
        and bool(tx.db.column("runs", "id", queued(session_id)))
    )


# The wake rule


def successors(tx: Tx, session_id: str, limiter: str | None = None) -> list[str]:
    """
    The sessions to wake after a change of this one; call it when all changes are made.

    Under a limiter the session lines up with those that wait for it, and the free slots go to the least recently
    served, one wakeup per slot.

    Args:
        limiter: the one in which the caller has freed a slot.
    """
    runtime = tx.db.find("session_runtime", session_id)
    if runtime is None:
        return []
    claimable = can_be_claimed(tx, runtime)
    if limiter is None and runtime["limiter_waiting_since"] is not None:
        limiter = runtime["limiter"]
    if limiter is None:
        return woken(tx, [session_id] if claimable else [])
    since = (runtime["limiter_waiting_since"] or tx.now) if claimable else None
    tx.db.update("session_runtime", session_id, limiter_waiting_since=since)
    return woken(tx, _longest_unserved(tx, limiter))


def woken(tx: Tx, session_ids: list[str]) -> list[str]:
    for session_id in session_ids:
        tx.db.update("session_runtime", session_id, limiter_waiting_since=None, last_wake_at=tx.now)
    return session_ids


def free_slots(tx: Tx, limiter: str) -> int | None:
    """None: it limits nothing."""
    row = tx.db.find("limiters", limiter)
    cap: int | None = row["max_parallel_runs"] if row else None
    return None if cap is None else max(0, cap - len(tx.db.column("run_leases", "run_id", {"limiter": limiter})))


def _longest_unserved(tx: Tx, limiter: str) -> list[str]:
    free = free_slots(tx, limiter)
    waiting = tx.db.rows("session_runtime", {"limiter": limiter, "limiter_waiting_since": PRESENT})
    waiting.sort(key=lambda runtime: (earliest(runtime["last_served_at"]), runtime["limiter_waiting_since"]))
    return [runtime["session_id"] for runtime in waiting[: MAX_WAKEUPS if free is None else min(free, MAX_WAKEUPS)]]


def earliest(at: datetime | None) -> tuple[bool, datetime | None]:
    """A sort key: what never happened comes first."""
    return (at is not None, at)


# The end of a run


def end_run(
    tx: Tx,
    run: Row,
    status: str,
    *,
    error: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    output: Any = None,
    fence: int | None = None,
    provider_metadata: Mapping[str, Any] | None = None,
    turn_count: int = 0,
) -> list[Row]:
    """
    The row, its one terminal event, its session when the run owns it; the only place where a run becomes terminal.

    The caller has deleted the run's lease. Usage and cost are the sum over all attempts: what was spent was spent.
    """
    usage, cost = _spent(tx, run["id"])
    told = {
        **(data or {}),
        **without_nulls(error_data(error) | {"token_usage": usage or None, "cost_usd": cost}),
    }
    ended = tx.db.update(
        "runs", run["id"], status=status, ended_at=tx.now, output=output, error=error, token_usage=usage, cost_usd=cost,
        turn_count=turn_count, provider_metadata={**run["provider_metadata"], **(provider_metadata or {})},
    )  # fmt: skip
    events = [_terminal_event(tx, ended, told, fence)]
    about = {"attempt": run["attempt"], "error_code": error["code"] if error else None}
    audit(tx, f"run.{status}", run["tenant_id"], run["session_id"], run["id"], about)
    _keep_provider_handle(tx, ended, provider_metadata or {})
    if run["owns_session"]:
        events += _end_owned_session(tx, ended, told)
    return events


def error_data(error: Mapping[str, Any] | None) -> dict[str, Any]:
    given = error or {}
    return {
        "error_code": given.get("code"),
        "error_message": given.get("message"),
        "provider_error": given.get("provider_error"),
        "details": given.get("details"),
    }


def without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys that say nothing; what stands deeper is somebody's own words."""
    return {key: value for key, value in values.items() if value is not None}


def _spent(tx: Tx, run_id: str) -> tuple[dict[str, int | float], int | float | None]:
    """Token usage and cost over the run's usage events; exact, like the sums of a database."""
    totals: dict[str, Decimal] = {}
    for data in tx.db.column("events", "data", {"run_id": run_id, "type": "token_usage_updated"}):
        for key, value in data.items():
            if is_number(value) and (key.endswith("_tokens") or key == "cost_usd"):
                totals[key] = totals.get(key, Decimal(0)) + Decimal(repr(value))
    cost = totals.pop("cost_usd", None)
    return {key: _number(total) for key, total in totals.items()}, None if cost is None else _number(cost)


def _number(value: Decimal) -> int | float:
    is_integer = value.as_tuple().exponent == 0 and abs(value) <= MAX_INTEGER
    return int(value) if is_integer else float(value)


def _terminal_event(tx: Tx, run: Row, data: Mapping[str, Any], fence: int | None) -> Row:
    return emit(
        tx, run["session_id"], TERMINAL_EVENTS[RunStatus(run["status"])], data, run_id=run["id"], fence=fence,
        attempt=run["attempt"] or None, provider=run["provider"] or run["options"].get("provider"),
    )  # fmt: skip


def _keep_provider_handle(tx: Tx, run: Row, provider_metadata: Mapping[str, Any]) -> None:
    """On the session, under the provider's name, so that a later run can go on with the same conversation."""
    handle = without_nulls({name: provider_metadata.get(name) for name in ("provider_session_id", "model")})
    session = tx.db.find("sessions", run["session_id"])
    if not handle or run["provider"] is None or session is None:
        return
    known = session["metadata"].get("provider_sessions") or {}
    kept = {**known, run["provider"]: {**known.get(run["provider"], {}), **handle}}
    metadata = {**session["metadata"], "provider_sessions": kept}
    tx.db.update("sessions", session["id"], metadata=metadata, updated_at=tx.now)


def _end_owned_session(tx: Tx, run: Row, data: Mapping[str, Any]) -> list[Row]:
    """A one-shot's session ends with it, and so does what was queued behind it meanwhile: it would wait for ever."""
    session_id = run["session_id"]
    session = tx.db.find("sessions", session_id)
    if session is None or session["status"] not in OPEN_SESSIONS:
        return []
    status = run["status"] if run["status"] in ("completed", "cancelled") else "failed"
    tx.db.update("sessions", session_id, status=status, updated_at=tx.now)
    events = end_waiting_runs(tx, session_id)
    told = {key: value for key, value in data.items() if key not in ("token_usage", "cost_usd")}
    events.append(emit(tx, session_id, f"session_{status}", told if status == "failed" else {}))
    audit(tx, f"session.{status}", run["tenant_id"], session_id, None, {})
    return events


def end_waiting_runs(tx: Tx, session_id: str) -> list[Row]:
    """What is queued or parked in a session that ends."""
    events: list[Row] = []
    for run in in_order(tx.db.rows("runs", {"session_id": session_id, "status": WAITING_RUNS})):
        current = tx.db.find("runs", run["id"])
        if current is not None and current["status"] in WAITING_RUNS:  # a one-shot's end has ended those behind it
            events += end_run(tx, current, "cancelled", data={"reason": "session_ended"})
    return events
