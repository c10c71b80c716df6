"""Reading and writing the plain JSON forms of the domain's values: text keys, ISO times, sorted sets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

MAX_DEPTH = 64
"""Nesting below this level is cut, so that hostile input cannot exhaust the stack."""

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
"""What the encoder takes as an integer."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Text that Postgres and JSON accept: NUL and lone surrogates become U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def to_jsonable(value: Any, depth: int = 0) -> Any:
    """`value` as plain JSON: text keys, enum values, ISO times, sorted sets, no NaN, no NUL. Never raises."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and not isinstance(value, Enum):
        return value if MIN_INTEGER <= value <= MAX_INTEGER else _nearest_float(value)
    if isinstance(value, str) and not isinstance(value, Enum):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= MAX_DEPTH:
        return "[nested too deep]"
    if isinstance(value, Mapping):
        return {clean_text(str(to_jsonable(key))): to_jsonable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item, depth + 1) for item in value]
    return _scalar_to_jsonable(value, depth)


def _scalar_to_jsonable(value: Any, depth: int) -> Any:
    if isinstance(value, Enum):
        return to_jsonable(value.value, depth)
    if isinstance(value, datetime):
        return timestamp_text(value)
    if isinstance(value, Decimal):
        return to_jsonable(float(value))
    if isinstance(value, set | frozenset):
        return sorted((to_jsonable(item, depth + 1) for item in value), key=str)
    if isinstance(value, bytes | bytearray | memoryview):
        return clean_text(bytes(value).decode("utf-8", "replace"))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name), depth + 1) for field in fields(value)}
    if isinstance(value, BaseException):
        return type(value).__name__
    return clean_text(str(value))


def _nearest_float(value: int) -> float | None:
    """Like an infinite float, what no float can hold becomes null."""
    try:
        return float(value)
    except OverflowError:
        return None


def text_of(value: Any) -> str:
    """Any value as text: text stays as it is, None is empty, everything else is its JSON."""
    plain = to_jsonable(value)
    if isinstance(plain, str):
        return plain
    return "" if plain is None else json.dumps(plain, ensure_ascii=False)


def timestamp_text(at: datetime) -> str:
    """ISO 8601 in UTC with six digits and `Z`, so that text order is time order."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_datetime(value: object) -> datetime:
    """An aware UTC datetime from one or from ISO text. Raises ValueError for anything else; naive means UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError(f"not a timestamp: {value!r}")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
