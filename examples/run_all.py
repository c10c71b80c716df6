"""
Every example, two at a time: which held, which this machine cannot run, which failed and what it said.

    python examples/run_all.py              # all of them
    python examples/run_all.py fork oneshot # these

Exit code 1 when one failed, 2 for a name that is no example's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py") if path.stem != Path(__file__).stem)
AT_ONCE = 2
TIMEOUT_S = 60


class Ended(NamedTuple):
    name: str
    state: str
    """`ok`, `SKIP` or `FAIL`."""
    said: str
    seconds: float


def run(name: str) -> Ended:
    """One example in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        said, failed = done.stdout + done.stderr, done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = f"it did not end within {TIMEOUT_S} s", True
    state = "FAIL" if failed or ("  ok  " not in said and "SKIP: " not in said) else "ok"
    return Ended(name, "SKIP" if state == "ok" and said.startswith("SKIP: ") else state, said, time.monotonic() - began)


def main(wanted: Sequence[str]) -> int:
    if unknown := set(wanted) - set(NAMES):
        print(f"no such example: {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    ended = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for one in as_completed([pool.submit(run, name) for name in wanted or NAMES]):
            ended.append(one.result())
            name, state, said, seconds = ended[-1]
            print(f"{state:<5} {name:<24} {seconds:4.1f} s" + (f"  {said.strip()}" if state == "SKIP" else ""))
            if state == "FAIL":
                print(said)
    states = [one.state for one in ended]
    print(f"{states.count('ok')} ok, {states.count('SKIP')} skipped, {states.count('FAIL')} failed")
    return 1 if "FAIL" in states else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
