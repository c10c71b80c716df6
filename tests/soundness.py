"""The invariants of DESIGN §9 that need no clock, asked of any store; Postgres has `verify_database` for all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest

from asm_core.domain.event import TERMINAL_EVENTS
from asm_core.domain.lifecycle import TERMINAL_RUNS, RunStatus

Row = dict[str, Any]


TABLES = ("sessions", "events", "runs", "run_leases", "session_sequences", "session_runtime", "limiters")


def violations(tables: Mapping[str, list[Row]]) -> list[str]:
    """One sentence each. `tables`: everything in them, at one moment."""
    events = sorted(tables["events"], key=lambda event: (event["session_id"], event["sequence_number"]))
    runs, leases = tables["runs"], tables["run_leases"]
    counters = {row["session_id"]: row["last_sequence"] for row in tables["session_sequences"]}
    forked = {row["id"]: row["forked_at"] or 0 for row in tables["sessions"]}
    slots = {row["session_id"]: row["max_concurrent_runs"] for row in tables["session_runtime"]}
    limiters = {row["name"]: row for row in tables["limiters"]}
    return [
        *_numbers(events, counters, forked),
        *_logs(events, runs),
        *_claims(runs),
        *_slots(runs, leases, slots, limiters),
    ]


def _grouped(rows: Iterable[Row], name: str) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[name]].append(row)
    return groups


def _numbers(events: list[Row], counters: dict[str, int], forked: dict[str, int]) -> Iterator[str]:
    """A fork's own numbers follow those of the events that it refers to."""
    logs = _grouped(events, "session_id")
    for session_id in logs.keys() | counters.keys():
        found = [event["sequence_number"] for event in logs.get(session_id, [])]
        first = forked.get(session_id, 0) + 1
        if found != [*range(first, first + len(found))] or counters.get(session_id) != first + len(found) - 1:
            yield f"session {session_id}: numbers {found}, counter {counters.get(session_id)}"


def _logs(events: list[Row], runs: list[Row]) -> Iterator[str]:
    logs = _grouped(events, "run_id")
    for run in runs:
        log = logs.get(run["id"], [])
        ends = [event["type"] for event in log if event["type"] in TERMINAL_EVENTS.values()]
        is_over = run["status"] in TERMINAL_RUNS
        if ends != ([TERMINAL_EVENTS[RunStatus(run["status"])]] if is_over else []):
            yield f"run {run['id']} is {run['status']}: its terminal events are {ends}"
        if ends and log[-1]["type"] != ends[0]:
            yield f"run {run['id']}: {log[-1]['type']} comes behind its end"
        fences = [event["fence"] for event in log if event["fence"] is not None]
        if fences != sorted(fences):
            yield f"run {run['id']}: fences {fences}"
        if is_over and not _adds_up(run, log):
            yield f"run {run['id']}: usage {run['token_usage']}, cost {run['cost_usd']}"


def _adds_up(run: Row, log: list[Row]) -> bool:
    total: Counter[str] = Counter()
    for event in log:
        if event["type"] == "token_usage_updated":
            total.update({key: value for key, value in event["data"].items() if not isinstance(value, str)})
    spent = {key: value for key, value in total.items() if key.endswith("_tokens")}
    cost = total.get("cost_usd")  # unlike [], None where there is none
    return run["token_usage"] == pytest.approx(spent) and run["cost_usd"] == (cost and pytest.approx(cost))


def _claims(runs: list[Row]) -> Iterator[str]:
    claimed = [run for run in runs if run["submit_seq"] is not None and run["first_fence"] is not None]
    for session_id, mine in _grouped(claimed, "session_id").items():
        in_order = sorted(mine, key=lambda run: run["submit_seq"])
        if any(later["first_fence"] <= earlier["first_fence"] for earlier, later in pairwise(in_order)):
            yield f"session {session_id}: claimed out of order"


def _slots(runs: list[Row], leases: list[Row], slots: dict[str, int], limiters: dict[str, Row]) -> Iterator[str]:
    for session_id, held in _grouped(leases, "session_id").items():
        if len(held) > slots[session_id]:
            yield f"session {session_id} holds {len(held)} leases"
    for name, held in _grouped(leases, "limiter").items():
        limiter = limiters.get(name)
        if limiter is None or len(held) <= limiter["max_parallel_runs"]:
            continue
        if any(lease["claimed_at"] > limiter["changed_at"] for lease in held):  # else it was lowered below its use
            yield f"limiter {name}: {len(held)} leases"
    holds = {lease["run_id"]: lease["fence"] for lease in leases}
    running = {run["id"]: run["fence"] for run in runs if run["status"] == "running"}
    if holds != running:
        yield f"leases {holds}, running {running}"
