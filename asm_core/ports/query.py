"""
Asking across sessions, and keeping what is stored within bounds.

Requests are checked when they are made: one that exists can be asked. For every filter that takes several values, None
and an empty sequence both mean: no filter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from asm_core import options
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventFrame, EventType
from asm_core.domain.fields import parse_datetime, timestamp_text
from asm_core.domain.lifecycle import RunStatus, SessionStatus
from asm_core.domain.retention import RetentionPolicy
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.wire import loads

T = TypeVar("T")

MAX_TOTAL = 10_000
"""What `total_count` counts up to; one more means: even more."""
MAX_EXPORT_EVENTS = 10_000
"""Of an export as one value; longer sessions are exported in chunks."""
UNKNOWN = "unknown"
"""Stands for a run's provider or model where none is recorded."""

SESSION_ORDERS = ("updated_at_desc", "created_at_desc", "created_at_asc")
RUN_ORDERS = ("started_at_desc", "started_at_asc", "token_usage_desc")
EVENT_ORDERS = ("sequence_asc", "timestamp_asc", "timestamp_desc")

PriceOf = Callable[[str | None, str | None, Mapping[str, int]], Decimal | int | None]
"""(provider, model, token usage) to US dollars; None when it has no price. Linear in the usage."""


def no_price(provider: str | None, model: str | None, usage: Mapping[str, int]) -> None:
    """Knows no price at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSearch:
    """Raises AsmError `validation_error`. Times are inclusive."""

    agent_id: str | None = None
    status: str | Sequence[str] | None = None
    provider: str | Sequence[str] | None = None
    """Of at least one run."""
    tags: Sequence[str] | None = None
    """All of them."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    include_deleted: bool = False
    order_by: str = SESSION_ORDERS[0]
    """By `updated_at`, a session that changes meanwhile may be seen twice or not at all."""
    limit: int | None = None
    cursor: str | None = None
    include_total: bool = True

    def __post_init__(self) -> None:
        _settle(self, limit=_limit(self.limit, "session"), status=_members("status", self.status, SessionStatus))
        _settle(self, provider=_texts("provider", self.provider), tags=_texts("tags", self.tags))
        _settle_times(self, "created_after", "created_before")
        _require_order(self.order_by, SESSION_ORDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSearch:
    """
    Raises AsmError `validation_error`; `query_error` for `min_tokens`. Times are inclusive; a run that has not started
    counts from its submit.
    """

    session_id: str | None = None
    provider: str | Sequence[str] | None = None
    status: str | Sequence[str] | None = None
    started_after: datetime | None = None
    started_before: datetime | None = None
    min_tokens: int | None = None
    """Total tokens, of a run without any 0."""
    order_by: str = RUN_ORDERS[0]
    limit: int | None = None
    cursor: str | None = None

    def __post_init__(self) -> None:
        _settle(self, limit=_limit(self.limit, "run"), status=_members("status", self.status, RunStatus))
        if self.min_tokens is not None and not _is_count(self.min_tokens):
            message = f"min_tokens must be an integer from 0, not {self.min_tokens!r}"
            raise AsmError(ErrorCode.QUERY_ERROR, message, details={"field": "min_tokens"})
        _settle(self, provider=_texts("provider", self.provider))
        _settle_times(self, "started_after", "started_before")
        _require_order(self.order_by, RUN_ORDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSearch:
    """Raises AsmError `validation_error`. Times are the emitters', and inclusive."""

    session_ids: Sequence[str] | None = None
    run_ids: Sequence[str] | None = None
    types: str | Sequence[str] | None = None
    providers: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    correlation_id: str | None = None
    order_by: str = EVENT_ORDERS[0]
    """`sequence_asc` interleaves several sessions by number; across sessions prefer a time."""
    limit: int | None = None
    cursor: str | None = None

    def __post_init__(self) -> None:
        _settle(self, limit=_limit(self.limit, "event"), types=_members("types", self.types, EventType))
        for name in ("session_ids", "run_ids", "providers"):
            _settle(self, **{name: _texts(name, getattr(self, name))})
        _settle_times(self, "since", "until")
        _require_order(self.order_by, EVENT_ORDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSearch:
    """Which runs to add up. Times as of RunSearch."""

    session_id: str | None = None
    agent_id: str | None = None
    provider: str | Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        _settle(self, provider=_texts("provider", self.provider))
        _settle_times(self, "since", "until")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Generic[T]):
    """One page."""

    items: Sequence[T]
    cursor: str | None
    """Give it back, with the same filters and order, for what comes behind this page; None for an empty page."""
    has_more: bool
    total_count: int | None = None
    """All that match, counted up to MAX_TOTAL + 1; None where it was not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTotals:
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    """Where a run does not state it: input and output."""

    def __add__(self, other: TokenTotals) -> TokenTotals:
        return TokenTotals(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStats:
    event_count: int
    run_count: int
    token_totals: TokenTotals
    providers_used: Sequence[str]
    status_counts: Mapping[str, int]
    """Run status to count; only statuses that occur."""
    first_event_at: datetime | None
    last_event_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderUsage(TokenTotals):
    run_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSummary:
    totals: TokenTotals
    run_count: int
    by_provider: Mapping[str, ProviderUsage]

    def to_map(self) -> dict[str, Any]:
        return {
            "total_input_tokens": self.totals.input_tokens,
            "total_output_tokens": self.totals.output_tokens,
            "total_tokens": self.totals.total_tokens,
            "run_count": self.run_count,
            "by_provider": {name: asdict(usage) for name, usage in self.by_provider.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCost:
    cost_usd: float
    run_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    cost_usd: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSummary:
    total_cost_usd: float
    run_count: int
    """All runs in scope."""
    by_provider: Mapping[str, ProviderCost]
    by_model: Mapping[str, ModelCost]
    unmapped_runs: int
    """Neither a stored cost nor a price; in neither mapping."""

    def to_map(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExport:
    session: Session
    runs: Sequence[Run]
    events: Sequence[EventFrame]
    artifacts: Sequence[Mapping[str, Any]] | None = None
    """Registry rows; None unless asked for."""

    def to_map(self) -> dict[str, Any]:
        exported = {
            "session": self.session.to_map(),
            "runs": [run.to_map() for run in self.runs],
            "events": [loads(frame.body) for frame in self.events],
        }
        return exported if self.artifacts is None else exported | {"artifacts": list(self.artifacts)}


@runtime_checkable
class QueryAPI(Protocol):
    """
    Reads across sessions; what belongs to another tenant does not exist.

    Source: spec/02 §9.

    Raises (every method): AsmError `storage_connection_failed`, `query_error`, `migration_required`.
    """

    async def search_sessions(self, tenant_id: str, where: SessionSearch) -> Found[Session]:
        """Raises AsmError `invalid_cursor`."""

    async def get_session_stats(self, session_id: str, tenant_id: str) -> SessionStats:
        """From one snapshot. Raises AsmError `session_not_found`."""

    async def search_runs(self, tenant_id: str, where: RunSearch) -> Found[Run]:
        """Raises AsmError `invalid_cursor`."""

    async def get_usage_summary(self, tenant_id: str, where: UsageSearch) -> UsageSummary:
        """Tokens of runs in any status, of deleted sessions too."""

    async def get_cost_summary(
        self, tenant_id: str, where: UsageSearch, *, price_of: PriceOf | None = None
    ) -> CostSummary:
        """
        What the runs cost: as stored (a stored 0 is known), else what their usage comes to.

        Args:
            price_of: instead of the prices that the implementation was given.
        """

    async def search_events(self, tenant_id: str, where: EventSearch) -> Found[EventFrame]:
        """Raises AsmError `invalid_cursor`."""

    async def count_events(self, tenant_id: str, where: EventSearch) -> int:
        """Ignores order, limit and cursor."""

    async def export_session(
        self, session_id: str, tenant_id: str, *, include_artifacts: bool = False
    ) -> SessionExport:
        """
        Everything about a session, from one snapshot.

        Raises AsmError `session_not_found`; `payload_too_large` beyond MAX_EXPORT_EVENTS events.
        """

    def stream_export(
        self, session_id: str, tenant_id: str, *, include_artifacts: bool = False
    ) -> AsyncIterator[bytes]:
        """
        The same for a session of any length, as JSON Lines: `{"session": …}`, then each `{"run": …}`, `{"event": …}`,
        `{"artifact": …}`. A chunk holds whole lines.

        Raises AsmError `session_not_found` at the first step.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of maintenance came to."""

    count: int = 0
    errors: Sequence[str] = ()
    """What could not be done and was left as it was; the rest was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceReport:
    sessions_soft_deleted: int = 0
    sessions_hard_deleted: int = 0
    events_pruned: int = 0
    artifacts_cleaned: int = 0
    orphaned_sequences_cleaned: int = 0
    duration_ms: int = 0
    errors: Sequence[str] = field(default_factory=tuple)
    already_running: bool = False
    """Another process is at it: nothing was done."""

    def to_map(self) -> dict[str, Any]:
        return asdict(self) | {"errors": list(self.errors)}


@runtime_checkable
class Maintenance(Protocol):
    """
    Retention for one tenant; runs when it is called, never by itself. Sessions with a run that is queued, in flight or
    parked are left alone. One maintenance at a time: a second one is refused.

    `now` is the store's own clock when omitted.

    Source: spec/02 §10.2.

    Raises (every method):
        AsmError: `storage_connection_failed`, `maintenance_error` (also `already_running`), `migration_required`,
            `validation_error` for a policy that contradicts itself.
    """

    async def execute(
        self, policy: RetentionPolicy, tenant_id: str, *, now: datetime | None = None
    ) -> MaintenanceReport:
        """Every step in order; one that fails is reported and the others still run. Does not raise when refused."""

    async def soft_delete_expired_sessions(
        self, policy: RetentionPolicy, tenant_id: str, *, now: datetime | None = None
    ) -> int: ...

    async def hard_delete_expired_sessions(
        self, policy: RetentionPolicy, tenant_id: str, *, now: datetime | None = None
    ) -> Step:
        """With all that belongs to them, each session wholly or not at all."""

    async def prune_session_events(self, session_id: str, tenant_id: str, policy: RetentionPolicy) -> int:
        """
        Bring a session down to `max_events_per_session`, or as near as protected events allow: first the oldest of
        `prune_event_types_first`, then the oldest others. The newest event stays, so that followers arrive.
        """

    async def clean_orphaned_artifacts(self, tenant_id: str, *, batch_size: int = 100) -> int:
        """Registry rows of sessions that are gone; their contents stay where they are."""

    async def health_check(self, tenant_id: str) -> list[str]:
        """What does not fit together, one sentence each; empty when all is well. Changes nothing."""


def as_query_api(value: object) -> QueryAPI:
    """`value`, when it is one. Raises AsmError `validation_error`."""
    if not isinstance(value, QueryAPI):
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"not a QueryAPI: {type(value).__name__}")
    return value


def as_maintenance(value: object) -> Maintenance:
    """`value`, when it is one. Raises AsmError `validation_error`."""
    if not isinstance(value, Maintenance):
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"not a Maintenance: {type(value).__name__}")
    return value


def filters_of(where: SessionSearch | RunSearch | EventSearch) -> dict[str, Any]:
    """What narrows the search, as plain values: pages and order left aside."""
    aside = ("order_by", "limit", "cursor", "include_total")
    filters = {name: value for name, value in asdict(where).items() if name not in aside}
    return {name: timestamp_text(value) if isinstance(value, datetime) else value for name, value in filters.items()}


def _settle(request: object, **values: object) -> None:
    """A frozen request's fields in their checked form."""
    for name, value in values.items():
        object.__setattr__(request, name, value)


def _settle_times(request: object, *names: str) -> None:
    for name in names:
        value = getattr(request, name)
        if value is None:
            continue
        try:
            _settle(request, **{name: parse_datetime(value)})
        except ValueError as cause:
            raise _invalid(name, f"{cause}") from cause


def _limit(value: object, kind: str) -> int:
    """What is asked for, or else what is set for a page of `session`, `run` or `event`."""
    most: int = options.get("max_query_limit")
    if value is None:
        usual: int = options.get(f"default_{kind}_query_limit")
        return min(usual, most)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise _invalid("limit", f"must be an integer from 1 to {most}, not {value!r}")
    return value


def _texts(name: str, value: object) -> tuple[str, ...]:
    """One text or several, each once, in an order of their own."""
    several = (value,) if isinstance(value, str) else value or ()
    if not isinstance(several, Collection) or isinstance(several, Mapping | bytes):
        raise _invalid(name, f"must be text or a list of texts, not {value!r}")
    if wrong := [one for one in several if not isinstance(one, str)]:
        raise _invalid(name, f"must hold texts, not {wrong[0]!r}")
    return tuple(sorted({str(one) for one in several}))


def _members(name: str, value: object, kind: type[SessionStatus | RunStatus | EventType]) -> tuple[str, ...]:
    texts = _texts(name, value)
    if unknown := [text for text in texts if text not in kind._value2member_map_]:
        raise _invalid(name, f"is unknown: {unknown[0]!r}; one of: {', '.join(kind)}")
    return texts


def _require_order(order_by: object, orders: Sequence[str]) -> None:
    if order_by not in orders:
        raise _invalid("order_by", f"is unknown: {order_by!r}; one of: {', '.join(orders)}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _invalid(name: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, f"{name} {problem}", details={"field": name})
