"""Creating and changing sessions (see `postgres/20_sessions.sql`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asm_core.domain.lifecycle import SESSION_VERBS, TERMINAL_SESSIONS, SessionStatus, SessionVerb
from asm_core.stores import refusals
from asm_core.stores.local.common import (
    WAITING_RUNS,
    Tx,
    audit,
    emit,
    end_waiting_runs,
    in_order,
    successors,
    without_nulls,
)
from asm_core.stores.local.records import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    session: Row
    """With its bounds."""
    events: list[Row] = field(default_factory=list)
    wake: list[str] = field(default_factory=list)
    nudges: list[tuple[str, str]] = field(default_factory=list)


def create_session(tx: Tx, given: Mapping[str, Any], limiter: str | None, *, activate: bool) -> Changed:
    """
    With its counter and queue. Repeating it with the same id changes nothing (a lost commit is safe); an id that is
    another tenant's is refused, and nothing of that session told.
    """
    session_id, tenant_id = given["id"], given["tenant_id"]
    if (known := tx.db.find("sessions", session_id)) is not None:
        if known["tenant_id"] != tenant_id:
            raise refusals.id_taken("session", session_id)
        return Changed(session=with_bounds(tx, session_id))
    kept = (
        "id", "tenant_id", "agent_id", "parent_session_id", "provider", "model", "metadata", "context", "tags",
        "forked_at",
    )  # fmt: skip
    tx.db.insert(
        "sessions",
        {name: given[name] for name in kept}
        | {"status": "active" if activate else "pending", "created_at": tx.now, "updated_at": tx.now},
    )
    counter = {"session_id": session_id, "tenant_id": tenant_id, "last_sequence": given["forked_at"] or 0}
    tx.db.insert("session_sequences", counter)
    bounds = {name: given[name] for name in ("max_concurrent_runs", "max_queued_runs")}
    tx.db.insert("session_runtime", {"session_id": session_id, "tenant_id": tenant_id, "limiter": limiter, **bounds})
    told = without_nulls({name: given[name] for name in ("provider", "parent_session_id", "forked_at")})
    events = [emit(tx, session_id, "session_created", told)]
    if activate:
        events.append(emit(tx, session_id, "session_started", {}))
    audit(tx, "session.created", tenant_id, session_id, None, {"agent_id": given["agent_id"]})
    return Changed(session=with_bounds(tx, session_id), events=events)


def fork_session(tx: Tx, given: Mapping[str, Any], limiter: str | None, at: int | None) -> Changed:
    """Its log begins with its parent's events up to `at`, by reference to the sessions that wrote them."""
    parent_id, tenant_id = given["parent_session_id"], given["tenant_id"]
    parent, counter = tx.db.find("sessions", parent_id), tx.db.find("session_sequences", parent_id)
    if parent is None or counter is None or parent["tenant_id"] != tenant_id:
        raise refusals.no_session(parent_id)
    at = counter["last_sequence"] if at is None else at
    if not 1 <= at <= counter["last_sequence"]:
        raise refusals.no_such_event(parent_id, at, counter["last_sequence"])
    if tx.db.find("sessions", given["id"]) is None:
        for part in _parts_up_to(tx, parent, at):
            tx.db.insert("inherited_events", part | {"session_id": given["id"], "tenant_id": tenant_id})
    return create_session(tx, {**given, "forked_at": at}, limiter, activate=True)


def _parts_up_to(tx: Tx, parent: Row, at: int) -> list[Row]:
    """Of the parent's log: what it refers to itself, and its own events."""
    inherited = parent["forked_at"] or 0
    parts = [
        {
            "first_sequence": part["first_sequence"],
            "last_sequence": min(part["last_sequence"], at),
            "source_session_id": part["source_session_id"],
        }
        for part in tx.db.rows("inherited_events", {"session_id": parent["id"]})
        if part["first_sequence"] <= at
    ]
    if at > inherited:
        parts.append({"first_sequence": inherited + 1, "last_sequence": at, "source_session_id": parent["id"]})
    return parts


def with_bounds(tx: Tx, session_id: str) -> Row:
    session = tx.db.find("sessions", session_id)
    runtime = tx.db.find("session_runtime", session_id)
    assert session is not None and runtime is not None, session_id
    return session | {name: runtime[name] for name in ("max_concurrent_runs", "max_queued_runs")}


def change_session(
    tx: Tx, session_id: str, tenant_id: str, verb: SessionVerb, data: Mapping[str, Any], *, cancel_queued: bool
) -> Changed:
    """
    Ending a session that still has work is refused, unless the caller says to cancel what is queued; completing it is
    refused while a run is in flight, cancelling and failing it ask those runs to stop.
    """
    rule = SESSION_VERBS[verb]
    session = tx.db.find("sessions", session_id)
    if session is None or session["tenant_id"] != tenant_id:
        raise refusals.no_session(session_id)
    if session["status"] not in rule.sources:
        raise refusals.no_such_change(session_id, session["status"], rule.to)
    events: list[Row] = []
    nudges: list[tuple[str, str]] = []
    if rule.to in TERMINAL_SESSIONS:
        _refuse_with_work(tx, session_id, rule.to, cancel_queued)
        events = end_waiting_runs(tx, session_id)
        nudges = _ask_to_stop(tx, session_id)
    if with_bounds(tx, session_id)["status"] in rule.sources:  # a one-shot's session has ended with its run just above
        tx.db.update("sessions", session_id, status=str(rule.to), updated_at=tx.now)
        events.append(emit(tx, session_id, rule.event, data))
        audit(tx, f"session.{rule.to}", tenant_id, session_id, None, {})
    wake = successors(tx, session_id)
    return Changed(session=with_bounds(tx, session_id), events=events, wake=wake, nudges=nudges)


def _refuse_with_work(tx: Tx, session_id: str, to: SessionStatus, cancel_queued: bool) -> None:
    queued = len(tx.db.column("runs", "id", {"session_id": session_id, "status": WAITING_RUNS}))
    in_flight = len(tx.db.column("run_leases", "run_id", {"session_id": session_id}))
    must_wait = to is SessionStatus.COMPLETED or not cancel_queued
    if (queued and not cancel_queued) or (in_flight and must_wait):
        raise refusals.session_has_work(session_id, queued=queued, in_flight=in_flight)


def _ask_to_stop(tx: Tx, session_id: str) -> list[tuple[str, str]]:
    """The holders of runs in flight: (worker id, run id) of those that were not asked before."""
    asked = []
    held_by = {lease["run_id"]: lease["worker_id"] for lease in tx.db.rows("run_leases", {"session_id": session_id})}
    for run in in_order(tx.db.rows("runs", {"id": tuple(held_by)})):
        if run["cancel_requested_at"] is None:
            tx.db.update("runs", run["id"], cancel_requested_at=tx.now, cancel_kind="cancel")
            audit(tx, "run.cancel_requested", run["tenant_id"], session_id, run["id"], {"kind": "cancel"})
            asked.append((held_by[run["id"]], run["id"]))
    return asked
