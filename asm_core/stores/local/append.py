"""Storing the events of many runs (see `postgres/50_append.sql`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from asm_core.domain.fields import parse_datetime
from asm_core.stores.local.claim import held_lease
from asm_core.stores.local.common import Tx, reserve
from asm_core.stores.local.records import Row


def append(tx: Tx, batch: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """
    Event id to number, of everything in the batch that is stored; a run whose lease is gone loses only its own.

    Args:
        batch: `{session, run, tenant, fence, attempt, events}` per run, as plain JSON.
    """
    held = [entry for entry in batch if held_lease(tx, entry["run"], entry["fence"])]
    if not held:
        return {}
    runs = {entry["run"] for entry in held}
    ids = tuple(event["id"] for entry in batch for event in entry["events"])
    seen = {event["id"]: event for event in tx.db.rows("events", {"id": ids})}
    fresh = [_row(tx, entry, event) for entry in held for event in entry["events"] if event["id"] not in seen]
    number(tx, fresh)
    tx.db.insert_all("events", fresh)
    stored = [*seen.values(), *fresh]
    return {event["id"]: event["sequence_number"] for event in stored if event["run_id"] in runs}


def _row(tx: Tx, entry: Mapping[str, Any], event: Mapping[str, Any]) -> Row:
    return {
        **event,
        "timestamp": parse_datetime(event["timestamp"]),
        "tenant_id": entry["tenant"],
        "session_id": entry["session"],
        "run_id": entry["run"],
        "fence": entry["fence"],
        "attempt": entry["attempt"],
        "stored_at": tx.now,
    }


def number(tx: Tx, events: Sequence[Row]) -> None:
    """Put each behind its session's last one, in order."""
    tenants = {event["session_id"]: event["tenant_id"] for event in events}
    how_many = Counter(event["session_id"] for event in events)
    numbers = {
        session_id: count(reserve(tx, session_id, how_many[session_id], tenants[session_id])) for session_id in how_many
    }
    for event in events:
        event["sequence_number"] = next(numbers[event["session_id"]])
