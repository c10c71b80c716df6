"""
Durable, fenced events per second through the worker's event path, against a raw COPY of the same rows into an equal
table; and one event alone, from the provider to the commit, against one bare INSERT. Each in turns with its limit.

    python benchmarks/append.py [--small]
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
from _common import Stack, SystemClock, stack
from _figures import SMALL, ratio, report, spread
from _inflight import chunk, context, lease, register
from psycopg.types.json import Jsonb

from asm_core.pipeline.persist import EventWriter, RunWriter
from asm_core.pipeline.publish import Publisher
from asm_core.ports.bus import BusListener, SessionBatch
from asm_core.stores.postgres.queue import PostgresRunQueue

SESSIONS = (1, 16, 64)
EVENTS = 2_048 if SMALL else 32_768
ALONE = 50 if SMALL else 1_000
ROUNDS = 1 if SMALL else 5


class Nowhere:
    """A bus without cost; `fanout.py` measures the real one."""

    async def publish(self, batch: Sequence[SessionBatch]) -> None: ...

    def listen(self) -> AbstractAsyncContextManager[BusListener]:
        raise NotImplementedError


class Run:
    """A run in flight that emits what a provider might."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._ctx = context(writer.lease)

    async def emit(self, count: int) -> None:
        """Normalised, validated, numbered, committed when it returns."""
        for _ in range(count):
            for event in chunk(self._ctx):
                await self._writer.put(event)
        await self._writer.flush()


@asynccontextmanager
async def runs(bench: Stack, count: int) -> AsyncIterator[list[Run]]:
    """That many runs of as many sessions, behind one writer as in a worker process."""
    queue = PostgresRunQueue(bench.settings.database_url, application_name="bench", times=bench.settings.times)
    await queue.open()
    await register(queue)
    limits = bench.settings.event_limits
    async with (
        Publisher(Nowhere(), limits.publish_buffer).running() as publisher,
        EventWriter(queue, publisher, limits, SystemClock()).running() as writer,
    ):
        yield [Run(writer.bind(await lease(queue))) for _ in range(count)]
    await queue.close()


async def throughput(bench: Stack, sessions: int) -> float:
    async with runs(bench, sessions) as given:
        return EVENTS / await _seconds(asyncio.gather(*(run.emit(EVENTS // sessions) for run in given)))


def copy_throughput(bench: Stack) -> float:
    """The last rows of asm_events into a table with the same columns and indexes, in one COPY and one commit."""
    bench.db.execute("DROP TABLE IF EXISTS copied")
    bench.db.execute("CREATE TABLE copied (LIKE asm_events INCLUDING ALL)")
    query = f"COPY (SELECT * FROM asm_events ORDER BY stored_at DESC LIMIT {EVENTS}) TO STDOUT"
    with bench.db.cursor().copy(query) as out:
        rows = b"".join(out)
    began = time.perf_counter()
    with bench.db.cursor().copy("COPY copied FROM STDIN") as copy:
        copy.write(rows)
    return EVENTS / (time.perf_counter() - began)


async def alone(bench: Stack) -> tuple[list[float], list[float]]:
    """Seconds of single events, and of bare inserts: same driver, columns and indexes; one prepared row, one commit."""
    row = bench.db.execute("SELECT * FROM asm_events ORDER BY stored_at DESC LIMIT 1").fetchone()
    assert row is not None
    values = [Jsonb(value) if isinstance(value, dict) else value for value in row]
    query = f"INSERT INTO copied VALUES ({', '.join(['%s'] * len(row))})"
    events, inserts = [], []
    async with (
        runs(bench, 1) as [run],
        await psycopg.AsyncConnection.connect(bench.settings.database_url, autocommit=True) as connection,
    ):
        for number in range(ALONE):
            events.append(await _seconds(run.emit(1)))
            values[0], values[8] = f"evt_{number}", -number  # id and sequence_number
            inserts.append(await _seconds(connection.execute(query, values, prepare=True)))
    return events, inserts


async def _seconds(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def main() -> None:
    rates: dict[str, list[float]] = {f"sessions_{count}": [] for count in SESSIONS}
    copies = []
    with stack() as bench:
        for _ in range(ROUNDS):
            for count, rate in zip(SESSIONS, rates.values(), strict=True):
                rate.append(asyncio.run(throughput(bench, count)))
            copies.append(copy_throughput(bench))
        events, inserts = asyncio.run(alone(bench))
    report(
        "append",
        events=EVENTS,
        rounds=ROUNDS,
        events_per_s={name: spread(rate) for name, rate in rates.items()},
        raw_copy_rows_per_s=spread(copies),
        part_of_raw_copy={name: ratio(rate, copies) for name, rate in rates.items()},
        one_event_ms=spread(events, 1_000),
        bare_insert_ms=spread(inserts, 1_000),
        one_event_to_bare_insert=ratio(events, inserts),
    )


if __name__ == "__main__":
    main()
