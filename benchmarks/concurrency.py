"""
How many streaming runs one worker process holds at once, five events per second each, and what each of them costs.

    python benchmarks/concurrency.py [--small] [RUNS]
"""

from __future__ import annotations

import sys

from _common import stack
from _figures import SMALL
from _streaming import CHUNKS, DELAY_MS, TEXT, Load, measure

from asm_core.manager.submit import RunRequest

RUNS = next((int(word) for word in sys.argv[1:] if word.isdigit()), 50 if SMALL else 500)
SCRIPT = [{"say": TEXT * CHUNKS, "chunks": CHUNKS, "delay_ms": DELAY_MS}]


def main() -> None:
    with stack() as bench:
        measure("concurrency", bench, Load(RUNS, RunRequest(input={"script": SCRIPT})))


if __name__ == "__main__":
    main()
