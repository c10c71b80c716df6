"""Whatever an agent does to a folder, a rollback undoes it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asm_core.domain.workspace import WorkspaceOptions
from asm_core.workspace.opening import open_workspace
from tests.fixtures.repositories import a_repository, run_git, state_of, tree_of, write

EXACT = WorkspaceOptions(enabled=True, rollback_on_failure=True)
NAMES = ("a", "b c", "ü", "x.log", "deep", ".gitignore", "hollow")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
CONTENTS = st.sampled_from([b"", b"text\n", b"dos\r\n", b"\x00\xff", b"*.log\n", b"*\n", b"!*.log\na\n"])
KINDS = st.sampled_from(["write", "remove", "mkdir", "link", "chmod", "rename", "stage"])
ACTIONS = st.lists(st.tuples(KINDS, PATHS, PATHS, CONTENTS), max_size=12)


def _remove(root: Path, path: str) -> None:
    place = root / path
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()


def _write(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def act(root: Path, action: tuple[str, str, str, bytes]) -> None:
    """One thing that an agent may do; what is not possible here does not happen."""
    kind, path, other, content = action
    does: dict[str, Callable[[], Any]] = {
        "write": lambda: _write(root, path, content),
        "remove": lambda: _remove(root, path),
        "mkdir": lambda: (root / path).mkdir(parents=True),
        "link": lambda: (root / path).symlink_to(other),
        "chmod": lambda: (root / path).chmod(0o755 if content else 0o600),
        "rename": lambda: (root / path).rename(root / other),
        "stage": lambda: run_git(root, "add", "-A"),
    }
    try:
        does[kind]()
    except (OSError, AssertionError):
        return


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(users=ACTIONS, agents=ACTIONS)
def test_a_rollback_undoes_whatever_was_done(users: list[Any], agents: list[Any]) -> None:
    """Tree, index, HEAD, stash and ignored files are what they were; what was created is gone."""
    root = Path(tempfile.mkdtemp(prefix="asm-property-"))
    try:
        a_repository(root, {"a": "1\n", "deep/b c": "2\n", ".gitignore": "*.ign\n"})
        write(root, {"a": "stashed\n"})
        run_git(root, "stash", "-q")
        write(root, {"mine.ign": "ignored\n", "hollow/mine.ign": "ignored\n"})
        for action in users:
            act(root, action)
        asyncio.run(_rolled_back(root, agents))
    finally:
        shutil.rmtree(root)


async def _rolled_back(root: Path, agents: list[Any]) -> None:
    async with open_workspace(EXACT, str(root), "run_1") as workspace:
        files, state = tree_of(root), state_of(root)
        before = await workspace.snapshot("before")
        assert (tree_of(root), state_of(root)) == (files, state)
        ignored = ignored_in(root)
        for action in agents:
            if not touches(ignored, action):
                act(root, action)
        await workspace.rollback(before)
    after = tree_of(root)
    assert {path: after.get(path) for path in files} == files
    assert {path for path in after.keys() - files.keys() if not (root / path).is_dir()} <= ignored_in(root)
    left = {name: value for name, value in state_of(root).items() if name != "status"}
    assert left == {name: value for name, value in state.items() if name != "status"}


def ignored_in(root: Path) -> set[str]:
    return {name for name in run_git(root, "ls-files", "-z", "-o", "-i", "--exclude-standard").split("\0") if name}


def touches(ignored: set[str], action: tuple[str, str, str, bytes]) -> bool:
    """A snapshot has no ignored files, so here the agent leaves them and the folders above alone."""
    return any(
        f"{lost}/".startswith(f"{path}/") or path.startswith(f"{lost}/") for lost in ignored for path in action[1:3]
    )
