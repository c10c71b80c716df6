"""
From the provider's chunk to the SSE client: latency and throughput, against one commit and one raw Redis publish of the
same bytes; and the API's CPU per event and client with many clients on one session, against a bare socket send.

    python benchmarks/fanout.py [--small]
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import time
from datetime import datetime
from typing import NamedTuple

import psutil
import psycopg
from _common import SMALL, Deps, Stack, client, cpu_s, digits, new_session, report, spread, stack, submit
from redis.asyncio import Redis

PACED, DELAY_MS = (30, 10) if SMALL else (300, 10)
BURST = 300 if SMALL else 4_000
ROUNDS = 1 if SMALL else 3
CLIENTS = 10 if SMALL else 100
TEXT = "some words, as many as models stream.. "
COMMIT_MAX = 256
"""Events of one commit, as in the worker's writer."""
TABLE = "CREATE TABLE bare (id text PRIMARY KEY, session_id text, sequence_number bigint, data jsonb)"
INSERT = "INSERT INTO bare SELECT * FROM jsonb_to_recordset(%s) x(id text, session_id text, sequence_number bigint, data jsonb)"


class Seen(NamedTuple):
    emitted: list[float]
    arrived: list[float]

    @property
    def latencies(self) -> list[float]:
        return [late - early for early, late in zip(self.emitted, self.arrived, strict=True)]

    @property
    def per_s(self) -> float:
        return len(self.arrived) / (self.arrived[-1] - self.emitted[0])


class SseClient:
    """Reads chunks of a session's stream; one that is timed notes when each was emitted and when it came."""

    def __init__(self, port: int, session_id: str, *, timed: bool) -> None:
        self._port = port
        self._path = f"/v1/sessions/{session_id}/events/stream?type=message_streamed"
        self._timed = timed
        self.seen = Seen([], [])

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"GET {self._path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        await self._reader.readuntil(b"retry: ")

    async def read(self, count: int) -> None:
        while count:
            line = await self._reader.readline()
            assert line, "the stream ended"
            if line.startswith(b"data: "):
                count -= 1
                if self._timed:
                    self.seen.arrived.append(time.time())
                    self.seen.emitted.append(datetime.fromisoformat(json.loads(line[6:])["timestamp"]).timestamp())
        self._writer.close()


async def stream(deps: Deps, api: psutil.Process, port: int, clients: int, chunks: int, delay_ms: int = 0) -> tuple[Seen, float]:
    """One run followed by many: what the first saw, and the API's CPU microseconds per event and client."""
    session = await new_session(deps)
    readers = [SseClient(port, session, timed=n == 0) for n in range(clients)]
    await asyncio.gather(*(reader.connect() for reader in readers))
    before = cpu_s(api)
    await submit(deps, session, [{"say": TEXT * chunks, "chunks": chunks, "delay_ms": delay_ms}])
    await asyncio.gather(*(reader.read(chunks) for reader in readers))
    return readers[0].seen, (cpu_s(api) - before) / chunks / clients * 1e6


async def measure(bench: Stack) -> dict[str, object]:
    bench.worker()
    api, port = bench.api()
    async with client(bench.settings) as deps:
        await stream(deps, api, port, 1, 50)  # warm
        paced, _ = await stream(deps, api, port, 1, PACED, DELAY_MS)
        bursts = [(await stream(deps, api, port, 1, BURST))[0].per_s for _ in range(ROUNDS)]
        crowd, cpu_us = await stream(deps, api, port, CLIENTS, PACED, DELAY_MS)
        _, burst_cpu_us = await stream(deps, api, port, CLIENTS, BURST)
    bare_paced, bare_burst = await bare(bench, PACED, 1, DELAY_MS), await bare(bench, BURST, COMMIT_MAX)
    return {
        "chunk_to_client_ms": spread(paced.latencies, 1_000),
        "commit_and_publish_ms": spread(bare_paced.latencies, 1_000),
        "latency_to_bare_p50": digits(statistics.median(paced.latencies) / statistics.median(bare_paced.latencies)),
        "events_per_s": digits(statistics.median(bursts)),
        "commit_and_publish_events_per_s": digits(bare_burst.per_s),
        "throughput_to_bare": digits(statistics.median(bursts) / bare_burst.per_s),
        "chunk_to_client_ms_in_crowd": spread(crowd.latencies, 1_000),
        "api_cpu_us_per_event_and_client": digits(cpu_us),
        "api_cpu_us_per_event_and_client_in_burst": digits(burst_cpu_us),
        "bare_send_cpu_us": digits(bare_send_us()),
    }


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
            numbers = range(first, min(events, first + commit))
            rows = [
                {"id": f"evt_{n}", "session_id": "s", "sequence_number": n, "data": {"content": TEXT, "delta": TEXT}}
                for n in numbers
            ]
            seen.emitted.extend([time.time()] * len(rows))
            await connection.execute(INSERT, [json.dumps(rows)], prepare=True)
            await redis.publish("bench", "\n".join(map(json.dumps, rows)))
        await receiver
    return seen


async def _receive(pubsub: object, events: int, seen: Seen) -> None:
    async for message in pubsub.listen():  # type: ignore[attr-defined]
        if message["type"] == "message":
            for line in message["data"].split(b"\n"):
                json.loads(line)
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


def main() -> None:
    with stack() as bench:
        report("fanout", clients=CLIENTS, paced_events=PACED, delay_ms=DELAY_MS, burst_events=BURST, rounds=ROUNDS,
               **asyncio.run(measure(bench)))  # fmt: skip


if __name__ == "__main__":
    main()
