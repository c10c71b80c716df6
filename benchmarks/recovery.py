"""
How soon a run goes on elsewhere when its worker is killed, how soon a cancel ends a run, and how soon a provider's
processes are gone with their worker. The bound of a takeover is the fleet's own: lease ttl + sweep interval.

    python benchmarks/recovery.py [--small]
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from itertools import count
from typing import Any

import psutil
from _common import TENANT, Deps, Stack, client, eventually, new_session, stack, submit
from _figures import SMALL, digits, report, spread

ROUNDS = {"fast": 1} if SMALL else {"fast": 10, "default": 5}
CANCELS = 3 if SMALL else 30
LONG = [{"sleep_ms": 600_000}]
HOLDER = (
    "SELECT w.pid FROM asm_run_leases l JOIN asm_workers w ON w.id = l.worker_id"
    " WHERE l.run_id = %s AND l.started_at IS NOT NULL"
)
_numbers = count()


async def in_flight(bench: Stack, deps: Deps, **fields: Any) -> tuple[str, psutil.Process]:
    """A run past its start mark, and the worker that executes it."""
    run_id = await submit(deps, await new_session(deps), **{"script": LONG} | fields)
    return run_id, psutil.Process(await eventually(lambda: bench.value(HOLDER, run_id)))


async def takeover(bench: Stack, deps: Deps) -> float:
    """SIGKILL > past the start mark on another worker, which is there already."""
    run_id, victim = await in_flight(bench, deps, on_worker_lost="retry")
    await asyncio.sleep(random.uniform(0, bench.settings.beat_interval_ms / 1_000))  # anywhere between two beats
    victim.kill()
    began = time.monotonic()
    await eventually(lambda: bench.value(HOLDER, run_id) not in (None, victim.pid))
    seconds = time.monotonic() - began
    await deps.control.cancel(run_id, TENANT)
    bench.worker(f"worker-{next(_numbers)}")
    return seconds


async def cancel(bench: Stack, deps: Deps) -> float:
    """Asked > its terminal event has reached a follower."""
    run_id, _ = await in_flight(bench, deps)
    seen = asyncio.create_task(deps.follower(TENANT).await_run(run_id, timeout_s=30))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await deps.control.cancel(run_id, TENANT)
    assert (await seen).is_terminal
    return time.monotonic() - began


async def orphan(bench: Stack, deps: Deps) -> float:
    """SIGKILL of a worker > the command that its run had started is gone."""
    command = {"command": "sleep", "args": ["600"], "timeout_ms": 600_000}
    _, worker = await in_flight(bench, deps, input=command, provider="shell")
    sleep = await eventually(lambda: [child for child in worker.children(recursive=True) if child.name() == "sleep"])
    worker.kill()
    began = time.monotonic()
    await eventually(lambda: not _lives(sleep[0]), pause_s=0.001)
    seconds = time.monotonic() - began
    bench.worker(f"worker-{next(_numbers)}")
    return seconds


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


async def measure(bench: Stack, rounds: int) -> dict[str, Any]:
    for _ in range(2):
        bench.worker(f"worker-{next(_numbers)}")
    async with client(bench.settings) as deps:
        takeovers = [await takeover(bench, deps) for _ in range(rounds)]
        cancels = [await cancel(bench, deps) for _ in range(CANCELS)]
        orphans = [await orphan(bench, deps) for _ in range(rounds)]
    settings = bench.settings
    return {
        "killed_to_executing_elsewhere_s": spread(takeovers),
        "bound_s": digits((settings.lease_ttl_ms + settings.sweep_interval_ms) / 1_000),
        "earliest_s": digits((settings.lease_ttl_ms - settings.beat_interval_ms) / 1_000),
        "cancel_to_end_seen_ms": spread(cancels, 1_000),
        "beat_interval_ms": settings.beat_interval_ms,
        "killed_to_provider_process_gone_ms": spread(orphans, 1_000),
    }


def main() -> None:
    found = {}
    for profile, rounds in ROUNDS.items():
        with stack(profile=profile, shell_enabled=True) as bench:
            found[profile] = asyncio.run(measure(bench, rounds))
    report("recovery", **found)


if __name__ == "__main__":
    main()
