"""
What the transactions of a run's life and a page of events cost while the tables grow: they should cost the same.

One session per 100 events and one ended run per 20 come along, and half of all events belong to one long session. The
connections stay open, as a worker's do, and each size is met with the plans and statistics of the size before, as after
a burst; the page also with fresh statistics, as Postgres makes them within a minute. A bare commit beside them shows
what the machine contributes.

A page is read twice at each place. The first time its blocks come from the disk or the system's cache once the table
has outgrown Postgres's own: that is what a first look costs, not what the size of the index does, and has a line of its
own. Beside it, in turn, pages of another database are read that stays at the first size: their ratio is free of what
else the machine does meanwhile. The number of blocks that a page needs does not depend on the machine at all.

    python benchmarks/growth.py [--small]
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from _common import TENANT, Stack, stack
from _figures import SMALL, digits, report
from _inflight import WORKER, chunk, context, register, submission

from asm_core.config import FleetTimes
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.run import RunOutcome
from asm_core.ports.queue import Claimed
from asm_core.ports.store import EventFilter
from asm_core.stores.postgres.queue import PostgresRunQueue
from asm_core.stores.sql.engine import open_engine
from asm_core.stores.sql.migrate import migrate
from asm_core.stores.sql.store import SqlSessionStore

T = TypeVar("T")
Seconds = dict[str, list[float]]

SIZES = (1_000, 20_000) if SMALL else (1_000, 10_000, 100_000, 1_000_000)
REPEATS = 5 if SMALL else 50
BATCH = 64
"""Events of one append, all of one run."""
TIMES = FleetTimes(sweep_interval=timedelta(0), lease_ttl=timedelta(hours=1))
FILL = (
    """INSERT INTO asm_sessions (id, agent_id, status, created_at, updated_at)
       SELECT 'ses_' || g, 'bench', 'active', now(), now() FROM generate_series(%s / 100, %s / 100 - 1) g""",
    """INSERT INTO asm_session_sequences (session_id, last_sequence)
       SELECT 'ses_' || g, 50 FROM generate_series(%s / 100, %s / 100 - 1) g""",
    """INSERT INTO asm_session_runtime (session_id, submit_seq, fence_seq)
       SELECT 'ses_' || g, 5, 5 FROM generate_series(%s / 100, %s / 100 - 1) g""",
    """INSERT INTO asm_runs (id, session_id, status, created_at, ended_at, submit_seq)
       SELECT 'run_' || g, 'ses_' || g / 5, 'completed', now(), now(), g %% 5
         FROM generate_series(%s / 20, %s / 20 - 1) g""",
    """INSERT INTO asm_events (id, type, "timestamp", session_id, run_id, fence, sequence_number, data)
       SELECT 'evt_' || md5(g::text), 'message_streamed', clock_timestamp(),
              CASE g %% 2 WHEN 0 THEN 'ses_long' ELSE 'ses_' || g / 100 END, 'run_' || g / 20, 1,
              CASE g %% 2 WHEN 0 THEN g / 2 + 1 ELSE g %% 100 / 2 + 1 END,
              '{"content": "a chunk of streamed text, as long as models send them: some words"}'
         FROM generate_series(%s, %s - 1) g""",
)


SMALL_PAGE = "page_of_100_in_the_small_database"
PAGE = (
    "SELECT * FROM asm_events WHERE session_id = 'ses_long' AND tenant_id = %s AND sequence_number > %s"
    " ORDER BY sequence_number LIMIT 100"
)
"""As `get_events` asks."""


def grow(db: psycopg.Connection[Any], first: int, last: int) -> None:
    for statement in FILL:
        db.execute(statement, (first, last))
    db.execute("CHECKPOINT")


def small_database(bench: Stack) -> str:
    """The URL of one that stays at the first size."""
    bench.db.execute("CREATE DATABASE small")
    url = f"{bench.settings.database_url.rpartition('/')[0]}/small"
    migrate(url)
    with psycopg.connect(url, autocommit=True) as db:
        grow(db, 0, SIZES[0])
        db.execute("ANALYZE")
    return url


async def measure(bench: Stack) -> tuple[dict[int, Seconds], dict[int, float]]:
    """Seconds by number of events and step, and blocks of a page by number of events."""
    queue = PostgresRunQueue(bench.settings.database_url, application_name="bench", times=TIMES)
    store = SqlSessionStore(open_engine(bench.settings.database_url, application_name="bench"))
    small = SqlSessionStore(open_engine(small_database(bench), application_name="bench"))
    await queue.open()
    await register(queue)
    bench.db.execute("CREATE TABLE bare AS SELECT 1 AS n")
    for _ in range(REPEATS):
        await one_life(queue, defaultdict(list))  # warm
    found: dict[int, Seconds] = {}
    blocks: dict[int, float] = {}
    for smaller, size in zip((0, *SIZES), SIZES, strict=False):
        grow(bench.db, smaller, size)
        found[size] = defaultdict(list)
        for _ in range(REPEATS):
            await one_life(queue, found[size])
            await _timed("sweep", found[size], queue.sweep())
            await _timed("bare_commit", found[size], asyncio.to_thread(bench.db.execute, "UPDATE bare SET n = n + 1"))
        await pages("page_of_100_first_look", found[size], store, size)
        await pages("page_of_100_stale", found[size], store, size)
        bench.db.execute("ANALYZE")
        await pages("page_of_100", found[size], store, size, beside=small)
        blocks[size] = blocks_of_a_page(bench, size)
    await queue.close()
    await store.close()
    await small.close()
    return found, blocks


async def one_life(queue: PostgresRunQueue, seconds: Seconds) -> None:
    """A run of a new session, from submit to its end."""
    submitted = await _timed("submit", seconds, queue.submit(await submission(queue)))
    claim = await _timed("claim", seconds, queue.claim(submitted.session_id, WORKER))
    assert isinstance(claim, Claimed)
    await _timed("start", seconds, queue.start(claim.lease))
    ctx = context(claim.lease)
    events = [event for _ in range(BATCH) for event in chunk(ctx)]
    await _timed(f"append_{BATCH}", seconds, queue.append([(claim.lease, events)]))
    await _timed("finish", seconds, queue.finish(claim.lease, RunOutcome(status=RunStatus.COMPLETED)))


async def pages(
    name: str, seconds: Seconds, store: SqlSessionStore, size: int, *, beside: SqlSessionStore | None = None
) -> None:
    """Full ones, all over the long session; `beside` is read in turn."""
    for after, small_after in zip(places(size), places(SIZES[0]), strict=True):
        await _timed(name, seconds, page(store, after))
        if beside is not None:
            await _timed(SMALL_PAGE, seconds, page(beside, small_after))


def page(store: SqlSessionStore, after: int) -> Awaitable[object]:
    return store.get_events("ses_long", TENANT, EventFilter(after=after), 100)


def places(size: int) -> list[int]:
    return [(size // 2 - 100) * number // REPEATS for number in range(REPEATS)]


def blocks_of_a_page(bench: Stack, size: int) -> float:
    """Of index and table, in the median, as the statement of a page reads them."""
    counts = []
    for after in places(size):
        plan = bench.value(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {PAGE}", TENANT, after)[0]["Plan"]
        counts.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return statistics.median(counts)


async def _timed(name: str, seconds: Seconds, work: Awaitable[T]) -> T:
    began = time.perf_counter()
    answer = await work
    seconds[name].append(time.perf_counter() - began)
    return answer


def main() -> None:
    with stack() as bench:
        found, blocks = asyncio.run(measure(bench))
    medians = {size: {name: statistics.median(took) for name, took in row.items()} for size, row in found.items()}
    first, last = medians[SIZES[0]], medians[SIZES[-1]]
    ratios = {name: last[name] / first[name] for name in first}
    report(
        "growth",
        repeats=REPEATS,
        median_ms_by_events={
            size: {name: digits(s * 1_000) for name, s in row.items()} for size, row in medians.items()
        },
        blocks_of_a_page_by_events=blocks,
        ratio_of_a_page_to_one_of_the_small_database={
            size: digits(row["page_of_100"] / row[SMALL_PAGE]) for size, row in medians.items()
        },
        ratio_last_to_first={name: digits(slower) for name, slower in ratios.items()},
        ratio_less_that_of_bare_commit={
            name: digits(slower / ratios["bare_commit"]) for name, slower in ratios.items()
        },
    )


if __name__ == "__main__":
    main()
