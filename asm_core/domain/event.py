"""
Events: immutable, append-only facts about a session, numbered 1, 2, 3 … per session by the store.

`Event` is the record; `EventFrame` is the same event as it travels to followers: encoded once, with the few facts a
follower needs to order and filter it beside the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import parse_datetime, timestamp_text, to_jsonable
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.session import optional_mapping, require_datetime, require_text


class EventType(StrEnum):
    SESSION_CREATED = "session_created"
    SESSION_STARTED = "session_started"
    SESSION_PAUSED = "session_paused"
    SESSION_RESUMED = "session_resumed"
    SESSION_COMPLETED = "session_completed"
    SESSION_FAILED = "session_failed"
    SESSION_CANCELLED = "session_cancelled"
    RUN_STARTED = "run_started"
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_CANCELLED = "run_cancelled"
    RUN_TIMEOUT = "run_timeout"
    MESSAGE_SENT = "message_sent"
    MESSAGE_RECEIVED = "message_received"
    MESSAGE_STREAMED = "message_streamed"
    TOOL_CALL_STARTED = "tool_call_started"
    TOOL_CALL_COMPLETED = "tool_call_completed"
    TOOL_CALL_FAILED = "tool_call_failed"
    ERROR_OCCURRED = "error_occurred"
    ERROR_RECOVERED = "error_recovered"
    TOKEN_USAGE_UPDATED = "token_usage_updated"
    TURN_COMPLETED = "turn_completed"
    WORKSPACE_SNAPSHOT_TAKEN = "workspace_snapshot_taken"
    WORKSPACE_DIFF_COMPUTED = "workspace_diff_computed"
    POLICY_VIOLATION = "policy_violation"
    TOOL_APPROVAL_REQUESTED = "tool_approval_requested"
    TOOL_APPROVAL_GRANTED = "tool_approval_granted"
    TOOL_APPROVAL_DENIED = "tool_approval_denied"


_T = EventType

SESSION_EVENTS = tuple(kind for kind in EventType if kind.startswith("session_"))
RUN_EVENTS = tuple(kind for kind in EventType if kind.startswith("run_"))
MESSAGE_EVENTS = tuple(kind for kind in EventType if kind.startswith("message_"))
TOOL_EVENTS = tuple(kind for kind in EventType if kind.startswith("tool_call_"))
ERROR_EVENTS = (_T.ERROR_OCCURRED, _T.ERROR_RECOVERED)
USAGE_EVENTS = (_T.TOKEN_USAGE_UPDATED, _T.TURN_COMPLETED)
WORKSPACE_EVENTS = tuple(kind for kind in EventType if kind.startswith("workspace_"))
POLICY_EVENTS = (_T.POLICY_VIOLATION,)
APPROVAL_EVENTS = tuple(kind for kind in EventType if kind.startswith("tool_approval_"))

TERMINAL_EVENTS: Mapping[RunStatus, EventType] = {
    RunStatus.COMPLETED: _T.RUN_COMPLETED,
    RunStatus.FAILED: _T.RUN_FAILED,
    RunStatus.CANCELLED: _T.RUN_CANCELLED,
    RunStatus.TIMEOUT: _T.RUN_TIMEOUT,
}
"""A terminal run has exactly one terminal event, the one of its status."""

TERMINAL_EVENT_TYPES = frozenset(TERMINAL_EVENTS.values())


def valid_type(kind: object) -> bool:
    """True for an event type or its exact text."""
    return isinstance(kind, str) and kind in EventType._value2member_map_


def parse_event_type(kind: object) -> EventType:
    """
    An event type, or its exact text, as the type.

    Raises:
        AsmError: `validation_error` for None, `invalid_event_type` for everything else that is none.
    """
    if kind is None:
        raise AsmError(ErrorCode.VALIDATION_ERROR, "event type is required", details={"field": "type"})
    if not valid_type(kind):
        raise AsmError(ErrorCode.INVALID_EVENT_TYPE, f"unknown event type: {kind!r}")
    return EventType(str(kind))


class Ordered(Protocol):
    """What the order of events is read from."""

    @property
    def id(self) -> str: ...

    @property
    def timestamp(self) -> datetime: ...

    @property
    def sequence_number(self) -> int | None: ...


def log_order(event: Ordered) -> tuple[bool, int, datetime, str]:
    """The key that sorts events: by number, those without one behind all others; then by time, then by id."""
    number = event.sequence_number
    return (number is None, number or 0, event.timestamp, event.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact. Source: spec/01 §4, DESIGN §8."""

    id: str
    type: EventType
    timestamp: datetime
    """The emitter's clock; order comes from `sequence_number` alone."""
    session_id: str
    run_id: str | None = None
    """None for events of the session itself."""
    sequence_number: int | None = None
    """1, 2, 3 … per session without gaps; None until stored."""
    data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = 1
    provider: str | None = None
    correlation_id: str | None = None
    attempt: int | None = None
    """Which execution of the run emitted it, from 1; None outside an execution."""

    @classmethod
    def new(
        cls,
        *,
        id: object,
        type: object,
        timestamp: object,
        session_id: object,
        **fields: Any,
    ) -> Event:
        """
        An event from untrusted values; None for `data` or `metadata` means empty.

        Raises:
            AsmError: `validation_error` naming the field, `invalid_event_type`.
        """
        for name in ("data", "metadata"):
            fields[name] = optional_mapping("event", name, fields.get(name))
        return cls(
            type=parse_event_type(type),
            session_id=require_text("event", "session_id", session_id),
            id=require_text("event", "id", id),
            timestamp=require_datetime("event", "timestamp", timestamp),
            **fields,
        )

    @property
    def is_terminal(self) -> bool:
        """Whether it ends a run."""
        return self.type in TERMINAL_EVENT_TYPES

    @property
    def ends_session(self) -> bool:
        return self.type in (EventType.SESSION_COMPLETED, EventType.SESSION_FAILED, EventType.SESSION_CANCELLED)

    def with_sequence(self, number: int) -> Event:
        return replace(self, sequence_number=number)

    def to_map(self) -> dict[str, Any]:
        """The wire form: 12 text keys in a fixed order, plain JSON values."""
        return {
            "id": self.id,
            "type": str(self.type),
            "timestamp": timestamp_text(self.timestamp),
            "session_id": self.session_id,
            "run_id": self.run_id,
            "sequence_number": self.sequence_number,
            "data": to_jsonable(self.data),
            "metadata": to_jsonable(self.metadata),
            "schema_version": self.schema_version,
            "provider": self.provider,
            "correlation_id": self.correlation_id,
            "attempt": self.attempt,
        }

    @classmethod
    def from_map(cls, value: object) -> Event:
        """
        The event that `to_map` wrote.

        Raises:
            AsmError: `validation_error` (missing or malformed field, no back-compatible default for
                `schema_version`), `invalid_event_type`.
        """
        if not isinstance(value, Mapping):
            raise AsmError(ErrorCode.VALIDATION_ERROR, f"an event must be a mapping, not {type(value).__name__}")
        for name in ("id", "type", "session_id"):
            if not isinstance(value.get(name), str) or not value[name]:
                raise AsmError(ErrorCode.VALIDATION_ERROR, f"{name} is required", details={"field": name})
            if name == "type" and not valid_type(value["type"]):
                raise AsmError(ErrorCode.INVALID_EVENT_TYPE, f"unknown event type: {value['type']!r}")
        try:
            timestamp = parse_datetime(value.get("timestamp"))
        except ValueError as cause:
            raise AsmError(ErrorCode.VALIDATION_ERROR, str(cause), details={"field": "timestamp"}) from cause
        version = value.get("schema_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise AsmError(
                ErrorCode.VALIDATION_ERROR, f"schema_version must be an integer from 1, not {version!r}",
                details={"field": "schema_version"},
            )  # fmt: skip
        return cls(
            id=value["id"],
            type=EventType(value["type"]),
            timestamp=timestamp,
            session_id=value["session_id"],
            run_id=value.get("run_id"),
            sequence_number=value.get("sequence_number"),
            data=value.get("data") or {},
            metadata=value.get("metadata") or {},
            schema_version=version,
            provider=value.get("provider"),
            correlation_id=value.get("correlation_id"),
            attempt=value.get("attempt"),
        )


@dataclass(frozen=True)
class EventFrame:
    """A stored event on its way to followers: its JSON bytes, and what ordering and filtering need beside them."""

    session_id: str
    sequence_number: int
    type: str
    run_id: str | None
    body: bytes
    """The event's JSON, one line, encoded once per process however many followers there are."""
    schema_version: int = 1
    """The body's."""

    @cached_property
    def sse(self) -> bytes:
        """The frame of a `text/event-stream`: `id`, `event`, `data`."""
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.sequence_number, self.type.encode(), self.body)

    @property
    def is_terminal(self) -> bool:
        """Whether it ends a run."""
        return self.type in TERMINAL_EVENT_TYPES
