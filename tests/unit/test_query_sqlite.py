"""The statements of queries and maintenance on SQLite: the same code, where the dialects differ too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from asm_core.clock import SystemClock
from asm_core.domain.retention import RetentionPolicy
from asm_core.ports.query import EVENT_ORDERS, RUN_ORDERS, EventSearch, RunSearch, SessionSearch, UsageSearch
from asm_core.stores.sql import query as sql_query
from asm_core.stores.sql.dialect import SqliteDialect
from asm_core.stores.sql.logs import Part
from asm_core.stores.sql.page_cursor import Pager
from asm_core.stores.sql.resting import at_rest, not_exempt
from asm_core.stores.sql.tables import events, metadata, runs, session_runtime, session_sequences, sessions
from tests.builders import NOW

TENANT = "default"
SQLITE = SqliteDialect(SystemClock())


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    """Three sessions with a run and four events each, an hour apart."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as opened:
        metadata.create_all(opened)
        for number in range(3):
            fill(opened, number)
        yield opened
    engine.dispose()


def fill(connection: sa.Connection, number: int) -> None:
    at, owner = NOW + timedelta(hours=number), {"tenant_id": TENANT, "session_id": f"ses_{number}"}
    plain: dict[str, Any] = {"metadata": {}, "tenant_id": TENANT}
    session = {"agent_id": "a", "status": "completed", "context": {}, "created_at": at, "updated_at": at}
    tags = ["a", "b"] if number else ["pinned"]
    connection.execute(sa.insert(sessions).values(plain | session | {"id": f"ses_{number}", "tags": tags}))
    counters = {"max_concurrent_runs": 1, "max_queued_runs": 1, "submit_seq": 1, "fence_seq": 1}
    connection.execute(sa.insert(session_runtime).values(owner | counters))
    connection.execute(sa.insert(session_sequences).values(owner | {"last_sequence": 4, "pruned_count": 0}))
    run = {
        "id": f"run_{number}", "status": "completed", "turn_count": 1, "attempt": 1, "claims": 1, "owns_session": False,
        "created_at": at, "started_at": at, "provider": "claude", "provider_metadata": {"model": "m"}, "options": {},
        "token_usage": {"input_tokens": number, "output_tokens": 2, "noise": "x"}, "cost_usd": 0.5 if number else None,
    }  # fmt: skip
    connection.execute(sa.insert(runs).values(plain | owner | run))
    for place in range(1, 5):
        event = {
            "id": f"evt_{number}_{place}", "type": "token_usage_updated", "timestamp": at, "run_id": f"run_{number}",
            "sequence_number": place, "data": {"input_tokens": place, "cost_usd": 0.5, "note": "x"},
            "schema_version": 1, "stored_at": at,
        }  # fmt: skip
        connection.execute(sa.insert(events).values(plain | owner | event))


def rows(connection: sa.Connection, statement: sa.Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(statement).mappings()]


def all_pages(connection: sa.Connection, pager: Pager, statement: sa.Select[Any]) -> list[str]:
    seen: list[str] = []
    while True:
        cut = pager.cut(rows(connection, pager.apply(statement)))
        seen += [row["id"] for row in cut.rows]
        if not cut.has_more:
            return seen
        pager = replace(pager, cursor=cut.cursor)


def test_sessions_are_paged_and_filtered(connection: sa.Connection) -> None:
    """Tags lie in a JSON array, times in text."""
    for order, expected in (("updated_at_desc", [2, 1, 0]), ("created_at_asc", [0, 1, 2])):
        where = SessionSearch(order_by=order, limit=1)
        found = all_pages(
            connection, sql_query.session_pager(TENANT, where), sql_query.sessions_query(TENANT, where, SQLITE)
        )
        assert found == [f"ses_{number}" for number in expected]
    where = SessionSearch(tags=["b", "a"], provider="claude", created_after=NOW + timedelta(hours=2))
    [row] = rows(connection, sql_query.sessions_query(TENANT, where, SQLITE))
    assert row["id"] == "ses_2"
    assert connection.scalar(sql_query.total_query(sql_query.sessions_query(TENANT, where, SQLITE))) == 1


@pytest.mark.parametrize("order", RUN_ORDERS)
def test_runs_are_paged(connection: sa.Connection, order: str) -> None:
    where = RunSearch(order_by=order, limit=2, min_tokens=3)
    pager = sql_query.run_pager(TENANT, where, SQLITE)
    found = all_pages(connection, pager, sql_query.runs_query(TENANT, where, SQLITE))
    assert found == (["run_1", "run_2"] if order == "started_at_asc" else ["run_2", "run_1"])


@pytest.mark.parametrize("order", EVENT_ORDERS)
def test_events_are_paged(connection: sa.Connection, order: str) -> None:
    where = EventSearch(order_by=order, limit=5, session_ids=["ses_0", "ses_1"])
    found = all_pages(
        connection,
        sql_query.event_pager(TENANT, where),
        sql_query.events_query(TENANT, where, [Part("ses_0"), Part("ses_1")]),
    )
    assert len(found) == len(set(found)) == 8


def test_runs_are_added_up_by_the_database(connection: sa.Connection) -> None:
    where = UsageSearch(agent_id="a")
    [usage] = rows(connection, sql_query.usage_query(TENANT, where, SQLITE))
    assert usage == {
        "provider": "claude", "run_count": 3, "input_tokens": 3, "output_tokens": 6, "total_tokens": 9,
    }  # fmt: skip
    unknown, stored = rows(connection, sql_query.cost_query(TENANT, where, SQLITE).order_by("is_stored"))
    assert (unknown["model"], unknown["run_count"], unknown["stored_usd"]) == ("m", 1, None)
    assert (stored["run_count"], stored["stored_usd"], stored["input_tokens"]) == (2, 1.0, 3)
    [stats] = rows(connection, sql_query.stats_query("ses_1", TENANT, SQLITE))
    assert (stats["status"], stats["total_tokens"]) == ("completed", 3)


def test_exempt_sessions_are_known(connection: sa.Connection) -> None:
    """By tag and by status."""

    def free(policy: RetentionPolicy) -> Sequence[str]:
        query = sa.select(sessions.c.id).where(at_rest(), not_exempt(policy, SQLITE)).order_by(sessions.c.id)
        return connection.scalars(query).all()

    assert free(RetentionPolicy()) == ["ses_1", "ses_2"]
    assert free(RetentionPolicy(exempt_tags=(), exempt_statuses=())) == ["ses_0", "ses_1", "ses_2"]
    assert free(RetentionPolicy(exempt_statuses=["completed"])) == []


def test_pruned_usage_is_added_up_on_its_run(connection: sa.Connection) -> None:
    """Twice, as two batches do it."""
    for numbers in ([1, 2], [4]):
        doomed = {"tenant_id": TENANT, "session_id": "ses_1", "numbers": numbers}
        connection.execute(SQLITE.keep_usage, doomed)
        connection.execute(sa.delete(events).where(events.c.sequence_number.in_(numbers)))
    kept = {row["id"]: row["pruned_usage"] for row in rows(connection, sa.select(runs.c.id, runs.c.pruned_usage))}
    assert kept == {"run_0": None, "run_1": {"input_tokens": 7, "cost_usd": 1.5}, "run_2": None}
