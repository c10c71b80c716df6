"""
Durable, fenced events per second through the worker's event path, against a raw COPY of the same rows into an equal
table; and one event alone, from the provider to the commit, against one bare INSERT.

    python benchmarks/append.py [--small]
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
from _common import SMALL, TENANT, Stack, digits, new_id, report, spread, stack

from asm_core.clock import SystemClock
from asm_core.domain.event import EventType
from asm_core.domain.run import RunOptions
from asm_core.domain.session import Session
from asm_core.pipeline import ingest
from asm_core.pipeline.context import RunContext
from asm_core.pipeline.persist import EventWriter, RunWriter
from asm_core.pipeline.publish import Publisher
from asm_core.ports.bus import BusListener, SessionBatch
from asm_core.ports.provider import RawEvent
from asm_core.ports.queue import Claimed, Submission
from asm_core.stores.postgres.queue import PostgresRunQueue

SESSIONS = (1, 16, 64)
EVENTS = 2_048 if SMALL else 32_768
ALONE = 50 if SMALL else 1_000
ROUNDS = 1 if SMALL else 3
TEXT = "a chunk of streamed text, as long as models send them: some words"
RAW = RawEvent(EventType.MESSAGE_STREAMED, {"content": TEXT, "delta": TEXT})


class Nowhere:
    """A bus without cost; `fanout.py` measures the real one."""

    async def publish(self, batch: Sequence[SessionBatch]) -> None: ...

    def listen(self) -> AbstractAsyncContextManager[BusListener]:
        raise NotImplementedError


class Run:
    """A run in flight that emits what a provider might."""

    def __init__(self, writer: RunWriter) -> None:
        lease = writer.lease
        self._writer = writer
        self._ctx = RunContext(lease.session_id, lease.run_id, lease.fence, 1, "scripted", SystemClock())

    async def emit(self, count: int) -> None:
        """Normalised, validated, numbered, committed when it returns."""
        for _ in range(count):
            for event in ingest(RAW, self._ctx):
                await self._writer.put(event)
        await self._writer.flush()


@asynccontextmanager
async def runs(bench: Stack, count: int) -> AsyncIterator[list[Run]]:
    """That many runs of as many sessions, behind one writer as in a worker process."""
    queue = PostgresRunQueue(bench.settings.database_url, application_name="bench", times=bench.settings.times)
    await queue.open()
    await queue.register_worker("wrk_bench", hostname="bench", pid=1, slots=1_000)
    publisher = Publisher(Nowhere(), bench.settings.event_limits.publish_buffer)
    writer = EventWriter(queue, publisher, bench.settings.event_limits, SystemClock())
    tasks = [asyncio.create_task(writer.run()), asyncio.create_task(publisher.run())]
    yield [Run(await _run(queue, writer)) for _ in range(count)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await queue.close()


async def _run(queue: PostgresRunQueue, writer: EventWriter) -> RunWriter:
    session = Session.new(id=new_id("ses"), now=SystemClock().now(), agent_id="bench")
    await queue.create_session(session)
    await queue.submit(
        Submission(
            run_id=new_id("run"), session_id=session.id, tenant_id=TENANT, input={"prompt": "x"},
            options=RunOptions(provider="scripted"),
        )
    )  # fmt: skip
    claim = await queue.claim(session.id, "wrk_bench")
    assert isinstance(claim, Claimed)
    await queue.start(claim.lease)
    return writer.bind(claim.lease)


async def throughput(bench: Stack, sessions: int) -> float:
    async with runs(bench, sessions) as given:
        began = time.perf_counter()
        await asyncio.gather(*(run.emit(EVENTS // sessions) for run in given))
        return EVENTS / (time.perf_counter() - began)


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


async def alone(bench: Stack) -> list[float]:
    async with runs(bench, 1) as [run]:
        return [await _seconds(run) for _ in range(ALONE)]


async def _seconds(run: Run) -> float:
    began = time.perf_counter()
    await run.emit(1)
    return time.perf_counter() - began


async def bare_inserts(bench: Stack) -> list[float]:
    """One row, one commit, prepared, same driver, same columns and indexes."""
    row = bench.db.execute("SELECT * FROM asm_events ORDER BY stored_at DESC LIMIT 1").fetchone()
    assert row is not None
    values = [psycopg.types.json.Jsonb(value) if isinstance(value, dict) else value for value in row]
    query = f"INSERT INTO copied VALUES ({', '.join(['%s'] * len(row))})"
    seconds = []
    async with await psycopg.AsyncConnection.connect(bench.settings.database_url, autocommit=True) as connection:
        for number in range(ALONE):
            values[0], values[8] = f"evt_{number}", -number
            began = time.perf_counter()
            await connection.execute(query, values, prepare=True)
            seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    with stack() as bench:
        ours = {n: statistics.median(asyncio.run(throughput(bench, n)) for _ in range(ROUNDS)) for n in SESSIONS}
        copy = statistics.median(copy_throughput(bench) for _ in range(ROUNDS))
        event, insert = asyncio.run(alone(bench)), asyncio.run(bare_inserts(bench))
    report(
        "append",
        events=EVENTS,
        rounds=ROUNDS,
        events_per_s={f"sessions_{n}": digits(rate) for n, rate in ours.items()},
        raw_copy_rows_per_s=digits(copy),
        part_of_raw_copy={f"sessions_{n}": digits(rate / copy) for n, rate in ours.items()},
        one_event_ms=spread(event, 1_000),
        bare_insert_ms=spread(insert, 1_000),
        one_event_to_bare_insert_p50=digits(statistics.median(event) / statistics.median(insert)),
    )


if __name__ == "__main__":
    main()
