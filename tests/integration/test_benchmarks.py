"""Each benchmark at its smallest size: it runs, leaves no process behind and prints one JSON object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TIMEOUT_S = 120
AT_ONCE = 3
"""They mostly wait for servers to start."""
MARK = "BENCHMARK_MARK"
FIGURES = {
    "append": {"events_per_s", "raw_copy_rows_per_s", "one_event_ms", "bare_insert_ms"},
    "concurrency": {"in_flight", "events_per_s_to_asked", "kb_per_run", "emitted_to_stored_ms"},
    "fanout": {"chunk_to_client_ms", "commit_and_publish_ms", "api_cpu_us_per_event_and_client"},
    "growth": {"median_ms_by_events", "ratio_last_to_first"},
    "overhead": {"submit_to_completed_ms", "bare_task_ms", "runs_per_s", "bare_tasks_per_s"},
    "provider_concurrency": {"in_flight", "events_per_s_to_asked", "kb_per_run", "emitted_to_stored_ms"},
    "provider_overhead": {"anthropic", "openai"},
    "recovery": {"fast"},
    "redaction": {"chunk", "output"},
    "startup": {"cpu_ms", "worker_s", "asm_dev"},
    "workspace": {"git_status_ms", "snapshot_ms", "to_git_status"},
}

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Mapping[str, Future[tuple[Done, list[str]]]]]:
    """The chosen benchmarks, some at a time; the process and what is left of its children."""
    chosen = [name for name in FIGURES if any(f"[{name}]" in item.name for item in request.session.items)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(_run, name) for name in chosen}


def test_every_benchmark_is_kept_alive() -> None:
    """A new program in the folder gets its line above."""
    assert {path.stem for path in FOLDER.glob("[a-z]*.py")} == FIGURES.keys()


@pytest.mark.parametrize("name", FIGURES)
def test_benchmark_runs_at_its_smallest_size(name: str, running: Mapping[str, Future[tuple[Done, list[str]]]]) -> None:
    """Its figures are there, no number of them is missing, and its processes are gone."""
    done, left = running[name].result()
    assert done.returncode == 0, done.stderr[-2_000:]
    report = json.loads(done.stdout)
    assert report["benchmark"] == name
    assert report.keys() >= FIGURES[name]
    assert None not in _leaves(report)
    assert not left


def _run(name: str) -> tuple[Done, list[str]]:
    mark = uuid4().hex
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--small"]
    done = subprocess.run(
        command, env=os.environ | {MARK: mark}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    return done, _marked(mark)


def _marked(mark: str) -> list[str]:
    """Command lines of the processes that inherited the mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(" ".join(process.cmdline()))
    return found


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [value]
