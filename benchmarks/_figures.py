"""Statistics, and the one JSON object that each benchmark prints."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from operator import truediv

import psutil

SMALL = "--small" in sys.argv
"""As small as shows that the program works; its figures mean nothing."""


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def spread(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Minimum, median, 99th percentile, maximum, and how many."""
    ordered = sorted(values)
    at = {"min": 0, "p50": len(ordered) // 2, "p99": min(len(ordered) - 1, len(ordered) * 99 // 100), "max": -1}
    return {name: digits(ordered[place] * scale) for name, place in at.items()} | {"n": len(ordered)}


def ratio(ours: Sequence[float], limit: Sequence[float]) -> float:
    """The median over pairs that were measured in turns."""
    return digits(statistics.median(map(truediv, ours, limit)))


def digits(value: float) -> float:
    """Four significant ones; more would pretend."""
    return float(f"{value:.4g}")


def report(benchmark: str, **figures: object) -> None:
    machine = {"cpus": os.cpu_count(), "load_1m": digits(os.getloadavg()[0]), "python": sys.version.split()[0]}
    print(json.dumps({"benchmark": benchmark, "small": SMALL, "machine": machine} | figures, indent=2))
