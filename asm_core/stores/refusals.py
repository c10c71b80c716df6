"""What a store answers when it must not do what it is asked: the same words and facts whichever store says them."""

from __future__ import annotations

from collections.abc import Mapping

from asm_core.domain.errors import AsmError, ErrorCode

RETRY_AFTER_S = 1
"""What a client is told to wait when a queue is full."""


def no_session(session_id: str) -> AsmError:
    return AsmError(ErrorCode.SESSION_NOT_FOUND, f"no session {session_id}", details={"session_id": session_id})


def no_such_event(session_id: str, at: int, latest: int) -> AsmError:
    return AsmError(
        ErrorCode.VALIDATION_ERROR,
        f"session {session_id} cannot be forked at {at}: its events have the numbers 1 to {latest}",
        details={"field": "at", "session_id": session_id, "latest": latest},
    )


def has_forks(session_id: str) -> AsmError:
    return AsmError(
        ErrorCode.INVALID_OPERATION,
        f"session {session_id} cannot be deleted: the logs of its forks begin with its events",
        details={"session_id": session_id, "reason": "has_forks"},
    )


def no_run(run_id: str) -> AsmError:
    return AsmError(ErrorCode.RUN_NOT_FOUND, f"no run {run_id}", details={"run_id": run_id})


def key_reused(session_id: str, key: str, run_id: str) -> AsmError:
    return AsmError(
        ErrorCode.ALREADY_EXISTS,
        f"idempotency key {key!r} was used before with another request",
        details={"session_id": session_id, "run_id": run_id, "idempotency_key": key},
    )


def queue_full(session_id: str, *, queued: int, in_flight: int, limits: Mapping[str, int]) -> AsmError:
    """`limits`: `max_concurrent_runs` and `max_queued_runs`."""
    return AsmError(
        ErrorCode.MAX_RUNS_EXCEEDED,
        f"session {session_id} holds {in_flight} runs in flight and {queued} queued, "
        f"its limits are {limits['max_concurrent_runs']} and {limits['max_queued_runs']}",
        details={
            "session_id": session_id,
            "queued": queued,
            "in_flight": in_flight,
            "max_concurrent_runs": limits["max_concurrent_runs"],
            "max_queued_runs": limits["max_queued_runs"],
            "retry_after_s": RETRY_AFTER_S,
        },
    )


def session_ended(session_id: str, status: str) -> AsmError:
    return AsmError(
        ErrorCode.INVALID_OPERATION,
        f"session {session_id} is {status} and takes no more runs",
        details={"session_id": session_id, "status": status},
    )


def session_has_work(session_id: str, *, queued: int, in_flight: int) -> AsmError:
    return AsmError(
        ErrorCode.INVALID_OPERATION,
        f"session {session_id} has {queued} runs queued and {in_flight} in flight; "
        "drain it first, or ask to cancel what is queued",
        details={"session_id": session_id, "queued": queued, "in_flight": in_flight},
    )


def no_such_change(session_id: str, status: str, to: str) -> AsmError:
    return AsmError(
        ErrorCode.INVALID_TRANSITION,
        f"session {session_id} is {status} and cannot become {to}",
        details={"session_id": session_id, "from": status},
    )


def not_startable(run_id: str, reason: str, session_status: str | None = None) -> AsmError:
    """`reason`: `session`, `queue`, `full`, `limited`, `lost`, or the status of a run that is not pending."""
    code, problem = _WHY_NOT.get(reason, (ErrorCode.INVALID_TRANSITION, f"it is {reason}"))
    problem = problem.format(status=session_status)
    return AsmError(code, f"run {run_id} cannot be started: {problem}", details={"run_id": run_id, "reason": reason})


_WHY_NOT: Mapping[str, tuple[ErrorCode, str]] = {
    "session": (ErrorCode.INVALID_OPERATION, "its session is {status}"),
    "queue": (ErrorCode.INVALID_OPERATION, "earlier runs of its session wait before it"),
    "full": (ErrorCode.MAX_RUNS_EXCEEDED, "no slot is free"),
    "limited": (ErrorCode.MAX_RUNS_EXCEEDED, "no slot is free"),
    "lost": (ErrorCode.INVALID_OPERATION, "its worker was declared dead and has to register again"),
}


def final(run_id: str, status: str, to: str) -> AsmError:
    """A terminal status is written once."""
    return AsmError(
        ErrorCode.INVALID_TRANSITION,
        f"run {run_id} is {status} and cannot become {to}",
        details={"run_id": run_id, "from": status, "to": to},
    )


def id_taken(record: str, record_id: str) -> AsmError:
    """The id stands for something else: another session's event, another tenant's record."""
    return AsmError(
        ErrorCode.ALREADY_EXISTS, f"{record} id {record_id} is taken", details={"field": "id", "id": record_id}
    )


def unstorable() -> AsmError:
    """Names no value: it may be a secret."""
    return AsmError(ErrorCode.VALIDATION_ERROR, "the store refused a value (NUL in text)", details={"reason": "nul"})


def duplicate() -> AsmError:
    """The key of a row, or an event's id, twice in one request."""
    return AsmError(ErrorCode.VALIDATION_ERROR, "the store refused a value (it is there already)")
