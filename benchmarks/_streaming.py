"""Many streaming runs in one worker process: start them, watch them for a while, tell what each of them costs."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any, NamedTuple

import psutil
from _common import Deps, Stack, client, eventually, new_id
from _figures import SMALL, cpu_s, digits, report, spread

from asm_core.clock import SystemClock
from asm_core.domain.session import Session
from asm_core.manager.submit import RunRequest

DELAY_MS = 200
"""Between two events of a run."""
WINDOW_S = 2 if SMALL else 20
"""In which all runs stream and everything is counted."""
START_S = 3 if SMALL else 25
"""Granted for all runs to begin; the runs are that much longer."""
CHUNKS = (START_S + WINDOW_S + 5) * 1_000 // DELAY_MS
TEXT = "some words, as many as models stream.. "


class Load(NamedTuple):
    runs: int
    request: RunRequest
    """Of each: `CHUNKS` chunks, one every `DELAY_MS`."""

    async def _submit(self, deps: Deps) -> None:
        for _ in range(self.runs):
            session = Session.new(id=new_id("ses"), now=SystemClock().now(), agent_id="bench")
            await deps.submitter.submit_once(session, self.request)

    async def begin(self, bench: Stack) -> float:
        """All runs in flight, all streaming; the seconds from the first submit."""
        began = time.monotonic()
        async with client(bench.settings) as deps:
            await self._submit(deps)
        streaming = "SELECT count(DISTINCT run_id) >= %s FROM asm_events WHERE type = 'message_streamed'"
        await eventually(lambda: bench.value(streaming, self.runs), START_S * 4.0, pause_s=0.2)
        return time.monotonic() - began

    def watch(self, bench: Stack, worker: psutil.Process) -> dict[str, Any]:
        """What happens within the window."""
        since: datetime = bench.value("SELECT clock_timestamp()")
        cpu, began = cpu_s(worker), time.monotonic()
        time.sleep(WINDOW_S)
        cpu_share = (cpu_s(worker) - cpu) / (time.monotonic() - began)
        in_flight = bench.value("SELECT count(*) FROM asm_run_leases WHERE started_at IS NOT NULL")
        lags = bench.db.execute(
            'SELECT extract(epoch FROM stored_at - "timestamp")::float FROM asm_events'
            " WHERE type = 'message_streamed' AND stored_at > %s AND stored_at <= %s + make_interval(secs => %s)",
            (since, since, WINDOW_S),
        ).fetchall()
        return {
            "in_flight": in_flight,
            "events_per_s": digits(len(lags) / WINDOW_S),
            "events_per_s_to_asked": digits(len(lags) / WINDOW_S / (self.runs * 1_000 / DELAY_MS)),
            "worker_cpu_percent": digits(cpu_share * 100),
            "worker_cpu_us_per_event": digits(cpu_share * WINDOW_S / len(lags) * 1e6),
            "emitted_to_stored_ms": spread([lag for (lag,) in lags], 1_000),
        }


def measure(benchmark: str, bench: Stack, load: Load) -> None:
    """Put the load on one worker and report."""
    worker = bench.worker(concurrency=load.runs)
    idle, idle_threads = worker.memory_info().rss, worker.num_threads()
    all_streaming_s = asyncio.run(load.begin(bench))
    seen = load.watch(bench, worker)
    held, threads = worker.memory_info().rss, worker.num_threads()
    report(
        benchmark,
        runs=load.runs,
        asked_events_per_s=load.runs * 1_000 / DELAY_MS,
        window_s=WINDOW_S,
        all_streaming_after_s=digits(all_streaming_s),
        **seen,
        rss_mb={"idle": digits(idle / 1e6), "in_flight": digits(held / 1e6)},
        threads={"idle": idle_threads, "in_flight": threads},
        kb_per_run=digits((held - idle) / 1e3 / load.runs),
    )
