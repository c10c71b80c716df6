"""Advisory check of payload shapes: what is missing or of the wrong type becomes a warning beside the event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from asm_core.domain.event import Event, EventType
from asm_core.pipeline.context import RunContext

WARNINGS_KEY = "_validation_warnings"

_T = EventType
SHAPES: Mapping[EventType, Mapping[str, type]] = {
    _T.MESSAGE_RECEIVED: {"content": str, "role": str},
    _T.MESSAGE_STREAMED: {"content": str},
    _T.TOOL_CALL_STARTED: {"tool_name": str},
    _T.TOOL_CALL_COMPLETED: {"tool_name": str},
    _T.TOOL_CALL_FAILED: {"tool_name": str},
    _T.TOKEN_USAGE_UPDATED: {"input_tokens": int, "output_tokens": int},
    _T.RUN_COMPLETED: {"stop_reason": str},
    _T.ERROR_OCCURRED: {"error_message": str},
    _T.POLICY_VIOLATION: {"policy": str, "kind": str},
    _T.TOOL_APPROVAL_REQUESTED: {"tool_name": str, "policy_name": str},
    _T.TOOL_APPROVAL_GRANTED: {"tool_name": str},
    _T.TOOL_APPROVAL_DENIED: {"tool_name": str},
}


def validate(event: Event, _ctx: RunContext) -> Iterable[Event]:
    warnings = shape_warnings(event)
    if not warnings:
        return (event,)
    return (replace(event, metadata={**event.metadata, WARNINGS_KEY: warnings}),)


def shape_warnings(event: Event) -> list[str]:
    """One text per missing or wrongly typed key; it names the type found, never the value."""
    return [
        f"{key} is missing"
        if key not in event.data
        else f"{key} is {type(event.data[key]).__name__}, not {want.__name__}"
        for key, want in SHAPES.get(event.type, {}).items()
        if not _is(event.data.get(key), want)
    ]


def _is(value: object, want: type) -> bool:
    return isinstance(value, want) and not (want is int and isinstance(value, bool))
