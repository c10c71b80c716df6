"""What renderers say about values, all of it harmless to a terminal. Source: spec/05 §2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from asm_core.domain.event import Event
from asm_core.rendering.ansi import harmless
from asm_core.wire import dumps_text

PREVIEW, OUTPUT = 120, 2_000
"""Characters that are shown: of what is mentioned, and of what a tool or an error says."""

_REASONS = {"tool_use": "tool", "end_turn": "end"}


def payload(event: Event) -> Mapping[str, Any]:
    """The event's data, also where a stranger stored something else as data."""
    data: object = event.data
    return data if isinstance(data, Mapping) else {}


def first_present(*values: Any) -> Any:
    """The first value that is neither None nor False; empty text and 0 are values."""
    return next((value for value in values if value is not None and value is not False), None)


def plain(value: Any) -> str:
    """Any value as text: text as it is, None as nothing, everything else as JSON."""
    if value is None:
        return ""
    return harmless(str(value) if isinstance(value, str) else dumps_text(value))


def truncate(value: Any, length: int) -> str:
    text = plain(value)
    return text if len(text) <= length else f"{text[:length]}..."


def one_line(text: str, length: int) -> str:
    """Text of several lines in one, cut with an ellipsis."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


def short_model(model: Any) -> str:
    """`claude-sonnet-4-5-20250929` is `sonnet-4-5`."""
    name = plain(model).removeprefix("claude-").removeprefix("anthropic.")
    return "-".join([part for part in name.split("-") if part][:3])


def short_reason(reason: Any) -> str:
    name = plain(reason).lower()
    return _REASONS.get(name, name)


def cost(value: Any, decimals: int) -> str:
    """A number, rounded and never scientific: 0.5, 2.0, 0.0123. Empty for everything that is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return ""
    try:
        amount = float(value)
    except OverflowError:
        return ""
    if not math.isfinite(amount):
        return ""
    whole, _, part = f"{amount:.{decimals}f}".partition(".")
    return f"{whole}.{part.rstrip('0') or '0'}"


def tokens(data: Mapping[str, Any]) -> tuple[str, str]:
    """How many went in and came out."""
    return plain(first_present(data.get("input_tokens"), 0)), plain(first_present(data.get("output_tokens"), 0))


def streamed(data: Mapping[str, Any]) -> str:
    """The text of a `message_streamed`."""
    return plain(first_present(data.get("delta"), data.get("content")))


def error_text(data: Mapping[str, Any]) -> str:
    return plain(first_present(data.get("error_message"), "unknown error"))


def superseded(data: Mapping[str, Any]) -> str:
    """What an `error_recovered` says: which attempt begins, and which events it replaces."""
    if (attempt := data.get("attempt")) is None:
        return "recovered"
    first, last = data.get("superseded_from"), data.get("superseded_to")
    replaced = "" if first is None else f" replaces events {plain(first)}-{plain(last)}"
    return f"attempt {plain(attempt)}{replaced}"
