"""Folders in real git repositories: snapshots, differences, rollbacks."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.workspace import Ignore, Snapshot, Strategy, WorkspaceOptions
from asm_core.ports.workspace import Workspace
from asm_core.workspace.opening import backend_for_path, detect_backend, diff, open_workspace, rollback, take_snapshot
from tests.fixtures.repositories import a_repository, run_git, state_of, tree_of, write

EXACT = WorkspaceOptions(enabled=True, rollback_on_failure=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return a_repository(tmp_path / "repository")


@asynccontextmanager
async def opened(path: Path, run_id: str = "run_1", options: WorkspaceOptions = EXACT) -> AsyncIterator[Workspace]:
    async with open_workspace(options, str(path), run_id) as workspace:
        yield workspace


async def refusal(call: Any) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await call
    return caught.value


# Choice of the backend


async def test_a_repository_is_seen_by_git_and_a_folder_by_hashes(root: Path, tmp_path: Path) -> None:
    """spec/05 check 88: subfolders too."""
    (tmp_path / "plain").mkdir()
    assert await detect_backend(str(root)) == await detect_backend(str(root / "src" / "deep")) == Strategy.GIT
    assert await detect_backend(str(tmp_path / "plain")) == Strategy.HASH
    assert await backend_for_path(str(root), "hash") == Strategy.HASH
    assert (await refusal(backend_for_path(str(root), "svn"))).code is ErrorCode.VALIDATION_ERROR


async def test_without_git_auto_means_hashes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """spec/05 §10; asked for by name, its absence is an error."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert (await take_snapshot(str(root))).backend == "hash"
    error = await refusal(take_snapshot(str(root), strategy="git"))
    assert (error.code, error.details["dependency"]) == (ErrorCode.DEPENDENCY_NOT_AVAILABLE, "git")


async def test_git_asked_for_outside_of_a_repository_is_a_storage_error(tmp_path: Path) -> None:
    """spec/05 §11."""
    assert (await refusal(take_snapshot(str(tmp_path), strategy="git"))).code is ErrorCode.STORAGE_ERROR
    assert (await refusal(take_snapshot(str(tmp_path / "none")))).code is ErrorCode.VALIDATION_ERROR


# Snapshots


async def test_a_snapshot_leaves_everything_untouched(root: Path) -> None:
    """spec/05 check 94: files, HEAD, branches, index, stash; untracked files are in it."""
    write(root, {"tracked.txt": "staged\n"})
    run_git(root, "stash")
    write(root, {"src/deep/code.py": "staged\n", "new.txt": "untracked\n"})
    run_git(root, "add", "src")
    write(root, {"src/deep/code.py": "changed again\n"})
    files, state = tree_of(root), state_of(root)
    snapshot = await take_snapshot(str(root), label="before")
    assert (tree_of(root), state_of(root)) == (files, state)
    assert snapshot.metadata["includes_untracked"]
    assert snapshot.metadata["head_ref"] == run_git(root, "rev-parse", "HEAD").strip() != snapshot.ref
    assert run_git(root, "show", f"{snapshot.ref}:new.txt") == "untracked\n"
    assert run_git(root, "show", f"{snapshot.ref}:src/deep/code.py") == "changed again\n"
    assert Snapshot.from_map(snapshot.to_map()) == snapshot


async def test_clean_is_head_and_modified_is_dirty(root: Path) -> None:
    """spec/05 check 96."""
    clean = await take_snapshot(str(root))
    assert (clean.metadata["dirty"], clean.ref) == (False, run_git(root, "rev-parse", "HEAD").strip())
    write(root, {"tracked.txt": "two\n"})
    assert (await take_snapshot(str(root))).metadata["dirty"]


async def test_ignored_files_are_not_captured(root: Path) -> None:
    """By .gitignore, by the repository's excludes, by the user's, and by what the caller ignores."""
    write(root, {".gitignore": "*.log\n", ".git/info/exclude": "/local\n", "users.txt": "*.swp\n"})
    run_git(root, "config", "core.excludesFile", str(root / "users.txt"))
    names = ["a.log", "local", "b.swp", "big/data.bin", "x.tmp", "kept.txt"]
    write(root, dict.fromkeys(names, "x"))
    snapshot = await take_snapshot(str(root), ignore=Ignore(paths=("big",), globs=("*.tmp",)))
    held = run_git(root, "ls-tree", "-r", "--name-only", snapshot.ref).split()
    assert set(names) & set(held) == {"kept.txt"}


async def test_untracked_data_over_the_bound_is_refused_before_git_reads_it(root: Path) -> None:
    """The error names the largest file; ignored data does not count, nor what an earlier snapshot holds."""
    write(root, {"small.bin": "x" * 600, "data/large.bin": "x" * 700})
    bounded = replace(EXACT, max_untracked_bytes=1_000)
    async with opened(root, options=bounded) as workspace:
        error = await refusal(workspace.snapshot())
        assert (error.code, error.details["largest"]) == (ErrorCode.VALIDATION_ERROR, "data/large.bin")
        (root / "data/large.bin").unlink()
        before = await workspace.snapshot()
        write(root, {"more.bin": "x" * 600})
        assert (await workspace.diff(before, await workspace.snapshot())).added == ("more.bin",)
        write(root, {"too_much.bin": "x" * 2_000})
        assert (await refusal(workspace.snapshot())).details["bytes"] == 2_000
        await workspace.rollback(before)
    assert not (root / "too_much.bin").exists()
    write(root, {"data/large.bin": "x" * 700})
    async with opened(root, options=replace(bounded, ignore=Ignore(paths=("data",)))) as workspace:
        assert (await workspace.snapshot()).ref


async def test_no_identity_no_commit_and_odd_names(tmp_path: Path) -> None:
    """spec/05 check 98: an unborn branch, names with blanks, quotes, newlines and any bytes."""
    tmp_path = tmp_path / "fresh"
    tmp_path.mkdir()
    run_git(tmp_path, "init", "-q")
    before = await take_snapshot(str(tmp_path))
    assert before.metadata["head_ref"] is None
    names = ["with blank", "ünï ☃", 'quo"te', "new\nline", "-dash", "tab\t", ":(glob)*", os.fsdecode(b"latin-\xe9")]
    write(tmp_path, dict.fromkeys(names, "x\n"))
    after = await take_snapshot(str(tmp_path))
    found = await diff(before, after)
    assert set(found.added) == {*names[:-1], "latin-\ufffd"}
    assert found.insertions == len(names)
    await rollback(before)
    assert tree_of(tmp_path) == {}


async def test_a_linked_working_tree_and_a_subfolder(root: Path) -> None:
    """spec/05 checks 88, 98: each sees its own working tree, whole."""
    linked = root.parent / "linked"
    run_git(root, "worktree", "add", "-q", str(linked))
    before = await take_snapshot(str(linked / "src"))
    files, state = tree_of(root), state_of(root)
    write(linked, {"new.txt": "x", "tracked.txt": "y"})
    after = await take_snapshot(str(linked / "src"))
    assert (await diff(before, after)).changed_paths == ["new.txt", "tracked.txt"]
    await rollback(before)
    assert not (linked / "new.txt").exists()
    assert (tree_of(root), state_of(root)) == (files, state)


async def test_nothing_that_the_repository_says_is_executed(root: Path, tmp_path: Path) -> None:
    """Hooks, filters, monitors and drivers belong to whoever may write there: the agent."""
    mark, nested = tmp_path / "executed", a_repository(root / "nested")
    evil = f"sh -c 'touch {mark}; cat'"
    for setting in (
        "filter.evil.clean",
        "filter.evil.smudge",
        "core.fsmonitor",
        "diff.evil.command",
        "diff.evil.textconv",
    ):
        run_git(root, "config", setting, evil)
        run_git(nested, "config", setting, evil)
    for repository in (root, nested):
        write(repository, {".gitattributes": "* filter=evil diff=evil\n", "tracked.txt": "two\n"})
    hooks = [root / ".git" / "hooks" / name for name in ("post-index-change", "reference-transaction", "post-checkout")]
    for hook in hooks:
        hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
        hook.chmod(0o755)
    async with opened(root) as workspace:
        before = await workspace.snapshot("before")
        await workspace.keep(before)
        write(root, {"tracked.txt": "three\n", "nested/tracked.txt": "three\n"})
        await workspace.diff(before, await workspace.snapshot(), capture_patch=True)
        await workspace.rollback(before)
        await workspace.let_go()
    assert not mark.exists()
    assert (root / "tracked.txt").read_text() == "two\n"


async def test_a_file_that_cannot_be_read_is_an_error(root: Path) -> None:
    """A snapshot that lacks something cannot restore it."""
    if os.getuid() == 0:
        (root / "tracked.txt").unlink()
        os.mkfifo(root / "tracked.txt")
    else:
        (root / "tracked.txt").chmod(0)
    error = await refusal(take_snapshot(str(root)))
    assert error.code is ErrorCode.STORAGE_ERROR


async def test_index_flags_hide_nothing(root: Path) -> None:
    """assume-unchanged and skip-worktree are the user's; what an agent writes there counts."""
    run_git(root, "update-index", "--assume-unchanged", "tracked.txt")
    run_git(root, "update-index", "--skip-worktree", "src/deep/code.py")
    before = await take_snapshot(str(root))
    write(root, {"tracked.txt": "two\n", "src/deep/code.py": "x\n"})
    assert (await diff(before, await take_snapshot(str(root)))).modified == ("src/deep/code.py", "tracked.txt")
    await rollback(before)
    assert (root / "tracked.txt").read_text() == "one\n"


# Differences


async def test_a_diff_tells_kinds_lines_and_the_patch(root: Path) -> None:
    """spec/05 checks 89, 95: renames are a deletion and an addition, binary files have no lines."""
    before = await take_snapshot(str(root))
    write(root, {"new.txt": "a\nb\n", "image.bin": bytes(range(256)), "tracked.txt": "two\n"})
    (root / "src/deep/code.py").rename(root / "renamed.py")
    (root / "link").symlink_to("nowhere")
    found = await diff(before, await take_snapshot(str(root)), capture_patch=True)
    assert found.added == ("image.bin", "link", "new.txt", "renamed.py")
    assert (found.modified, found.deleted) == (("tracked.txt",), ("src/deep/code.py",))
    assert (found.files_changed, found.insertions, found.deletions) == (6, 5, 2)
    assert found.patch is not None
    assert "+two" in found.patch
    assert "GIT binary patch" in found.patch
    assert found.metadata == {"patch_truncated": False, "patch_bytes": len(found.patch.encode())}
    run_git(root, "stash", "-u", "-q")
    (root.parent / "it.patch").write_text(found.patch)
    run_git(root, "apply", str(root.parent / "it.patch"))
    assert (root / "image.bin").read_bytes() == bytes(range(256))


async def test_a_patch_over_the_cap_is_left_out_and_can_still_be_read_whole(root: Path) -> None:
    """spec/05 check 90; without asking there is none."""
    write(root, {"tracked.txt": "two\n"})
    async with opened(root) as workspace:
        before = await workspace.snapshot()
        write(root, {"new.txt": "line\n" * 1_000})
        after = await workspace.snapshot()
        cut = await workspace.diff(before, after, capture_patch=True, max_patch_bytes=1_000)
        whole = b"".join([chunk async for chunk in workspace.read_patch(before, after)])
        assert (cut.patch, cut.metadata) == (None, {"patch_truncated": True, "patch_bytes": len(whole)})
        assert (await workspace.diff(before, after)).patch is None
        assert (await workspace.diff(after, after, capture_patch=True)).patch == ""


async def test_snapshots_of_different_things_do_not_compare(root: Path, tmp_path: Path) -> None:
    """spec/05 check 93."""
    other = a_repository(tmp_path / "other")
    here, there = await take_snapshot(str(root)), await take_snapshot(str(other))
    hashed = await take_snapshot(str(root), strategy="hash")
    for pair in ((here, there), (here, hashed)):
        assert (await refusal(diff(*pair))).code is ErrorCode.VALIDATION_ERROR


# Rollback


async def test_a_rollback_restores_a_dirty_folder_exactly(root: Path) -> None:
    """spec/05 checks 91, 97: what was changed, deleted, created; and the index, if the agent used it."""
    write(root, {".gitignore": "*.log\nbuild/\n", "staged.txt": "s\n", "untracked.txt": "u\n", "ignored.log": "i\n"})
    write(root, {"secret.env": "s\n", "run.sh": "#!/bin/sh\n"})
    (root / "empty/inner").mkdir(parents=True)
    write(root, {"only/ignored.log": "i\n"})
    (root / "secret.env").chmod(0o600)
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("tracked.txt")
    run_git(root, "add", "staged.txt")
    files, state = tree_of(root), state_of(root)
    async with opened(root) as workspace:
        before = await workspace.snapshot("before")
        write(root, {"tracked.txt": "x", "staged.txt": "x", "untracked.txt": "x", "secret.env": "x", "fresh/a/b": "x"})
        write(root, {"empty/inner/file": "x", "only/fresh": "x"})
        (root / "src/deep/code.py").unlink()
        (root / "run.sh").chmod(0o644)
        (root / "link").unlink()
        (root / "link").mkdir()
        (root / "fresh/hollow").mkdir()
        run_git(root, "add", "-A")
        done = await workspace.rollback(before)
    assert tree_of(root) == files
    assert state_of(root) == state
    assert run_git(root, "show", f"{done.guard.ref}:fresh/a/b") == "x", "the rollback can be undone"
    await rollback(done.guard)
    assert (root / "fresh/a/b").read_text() == "x"


async def test_line_ends_and_filters_do_not_change_what_is_restored(root: Path) -> None:
    """A blob of git's may differ from its file; what is restored is the file."""
    write(root, {".gitattributes": "* text=auto eol=lf\n*.id ident\n", "dos.txt": "a\r\nb\r\n", "x.id": "$Id$\n"})
    run_git(root, "add", "-A")
    run_git(root, "commit", "-q", "-m", "attributes")
    write(root, {"dos.txt": "a\r\nb\r\n"})
    files = tree_of(root)
    async with opened(root) as workspace:
        before = await workspace.snapshot()
        write(root, {"dos.txt": "changed\n", "x.id": "changed\n"})
        await workspace.rollback(before)
    assert tree_of(root) == files


async def test_changed_ignore_rules_neither_hide_nor_expose(root: Path) -> None:
    """The rules of before count: what the user ignores stays, what the agent created goes."""
    write(root, {".gitignore": ".env\n", ".env": "key", "venv/.gitignore": "*\n", "venv/lib.py": "x", "mine.txt": "m"})
    files = tree_of(root)
    async with opened(root) as workspace:
        before = await workspace.snapshot()
        write(
            root, {".gitignore": "!.env\n/hidden\nmine.txt\n", "hidden": "x", "mine.txt": "x", "sub/.gitignore": "*\n"}
        )
        write(root, {"sub/also_hidden": "x"})
        (root / "venv/.gitignore").unlink()
        await workspace.rollback(before)
    assert tree_of(root) == {name: entry for name, entry in files.items() if name != "venv/.gitignore"}


async def test_a_rollback_is_refused_when_head_has_moved(root: Path) -> None:
    """spec/05 check 99; unless asked for: then the branch goes back, too."""
    write(root, {"untracked.txt": "u"})
    files, state = tree_of(root), state_of(root)
    async with opened(root) as workspace:
        before = await workspace.snapshot()
        run_git(root, "checkout", "-q", "-b", "agents")
        write(root, {"tracked.txt": "x"})
        run_git(root, "commit", "-qam", "agent's")
        moved = tree_of(root)
        error = await refusal(workspace.rollback(before))
        assert (error.code, error.details["reason"]) == (ErrorCode.INVALID_OPERATION, "head_moved")
        assert tree_of(root) == moved
        await workspace.rollback(before, allow_head_move=True)
    run_git(root, "branch", "-D", "agents")
    assert (tree_of(root), state_of(root)) == (files, state)


async def test_a_branch_that_was_moved_goes_back_when_asked_for(root: Path) -> None:
    """On the same branch; and to where there was no commit yet."""
    fresh = root.parent / "fresh"
    fresh.mkdir()
    run_git(fresh, "init", "-q")
    for repository in (root, fresh):
        state = state_of(repository)
        async with opened(repository) as workspace:
            before = await workspace.snapshot()
            write(repository, {"new.txt": "x"})
            run_git(repository, "add", "-A")
            run_git(repository, "commit", "-qm", "agent's")
            await workspace.rollback(before, allow_head_move=True)
        assert state_of(repository) == state


async def test_nested_repositories(root: Path, tmp_path: Path) -> None:
    """One that the agent made goes; one that was there is a link, and is not restored but reported."""
    a_repository(root / "vendored")
    run_git(root / "vendored", "commit", "-q", "--allow-empty", "-m", "second")
    (root / "unborn").mkdir()
    run_git(root / "unborn", "init", "-q")
    files = tree_of(root)
    async with opened(root) as workspace:
        before = await workspace.snapshot()
        a_repository(root / "cloned/deep")
        (root / "also_unborn").mkdir()
        run_git(root / "also_unborn", "init", "-q")
        await workspace.rollback(before)
        assert tree_of(root) == files
        write(root, {"tracked.txt": "x"})
        run_git(root / "vendored", "reset", "-q", "--hard", "HEAD~1")
        changed = tree_of(root)
        error = await refusal(workspace.rollback(before))
        assert (error.code, error.details["reason"]) == (ErrorCode.INVALID_OPERATION, "nested_repository")
        assert tree_of(root) == changed, "what cannot be restored whole is left as it was found"


async def test_a_submodule_is_seen_by_its_commit(root: Path, tmp_path: Path) -> None:
    """Its own folder can be a workspace, too."""
    library = a_repository(tmp_path / "library")
    run_git(root, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    run_git(root, "commit", "-qm", "submodule")
    before, inside = await take_snapshot(str(root)), await take_snapshot(str(root / "lib"))
    write(root, {"lib/new.txt": "x"})
    assert (await diff(inside, await take_snapshot(str(root / "lib")))).added == ("new.txt",)
    run_git(root / "lib", "add", "-A")
    run_git(root / "lib", "commit", "-qm", "inside")
    assert (await diff(before, await take_snapshot(str(root)))).modified == ("lib",)


# What survives a process


async def test_what_is_kept_survives_garbage_collection_and_is_found_again(root: Path) -> None:
    """spec/05 §11: pinned by a ref of the run's name, until let go."""
    write(root, {"untracked.txt": "u"})
    files = tree_of(root)
    async with opened(root) as workspace:
        before = await workspace.snapshot("before")
        await workspace.keep(before)
    run_git(root, "gc", "-q", "--prune=now")
    write(root, {"untracked.txt": "x"})
    async with opened(root, "run_2") as workspace:
        assert await workspace.earlier() is None
    async with opened(root) as workspace:
        assert await workspace.earlier() == before
        await workspace.rollback(before)
        await workspace.let_go()
        assert await workspace.earlier() is None
    assert tree_of(root) == files
    assert "refs/asm" not in run_git(root, "for-each-ref")


async def test_snapshots_that_others_made_up_are_refused(root: Path, tmp_path: Path) -> None:
    """Whoever works in the repository can write below refs/asm, too: nothing there becomes an option of git."""
    made_up = Snapshot.from_map((await take_snapshot(str(root))).to_map() | {"ref": f"--output={tmp_path / 'x'}"})
    for call in (diff(made_up, made_up), rollback(made_up)):
        assert (await refusal(call)).code is ErrorCode.VALIDATION_ERROR
    run_git(root, "update-ref", "refs/asm/snapshots/run_1", "HEAD")
    async with opened(root) as workspace:
        assert (await refusal(workspace.earlier())).code is ErrorCode.STORAGE_ERROR


async def test_what_dead_processes_kept_is_swept_by_age(root: Path) -> None:
    """After as long as git keeps what nothing points at."""
    old = "@1000000000 +0000"
    tree = run_git(root, "rev-parse", "HEAD^{tree}").strip()
    env = {"GIT_AUTHOR_DATE": old, "GIT_COMMITTER_DATE": old}
    command = ["git", "-c", "user.name=a", "-c", "user.email=a", "commit-tree", tree, "-m", "x"]
    commit = subprocess.run(command, cwd=root, env=os.environ | env, capture_output=True, check=True, text=True).stdout
    run_git(root, "update-ref", "refs/asm/snapshots/run_old", commit.strip())
    async with opened(root) as workspace:
        await workspace.keep(await workspace.snapshot())
    refs = run_git(root, "for-each-ref", "--format=%(refname)", "refs/asm").split()
    assert refs == ["refs/asm/snapshots/run_1"]


async def test_runs_that_share_a_folder_take_turns(root: Path) -> None:
    """W-28: by the repository, whichever of its folders they name."""
    order: list[str] = []

    async def second() -> None:
        async with opened(root / "src"):
            order.append("second")

    async with opened(root) as workspace:
        waiting = asyncio.create_task(second())
        await workspace.snapshot()
        order.append("first")
    await waiting
    assert order == ["first", "second"]
