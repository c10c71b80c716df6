"""Rows to records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from asm_core.domain.event import EventFrame
from asm_core.domain.fields import parse_datetime, timestamp_text
from asm_core.domain.run import Run, RunOptions
from asm_core.domain.session import Session
from asm_core.wire import frame_of_map


def session_of(row: Mapping[str, Any]) -> Session:
    return Session.from_map(row)


def run_of(row: Mapping[str, Any]) -> Run:
    cost = row.get("cost_usd")
    given = dict(row) | {"cost_usd": float(cost) if isinstance(cost, Decimal) else cost}
    options = RunOptions.from_map(row["options"]) if row.get("options") else None
    return replace(Run.from_map(given), options=options)


def frame_of(row: Mapping[str, Any]) -> EventFrame:
    return frame_of_map(dict(row) | {"timestamp": timestamp_text(parse_datetime(row["timestamp"]))})
