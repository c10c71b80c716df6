"""The same rows in both databases: every question has one answer, whatever its filters, order and page."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from asm_core.ports.query import (
    EVENT_ORDERS,
    RUN_ORDERS,
    SESSION_ORDERS,
    EventSearch,
    RunSearch,
    SessionSearch,
    UsageSearch,
)
from asm_core.stores.sql.engine import sqlite_url
from asm_core.stores.sql.query import SqlQueryAPI
from tests.builders import NOW
from tests.fixtures.sql import SqlWorld, open_sql_world

TENANTS = ("default", "other")
MINUTE = timedelta(minutes=1)
Row = dict[str, Any]


def some_rows(seed: int) -> list[tuple[str, Row]]:
    """Table and row; sessions, runs and events with gaps, ties, odd usage and odd keys."""
    rng = random.Random(seed)
    rows: list[tuple[str, Row]] = []
    for number in range(12):
        at = NOW + rng.randrange(4) * MINUTE
        owner = {"session_id": f"ses_{number}", "tenant_id": rng.choice((TENANTS[0], *TENANTS))}
        rows.append(("sessions", _session(rng, number, at) | {"tenant_id": owner["tenant_id"]}))
        rows.append(("session_runtime", owner | dict.fromkeys(("submit_seq", "fence_seq"), 0) | _bounds(rng)))
        rows.append(("session_sequences", owner | {"last_sequence": 6, "pruned_count": 0}))
        for place in range(rng.randrange(4)):
            rows.append(("runs", owner | _run(rng, f"run_{number}_{place}", at)))
        for place in rng.sample(range(1, 7), k=5):
            rows.append(("events", owner | _event(rng, number, place, at)))
        rows.append(("artifacts", owner | _artifact(rng, number, at)))
    return rows


def _bounds(rng: random.Random) -> Row:
    return {"max_concurrent_runs": rng.randrange(1, 4), "max_queued_runs": rng.randrange(1, 9)}


def _session(rng: random.Random, number: int, at: Any) -> Row:
    return {
        "id": f"ses_{number}", "agent_id": rng.choice("ab"), "status": rng.choice(("active", "completed", "failed")),
        "metadata": {"k\u00e9y": [1, {"deep": None}]}, "context": {}, "tags": rng.sample(["x", "y", "z"], k=2),
        "created_at": at, "updated_at": at + rng.randrange(3) * MINUTE, "deleted_at": rng.choice((None, None, at)),
    }  # fmt: skip


def _run(rng: random.Random, run_id: str, at: Any) -> Row:
    usage = rng.choice(
        (
            {},
            {"input_tokens": 3, "output_tokens": 4},
            {"input_tokens": 10, "output_tokens": 5, "total_tokens": 20},
            {"input_tokens": "many", "total_tokens": 2},
            {"cache_read_tokens": 7},
        )
    )
    return {
        "id": run_id, "status": rng.choice(("completed", "failed", "cancelled")), "metadata": {}, "turn_count": 1,
        "token_usage": usage, "attempt": 1, "claims": 1, "owns_session": False, "created_at": at,
        "started_at": rng.choice((None, at + MINUTE)), "ended_at": at + 2 * MINUTE,
        "provider": rng.choice((None, "claude", "codex")), "options": rng.choice(({}, {"provider": "x", "model": "m"})),
        "provider_metadata": rng.choice(({}, {"model": "n"}, {"model": 7})),
        "cost_usd": rng.choice((None, 0, 0.25, 1.5)),
    }  # fmt: skip


def _event(rng: random.Random, number: int, place: int, at: Any) -> Row:
    return {
        "id": f"evt_{number}_{place}", "type": rng.choice(("message_streamed", "token_usage_updated", "unheard_of")),
        "timestamp": at + rng.randrange(2) * MINUTE, "sequence_number": place, "run_id": f"run_{number}_0",
        "data": {"novel": {"n\u00f6": [1.5, True, None]}}, "metadata": {}, "schema_version": 1, "stored_at": at,
        "provider": rng.choice((None, "claude")), "correlation_id": rng.choice((None, "c1")),
    }  # fmt: skip


def _artifact(rng: random.Random, number: int, at: Any) -> Row:
    return {
        "id": f"art_{number}", "key": f"key_{number}", "byte_size": number, "checksum_sha256": "c",
        "metadata": {"a": 1}, "storage_backend": "file", "storage_ref": "r", "created_at": at,
        "deleted_at": rng.choice((None, at)),
    }  # fmt: skip


def searches() -> list[tuple[str, Any]]:
    """Every order with every filter, and some of them together."""
    since = {"since": NOW + MINUTE, "until": NOW + 2 * MINUTE}
    sessions: list[Row] = [
        {}, {"agent_id": "a"}, {"status": ["active", "failed"]}, {"provider": "claude"}, {"tags": ["x", "y"]},
        {"include_deleted": True, "created_after": NOW + MINUTE}, {"tags": ["z"], "provider": ["claude", "codex"]},
    ]  # fmt: skip
    runs: list[Row] = [
        {}, {"session_id": "ses_3"}, {"provider": ["codex"]}, {"status": ["failed", "cancelled"]}, {"min_tokens": 2},
        {"started_after": NOW + MINUTE, "started_before": NOW + 3 * MINUTE},
    ]  # fmt: skip
    events: list[Row] = [
        {}, {"session_ids": ["ses_1", "ses_2"]}, {"run_ids": ["run_4_0"]}, {"types": "message_streamed"},
        {"providers": ["claude"]}, {"correlation_id": "c1"}, since,
    ]  # fmt: skip
    usages: list[Row] = [{}, {"session_id": "ses_3"}, {"provider": "claude"}, {"agent_id": "b"}, since]
    return [
        *(("search_sessions", SessionSearch(order_by=order, **f)) for order, f in product(SESSION_ORDERS, sessions)),
        *(("search_runs", RunSearch(order_by=order, **f)) for order, f in product(RUN_ORDERS, runs)),
        *(("search_events", EventSearch(order_by=order, **f)) for order, f in product(EVENT_ORDERS, events)),
        *(("count_events", EventSearch(**f)) for f in events),
        *(("get_usage_summary", UsageSearch(**f)) for f in usages),
        *(("get_cost_summary", UsageSearch(**f)) for f in usages),
    ]


@pytest.fixture
async def both(database_url: str, sqlite_template: Path, tmp_path: Path) -> AsyncIterator[list[SqlWorld]]:
    async with AsyncExitStack() as stack:
        urls = (database_url, sqlite_url(copy(sqlite_template, tmp_path / "asm.db")))
        yield [await stack.enter_async_context(open_sql_world(url, ends_sound=False)) for url in urls]


async def test_both_databases_give_one_answer(both: list[SqlWorld]) -> None:
    """Whole, page by page, in sums and as exports; for each tenant."""
    for world in both:
        for table, row in some_rows(seed=1):
            await world.insert(table, **row)
    on_postgres, on_sqlite = [SqlQueryAPI(world.engine, price_of=a_price) for world in both]
    for (name, where), tenant_id in product(searches(), TENANTS):
        paged = replace(where, limit=3) if name.startswith("search") else where
        for asked in (where, paged):
            answers = [await getattr(query, name)(tenant_id, asked) for query in (on_postgres, on_sqlite)]
            assert answers[0] == answers[1], (name, asked)
            if name.startswith("search") and answers[0].has_more:
                behind = replace(asked, cursor=answers[0].cursor)
                following = [await getattr(query, name)(tenant_id, behind) for query in (on_postgres, on_sqlite)]
                assert following[0] == following[1], (name, behind)
    for session_id in (row["id"] for row in await both[0].rows("sessions", tenant_id="default")):
        stats = [await query.get_session_stats(session_id, "default") for query in (on_postgres, on_sqlite)]
        assert stats[0] == stats[1]
        exports = [
            (await query.export_session(session_id, "default", include_artifacts=True)).to_map()
            for query in (on_postgres, on_sqlite)
        ]
        assert exports[0] == exports[1]


def a_price(provider: str | None, model: str | None, usage: Any) -> Decimal | None:
    return None if model is None else Decimal("0.5") * usage["input_tokens"]
