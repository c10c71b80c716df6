"""
Every example, two at a time: which held, which this machine cannot run, which failed and what it said.

    python examples/run_all.py              # all of them
    python examples/run_all.py fork oneshot # these

Exit code 1 when one failed, 2 for a name that is no example's, 130 when interrupted. Each is a program in a process of
its own. When all are wanted, these are forked from this one after it has imported what most of them need, which would
be most of their time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py") if path.stem != Path(__file__).stem)
AT_ONCE = 2
TIMEOUT_S, GRACE_S = 90.0, 20.0
FORKS = sys.platform.startswith("linux")
PROCESSES = multiprocessing.get_context("fork") if FORKS else multiprocessing.get_context("spawn")
IMPORTS = ("asm_api.client", "asm_core", "amp_sdk", "anthropic", "claude_agent_sdk", "openai", "openai_codex")
"""None of them starts a thread, which a fork would lose."""


def main() -> int:
    wanted = asked_for()
    if FORKS and not wanted:
        import_much()
    states: list[str] = []
    with TemporaryDirectory(prefix="asm-examples-") as folder, suppress(KeyboardInterrupt):
        for one in ended(wanted or NAMES, Path(folder)):
            states.append(one.state)
            why = f"  {one.said.strip()}" if one.state == "SKIP" else ""
            print(f"{one.state:<5} {one.name:<24} {one.seconds:4.1f} s{why}", flush=True)
            if one.state == "FAIL":
                print(one.said, flush=True)
        print(f"{states.count('ok')} ok, {states.count('SKIP')} skipped, {states.count('FAIL')} failed")
        return 1 if "FAIL" in states else 0
    return 130


def asked_for() -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("example", nargs="*")
    wanted: list[str] = parser.parse_args().example
    if unknown := set(wanted) - set(NAMES):
        parser.error(f"no such example: {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    return wanted


def import_much() -> None:
    for name in IMPORTS:
        with suppress(ImportError):  # the example will say so
            import_module(name)
    import asm_core

    for name in asm_core.__all__:
        with suppress(ImportError):
            getattr(asm_core, name)


def ended(names: Sequence[str], folder: Path) -> Iterator[Example]:
    """All of them, each when it has ended."""
    waiting, running = [*names], list[Example]()
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                running.append(Example(waiting.pop(0), folder))
            wait([one.process.sentinel for one in running], min(one.time_left for one in running))
            for one in [one for one in running if one.has_ended()]:
                running.remove(one)
                yield one
    finally:
        for one in running:
            one.stop()


class Example:
    """One of them, running; as the leader of its group of processes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._output = folder / name
        self._began = time.monotonic()
        self.process = PROCESSES.Process(target=play, args=(name, self._output))
        self.process.start()

    @property
    def time_left(self) -> float:
        return max(0.0, self._began + TIMEOUT_S - time.monotonic())

    def has_ended(self) -> bool:
        """Perhaps because it is stopped now: its time is over."""
        is_late = self.process.is_alive() and not self.time_left
        if is_late:
            self.stop()
        elif self.process.is_alive():
            return False
        self.seconds = time.monotonic() - self._began
        self.said = self._output.read_text() + (f"it did not end within {TIMEOUT_S:g} s" if is_late else "")
        claimed, skipped = "  ok  " in self.said, self.said.startswith("SKIP: ")
        held = self.process.exitcode == 0 and (claimed or skipped) and not is_late
        self.state = "FAIL" if not held else "SKIP" if skipped else "ok"
        return True

    def stop(self) -> None:
        """As Ctrl-C does, so that it leaves nothing behind; then without mercy."""
        assert self.process.pid
        for number in (signal.SIGINT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            self.process.join(GRACE_S)


def play(name: str, output: Path) -> None:
    """In the new process: the example as its program."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where this was started in the background
    with output.open("w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.argv = [str(FOLDER / f"{name}.py")]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    raise SystemExit(main())
