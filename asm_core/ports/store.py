"""Reading what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from asm_core.domain.event import Event, EventFrame
from asm_core.domain.run import Run
from asm_core.domain.session import Session

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events of a session; all conditions hold together."""

    after: int = 0
    """Sequence number, exclusive."""
    before: int | None = None
    """Sequence number, exclusive."""
    types: Sequence[str] = ()
    """Empty: every type."""
    run_id: str | None = None
    since: datetime | None = None
    """Emitter's clock, exclusive; approximate by nature."""

    def behind(self, sequence_number: int) -> EventFilter:
        """The same conditions, further on."""
        return replace(self, after=sequence_number)

    def admits(self, frame: EventFrame) -> bool:
        """Whether a live event passes the filters a live stream knows: type and run."""
        return (not self.types or frame.type in self.types) and (self.run_id is None or frame.run_id == self.run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    session_id: str
    in_flight_runs: Sequence[str]
    queued_runs: Sequence[str]
    parked_runs: Sequence[str]
    max_concurrent_runs: int
    max_queued_runs: int
    oldest_queued_age_ms: int | None
    limiter_waiting: bool
    state: str
    """The session's status."""
    last_sequence: int

    @property
    def is_idle(self) -> bool:
        return not (self.in_flight_runs or self.queued_runs or self.parked_runs)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: Sequence[T]
    cursor: str | None
    """Give it back for the next page; None when this is the last one."""


class SessionStore(Protocol):
    """
    Records as they are: reads, and plain writes by id for tools, imports and stores that are moved.

    What changes a session or run in operation goes through `RunQueue`, which guards every transition. Every call names
    the tenant, or a record that does; what belongs to another tenant does not exist.

    Raises (every method): AsmError `storage_connection_failed`, `query_error`, `migration_required`.
    """

    async def get_session(self, session_id: str, tenant_id: str) -> Session:
        """Raises AsmError `session_not_found`."""

    async def get_run(self, run_id: str, tenant_id: str) -> Run:
        """Raises AsmError `run_not_found`."""

    async def get_active_run(self, session_id: str, tenant_id: str) -> Run | None:
        """The running run that was started last, by (started_at, id)."""

    async def save_session(self, session: Session) -> None:
        """
        Insert, or replace every field; what its queue has come to stays.

        Raises AsmError `validation_error`, `already_exists` (the id is another tenant's).
        """

    async def delete_session(self, session_id: str, tenant_id: str) -> None:
        """
        With its runs, events, counter, queue and artifact rows; unknown ones are no error.

        Raises AsmError `invalid_operation`: the log of a fork begins with its events.
        """

    async def save_run(self, run: Run) -> None:
        """
        Insert, or replace every field; the session need not exist. A new run stands in no queue.

        Raises AsmError `validation_error`, `invalid_transition` (a terminal status is written once), `already_exists`
        (the id is another tenant's), `session_not_found` (the session is another tenant's).
        """

    async def append_events(self, events: Sequence[Event], tenant_id: str) -> list[Event]:
        """
        Store events behind their sessions' last ones, all or none, in input order; sessions need not exist.

        Returns:
            The stored events, numbered: one answer per input; a known id comes back as it was first stored.

        Raises:
            AsmError: `validation_error` (nothing was stored), `already_exists` (an id of another session),
                `session_not_found` (the session is another tenant's).
        """

    async def flush(self, session: Session, run: Run, events: Sequence[Event]) -> list[Event]:
        """`save_session`, `save_run` and `append_events` in one step. Raises as they do."""

    async def get_events(self, session_id: str, tenant_id: str, where: EventFilter, limit: int) -> list[EventFrame]:
        """Up to `limit` events in sequence order, a fork's inherited ones first; an unknown session has none."""

    async def latest_sequences(self, session_ids: Sequence[str]) -> Mapping[str, int]:
        """The highest number given out per session; one query for all. For trusted callers: names no tenant."""

    async def queue_status(self, session_id: str, tenant_id: str) -> QueueStatus:
        """Raises AsmError `session_not_found`."""

    async def list_sessions(
        self,
        tenant_id: str,
        *,
        status: str | None = None,
        agent_id: str | None = None,
        tag: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Session]:
        """Newest first. Raises AsmError `invalid_cursor`, `invalid_status`."""

    async def list_runs(
        self,
        tenant_id: str,
        *,
        session_id: str | None = None,
        status: str | None = None,
        provider: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Run]:
        """Newest first. Raises AsmError `invalid_cursor`, `invalid_status`."""

    async def stats(self, tenant_id: str) -> FleetStats: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStats:
    sessions: Mapping[str, int]
    """Status to count."""
    runs: Mapping[str, int]
    """Status to count."""
    events: int
    workers: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    slots: int = 0
    in_flight: int = 0
    oldest_pending_age_ms: int | None = None
