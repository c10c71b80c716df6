"""Rows to records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from asm_core.domain.event import Event, EventFrame, EventType, valid_type
from asm_core.domain.fields import parse_datetime, timestamp_text
from asm_core.domain.run import Run, RunOptions
from asm_core.domain.session import Session
from asm_core.domain.upcasting import UPCASTERS
from asm_core.wire import frame_of_map, up_to_date

EVENT_WIRE_COLUMNS = (
    "id",
    "type",
    "timestamp",
    "session_id",
    "run_id",
    "sequence_number",
    "data",
    "metadata",
    "schema_version",
    "provider",
    "correlation_id",
    "attempt",
)


def session_of(row: Mapping[str, Any]) -> Session:
    return Session.from_map(row)


def run_of(row: Mapping[str, Any]) -> Run:
    cost = row.get("cost_usd")
    given = dict(row) | {"cost_usd": float(cost) if isinstance(cost, Decimal) else cost}
    options = RunOptions.from_map(row["options"]) if row.get("options") else None
    return replace(Run.from_map(given), options=options)


def event_of(row: Mapping[str, Any]) -> Event:
    """The event as it is stored, brought up to date; a type that this version does not know stays as its text."""
    given = {name: row[name] for name in EVENT_WIRE_COLUMNS}
    kind = given["type"]
    if not UPCASTERS.is_current(kind, given["schema_version"]):
        given = UPCASTERS.apply(given)
    at = parse_datetime(given["timestamp"])
    return Event(**given | {"type": EventType(kind) if valid_type(kind) else kind, "timestamp": at})


def frame_of(row: Mapping[str, Any]) -> EventFrame:
    """The event as bytes, brought up to date."""
    return up_to_date(frame_of_map(dict(row) | {"timestamp": timestamp_text(parse_datetime(row["timestamp"]))}))
