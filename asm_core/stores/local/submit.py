"""Queueing a run (see `postgres/30_submit.sql`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from asm_core.stores import refusals
from asm_core.stores.local.common import OPEN_SESSIONS, Tx, audit, queued, slots_used, successors
from asm_core.stores.local.records import Row, Transaction
from asm_core.stores.local.sessions import create_session


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    run: Row
    position: int | None
    replayed: bool
    wake: list[str] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)


def submit(tx: Tx, given: Mapping[str, Any], limiter: str | None) -> Answer:
    """
    The idempotency key is looked at before every other check, so that a repeated request succeeds even when the queue
    is full by now or the session has ended. A one-shot brings its session along.
    """
    session_id, run_id, is_one_shot = given["session_id"], given["run_id"], given["new_session"] is not None
    if not is_one_shot:
        _require_session(tx, session_id, given["tenant_id"])
    if (known := _known(tx, given)) is not None:
        return known
    events = create_session(tx, given["new_session"], limiter, activate=True).events if is_one_shot else []
    _require_open(tx, session_id)
    place = _place(tx, session_id) if given["queued"] else None
    tx.db.insert(
        "runs",
        {
            "id": run_id,
            "tenant_id": given["tenant_id"],
            "session_id": session_id,
            "status": "pending",
            "input": given["input"],
            "options": given["options"],
            "metadata": given["metadata"],
            "provider": given["options"]["provider"],
            "submit_seq": place,
            "created_at": tx.now,
            "queue_deadline_at": _after(tx, given["options"]["queue_timeout_ms"]),
            "owns_session": is_one_shot,
        },
    )
    audit(tx, "run.submitted", given["tenant_id"], session_id, run_id, {"provider": given["options"]["provider"]})
    return _answer(tx, run_id, replayed=False, events=events, wake=successors(tx, session_id))


def _require_session(tx: Tx, session_id: str, tenant_id: str) -> None:
    runtime = tx.db.find("session_runtime", session_id)
    if runtime is None or runtime["tenant_id"] != tenant_id:
        raise refusals.no_session(session_id)


def _known(tx: Tx, given: Mapping[str, Any]) -> Answer | None:
    """The answer to a request that was made before; else its key, if it has one, is remembered."""
    run_id, key = given["run_id"], given["idempotency_key"]
    if key is None:
        run = tx.db.find("runs", run_id)
        if run is not None and run["tenant_id"] != given["tenant_id"]:
            raise refusals.id_taken("run", run_id)
        return None if run is None else _submitted_before(tx, run_id)
    scope = "one-shot" if given["new_session"] is not None else given["session_id"]
    used = tx.db.find("idempotency_keys", given["tenant_id"], scope, key)
    if used is None:
        remembered = {name: given[name] for name in ("tenant_id", "request_hash", "session_id", "run_id")}
        tx.db.insert("idempotency_keys", remembered | {"scope": scope, "key": key, "created_at": tx.now})
        return None
    if used["request_hash"] != given["request_hash"]:
        raise refusals.key_reused(given["session_id"], key, used["run_id"])
    return _submitted_before(tx, run_id) if used["run_id"] == run_id else _answer(tx, used["run_id"], replayed=True)


def _submitted_before(tx: Tx, run_id: str) -> Answer:
    """This very submit, after an unknown commit: not a replay to the caller, and the wakeup may have been lost."""
    answer = _answer(tx, run_id, replayed=False)
    answer.wake.extend(successors(tx, answer.run["session_id"]))
    return answer


def _require_open(tx: Tx, session_id: str) -> None:
    session = tx.db.find("sessions", session_id)
    if session is None:
        raise refusals.no_session(session_id)
    status = "deleted" if session["deleted_at"] else session["status"]
    if status not in OPEN_SESSIONS:
        raise refusals.session_ended(session_id, status)


def _place(tx: Tx, session_id: str) -> int:
    """The next place in the queue, if there is room."""
    runtime = tx.db.find("session_runtime", session_id)
    assert runtime is not None, session_id
    waiting, used = len(tx.db.column("runs", "id", queued(session_id))), slots_used(tx, session_id)
    if waiting + used >= runtime["max_concurrent_runs"] + runtime["max_queued_runs"]:
        raise refusals.queue_full(session_id, queued=waiting, in_flight=used, limits=runtime)
    place: int = runtime["submit_seq"] + 1
    tx.db.update("session_runtime", session_id, submit_seq=place)
    return place


def _after(tx: Tx, milliseconds: int | None) -> Any:
    return None if milliseconds is None else tx.now + timedelta(milliseconds=milliseconds)


def _answer(tx: Tx, run_id: str, *, replayed: bool, **more: Any) -> Answer:
    run = tx.db.find("runs", run_id)
    assert run is not None, run_id
    return Answer(run=run, position=position_of(tx.db, run), replayed=replayed, **more)


def position_of(db: Transaction, run: Row) -> int | None:
    """The place in the session's queue, from 1; None once claimed, and outside the queue."""
    if run["status"] != "pending" or run["submit_seq"] is None:
        return None
    places = db.column("runs", "submit_seq", queued(run["session_id"]))
    return sum(1 for place in places if place <= run["submit_seq"])
