"""
From the provider's chunk to the SSE client: latency and throughput, against one commit and one raw Redis publish of the
same payload, in turns; and the API's CPU per event and client with many clients on one session, beside a bare send.

    python benchmarks/fanout.py [--small]
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import time
from itertools import chain
from typing import NamedTuple

import psutil
import psycopg
from _common import Deps, Stack, client, new_session, stack, submit
from _figures import SMALL, cpu_s, digits, ratio, report, spread
from _sse import Seen, SseClient
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

PACED, DELAY_MS = (30, 10) if SMALL else (150, 10)
BURST = 300 if SMALL else 4_000
ROUNDS = 1 if SMALL else 5
CLIENTS = 10 if SMALL else 100
TEXT = "some words, as many as models stream.. "
COMMIT_MAX = 256
"""Events of one commit, as in the worker's writer."""
TABLE = "CREATE TABLE bare (id text PRIMARY KEY, session_id text, sequence_number bigint, data jsonb)"
COLUMNS = "id text, session_id text, sequence_number bigint, data jsonb"
INSERT = f"INSERT INTO bare SELECT * FROM jsonb_to_recordset(%s) x({COLUMNS})"


class Fleet(NamedTuple):
    deps: Deps
    api: psutil.Process
    port: int

    async def stream(self, clients: int, chunks: int, delay_ms: int = 0) -> tuple[Seen, float]:
        """One run followed by many: what the first saw, and the API's CPU microseconds per event and client."""
        session = await new_session(self.deps)
        readers = [SseClient(self.port, session, timed=n == 0) for n in range(clients)]
        await asyncio.gather(*(reader.connect() for reader in readers))
        before = cpu_s(self.api)
        await submit(self.deps, session, [{"say": TEXT * chunks, "chunks": chunks, "delay_ms": delay_ms}])
        await asyncio.gather(*(reader.read(chunks) for reader in readers))
        return readers[0].seen, (cpu_s(self.api) - before) / chunks / clients * 1e6


async def bare(bench: Stack, events: int, commit: int, delay_ms: int = 0) -> Seen:
    """The least that any such system does: insert, commit, publish the rows, receive them."""
    bench.db.execute(f"DROP TABLE IF EXISTS bare; {TABLE}")
    seen = Seen([], [])
    async with (
        Redis.from_url(bench.settings.redis_url) as redis,
        redis.pubsub() as pubsub,
        await psycopg.AsyncConnection.connect(bench.settings.database_url, autocommit=True) as connection,
    ):
        await pubsub.subscribe("bench")
        receiver = asyncio.create_task(_receive(pubsub, events, seen))
        for first in range(0, events, commit):
            await asyncio.sleep(delay_ms / 1_000)
            rows = [_row(number) for number in range(first, min(events, first + commit))]
            seen.emitted.extend([time.time()] * len(rows))
            await connection.execute(INSERT, [json.dumps(rows)], prepare=True)
            await redis.publish("bench", "\n".join(map(json.dumps, rows)))
        await receiver
    return seen


def _row(number: int) -> dict[str, object]:
    data = {"content": TEXT, "delta": TEXT}
    return {"id": f"evt_{number}", "session_id": "bench", "sequence_number": number, "data": data}


async def _receive(pubsub: PubSub, events: int, seen: Seen) -> None:
    async for message in pubsub.listen():
        if message["type"] == "message":
            for row in message["data"].split(b"\n"):
                json.loads(row)
                seen.arrived.append(time.time())
        if len(seen.arrived) >= events:
            return


def bare_send_us(count: int = 20_000) -> float:
    """CPU of handing one frame to the kernel."""
    left, right = socket.socketpair()
    frame, before = b"x" * 500, time.process_time()
    for number in range(count):
        left.send(frame)
        if number % 100 == 99:
            right.recv(65_536)
    return (time.process_time() - before) / count * 1e6


async def measure(bench: Stack) -> dict[str, object]:
    bench.worker()
    paced, bare_paced, burst, bare_burst = [], [], [], []
    async with client(bench.settings) as deps:
        fleet = Fleet(deps, *bench.api())
        await fleet.stream(1, PACED)  # warm
        for _ in range(ROUNDS):
            paced.append((await fleet.stream(1, PACED, DELAY_MS))[0].latencies)
            bare_paced.append((await bare(bench, PACED, 1, DELAY_MS)).latencies)
            burst.append((await fleet.stream(1, BURST))[0].per_s)
            bare_burst.append((await bare(bench, BURST, COMMIT_MAX)).per_s)
        crowd, cpu_us = await fleet.stream(CLIENTS, PACED, DELAY_MS)
        _, burst_cpu_us = await fleet.stream(CLIENTS, BURST)
    return {
        "chunk_to_client_ms": spread([*chain(*paced)], 1_000),
        "commit_and_publish_ms": spread([*chain(*bare_paced)], 1_000),
        "latency_to_bare": ratio([*map(statistics.median, paced)], [*map(statistics.median, bare_paced)]),
        "events_per_s": spread(burst),
        "commit_and_publish_events_per_s": spread(bare_burst),
        "throughput_to_bare": ratio(burst, bare_burst),
        "chunk_to_client_ms_in_crowd": spread(crowd.latencies, 1_000),
        "api_cpu_us_per_event_and_client": digits(cpu_us),
        "api_cpu_us_per_event_and_client_in_burst": digits(burst_cpu_us),
        "bare_send_cpu_us": digits(bare_send_us()),
    }


def main() -> None:
    with stack() as bench:
        figures = asyncio.run(measure(bench))
    sizes = {"clients": CLIENTS, "paced_events": PACED, "delay_ms": DELAY_MS, "burst_events": BURST, "rounds": ROUNDS}
    report("fanout", **sizes, **figures)


if __name__ == "__main__":
    main()
