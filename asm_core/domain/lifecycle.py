"""
What a session and a run may become, and who may say so.

Both are state machines whose whole truth is two tables below, `SESSION_VERBS` and `RUN_TRANSITIONS`: the SQL guards are
built from them, the tests walk them, and docs/lifecycle.md is drawn from them. A status from which nothing leads on is
terminal: it is written once.

A run waits (`pending`), is executed (`running`), may wait for a person (`awaiting_approval`, which frees its slot on
the worker but not in its session), and ends. It goes back to `pending` when its worker died, shut down or parked it,
and keeps its place in the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from asm_core.domain.errors import AsmError, ErrorCode


class SessionStatus(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class SessionVerb(StrEnum):
    """What a caller may do with a session."""

    ACTIVATE = "activate"
    PAUSE = "pause"
    RESUME = "resume"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


class VerbRule(NamedTuple):
    sources: frozenset[SessionStatus]
    to: SessionStatus
    event: str
    """Type of the event that goes with the change."""


_S, _R, _V = SessionStatus, RunStatus, SessionVerb

SESSION_VERBS: Mapping[SessionVerb, VerbRule] = {
    _V.ACTIVATE: VerbRule(frozenset({_S.PENDING}), _S.ACTIVE, "session_started"),
    _V.PAUSE: VerbRule(frozenset({_S.ACTIVE}), _S.PAUSED, "session_paused"),
    _V.RESUME: VerbRule(frozenset({_S.PAUSED}), _S.ACTIVE, "session_resumed"),
    _V.COMPLETE: VerbRule(frozenset({_S.ACTIVE, _S.PAUSED}), _S.COMPLETED, "session_completed"),
    _V.FAIL: VerbRule(frozenset({_S.PENDING, _S.ACTIVE, _S.PAUSED}), _S.FAILED, "session_failed"),
    _V.CANCEL: VerbRule(frozenset({_S.PENDING, _S.ACTIVE, _S.PAUSED}), _S.CANCELLED, "session_cancelled"),
}

SESSION_TRANSITIONS: Mapping[SessionStatus, frozenset[SessionStatus]] = {
    status: frozenset(rule.to for rule in SESSION_VERBS.values() if status in rule.sources) for status in SessionStatus
}

RUN_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    _R.PENDING: frozenset({_R.RUNNING, _R.CANCELLED, _R.FAILED, _R.TIMEOUT}),
    _R.RUNNING: frozenset(
        {_R.COMPLETED, _R.FAILED, _R.CANCELLED, _R.TIMEOUT, _R.PENDING, _R.AWAITING_APPROVAL},
    ),
    _R.AWAITING_APPROVAL: frozenset({_R.PENDING, _R.CANCELLED, _R.FAILED, _R.TIMEOUT}),
    _R.COMPLETED: frozenset(),
    _R.FAILED: frozenset(),
    _R.CANCELLED: frozenset(),
    _R.TIMEOUT: frozenset(),
}

TERMINAL_RUNS = frozenset(status for status, leads_to in RUN_TRANSITIONS.items() if not leads_to)
TERMINAL_SESSIONS = frozenset(status for status, leads_to in SESSION_TRANSITIONS.items() if not leads_to)
CLAIMABLE_SESSIONS = frozenset({_S.PENDING, _S.ACTIVE})


def sources_of(status: RunStatus) -> frozenset[RunStatus]:
    """The statuses from which a run may become `status`."""
    return frozenset(source for source, leads_to in RUN_TRANSITIONS.items() if status in leads_to)


def session_sources_of(status: SessionStatus) -> frozenset[SessionStatus]:
    """The statuses from which a session may become `status`."""
    return frozenset(source for source, leads_to in SESSION_TRANSITIONS.items() if status in leads_to)


def check_session_transition(session_id: str, old: SessionStatus, new: SessionStatus) -> None:
    """Raises `invalid_transition`, naming both statuses, unless the table allows the change."""
    if new not in SESSION_TRANSITIONS[old]:
        raise AsmError(
            ErrorCode.INVALID_TRANSITION,
            f"session {session_id} is {old} and cannot become {new}",
            details={"session_id": session_id, "from": str(old), "to": str(new)},
        )
