"""
NormalizedEvent: a provider's raw payload in our terms, with the payload kept beside what was read from it.

For tools that look at provider traffic by themselves. What a run stores is `Event`, made by `asm_core.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType, log_order, parse_event_type, valid_type
from asm_core.domain.fields import text_of, timestamp_text, to_jsonable
from asm_core.domain.session import optional_mapping, require_datetime, require_mapping, require_text

DEFAULT_PROVIDER = "generic"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizedEvent:
    """Source: spec/01 §5."""

    id: str
    type: EventType
    timestamp: datetime
    session_id: str
    run_id: str
    sequence_number: int | None = None
    parent_event_id: str | None = None
    provider: str | None = None
    """A label: `anthropic`, `openai`, …"""
    provider_event_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def new(
        cls, *, id: object, type: object, timestamp: object, session_id: object, run_id: object, **fields: Any
    ) -> NormalizedEvent:
        """
        An event from untrusted values; None for `data` or `metadata` means empty.

        Raises:
            AsmError: `validation_error` naming the field, `invalid_event_type`.
        """
        for name in ("data", "metadata"):
            fields[name] = optional_mapping("event", name, fields.get(name))
        return cls(
            id=require_text("event", "id", id),
            type=parse_event_type(type),
            session_id=require_text("event", "session_id", session_id),
            run_id=require_text("event", "run_id", run_id),
            timestamp=require_datetime("event", "timestamp", timestamp),
            **fields,
        )

    @property
    def is_valid(self) -> bool:
        """Whether one built by hand has what `new` demands."""
        present = all((self.id, self.timestamp, self.session_id, self.run_id))
        return present and valid_type(self.type)

    def same_context(self, other: NormalizedEvent) -> bool:
        """Whether both are of the same run."""
        return (self.session_id, self.run_id) == (other.session_id, other.run_id)

    def with_sequence(self, number: int) -> NormalizedEvent:
        return replace(self, sequence_number=number)

    def to_map(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": str(self.type),
            "timestamp": timestamp_text(self.timestamp),
            "session_id": self.session_id,
            "run_id": self.run_id,
            "sequence_number": self.sequence_number,
            "parent_event_id": self.parent_event_id,
            "provider": self.provider,
            "provider_event_id": self.provider_event_id,
            "data": to_jsonable(self.data),
            "metadata": to_jsonable(self.metadata),
        }

    @classmethod
    def from_map(cls, value: object) -> NormalizedEvent:
        """The event that `to_map` wrote. Raises as `new`."""
        given = require_mapping("event", value)
        optional = ("sequence_number", "parent_event_id", "provider", "provider_event_id", "data", "metadata")
        required = ("id", "type", "session_id", "run_id", "timestamp")
        return cls.new(**{name: given.get(name) for name in required + optional})


# From a provider's payload


@dataclass(frozen=True, slots=True)
class RefusedPayload:
    """A payload that no event could be made of."""

    sequence_number: int
    """The number that its event would have had."""
    raw: object
    error: AsmError


@dataclass(frozen=True, slots=True)
class BatchResult:
    events: tuple[NormalizedEvent, ...]
    errors: tuple[RefusedPayload, ...]


def resolve_type(kind: object) -> EventType:
    """One of the 28 types, or its exact text, as the type; everything else is `error_occurred`."""
    return EventType(str(kind)) if valid_type(kind) else EventType.ERROR_OCCURRED


def normalize_payload(raw: object, context: object, *, id: str, now: datetime) -> NormalizedEvent:
    """
    One payload as an event.

    Args:
        raw: the provider's mapping; kept whole under `data.raw`.
        context: `session_id` and `run_id`; optionally `provider` and `sequence_number`.

    Raises:
        AsmError: `validation_error` when either is no mapping, or the context names no session or run.
    """
    origin = _checked_context(context)
    return _normalized(raw, origin, origin.get("sequence_number"), id, now)


def normalize_batch(
    raws: Iterable[object], context: object, *, new_id: Callable[[], str], now: datetime
) -> BatchResult:
    """
    Payloads as events, numbered in their order from `context.sequence_offset` (0). One that is no mapping costs only
    itself and its number.

    Raises:
        AsmError: `validation_error` when the context names no session or run, or its offset is no integer.
    """
    origin = _checked_context(context)
    offset = origin.get("sequence_offset", 0)
    if not isinstance(offset, int) or isinstance(offset, bool):
        message = f"context sequence_offset must be an integer, not {offset!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "sequence_offset"})
    events, errors = [], []
    for number, raw in enumerate(raws, offset):
        try:
            events.append(_normalized(raw, origin, number, new_id(), now))
        except AsmError as error:
            errors.append(RefusedPayload(number, raw, error))
    return BatchResult(tuple(events), tuple(errors))


def sort_events(events: Iterable[NormalizedEvent]) -> list[NormalizedEvent]:
    """By number, those without one last; then by time, then by id: the same answer whatever the order was."""
    return sorted(events, key=log_order)


def filter_by_run(events: Iterable[NormalizedEvent], run_id: str) -> list[NormalizedEvent]:
    return [event for event in events if event.run_id == run_id]


def filter_by_session(events: Iterable[NormalizedEvent], session_id: str) -> list[NormalizedEvent]:
    return [event for event in events if event.session_id == session_id]


def filter_by_type(events: Iterable[NormalizedEvent], kinds: str | Collection[str]) -> list[NormalizedEvent]:
    """Those of one type or of several."""
    wanted = {kinds} if isinstance(kinds, str) else set(kinds)
    return [event for event in events if event.type in wanted]


def _checked_context(context: object) -> Mapping[str, Any]:
    origin = require_mapping("context", context)
    for name in ("session_id", "run_id"):
        require_text("context", name, origin.get(name))
    return origin


def _normalized(raw: object, origin: Mapping[str, Any], number: int | None, id: str, now: datetime) -> NormalizedEvent:
    payload = require_mapping("payload", raw)
    return NormalizedEvent.new(
        id=id,
        type=resolve_type(payload.get("type")),
        timestamp=now,
        session_id=origin["session_id"],
        run_id=origin["run_id"],
        sequence_number=number,
        provider=origin.get("provider") or DEFAULT_PROVIDER,
        provider_event_id=_provider_event_id(payload),
        data=_data(payload),
        metadata=_metadata(payload),
    )


def _data(payload: Mapping[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {"raw": payload}
    data |= _given(payload, ("content", "delta", "role"))
    if "tool_name" in payload or "name" in payload:
        data["tool_name"] = payload.get("tool_name", payload.get("name"))
    data |= _given(payload, ("tool_input", "tool_output"))
    kind = payload.get("type")
    if kind is not None and not valid_type(kind):
        data["original_type"] = kind
    return data


def _metadata(payload: Mapping[str, Any]) -> dict[str, Any]:
    own = payload.get("metadata")
    return {**(own if isinstance(own, Mapping) else {}), **_given(payload, ("model", "stop_reason"))}


def _given(payload: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: payload[name] for name in names if name in payload}


def _provider_event_id(payload: Mapping[str, Any]) -> str | None:
    found = payload.get("id", payload.get("message_id"))
    return None if found is None else text_of(found)
