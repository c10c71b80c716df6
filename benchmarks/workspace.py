"""
What it costs to look at a workspace: a repository of 10,000 files in which ten have changed, beside `git status` of the
same, in turns. `opened` is a run's first snapshot with all that goes before it (private folder, the repository's own
index checked), `exact` the same for a run that may be rolled back, `again` the snapshot after the provider's work.

    python benchmarks/workspace.py [--small]
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from _figures import SMALL, ratio, report, spread

from asm_core.domain.workspace import WorkspaceOptions
from asm_core.workspace.opening import open_workspace

FILES, CHANGED = (200 if SMALL else 10_000), 10
ROUNDS = 2 if SMALL else 15


def git(root: Path, *args: str) -> None:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    subprocess.run(["git", *identity, *args], cwd=root, check=True, stdout=subprocess.DEVNULL)


def fill(root: Path) -> None:
    for number in range(FILES):
        file = root / f"folder{number % 100}" / f"file{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"line {number}\n" * 60)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    for number in range(CHANGED):
        (root / f"folder{number}" / f"file{number}.txt").write_text("changed\n")


def status_s(root: Path) -> float:
    began = time.perf_counter()
    git(root, "status", "--porcelain")
    return time.perf_counter() - began


async def snapshots_s(root: Path, *, exact: bool) -> tuple[float, float]:
    """The first, and one more."""
    began = time.perf_counter()
    options = WorkspaceOptions(enabled=True, rollback_on_failure=exact)
    async with open_workspace(options, str(root), "bench") as workspace:
        await workspace.snapshot("before")
        opened = time.perf_counter()
        await workspace.snapshot("after")
        return opened - began, time.perf_counter() - opened


async def main() -> None:
    with TemporaryDirectory(prefix="asm-bench-") as folder:
        root = Path(folder)
        fill(root)
        status, opened, again, exact = [], [], [], []
        for _ in range(ROUNDS):
            status.append(status_s(root))
            first, second = await snapshots_s(root, exact=False)
            opened.append(first)
            again.append(second)
            exact.append((await snapshots_s(root, exact=True))[0])
    measured = {"opened": opened, "exact": exact, "again": again}
    report(
        "workspace",
        files=FILES,
        rounds=ROUNDS,
        git_status_ms=spread(status, 1_000),
        snapshot_ms={name: spread(times, 1_000) for name, times in measured.items()},
        to_git_status={name: ratio(times, status) for name, times in measured.items()},
    )


if __name__ == "__main__":
    asyncio.run(main())
