"""
Settings: read once at the rim (`Settings()` from the environment, `ASM_*`), passed inward as values.

Every wait, buffer and bound of the system has its name here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from asm_core.domain.errors import AsmError
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import SessionStatus
from asm_core.domain.pricing import parse_price_table
from asm_core.domain.provider_error import DEFAULT_LIMITS, TextLimits
from asm_core.domain.redaction import REDACTOR, RedactionOptions, Redactor, Replace
from asm_core.domain.retention import MAX_BATCH_SIZE, RetentionPolicy, parse_bound

FAST_PROFILE = {"beat_interval_ms": 500, "lease_ttl_ms": 3_000, "sweep_interval_ms": 300, "stale_wake_ms": 1_000}
"""For tests and latency-critical fleets."""


Bound = Annotated[int | None, BeforeValidator(parse_bound)]
"""`infinity` and `inf` mean none, as `none` does."""


@dataclass(frozen=True, slots=True)
class FleetTimes:
    """Liveness and repair; the same for every process of a fleet."""

    beat_interval: timedelta = timedelta(seconds=3)
    lease_ttl: timedelta = timedelta(seconds=15)
    sweep_interval: timedelta = timedelta(seconds=2)
    stale_wake: timedelta = timedelta(seconds=10)
    max_claims: int = 5

    @property
    def self_fence_after(self) -> timedelta:
        """Without a confirmed beat for this long, a worker stops the runs that another may start."""
        return self.lease_ttl - min(timedelta(seconds=5), self.lease_ttl / 3)


@dataclass(frozen=True, slots=True)
class EventLimits:
    """The event path's bounds."""

    batch_max: int = 256
    """Events per commit."""
    run_buffer: int = 1_000
    """Events of one run waiting for a commit; a full buffer holds the provider back."""
    outage_tolerance_s: float = 300.0
    """How long events wait for a store that does not answer."""
    publish_buffer: int = 10_000
    """Batches waiting for the bus; beyond it followers are sent to the store instead."""


@dataclass(frozen=True, slots=True)
class RunLimits:
    cancel_grace_s: float = 10.0
    """For an adapter to stop; then the run ends without it."""
    idle_timeout_s: float = 600.0
    """Without any provider event."""
    error_text: TextLimits = DEFAULT_LIMITS
    """Kept of a provider's error output."""
    chars_per_token: int = 4
    """An estimate, for a conversation's token budget."""
    retries: int = 2
    """Of a provider's request that failed before its first event, where another try may help."""
    max_retry_wait_s: float = 30.0
    """Before such a repetition; a provider that asks for more fails the run at once."""
    workspace_timeout_s: float = 20.0
    """For the snapshot before a run, for snapshot and diff after it, and for its rollback, each; with `cancel_grace_s`
    they stay within the minute that a run has beyond its deadline."""


RedactionPattern = str | tuple[str, str]
"""A regular expression, or a category and one."""


class LibraryOptions(BaseModel):
    """The settings that library calls fall back to; `asm_core.options` lays a context's overrides over them."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    audit_logging_enabled: bool = True
    """Whether `AuditLogger` writes anything; what the store's own transactions record is always kept."""

    redaction_enabled: bool = True
    """Whether secrets are masked before anything is stored, published or logged."""
    redaction_patterns: (
        Literal["default"] | tuple[RedactionPattern, ...] | dict[Literal["replace"], tuple[RedactionPattern, ...]]
    ) = "default"
    """`default`; a list adds to the built-in patterns; `{"replace": [...]}` stands for them."""
    redaction_replacement: str = "[REDACTED]"
    """What stands where a secret was; `categorized`: `[REDACTED:<category>]`."""
    redaction_deep_scan: bool = True
    """Every text of an event's data; otherwise only the fields that usually hold some."""
    redaction_scan_metadata: bool = True
    """An event's metadata too."""

    max_query_limit: int = Field(1_000, ge=1)
    """The most that one page of a query may hold."""
    default_session_query_limit: int = Field(50, ge=1)
    """A page of sessions, unless the caller says otherwise."""
    default_run_query_limit: int = Field(50, ge=1)
    """A page of runs, unless the caller says otherwise."""
    default_event_query_limit: int = Field(100, ge=1)
    """A page of events, unless the caller says otherwise."""

    retention_max_completed_age_days: Bound = Field(90, ge=1)
    """Sessions that are not exempt and did not change for longer are deleted softly; `none`: never."""
    retention_hard_delete_after_days: Bound = Field(30, ge=1)
    """What was deleted softly this long ago is removed; `none`: never."""
    retention_batch_size: int = Field(100, ge=1, le=MAX_BATCH_SIZE)
    """Rows or sessions per transaction of maintenance."""
    retention_exempt_statuses: tuple[SessionStatus, ...] = (SessionStatus.ACTIVE, SessionStatus.PAUSED)
    """Sessions in these are neither deleted for their age nor pruned."""
    retention_exempt_tags: tuple[str, ...] = ("pinned",)
    """Sessions with one of these are neither deleted for their age nor pruned."""
    retention_prune_event_types_first: tuple[EventType, ...] = (
        EventType.MESSAGE_STREAMED,
        EventType.TOKEN_USAGE_UPDATED,
    )
    """Which events go first where there are too many."""

    chars_per_token: int = Field(4, ge=1)
    """An estimate, for a transcript's token budget."""
    error_text_max_bytes: int = Field(16_384, ge=0)
    """Kept of a provider's error output; 0: all."""
    error_text_max_lines: int = Field(200, ge=0)
    """Kept of a provider's error output; 0: all."""
    pricing_table: dict[str, Any] = {}
    """Prices that go before the built-in ones, in USD per token: `{provider: {"default"?, "models"?}}`."""

    @model_validator(mode="after")
    def _check_redaction(self) -> Self:
        try:
            _ = self.redactor
        except AsmError as error:
            raise ValueError(f"redaction_{error.details['field']}: {error.message}") from error
        return self

    @property
    def redactor(self) -> Redactor:
        """Built anew unless it is the default one: take it once."""
        given = self.redaction_patterns
        options = RedactionOptions(
            enabled=self.redaction_enabled,
            patterns=Replace(given["replace"]) if isinstance(given, dict) else given,
            replacement=self.redaction_replacement,
            deep_scan=self.redaction_deep_scan,
            scan_metadata=self.redaction_scan_metadata,
            literals=self._own_secrets,
        )
        return REDACTOR if options == REDACTOR.options else Redactor(options)

    @property
    def _own_secrets(self) -> tuple[str, ...]:
        """Of the installation."""
        return ()

    @property
    def run_limits(self) -> RunLimits:
        """Taken once, by whoever executes runs."""
        limits = TextLimits(max_bytes=self.error_text_max_bytes, max_lines=self.error_text_max_lines)
        return RunLimits(error_text=limits, chars_per_token=self.chars_per_token)

    @property
    def retention(self) -> RetentionPolicy:
        """What maintenance applies unless it is told otherwise; vary it with `dataclasses.replace`."""
        return RetentionPolicy(
            max_completed_session_age_days=self.retention_max_completed_age_days,
            hard_delete_after_days=self.retention_hard_delete_after_days,
            exempt_statuses=self.retention_exempt_statuses,
            exempt_tags=self.retention_exempt_tags,
            prune_event_types_first=self.retention_prune_event_types_first,
            batch_size=self.retention_batch_size,
        )

    @field_validator("pricing_table")
    @classmethod
    def _check_prices(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            parse_price_table(value)
        except AsmError as error:
            raise ValueError(error.message) from error
        return value


@dataclass(frozen=True, slots=True)
class ProviderAccess:
    """How a provider is reached; None: its SDK's own default."""

    base_url: str | None = None
    api_key: SecretStr | None = None
    model: str | None = None

    @property
    def key(self) -> str | None:
        return self.api_key.get_secret_value() if self.api_key else None


VENDOR_VARIABLES: Mapping[str, Mapping[str, str]] = {
    "anthropic": {"base_url": "ANTHROPIC_BASE_URL", "api_key": "ANTHROPIC_API_KEY"},
    "openai": {"base_url": "OPENAI_BASE_URL", "api_key": "OPENAI_API_KEY"},
    "claude": {"base_url": "ANTHROPIC_BASE_URL", "api_key": "ANTHROPIC_API_KEY"},
    "codex": {"base_url": "OPENAI_BASE_URL", "api_key": "OPENAI_API_KEY"},
    "amp": {"base_url": "AMP_URL", "api_key": "AMP_API_KEY"},
}
"""What counts where our own variable is unset."""


class Settings(BaseSettings, LibraryOptions):
    """Source: DESIGN §8; `asm doctor` prints what is in force."""

    model_config = SettingsConfigDict(
        env_prefix="ASM_", env_parse_none_str="none", extra="ignore", use_attribute_docstrings=True
    )

    database_url: str = "postgresql://127.0.0.1:5432/asm"
    """Postgres: the truth."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """Redis: damper, fan-out, nudges; all of it may be lost."""
    broker_url: str = ""
    """Celery's broker; the Redis when empty."""
    redis_prefix: str = "asm"
    """Stands before every Redis key, channel and queue; separates installations that share a server."""
    server: str = "http://127.0.0.1:8420"
    """Where the CLI and the client find the API."""
    api_key: SecretStr | None = None
    """When set, every API request must carry it as a bearer token."""

    profile: Literal["default", "fast"] = "default"
    """`fast` shortens the liveness times, for tests and latency-critical fleets."""
    beat_interval_ms: int = Field(3_000, ge=100)
    """How often a worker confirms that it lives."""
    lease_ttl_ms: int = Field(15_000, ge=1_000)
    """A worker silent for this long is lost; the same for the whole fleet."""
    sweep_interval_ms: int = Field(2_000, ge=100)
    """Between two repair passes of the fleet."""
    stale_wake_ms: int = Field(10_000, ge=100)
    """A session with work and a free slot gets another wakeup after this long."""
    max_claims: int = Field(5, ge=1)
    """Claims of a run that never started, before it is failed."""
    drain_timeout_ms: int = Field(600_000, ge=0)
    """How long a worker lets its runs finish after TERM."""
    cancel_grace_ms: int = Field(10_000, ge=0)
    """For an adapter to stop; then the run ends without it."""
    run_idle_timeout_ms: int = Field(600_000, ge=1)
    """A run without any provider event for this long has failed (`provider_timeout`)."""
    storage_outage_tolerance_ms: int = Field(300_000, ge=0)
    """How long a run waits for a store that does not answer."""
    event_batch_max: int = Field(256, ge=1, le=1_000)
    """Events per commit."""
    event_buffer_size: int = Field(1_000, ge=1)
    """Events of one run waiting for a commit; a full buffer holds the provider back."""
    max_parallel_runs: int | None = Field(None, ge=1)
    """Runs in flight in the whole fleet; `none`: as many as there are slots."""
    queue_shards: int = Field(8, ge=1, le=64)
    """Celery queues that wakeups are spread over."""
    broker_outage_ms: int = Field(30_000, ge=1_000)
    """Without its canary for this long a worker claims straight from Postgres."""
    loop_stall_ms: int = Field(30_000, ge=1_000)
    """A run loop that does not answer for this long ends its process."""

    max_body_bytes: int = Field(1_048_576, ge=1_024)
    """Of an HTTP request."""
    max_input_bytes: int = Field(262_144, ge=1_024)
    """Of a run's input as JSON."""
    subscriber_buffer: int = Field(1_000, ge=1)
    """Frames held for one slow follower before it is sent back to the store."""
    shutdown_timeout_s: int = Field(5, ge=1)
    """For open requests when an API process ends."""

    anthropic_base_url: str | None = None
    """Of the Anthropic API; `ANTHROPIC_BASE_URL` when unset."""
    anthropic_api_key: SecretStr | None = None
    """For the Anthropic API; `ANTHROPIC_API_KEY` when unset. Only workers need it."""
    anthropic_model: str | None = None
    """Of runs and sessions that name none."""
    openai_base_url: str | None = None
    """Of the OpenAI API, or a server that speaks its protocol; `OPENAI_BASE_URL` when unset."""
    openai_api_key: SecretStr | None = None
    """For the OpenAI API; `OPENAI_API_KEY` when unset. Only workers need it."""
    openai_model: str | None = None
    """Of runs and sessions that name none."""
    openai_api: Literal["responses", "chat"] = "responses"
    """`chat`: Chat Completions, for the servers of others that speak OpenAI's protocol."""
    claude_base_url: str | None = None
    """Of the Claude agent; `ANTHROPIC_BASE_URL` when unset."""
    claude_api_key: SecretStr | None = None
    """For the Claude agent; `ANTHROPIC_API_KEY` when unset. Only workers need it."""
    claude_model: str | None = None
    """Of runs and sessions that name none."""
    codex_base_url: str | None = None
    """Of the Codex agent; `OPENAI_BASE_URL` when unset."""
    codex_api_key: SecretStr | None = None
    """For the Codex agent; `OPENAI_API_KEY` when unset. Only workers need it."""
    codex_model: str | None = None
    """Of runs and sessions that name none."""
    amp_base_url: str | None = None
    """Of the Amp agent; `AMP_URL` when unset."""
    amp_api_key: SecretStr | None = None
    """For the Amp agent; `AMP_API_KEY` when unset. Only workers need it."""
    amp_model: str | None = None
    """Of runs and sessions that name none."""
    provider_retries: int = Field(2, ge=0, le=10)
    """Repetitions of a provider's request that failed before its first event, where another try may help."""
    provider_retry_max_wait_ms: int = Field(30_000, ge=0)
    """The longest wait before such a repetition; a provider that asks for more fails the run at once."""
    tools: list[str] = []
    """What models of the plain APIs and Claude may call in the worker's process: `module:attribute` of functions or
    tools."""
    workspace_timeout_ms: int = Field(20_000, ge=1)
    """For the snapshot of a run's workspace before it, for snapshot and diff after it, and for its rollback, each."""
    agents_dir: Path = Path("~/.asm/agents")
    """Where agents that are programs have their homes and folders, one of each per session."""
    artifacts_url: str = ""
    """Where artifacts and the providers' own session files are kept: `file:///folder`, or `s3://bucket/prefix` where
    workers run on several machines; the folder `artifacts` beside `agents_dir` when empty."""

    trusted_submitters: bool = False
    """Whether API submitters may choose what acts on a worker's machine: `mcp_servers`, `cwd`, `sdk_opts`, and the
    permission modes `full_auto` and `dangerously_skip_permissions`."""
    shell_enabled: bool = False
    """Whether API submitters may use the shell provider."""
    shell_cwd: Path = Path()
    """Where commands run that name no folder."""
    shell_timeout_ms: int = Field(30_000, ge=1)
    """For commands that name no time limit."""
    shell_allowed_commands: list[str] | None = None
    """When set, only these (a guard, not a sandbox)."""
    shell_denied_commands: list[str] | None = None
    """Never these (a guard, not a sandbox)."""
    max_output_bytes: int = Field(1_048_576, ge=1)
    """Kept of a command's output, per stream."""
    allow_crash: bool = False
    """Lets the scripted provider kill its own worker (tests of recovery)."""

    log_level: str = "INFO"
    """DEBUG, INFO, WARNING, ERROR."""
    log_format: Literal["console", "json"] = "console"
    """`json`: one object per line."""

    @model_validator(mode="after")
    def _apply(self) -> Settings:
        if self.profile == "fast":
            for name, value in FAST_PROFILE.items():
                if name not in self.model_fields_set:
                    setattr(self, name, value)
        if not self.broker_url:
            self.broker_url = self.redis_url
        if self.lease_ttl_ms < 2 * self.beat_interval_ms:
            raise ValueError(
                f"lease_ttl_ms ({self.lease_ttl_ms}) must be at least twice beat_interval_ms ({self.beat_interval_ms})"
            )
        return self

    @property
    def _own_secrets(self) -> tuple[str, ...]:
        """What this installation was given itself: no text may repeat it, whatever it looks like."""
        passwords = (urlsplit(url).password for url in (self.database_url, self.redis_url, self.broker_url))
        given = {self.api_key.get_secret_value() if self.api_key else None, *passwords}
        given |= {self.provider_access(name).key for name in VENDOR_VARIABLES}
        return tuple(sorted(spelling for value in given if value for spelling in {value, unquote(value)}))

    def provider_access(self, name: str) -> ProviderAccess:
        """Our own variables before the vendor's."""
        vendors = VENDOR_VARIABLES[name]
        key = os.environ.get(vendors["api_key"])
        return ProviderAccess(
            base_url=getattr(self, f"{name}_base_url") or os.environ.get(vendors["base_url"]) or None,
            api_key=getattr(self, f"{name}_api_key") or (SecretStr(key) if key else None),
            model=getattr(self, f"{name}_model"),
        )

    @property
    def artifacts_location(self) -> str:
        """The URL of the artifact store in force."""
        return self.artifacts_url or (self.agents_folder.parent / "artifacts").as_uri()

    @property
    def agents_folder(self) -> Path:
        return self.agents_dir.expanduser().absolute()

    @property
    def times(self) -> FleetTimes:
        return FleetTimes(
            beat_interval=timedelta(milliseconds=self.beat_interval_ms),
            lease_ttl=timedelta(milliseconds=self.lease_ttl_ms),
            sweep_interval=timedelta(milliseconds=self.sweep_interval_ms),
            stale_wake=timedelta(milliseconds=self.stale_wake_ms),
            max_claims=self.max_claims,
        )

    @property
    def event_limits(self) -> EventLimits:
        return EventLimits(
            batch_max=self.event_batch_max,
            run_buffer=self.event_buffer_size,
            outage_tolerance_s=self.storage_outage_tolerance_ms / 1000,
        )

    @property
    def run_limits(self) -> RunLimits:
        return replace(
            super().run_limits,
            cancel_grace_s=self.cancel_grace_ms / 1000,
            idle_timeout_s=self.run_idle_timeout_ms / 1000,
            retries=self.provider_retries,
            max_retry_wait_s=self.provider_retry_max_wait_ms / 1000,
            workspace_timeout_s=self.workspace_timeout_ms / 1000,
        )

    @property
    def limiter(self) -> str | None:
        """The name of the fleet-wide cap, when one is set."""
        return "fleet" if self.max_parallel_runs else None
