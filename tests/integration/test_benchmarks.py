"""Each benchmark at its smallest size: it runs, leaves no process behind and prints one JSON object with its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TIMEOUT_S = 120
FIGURES = {
    "append": {"events_per_s", "raw_copy_rows_per_s", "one_event_ms", "bare_insert_ms"},
    "concurrency": {"in_flight", "events_per_s_to_asked", "kb_per_run", "emitted_to_stored_ms"},
    "fanout": {"chunk_to_client_ms", "commit_and_publish_ms", "api_cpu_us_per_event_and_client"},
    "growth": {"median_ms_by_events", "ratio_last_to_first"},
    "overhead": {"submit_to_completed_ms", "bare_task_ms", "runs_per_s", "bare_tasks_per_s"},
    "recovery": {"fast"},
    "startup": {"cpu_ms", "worker_s", "asm_dev"},
}


def test_every_benchmark_is_kept_alive() -> None:
    """A new program in the folder gets its line above."""
    assert {path.stem for path in FOLDER.glob("[a-z]*.py")} == FIGURES.keys()


@pytest.mark.parametrize("name", FIGURES)
def test_benchmark_runs_at_its_smallest_size(name: str) -> None:
    """Its figures are there, no number of them is missing, and its processes are gone."""
    before = set(psutil.pids())
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--small"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    report = json.loads(done.stdout)
    assert report["benchmark"] == name
    assert report.keys() >= FIGURES[name]
    assert None not in _leaves(report)
    assert not [line for line in _command_lines(set(psutil.pids()) - before) if "asm-bench-" in line]


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [value]


def _command_lines(pids: set[int]) -> list[str]:
    return [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]) if p.pid in pids]
