"""Provider events become ours: a known type, plain JSON, identity from the run and never from the provider."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from asm_core.domain.event import SESSION_EVENTS, TERMINAL_EVENT_TYPES, Event, EventType, valid_type
from asm_core.domain.fields import parse_datetime, to_jsonable
from asm_core.pipeline.context import RunContext
from asm_core.ports.provider import RawEvent

NOT_FOR_ADAPTERS = TERMINAL_EVENT_TYPES | frozenset(SESSION_EVENTS)
"""The manager's own: a run has one terminal event, written with its row."""


def normalize(raw: RawEvent, ctx: RunContext) -> Event:
    """An unknown type, or one an adapter may not emit, is kept as `error_occurred` with `original_type`."""
    kind, data = _resolve(raw)
    return Event(
        id=ctx.next_event_id(),
        type=kind,
        timestamp=_time(raw.timestamp) or ctx.clock.now(),
        session_id=ctx.session_id,
        run_id=ctx.run_id,
        data=data,
        metadata=_mapping(raw.metadata),
        provider=ctx.provider,
        correlation_id=ctx.correlation_id,
        attempt=ctx.attempt,
    )


def _resolve(raw: RawEvent) -> tuple[EventType, dict[str, Any]]:
    data = _mapping(raw.data)
    if not valid_type(raw.type):
        return EventType.ERROR_OCCURRED, _refused(data, raw.type, "unknown event type")
    kind = EventType(raw.type)
    if kind in NOT_FOR_ADAPTERS:
        return EventType.ERROR_OCCURRED, _refused(data, raw.type, "adapters do not emit this event type")
    return kind, data


def _refused(data: dict[str, Any], original: object, why: str) -> dict[str, Any]:
    return (
        {"error_code": "invalid_event_type", "error_message": f"{why}: {original!r}"}
        | data
        | {"original_type": to_jsonable(original)}
    )


def _time(value: object) -> datetime | None:
    """Only a datetime counts; text is not guessed at."""
    return parse_datetime(value) if isinstance(value, datetime) else None


def _mapping(value: object) -> dict[str, Any]:
    """An adapter may be a stranger's: what is not a mapping counts as empty."""
    return dict(to_jsonable(value)) if isinstance(value, Mapping) else {}
