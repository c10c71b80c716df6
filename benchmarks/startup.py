"""
What starting costs: CPU of the command line's help and of the library's import beside a bare Python; a worker until it
is registered and until it has executed a run; `asm dev` from nothing, and again on the same data, until it is ready.

    python benchmarks/startup.py [--small]
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import TENANT, Stack, client, free_port, new_session, stack, submit
from _figures import SMALL, cpu_s, digits, report, spread

ROUNDS = 1 if SMALL else 10
STARTS = 1 if SMALL else 5
ROOT = Path(__file__).parents[1]
HELP_LIMIT_MS = 250.0
"""DESIGN §2."""
COMMANDS = {
    "bare_python": ["-c", "pass"],
    "asm_help": ["-m", "asm_api.cli", "--help"],
    "import_asm_core": ["-c", "import asm_core"],
    "import_worker": ["-c", "import asm_workers.worker"],
    "import_api": ["-c", "import asm_api.app"],
}


def cpu_ms(arguments: list[str]) -> float:
    """CPU of one Python process, its start included."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    return (usage.ru_utime + usage.ru_stime) * 1_000


async def worker_start(bench: Stack) -> dict[str, float]:
    """From its spawn: registered; the end of a run that was waiting for it."""
    async with client(bench.settings) as deps:
        run_id = await submit(deps, await new_session(deps), [{"say": "hello"}])
        began = time.monotonic()
        worker = bench.worker()
        registered = time.monotonic() - began
        run = await deps.follower(TENANT).await_run(run_id, timeout_s=60)
        assert run.is_terminal
        answer = {"registered": registered, "first_run_ended": time.monotonic() - began, "cpu": cpu_s(worker)}
    bench.stop_children()
    return answer


def dev_starts() -> dict[str, Any]:
    """Until the ready line; nothing of it is left."""
    with TemporaryDirectory(prefix="asm-bench-") as folder:
        Path(folder).chmod(0o755)  # so that root's Postgres account needs no folder of its own elsewhere
        return {"first_start_s": _dev_start(folder), "second_start_s": _dev_start(folder)}


def _dev_start(folder: str) -> float | str:
    arguments = ["-m", "asm_api.cli", "dev", "--port", str(free_port()), "--data-dir", folder, "--workers", "1"]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ready = next((time.monotonic() - began for line in process.stdout if line.startswith("ready ")), None)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    return "asm dev did not become ready" if ready is None else digits(ready)


def main() -> None:
    cpu = {name: [cpu_ms(arguments) for _ in range(ROUNDS)] for name, arguments in COMMANDS.items()}
    with stack() as bench:
        starts = [asyncio.run(worker_start(bench)) for _ in range(STARTS)]
    report(
        "startup",
        cpu_ms={name: spread(values) for name, values in cpu.items()},
        asm_help_limit_ms=HELP_LIMIT_MS,
        asm_help_to_bare_python=digits(statistics.median(cpu["asm_help"]) / statistics.median(cpu["bare_python"])),
        worker_s={name: spread([start[name] for start in starts]) for name in starts[0]},
        asm_dev=dev_starts(),
    )


if __name__ == "__main__":
    main()
