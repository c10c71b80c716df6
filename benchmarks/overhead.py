"""
What ASM costs around a run: submit > completed of a one-step scripted run through the fleet, against a bare Celery task
that does nothing but tell its end (Redis INCR), on the same broker, with the same settings, pool and slots.

    python benchmarks/overhead.py [--small]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Any

import psutil
from _common import (
    SMALL, TENANT, Deps, Stack, client, cpu_s, digits, eventually, new_session, report, spread, stack, submit, until,
)  # fmt: skip
from celery import Celery
from redis import Redis

from asm_core.config import Settings
from asm_workers.app import build_app

SEQUENTIAL = 10 if SMALL else 200
RUNS, SESSIONS = (40, 10) if SMALL else (200, 50)
ROUNDS = 1 if SMALL else 5
SLOTS = 100
PAUSE_S = 0.0002
"""Between two looks at the counter: small beside the latency."""
BARE, DONE = "bench.bare", "bench:done"
SCRIPT = [{"say": "hello"}]


def bare_app(settings: Settings) -> Celery:
    """ASM's own app under another prefix, with one task."""
    app = build_app(settings.model_copy(update={"redis_prefix": "bare", "queue_shards": 1}))
    redis = Redis.from_url(settings.redis_url)

    @app.task(name=BARE, ignore_result=True, send_events=False)
    def bare() -> None:
        redis.incr(DONE)

    return app


def bare_worker(settings: Settings) -> None:
    options: dict[str, Any] = {"pool_cls": "threads", "concurrency": SLOTS, "without_gossip": True}
    bare_app(settings).Worker(**options, without_mingle=True, quiet=True, task_events=True).start()


async def ours_alone(deps: Deps) -> list[float]:
    session, seconds = await new_session(deps), []
    for _ in range(SEQUENTIAL + 5):
        began = time.perf_counter()
        run_id = await submit(deps, session, SCRIPT)
        run = await deps.follower(TENANT).await_run(run_id, timeout_s=30)
        assert run.is_terminal
        seconds.append(time.perf_counter() - began)
    return seconds[5:]


async def ours_together(deps: Deps, bench: Stack) -> float:
    """Runs per second, from the first submit to the last end."""
    sessions = [await new_session(deps) for _ in range(SESSIONS)]
    began = time.perf_counter()
    await asyncio.gather(*(submit(deps, sessions[n % SESSIONS], SCRIPT) for n in range(RUNS)))
    pending = "SELECT NOT EXISTS (SELECT 1 FROM asm_runs WHERE status IN ('pending', 'running'))"
    await eventually(lambda: bench.value(pending))
    return RUNS / (time.perf_counter() - began)


class Bare:
    """The same two measurements for the bare task."""

    def __init__(self, settings: Settings) -> None:
        self._app = bare_app(settings)
        self._redis = Redis.from_url(settings.redis_url)

    def alone(self) -> list[float]:
        return [self._until_done(1) for _ in range(SEQUENTIAL + 5)][5:]

    def together(self) -> float:
        return RUNS / self._until_done(RUNS)

    def _until_done(self, tasks: int) -> float:
        self._redis.set(DONE, 0)
        began = time.perf_counter()
        for _ in range(tasks):
            self._app.send_task(BARE, retry=False, ignore_result=True)
        until(lambda: int(self._redis.get(DONE)) >= tasks, pause_s=PAUSE_S)
        return time.perf_counter() - began


async def measure(bench: Stack, worker: psutil.Process) -> dict[str, Any]:
    async with client(bench.settings) as deps:
        latency = await ours_alone(deps)
        before = cpu_s(worker)
        rates = [await ours_together(deps, bench) for _ in range(ROUNDS)]
        return {"latency": latency, "rates": rates, "cpu_ms": (cpu_s(worker) - before) / (ROUNDS * RUNS) * 1_000}


def measure_bare(settings: Settings, worker: psutil.Process) -> dict[str, Any]:
    bare = Bare(settings)
    latency = bare.alone()
    before = cpu_s(worker)
    rates = [bare.together() for _ in range(ROUNDS)]
    return {"latency": latency, "rates": rates, "cpu_ms": (cpu_s(worker) - before) / (ROUNDS * RUNS) * 1_000}


def main() -> None:
    with stack() as bench:
        reference = measure_bare(bench.settings, bench.start("bare", [__file__, "--bare-worker"]))
        bench.stop_children()
        ours = asyncio.run(measure(bench, bench.worker(concurrency=SLOTS)))
    report(
        "overhead",
        sequential_runs=SEQUENTIAL,
        runs=RUNS,
        sessions=SESSIONS,
        rounds=ROUNDS,
        submit_to_completed_ms=spread(ours["latency"], 1_000),
        bare_task_ms=spread(reference["latency"], 1_000),
        latency_to_bare_p50=digits(statistics.median(ours["latency"]) / statistics.median(reference["latency"])),
        runs_per_s=digits(statistics.median(ours["rates"])),
        bare_tasks_per_s=digits(statistics.median(reference["rates"])),
        throughput_to_bare=digits(statistics.median(ours["rates"]) / statistics.median(reference["rates"])),
        worker_cpu_ms_per_run=digits(ours["cpu_ms"]),
        bare_worker_cpu_ms_per_task=digits(reference["cpu_ms"]),
    )


if __name__ == "__main__":
    if "--bare-worker" in sys.argv:
        bare_worker(Settings())
    else:
        main()
