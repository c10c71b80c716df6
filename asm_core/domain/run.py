"""Run: one execution inside a session; and the value that an execution ends in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import timestamp_text, to_jsonable
from asm_core.domain.lifecycle import TERMINAL_RUNS, RunStatus
from asm_core.domain.provider_options import NO_OPTIONS, ProviderOptions
from asm_core.domain.session import (
    DEFAULT_TENANT,
    optional_datetime,
    optional_mapping,
    require_datetime,
    require_mapping,
    require_text,
)
from asm_core.domain.workspace import NO_WORKSPACE, WorkspaceOptions

DEFAULT_TIMEOUT_MS = 3_600_000
MAX_TIMEOUT_MS = 604_800_000
"""Seven days: the hard cap of a run's execution time."""


class OnWorkerLost(StrEnum):
    """What happens to a started run whose worker died."""

    FAIL = "fail"
    RETRY = "retry"
    RESUME = "resume"


class Continuation(StrEnum):
    """How a run goes on from what was said before in its session."""

    NONE = "none"
    """It knows nothing of it."""
    AUTO = "auto"
    """As well as the provider can."""
    REPLAY = "replay"
    """The conversation so far is handed to the provider."""
    NATIVE = "native"
    """The provider's own session is resumed; where it cannot be, the run is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is to be executed; travels in its row."""

    provider: str
    model: str | None = None
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    """Execution time, counted from the start mark of the first attempt; nothing re-arms it."""
    queue_timeout_ms: int | None = None
    max_attempts: int = 1
    on_worker_lost: OnWorkerLost = OnWorkerLost.FAIL
    continuation: Continuation = Continuation.NONE
    continuation_opts: Mapping[str, int] = field(default_factory=dict)
    """Bounds of the conversation that is handed on, as of `transcript.Budget`."""
    provider_options: ProviderOptions = NO_OPTIONS
    workspace: WorkspaceOptions = NO_WORKSPACE

    def to_map(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "model": self.model,
            "timeout_ms": self.timeout_ms,
            "queue_timeout_ms": self.queue_timeout_ms,
            "max_attempts": self.max_attempts,
            "on_worker_lost": str(self.on_worker_lost),
            "continuation": str(self.continuation),
            "continuation_opts": dict(self.continuation_opts),
            "provider_options": to_jsonable(self.provider_options.to_map()),
            "workspace": to_jsonable(self.workspace.to_map()),
        }

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> RunOptions:
        known = {name: value[name] for name in cls.__slots__ if name in value}
        words = {
            "on_worker_lost": OnWorkerLost(known.get("on_worker_lost", "fail")),
            "continuation": Continuation(known.get("continuation", "none")),
            "provider_options": ProviderOptions.from_map(known.get("provider_options") or {}),
            "workspace": WorkspaceOptions.from_map(known.get("workspace") or {}),
        }
        return cls(**known | words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Source: spec/01 §3, DESIGN §8."""

    id: str
    session_id: str
    created_at: datetime
    tenant_id: str = DEFAULT_TENANT
    status: RunStatus = RunStatus.PENDING
    input: Mapping[str, Any] | None = None
    options: RunOptions | None = None
    output: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    """`{code, message, provider_error?, details?}`"""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    turn_count: int = 0
    token_usage: Mapping[str, Any] = field(default_factory=dict)
    cost_usd: float | None = None
    provider: str | None = None
    provider_metadata: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    """Executions begun so far; 0 until the first start mark."""
    position: int | None = None
    """Place in its session's queue, from 1; None once claimed."""
    worker_id: str | None = None
    """Who executes it, or did last."""
    started_at: datetime | None = None
    """First start mark."""
    ended_at: datetime | None = None

    @classmethod
    def new(cls, *, id: object, session_id: object, now: datetime, **fields: Any) -> Run:
        """
        A pending run; None for `metadata` means empty.

        Raises:
            AsmError: `validation_error` naming `id`, `session_id` or `metadata`.
        """
        fields["metadata"] = optional_mapping("run", "metadata", fields.get("metadata"))
        return cls(
            id=require_text("run", "id", id),
            session_id=require_text("run", "session_id", session_id),
            created_at=now,
            **fields,
        )

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL_RUNS

    def with_status(self, status: str, now: datetime) -> Run:
        """The same run under another status; a terminal one sets `ended_at`. Raises `invalid_status`."""
        new = parse_run_status(status)
        return replace(self, status=new, ended_at=now if new in TERMINAL_RUNS else self.ended_at)

    def with_output(self, output: Mapping[str, Any], now: datetime) -> Run:
        """The same run, completed with this output."""
        return replace(self.with_status(RunStatus.COMPLETED, now), output=output)

    def with_error(self, error: Mapping[str, Any], now: datetime) -> Run:
        """The same run, failed with this error (`AsmError.to_payload`)."""
        return replace(self.with_status(RunStatus.FAILED, now), error=error)

    def with_turn(self) -> Run:
        """The same run after one more turn."""
        return replace(self, turn_count=self.turn_count + 1)

    def with_usage(self, usage: Mapping[str, Any]) -> Run:
        """Numbers add up key by key; anything else replaces what was there."""
        return replace(self, token_usage=add_usage(self.token_usage, usage))

    def to_map(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "session_id": self.session_id,
            "status": str(self.status),
            "input": to_jsonable(self.input),
            "output": to_jsonable(self.output),
            "error": to_jsonable(self.error),
            "metadata": to_jsonable(self.metadata),
            "turn_count": self.turn_count,
            "token_usage": to_jsonable(self.token_usage),
            "cost_usd": self.cost_usd,
            "provider": self.provider,
            "provider_metadata": to_jsonable(self.provider_metadata),
            "attempt": self.attempt,
            "position": self.position,
            "worker_id": self.worker_id,
            "created_at": timestamp_text(self.created_at),
            "started_at": timestamp_text(self.started_at) if self.started_at else None,
            "ended_at": timestamp_text(self.ended_at) if self.ended_at else None,
        }

    @classmethod
    def from_map(cls, value: object) -> Run:
        """The run that `to_map` wrote. Raises `validation_error`, `invalid_status`."""
        given = require_mapping("run", value)
        cost = given.get("cost_usd")
        return cls(
            id=require_text("run", "id", given.get("id")),
            session_id=require_text("run", "session_id", given.get("session_id")),
            status=parse_run_status(require_text("run", "status", given.get("status"))),
            created_at=require_datetime("run", "created_at", given.get("created_at")),
            tenant_id=given.get("tenant_id") or DEFAULT_TENANT,
            input=given.get("input"),
            output=given.get("output"),
            error=given.get("error"),
            metadata=given.get("metadata") or {},
            turn_count=given.get("turn_count") or 0,
            token_usage=given.get("token_usage") or {},
            cost_usd=float(cost) if isinstance(cost, int | float) and is_number(cost) else None,
            provider=given.get("provider"),
            provider_metadata=given.get("provider_metadata") or {},
            attempt=given.get("attempt") or 0,
            position=given.get("position"),
            worker_id=given.get("worker_id"),
            started_at=optional_datetime(given.get("started_at")),
            ended_at=optional_datetime(given.get("ended_at")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What an execution came to; the finish transaction turns it into the run row and its terminal event."""

    status: RunStatus
    output: Mapping[str, Any] | None = None
    error: AsmError | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the terminal event beside the error's: `stop_reason`, `exit_code`, `duration_ms`, `reason`, …"""
    provider_metadata: Mapping[str, Any] = field(default_factory=dict)
    """`provider_session_id`, `model`, …: kept on the run and under the session's `provider_sessions`."""
    turn_count: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the run's own."""


def parse_run_status(text: str) -> RunStatus:
    """Raises `invalid_status`, listing the valid ones."""
    if text not in RunStatus._value2member_map_:
        known = ", ".join(RunStatus)
        raise AsmError(ErrorCode.INVALID_STATUS, f"unknown run status {text!r}; one of: {known}")
    return RunStatus(text)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def add_usage(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Two usage mappings as one: numbers are summed per key, other values replaced."""
    total = dict(old)
    for key, value in new.items():
        both_numbers = is_number(value) and is_number(total.get(key))
        total[key] = total[key] + value if both_numbers else value
    return total
