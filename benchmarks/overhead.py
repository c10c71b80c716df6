"""
What ASM costs around a run: submit > completed of a one-step scripted run through the fleet, against a bare Celery task
that does nothing but tell its end (Redis INCR), on the same broker, with the same settings, pool and slots. Both are
measured in turns, so that what else the machine does strikes both.

    python benchmarks/overhead.py [--small]
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import psutil
from _common import TENANT, Deps, Stack, client, eventually, new_session, stack, submit, until
from _figures import SMALL, cpu_s, digits, ratio, report, spread
from celery import Celery
from redis import Redis

from asm_core.config import Settings
from asm_workers.app import build_app

SEQUENTIAL = 10 if SMALL else 300
RUNS, SESSIONS = (40, 10) if SMALL else (200, 50)
ROUNDS = 1 if SMALL else 7
WARM = 2 if SMALL else 20
SLOTS = 100
LOOK_S = 0.0002
"""Between two looks at the bare task's counter: small beside its latency."""
BARE, DONE = "bench.bare", "bench:done"
SCRIPT = [{"say": "hello"}]
IDLE = "SELECT NOT EXISTS (SELECT 1 FROM asm_runs WHERE status IN ('pending', 'running'))"


class Ours:
    def __init__(self, bench: Stack, deps: Deps) -> None:
        self._bench = bench
        self._deps = deps

    async def alone(self, session_id: str) -> float:
        """Seconds until the caller sees the end of its run."""
        began = time.perf_counter()
        run_id = await submit(self._deps, session_id, SCRIPT)
        run = await self._deps.follower(TENANT).await_run(run_id, timeout_s=30)
        assert run.is_terminal
        return time.perf_counter() - began

    async def together(self, sessions: list[str]) -> float:
        """Runs per second, from the first submit to the last end."""
        began = time.perf_counter()
        await asyncio.gather(*(submit(self._deps, sessions[n % SESSIONS], SCRIPT) for n in range(RUNS)))
        await eventually(lambda: self._bench.value(IDLE))
        return RUNS / (time.perf_counter() - began)


class Bare:
    def __init__(self, settings: Settings) -> None:
        self._app = bare_app(settings)
        self._redis = Redis.from_url(settings.redis_url)

    def alone(self) -> float:
        return self._until_done(1)

    def together(self) -> float:
        return RUNS / self._until_done(RUNS)

    def _until_done(self, tasks: int) -> float:
        self._redis.set(DONE, 0)
        began = time.perf_counter()
        for _ in range(tasks):
            self._app.send_task(BARE, retry=False, ignore_result=True)
        until(lambda: int(self._redis.get(DONE)) >= tasks, pause_s=LOOK_S)
        return time.perf_counter() - began


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


async def measure(bench: Stack, worker: psutil.Process, bare_worker: psutil.Process) -> dict[str, object]:
    async with client(bench.settings) as deps:
        ours, bare = Ours(bench, deps), Bare(bench.settings)
        sessions = [await new_session(deps) for _ in range(SESSIONS)]
        latencies = [(await ours.alone(sessions[0]), bare.alone()) for _ in range(SEQUENTIAL + WARM)][WARM:]
        cpu = cpu_s(worker), cpu_s(bare_worker)
        rates = [(await ours.together(sessions), bare.together()) for _ in range(ROUNDS)]
        cpu = cpu_s(worker) - cpu[0], cpu_s(bare_worker) - cpu[1]
    return {
        "submit_to_completed_ms": spread([pair[0] for pair in latencies], 1_000),
        "bare_task_ms": spread([pair[1] for pair in latencies], 1_000),
        "latency_to_bare": ratio(*zip(*latencies, strict=True)),
        "runs_per_s": spread([pair[0] for pair in rates]),
        "bare_tasks_per_s": spread([pair[1] for pair in rates]),
        "throughput_to_bare": ratio(*zip(*rates, strict=True)),
        "worker_cpu_ms_per_run": digits(cpu[0] / ROUNDS / RUNS * 1_000),
        "bare_worker_cpu_ms_per_task": digits(cpu[1] / ROUNDS / RUNS * 1_000),
    }


def main() -> None:
    with stack() as bench:
        worker, bare = bench.worker(concurrency=SLOTS), bench.start("bare", [__file__, "--bare-worker"], bool)
        figures = asyncio.run(measure(bench, worker, bare))
    report("overhead", sequential=SEQUENTIAL, runs=RUNS, sessions=SESSIONS, rounds=ROUNDS, **figures)


if __name__ == "__main__":
    if "--bare-worker" in sys.argv:
        bare_worker(Settings())
    else:
        main()
