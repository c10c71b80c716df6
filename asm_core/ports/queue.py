"""
The queue of runs and the right to write for them: one transaction per method.

Writers name their lease; the store refuses whatever names a lease that is gone. All times are the store's own clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from asm_core.domain.errors import AsmError, LeaseLost
from asm_core.domain.event import Event, EventFrame
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import RunStatus, SessionVerb
from asm_core.domain.run import Run, RunOptions, RunOutcome
from asm_core.domain.session import Session

CancelKind = Literal["cancel", "interrupt", "approval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A run to be queued."""

    run_id: str
    session_id: str
    tenant_id: str
    input: Mapping[str, Any]
    options: RunOptions
    metadata: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    request_hash: str | None = None
    new_session: Session | None = None
    """One-shot: this session is created with the run and ends with it."""
    queued: bool = True
    """False: the run takes no place in the queue and no room in its bound; only `claim_run` ever starts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    run_id: str
    session_id: str
    status: RunStatus
    position: int | None
    replayed: bool
    wake: Sequence[str] = ()
    """Sessions that need a wakeup now."""
    events: Sequence[EventFrame] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    lease: Lease
    run: Run
    session: Session
    wake: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NotClaimed:
    reason: Literal["empty", "full", "limited", "paused", "lost", "damped"]
    """`lost`: this worker was declared dead and must register again. `damped`: somebody else is asking just now."""
    wake: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The start mark is set: from here on a crash is not safe to repeat."""

    attempt: int
    """From 1."""
    remaining_ms: int
    """Until the run's deadline."""
    cancel_kind: CancelKind | None = None
    """Cancelled before it began: do not call the provider."""
    superseded: tuple[int, int] | None = None
    """First and last sequence number of earlier, dead attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    status: RunStatus
    events: Sequence[EventFrame] = ()
    wake: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest:
    """What a cancel came to at once; a running run still has to stop."""

    run_id: str
    session_id: str
    status: RunStatus
    worker_id: str | None = None
    """The holder to nudge, when the run is in flight."""
    events: Sequence[EventFrame] = ()
    wake: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionChange:
    session: Session
    events: Sequence[EventFrame] = ()
    wake: Sequence[str] = ()
    nudges: Sequence[tuple[str, str]] = ()
    """(worker id, run id) of runs in flight that were asked to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLease:
    run_id: str
    session_id: str
    fence: int
    cancel_kind: CancelKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one pass of the sweeper did; all empty when another process had its turn."""

    ran: bool = False
    workers_lost: Sequence[str] = ()
    settled: Mapping[str, RunStatus] = field(default_factory=dict)
    """Runs taken from dead workers or past their time, each with the status it got."""
    events: Sequence[EventFrame] = ()
    wake: Sequence[str] = ()


class RunQueue(Protocol):
    """
    Source: DESIGN §3, spec/03 §13.2.

    Raises (every method):
        AsmError: `storage_connection_failed` (repeat the call; all are safe to repeat), `storage_error`,
            `migration_required`.
    """

    async def create_session(self, session: Session, *, activate: bool = True) -> SessionChange:
        """
        Store a session with its counter and queue: `session_created`, and `session_started` when activated.

        Raises:
            AsmError: `already_exists` (the id is another tenant's).
        """

    async def fork_session(self, session: Session, at: int | None) -> SessionChange:
        """
        Store an active session whose log begins with its parent's first events, by reference: numbers 1 to `at` are
        the parent's, its own follow behind. Nothing of them is copied; they stay as long as the fork does.

        Args:
            session: names the parent in `parent_session_id`.
            at: a number of the parent's log; None: all it holds by now.

        Raises:
            AsmError: `session_not_found` (the parent), `validation_error` (no such event), `already_exists` (the id is
                another tenant's).
        """

    async def change_session(
        self,
        session_id: str,
        tenant_id: str,
        verb: SessionVerb,
        *,
        cancel_queued: bool = False,
        error: AsmError | None = None,
    ) -> SessionChange:
        """
        Row and event together, by the table `SESSION_VERBS`.

        Args:
            cancel_queued: an end cancels what is queued and, but for `complete`, asks what is in flight to stop;
                without it a session with work is not ended.
            error: why it failed; for `session_failed`.

        Raises:
            AsmError: `session_not_found`, `invalid_transition`, `invalid_operation` (runs are queued or in flight).
        """

    async def submit(self, submission: Submission) -> Submitted:
        """
        Raises:
            AsmError: `session_not_found`, `invalid_operation` (session ended), `max_runs_exceeded`,
                `already_exists` (the idempotency key was used with another request, or the id of the run or of the
                new session is another tenant's).
        """

    async def claim(self, session_id: str, worker_id: str) -> Claimed | NotClaimed:
        """Give the head of the session's queue to the worker, if there is one and a slot is free."""

    async def claim_run(self, run_id: str, tenant_id: str, worker_id: str) -> Claimed:
        """
        Give one particular run to the worker: one that was submitted with `queued=False`, or a queue's head.

        Raises:
            AsmError: `run_not_found`, `invalid_transition` (it is not pending), `invalid_operation` (the session is
                paused or has ended, or earlier runs wait before it), `max_runs_exceeded` (no free slot).
        """

    async def start(self, lease: Lease) -> Started:
        """Raises LeaseLost."""

    async def append(self, batches: Sequence[tuple[Lease, Sequence[Event]]]) -> list[list[Event] | LeaseLost]:
        """
        Store the events of many runs, each behind its session's last one, in one transaction.

        Args:
            batches: one entry per run: proof of ownership and 1 to 256 events in emission order, not yet numbered.

        Returns:
            One answer per entry, in order: the events, numbered without gaps, or LeaseLost where the run was taken
            over (nothing of that run was written; the others were). A known id comes back as stored.

        Raises:
            AsmError: `validation_error` when the store refuses a value; nothing was written.

        Source: DESIGN §5; FM-02, FM-09.
        """

    async def finish(self, lease: Lease, outcome: RunOutcome) -> Finished:
        """
        End the run, or hand it back (`outcome.status` pending). Repeating it after an unknown commit is a success.

        Raises LeaseLost.
        """

    async def hand_back(self, run_id: str, fence: int, reason: str) -> Finished | None:
        """Give up a lease without a result; None when it is gone already."""

    async def request_cancel(
        self, run_id: str, tenant_id: str, kind: CancelKind, approval: Mapping[str, Any] | None = None
    ) -> CancelRequest:
        """
        A queued run ends at once; one in flight is to be stopped by its holder; a terminal run is left as it is.

        Args:
            approval: data of a `tool_approval_requested` that is stored with the request, unless the run has ended or
                was to be stopped before.

        Raises AsmError `run_not_found`.
        """

    async def claimable(self, limit: int) -> list[str]:
        """Sessions with a pending run and a free slot, least recently served first."""

    async def register_worker(self, worker_id: str, *, hostname: str, pid: int, slots: int) -> None: ...

    async def beat(self, worker_id: str, *, draining: bool = False) -> list[HeldLease] | None:
        """The worker lives: what it holds, with requested cancels; None when it was declared dead."""

    async def retire_worker(self, worker_id: str) -> None:
        """The worker leaves on its own; it must hold nothing any more."""

    async def sweep(self) -> Swept:
        """One repair pass, unless another process did one within the interval."""
