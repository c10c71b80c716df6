"""
Settings: read once at the rim (`Settings()` from the environment, `ASM_*`), passed inward as values.

Every wait, buffer and bound of the system has its name here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from asm_core.domain.errors import AsmError
from asm_core.domain.redaction import REDACTOR, Pattern, RedactionOptions, Redactor, Replace

FAST_PROFILE = {"beat_interval_ms": 500, "lease_ttl_ms": 3_000, "sweep_interval_ms": 300, "stale_wake_ms": 1_000}
"""For tests and latency-critical fleets."""


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


class Settings(BaseSettings):
    """Source: DESIGN §8; `asm doctor` prints what is in force."""

    model_config = SettingsConfigDict(env_prefix="ASM_", extra="ignore", use_attribute_docstrings=True)

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
    """Runs in flight in the whole fleet; None: as many as there are slots."""
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

    redaction_enabled: bool = True
    """Whether secrets are replaced before anything is stored, published or logged."""
    redaction_replacement: str = "[REDACTED]"
    """What stands in place of a secret; `categorized`: `[REDACTED:<category>]`."""
    redaction_patterns: list[str | tuple[str, str]] = []
    """Further secrets, as a JSON list of patterns or `[category, pattern]` pairs: characters, classes, quantifiers."""
    redaction_builtin_patterns: bool = True
    """Whether the built-in patterns are used as well."""
    redaction_deep_scan: bool = True
    """Whether all of an event's data is searched; else only the fields that hold messages, tool calls and errors."""
    redaction_scan_metadata: bool = True
    """Whether events' metadata is searched as well."""

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
        self._check_redaction()
        return self

    def _check_redaction(self) -> None:
        try:
            _ = self.redactor
        except AsmError as error:
            raise ValueError(f"redaction_{error.details['field']}: {error.message}") from error

    @property
    def redactor(self) -> Redactor:
        """Built anew unless it is the default one: take it once."""
        options = RedactionOptions(
            enabled=self.redaction_enabled,
            patterns=self._redaction_patterns,
            replacement=self.redaction_replacement,
            deep_scan=self.redaction_deep_scan,
            scan_metadata=self.redaction_scan_metadata,
            literals=self._own_secrets,
        )
        return REDACTOR if options == REDACTOR.options else Redactor(options)

    @property
    def _own_secrets(self) -> tuple[str, ...]:
        """What this installation was given itself: no text may repeat it, whatever it looks like."""
        passwords = (urlsplit(url).password for url in (self.database_url, self.redis_url, self.broker_url))
        given = {self.api_key.get_secret_value() if self.api_key else None, *passwords}
        return tuple(sorted(spelling for value in given if value for spelling in {value, unquote(value)}))

    @property
    def _redaction_patterns(self) -> Literal["default"] | Sequence[Pattern] | Replace:
        if not self.redaction_builtin_patterns:
            return Replace(tuple(self.redaction_patterns))
        return tuple(self.redaction_patterns) or "default"

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
        return RunLimits(cancel_grace_s=self.cancel_grace_ms / 1000, idle_timeout_s=self.run_idle_timeout_ms / 1000)

    @property
    def limiter(self) -> str | None:
        """The name of the fleet-wide cap, when one is set."""
        return "fleet" if self.max_parallel_runs else None
