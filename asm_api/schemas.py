"""What requests may say, and what answers hold: those are written from the domain's maps, the models document them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from asm_core.domain.fields import to_jsonable
from asm_core.domain.run import MAX_TIMEOUT_MS
from asm_core.manager.submit import RunRequest
from asm_core.wire import dumps

MAX_RUNS = 1_000_000
"""Upper bound of a session's limits."""
MAX_ATTEMPTS = 100
MAX_TAGS = 100
MAX_SEQUENCE = 2**63 - 1
MAX_WAIT_S, MAX_POLL_MS = 300, 30_000
ONE_SHOT_AGENT = "one-shot"


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    if to_jsonable(value) != value:
        raise ValueError("holds what cannot be stored: NUL, half a character, NaN, or more than 64 levels of nesting")
    try:
        dumps(value)
    except TypeError as cause:
        raise ValueError(f"holds what cannot be stored: {cause}") from cause
    return value


Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00]+$")]
JsonObject = Annotated[dict[str, Any], AfterValidator(_storable)]
EndQueued = Literal["refuse", "cancel"]


class Request(BaseModel):
    """A JSON body: no unknown fields, no guessing of types."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class SessionRequest(Request):
    agent_id: Text
    provider: Text | None = None
    """Of runs that name none."""
    model: Text | None = None
    context: JsonObject = Field(default_factory=dict)
    metadata: JsonObject = Field(default_factory=dict)
    tags: Annotated[list[Text], Field(max_length=MAX_TAGS)] = Field(default_factory=list)
    max_concurrent_runs: int = Field(1, ge=1, le=MAX_RUNS)
    max_queued_runs: int = Field(100, ge=0, le=MAX_RUNS)


class ForkRequest(Request):
    """What is left out is the parent's, but for `metadata`."""

    at: int | None = Field(None, ge=1, le=MAX_SEQUENCE)
    """The number of the last event that the fork goes on from; all that there are by now, when left out."""
    agent_id: Text | None = None
    provider: Text | None = None
    model: Text | None = None
    context: JsonObject | None = None
    metadata: JsonObject | None = None
    tags: Annotated[list[Text], Field(max_length=MAX_TAGS)] | None = None
    max_concurrent_runs: int | None = Field(None, ge=1, le=MAX_RUNS)
    max_queued_runs: int | None = Field(None, ge=0, le=MAX_RUNS)


def _continuation(value: object) -> object:
    return ("auto" if value else "none") if isinstance(value, bool) else value


class SubmitRequest(Request):
    input: JsonObject
    """`{"messages": [{"role", "content"}]}`, `{"prompt": "…"}`, or what the provider takes beside them."""
    provider: Text | None = None
    model: Text | None = None
    timeout_ms: int | None = Field(None, ge=1, le=MAX_TIMEOUT_MS)
    """Execution time, from the start mark."""
    queue_timeout_ms: int | None = Field(None, ge=1, le=MAX_TIMEOUT_MS)
    max_attempts: int | None = Field(None, ge=1, le=MAX_ATTEMPTS)
    on_worker_lost: Literal["fail", "retry", "resume"] = "fail"
    continuation: Annotated[Literal["none", "auto", "replay", "native"] | None, BeforeValidator(_continuation)] = None
    """Whether the run goes on from what was said before in its session; true means auto."""
    continuation_opts: dict[Literal["max_messages", "max_chars", "max_tokens_approx"], Annotated[int, Field(ge=1)]] = (
        Field(default_factory=dict)
    )
    """Bounds of the conversation that is handed on; the newest messages stay."""
    provider_options: JsonObject = Field(default_factory=dict)
    """`system_prompt, permission_mode, max_turns, max_tokens, reasoning_effort, allowed_tools, denied_tools,
    output_schema`; for trusted submitters also `mcp_servers, cwd, sdk_opts` and the widest permission modes."""
    workspace: JsonObject = Field(default_factory=dict)
    """`enabled, path, strategy, capture_patch, max_patch_bytes, max_untracked_bytes, rollback_on_failure, ignore`:
    snapshots of a folder around the run; for trusted submitters only."""
    metadata: JsonObject = Field(default_factory=dict)

    def run_request(self) -> RunRequest:
        return RunRequest(**{name: getattr(self, name) for name in SubmitRequest.model_fields})


class OneShotRequest(SubmitRequest):
    agent_id: Text = ONE_SHOT_AGENT
    context: JsonObject = Field(default_factory=dict)
    """Of the session that is made for the run."""


class SocketSubmit(SubmitRequest):
    idempotency_key: Text | None = None


class RunReference(Request):
    run_id: Text


class EndRequest(Request):
    queued: EndQueued | None = None
    """Whether queued runs refuse the end of their session (the default) or are cancelled with it."""


class DrainRequest(Request):
    timeout_s: float = Field(60.0, ge=0, le=MAX_WAIT_S, allow_inf_nan=False)


class Problem(Answer):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    """Of the closed taxonomy."""
    detail: str
    retryable: bool
    """Whether repeating the same request may succeed."""
    details: dict[str, Any]


class SessionAnswer(Answer):
    id: str
    agent_id: str
    status: Literal["pending", "active", "paused", "completed", "failed", "cancelled"]
    parent_session_id: str | None
    forked_at: int | None
    """Of a fork: events up to this number are its parent's."""
    provider: str | None
    model: str | None
    metadata: dict[str, Any]
    context: dict[str, Any]
    tags: list[str]
    max_concurrent_runs: int
    max_queued_runs: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


class SessionPage(Answer):
    sessions: list[SessionAnswer]
    cursor: str | None
    """Give it back for the next page; null when this is the last one."""


class ArtifactAnswer(Answer):
    key: str
    run_id: str | None
    """Of the run that wrote it."""
    content_type: str | None
    byte_size: int
    checksum_sha256: str
    metadata: dict[str, Any]
    created_at: datetime


class ArtifactList(Answer):
    artifacts: list[ArtifactAnswer]


class SubmitAnswer(Answer):
    id: str
    session_id: str
    status: str
    position: int | None
    """Place in the session's queue, from 1; null once claimed."""
    replayed: bool
    """The idempotency key was known: nothing was queued."""


class ControlAnswer(Answer):
    id: str
    session_id: str
    status: str
    """A run in flight is still `running` here; it ends when its adapter has stopped."""


class RunAnswer(Answer):
    id: str
    session_id: str
    status: Literal["pending", "running", "awaiting_approval", "completed", "failed", "cancelled", "timeout"]
    input: dict[str, Any] | None
    output: dict[str, Any] | None
    error: dict[str, Any] | None
    metadata: dict[str, Any]
    turn_count: int
    token_usage: dict[str, Any]
    cost_usd: float | None
    provider: str | None
    provider_metadata: dict[str, Any]
    attempt: int
    position: int | None
    worker_id: str | None
    """Who holds it, or held it last."""
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class RunPage(Answer):
    runs: list[RunAnswer]
    cursor: str | None


class EventAnswer(Answer):
    id: str
    type: str
    timestamp: datetime
    session_id: str
    run_id: str | None
    sequence_number: int
    data: dict[str, Any]
    metadata: dict[str, Any]
    schema_version: int
    provider: str | None
    correlation_id: str | None
    attempt: int | None


class EventPage(Answer):
    events: list[EventAnswer]
    next_after: int
    """The cursor behind this page."""
    latest: int
    """The session's highest sequence number."""


class QueueAnswer(Answer):
    session_id: str
    state: str
    """The session's status."""
    in_flight_count: int
    in_flight_runs: list[str]
    queued_count: int
    queued_runs: list[str]
    """In the order of their turn."""
    parked_count: int
    parked_runs: list[str]
    """Waiting for an approval."""
    max_concurrent_runs: int
    max_queued_runs: int
    oldest_queued_age_ms: int | None
    limiter_waiting: bool
    last_sequence: int


class AuditAnswer(Answer):
    id: int
    """Rises with every entry of a session."""
    at: datetime
    action: str
    """`run.submitted`, `run.claimed`, `session.paused`, …"""
    session_id: str
    run_id: str | None
    actor: str | None
    data: dict[str, Any]


class AuditPage(Answer):
    entries: list[AuditAnswer]
    cursor: str | None
    """Give it back, with the same filters, for what comes behind this page; null when this is the last one."""


class EventSearchPage(Answer):
    events: list[EventAnswer]
    cursor: str | None
    """Give it back, with the same filters and order, for what comes behind this page; null for an empty page."""
    has_more: bool


class ProviderUsageAnswer(Answer):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    run_count: int


class UsageSummaryAnswer(Answer):
    total_input_tokens: int
    total_output_tokens: int
    total_tokens: int
    run_count: int
    by_provider: dict[str, ProviderUsageAnswer]


class ProviderCostAnswer(Answer):
    cost_usd: float
    run_count: int


class ModelCostAnswer(Answer):
    cost_usd: float
    input_tokens: int
    output_tokens: int


class CostSummaryAnswer(Answer):
    total_cost_usd: float
    run_count: int
    by_provider: dict[str, ProviderCostAnswer]
    by_model: dict[str, ModelCostAnswer]
    unmapped_runs: int
    """Neither a stored cost nor a price; in neither mapping."""


class UsageAnswer(Answer):
    usage: UsageSummaryAnswer
    cost: CostSummaryAnswer
