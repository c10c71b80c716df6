"""JSON bytes: the one encoder, and stored events as they travel."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

from asm_core.domain.event import Event, EventFrame
from asm_core.domain.fields import timestamp_text, to_jsonable
from asm_core.domain.upcasting import UPCASTERS


def dumps(value: Any) -> bytes:
    """Never raises: what the encoder refuses (huge integers, lone surrogates, endless nesting) is made plain first."""
    try:
        return orjson.dumps(value, default=to_jsonable, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        return orjson.dumps(to_jsonable(value))


def dumps_text(value: Any) -> str:
    return dumps(value).decode()


loads = orjson.loads


def request_hash(*parts: Any) -> str:
    """SHA-256 of the canonical JSON (sorted keys) of what a client asked for."""
    return sha256(orjson.dumps(to_jsonable(parts), option=orjson.OPT_SORT_KEYS)).hexdigest()


def event_fields(event: Event) -> dict[str, Any]:
    """An event's own part of an append; session, run, fence and number stand beside it."""
    return {
        "id": event.id,
        "type": event.type,
        "timestamp": timestamp_text(event.timestamp),
        "data": event.data,
        "metadata": event.metadata,
        "schema_version": event.schema_version,
        "provider": event.provider,
        "correlation_id": event.correlation_id,
    }


def frame_of_event(event: Event) -> EventFrame:
    """The frame of a stored event."""
    return frame_of_map(
        event_fields(event)
        | {
            "session_id": event.session_id,
            "run_id": event.run_id,
            "sequence_number": event.sequence_number,
            "attempt": event.attempt,
        }
    )


def frame_of_map(value: Mapping[str, Any]) -> EventFrame:
    """The frame of a stored event in its wire form, of whatever version."""
    return EventFrame(
        session_id=value["session_id"],
        sequence_number=value["sequence_number"],
        type=value["type"],
        run_id=value["run_id"],
        body=dumps(value),
        schema_version=value["schema_version"],
    )


def up_to_date(frame: EventFrame) -> EventFrame:
    """The frame as this process reads it (`domain/upcasting.py`): itself, unless it is of another schema version."""
    if UPCASTERS.is_current(frame.type, frame.schema_version):
        return frame
    return frame_of_map(UPCASTERS.apply(loads(frame.body)))
