"""Options and values of workspaces; folders by hashes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.run import RunOptions
from asm_core.domain.workspace import (
    NO_WORKSPACE,
    Diff,
    Ignore,
    Snapshot,
    Strategy,
    WorkspaceOptions,
    check_trusted_workspace,
)
from asm_core.workspace.hash import ALWAYS_IGNORED, HashWorkspace
from asm_core.workspace.ignoring import exclude_lines, ignored_by, literal_lines
from asm_core.workspace.opening import diff, rollback, take_snapshot
from tests.fixtures.repositories import write


def test_options_travel_with_the_run() -> None:
    """There and back; a run without has none."""
    said = {"enabled": True, "path": "/w", "strategy": "git", "ignore": {"paths": ["big"], "globs": ["*.log"]}}
    options = RunOptions(provider="x", workspace=WorkspaceOptions.from_map(said))
    assert RunOptions.from_map(options.to_map()) == options
    assert options.workspace.ignore == Ignore(("big",), ("*.log",))
    assert options.workspace.strategy is Strategy.GIT
    assert RunOptions.from_map(RunOptions(provider="x").to_map()).workspace == NO_WORKSPACE


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"enabeld": True}, "enabeld"),
        ({"enabled": "yes"}, "enabled"),
        ({"path": "relative"}, "path"),
        ({"path": 1}, "path"),
        ({"strategy": "svn"}, "strategy"),
        ({"max_patch_bytes": -1}, "max_patch_bytes"),
        ({"max_patch_bytes": True}, "max_patch_bytes"),
        ({"max_untracked_bytes": -1}, "max_untracked_bytes"),
        ({"max_untracked_bytes": 1.5}, "max_untracked_bytes"),
        ({"ignore": ["x"]}, "ignore"),
        ({"ignore": {"files": []}}, "ignore.files"),
        ({"ignore": {"globs": [""]}}, "ignore.globs"),
        ({"strategy": "hash", "rollback_on_failure": True}, "rollback_on_failure"),
    ],
)
def test_what_cannot_be_meant_is_refused(said: dict[str, Any], field: str) -> None:
    """W-24: nothing is disabled in silence."""
    with pytest.raises(AsmError) as caught:
        WorkspaceOptions.from_map(said)
    assert (caught.value.code, caught.value.details["field"]) == (ErrorCode.VALIDATION_ERROR, f"workspace.{field}")


def test_a_folder_is_a_matter_of_trust() -> None:
    """As `provider_options.cwd` is."""
    check_trusted_workspace(NO_WORKSPACE)
    with pytest.raises(AsmError) as caught:
        check_trusted_workspace(WorkspaceOptions(enabled=True, path="/etc"))
    assert (caught.value.code, caught.value.details["field"]) == (ErrorCode.FORBIDDEN, "workspace.path")


def test_a_diff_tells_of_very_many_files_the_first() -> None:
    """It travels in a run's row."""
    many = Diff(backend="git", from_ref="a", to_ref="b", added=tuple(f"{n:06}" for n in range(20_000)))
    told = many.to_map()
    assert (told["files_changed"], len(told["changed_paths"]), len(told["added"])) == (20_000, 10_000, 10_000)


@pytest.mark.parametrize(
    ("pattern", "ignored", "seen"),
    [
        ("*.log", ["a.log", "deep/er/a.log"], ["a.logs", "alog"]),
        ("**/*.bak", ["a.bak", "x/y/a.bak"], ["a.bak.txt"]),
        ("build/**", ["build/x/y"], ["other/build/x"]),
        ("src/*.py", ["src/a.py"], ["src/x/a.py", "x/src/a.py"]),
        ("?.txt", ["a.txt", "x/b.txt"], ["ab.txt"]),
        ("[ab].txt", ["[ab].txt"], ["a.txt"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
    ],
)
def test_globs(pattern: str, ignored: list[str], seen: list[str]) -> None:
    """spec/05 check 102: no classes, no braces, no negation."""
    matches = ignored_by(Ignore(globs=(pattern,)), frozenset())
    assert [path for path in [*ignored, *seen] if matches(path)] == ignored


def test_ignoring_in_gits_words() -> None:
    """What is special to git and not to us is escaped."""
    lines = exclude_lines(Ignore(paths=("#big", "a/[b]/"), globs=("*.log", "!x", "src/[ab].py", "end ")))
    assert lines.splitlines() == ["\\#big", "/a/\\[b\\]", "*.log", "\\!x", "/src/\\[ab\\].py", "end\\ "]
    assert literal_lines(["a*b", "odd\ufffd", "two\nlines"]) == "/a\\*b\n/odd*\n"


async def test_what_is_made_from_other_things_is_left_out(tmp_path: Path) -> None:
    """spec/05 checks 100, 101, 103: at any depth; what the caller names comes on top."""
    write(tmp_path, {f"{name}/x": "1" for name in ALWAYS_IGNORED} | {"packages/a/node_modules/x": "1"})
    write(tmp_path, {"kept.txt": "1", ".dot": "1", "big/x": "1", "deep/big/x": "1", "a/b/x": "1"})
    seen = (await HashWorkspace(tmp_path).snapshot()).metadata["file_hashes"]
    assert set(seen) == {"kept.txt", ".dot", "big/x", "deep/big/x", "a/b/x"}
    ignore = Ignore(paths=("big", "a/b"))
    assert set((await HashWorkspace(tmp_path, ignore).snapshot()).metadata["file_hashes"]) == {"kept.txt", ".dot"}


async def test_hashes_tell_what_was_added_changed_and_deleted(tmp_path: Path) -> None:
    """spec/05 §12, check 104: links by their target, lines and patches by nobody."""
    write(tmp_path, {"same": "1", "changed": "1", "deleted": "1"})
    (tmp_path / "link").symlink_to("same")
    before = await take_snapshot(str(tmp_path), label="before")
    assert await take_snapshot(str(tmp_path), label="before") != before
    assert (await take_snapshot(str(tmp_path))).ref == before.ref
    write(tmp_path, {"changed": "2", "added ü": "1", "x.log": "1"})
    (tmp_path / "deleted").unlink()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("changed")
    after = await take_snapshot(str(tmp_path), ignore=Ignore(globs=("*.log",)))
    found = await diff(before, after, capture_patch=True)
    assert (found.added, found.modified, found.deleted) == (("added ü",), ("changed", "link"), ("deleted",))
    assert (found.files_changed, found.insertions, found.patch) == (4, 0, None)
    assert Snapshot.from_map(before.to_map()) == before
    assert "file_hashes" not in before.told()["metadata"]


async def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """It does not stop the others; special files have no content."""
    write(tmp_path, {"kept": "1"})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert set((await take_snapshot(str(tmp_path))).metadata["file_hashes"]) == {"kept", "loop"}


async def test_hashes_restore_nothing(tmp_path: Path) -> None:
    """spec/05 check 92."""
    snapshot = await take_snapshot(str(tmp_path), strategy="hash")
    with pytest.raises(AsmError) as caught:
        await rollback(snapshot)
    assert caught.value.code is ErrorCode.INVALID_OPERATION
