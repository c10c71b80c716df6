"""
A folder in a git repository: seen through trees of its files, and restored from them.

A snapshot is a tree of everything in the working tree that is tracked or not ignored, written through a private index
(`shadow.py`): HEAD, branches, index and stash are not touched. A commit holds it, with the parent HEAD and, as its
message, what a tree cannot say: empty folders, file modes, what was ignored.

A rollback restores the state under the ignore rules of then, not under those that the agent left: else a changed
`.gitignore` would hide what it created, or expose to removal what the user keeps beside the repository.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from json import dumps, loads
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from asm_core.clock import SystemClock, new_id
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import clean_text
from asm_core.domain.workspace import Diff, Rollback, Snapshot, WorkspaceOptions
from asm_core.workspace.belongings import Belongings
from asm_core.workspace.ignoring import exclude_lines, literal_lines
from asm_core.workspace.shadow import NESTED, Shadow, together

REFS = "refs/asm/snapshots/"
KEPT_FOR = timedelta(days=14)
"""What a process that died has left, as git keeps what nothing points at."""
OBJECT_ID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
"""What git is given as one: who works in the repository can make up snapshots, but no options of git."""
BRANCH = "ref: refs/heads/"
NOT_BORN = "does not have a commit checked out"
PLAIN_TAGS = frozenset("HM")
"""Of index entries whose files git looks at: no assume-unchanged, no skip-worktree."""
IGNORED = ("--porcelain", "-z", "--no-renames", "--ignore-submodules=all", "-uall", "--ignored=matching")
"""What a rule names, a folder as a whole; not a folder for what is in it."""
READ_SIZE = 65_536


class Head(NamedTuple):
    text: str
    commit: str | None
    tree: str | None
    """None, both, before the first commit."""


class Entry(NamedTuple):
    """Of an index."""

    tag: str
    mode: str
    path: str


class Change(NamedTuple):
    path: str
    old_mode: str
    new_mode: str
    kind: str
    """`A`, `M`, `D`, `T`."""


class GitWorkspace:
    """
    Args:
        shadow: not open yet.
        path: as the caller names the folder; the whole repository around it is seen.
        keep_as: under which name `keep` keeps; of the run.
        options: `ignore`, `max_untracked_bytes`; with `rollback_on_failure` a snapshot notes what a rollback needs
            beside the tree.
    """

    backend = "git"

    def __init__(self, shadow: Shadow, path: str, keep_as: str, options: WorkspaceOptions) -> None:
        self._shadow, self._root = shadow, shadow.repository.root
        self._path, self._options = path, options
        self._kept = REFS + keep_as
        self._converts = False

    async def open(self) -> None:
        """Raises AsmError `storage_error`, `dependency_not_available`."""
        self._converts = await self._shadow.open()
        with self._shadow.excludes.open("a") as excludes:
            excludes.write(exclude_lines(self._options.ignore))

    # Snapshots

    async def snapshot(self, label: str | None = None) -> Snapshot:
        return await self._snapshot(label, self._options.max_untracked_bytes)

    async def _snapshot(self, label: str | None, most: int | None) -> Snapshot:
        _, head = await together(self._stage(most), self._head())
        if head.commit:
            self._shadow.head.write_text(f"{head.commit}\n")  # so that it lists no more than the differences
        tree, belongings = await together(self._tree(), self._belongings())
        dirty = tree != head.tree
        said = {
            "path": self._path,
            "label": label,
            "captured_at": SystemClock().now().isoformat(),
            "metadata": {"head_ref": head.commit, "head": head.text, "dirty": dirty, "includes_untracked": True},
        }
        parents = ["-p", head.commit] if head.commit else []
        message = self._file()
        message.write_text(dumps(said | {"belongings": belongings.to_map()}))
        commit = (await self._shadow.git("commit-tree", tree, *parents, "-F", str(message))).stdout.strip()
        return self._snapshot_of(commit, said)

    def _snapshot_of(self, commit: str, said: Mapping[str, Any]) -> Snapshot:
        """A clean one is HEAD itself."""
        metadata = {**said["metadata"], "commit": commit}
        ref = commit if metadata["dirty"] else metadata["head_ref"]
        return Snapshot.from_map({**said, "backend": self.backend, "ref": ref, "metadata": metadata})

    async def earlier(self) -> Snapshot | None:
        found = await self._shadow.in_repository("rev-parse", "-q", "--verify", self._kept, accept=(0, 1))
        if not (commit := found.stdout.strip()):
            return None
        said = await self._said_in(commit)
        return self._snapshot_of(commit, {name: said[name] for name in ("path", "label", "captured_at", "metadata")})

    async def keep(self, snapshot: Snapshot) -> None:
        await self._shadow.in_repository("update-ref", self._kept, str(snapshot.metadata["commit"]))
        form = "--format=%(committerdate:unix) %(refname)"
        listed = await self._shadow.in_repository("for-each-ref", form, REFS)
        limit = (SystemClock().now() - KEPT_FOR).timestamp()
        for made, _, ref in (line.partition(" ") for line in listed.stdout.splitlines()):
            if int(made or 0) < limit:
                await self._shadow.in_repository("update-ref", "-d", ref)

    async def let_go(self) -> None:
        await self._shadow.in_repository("update-ref", "-d", self._kept)

    async def _said_in(self, commit: str) -> dict[str, Any]:
        text = (await self._shadow.git("cat-file", "commit", commit)).stdout
        try:
            said: dict[str, Any] = loads(text.partition("\n\n")[2])
            return said | {"belongings": Belongings.from_map(said["belongings"])}
        except (ValueError, TypeError, KeyError) as cause:  # whoever works in the repository can write there, too
            raise AsmError(ErrorCode.STORAGE_ERROR, f"the snapshot {commit} is not one of ours") from cause

    async def _stage(self, most: int | None) -> None:
        """The private index becomes what the working tree is."""
        trusted = not self._shadow.index.exists() and await self._seed()
        if most is not None:
            await self._require_room(most)
        await self._add_all()
        if trusted and await self._shadow.names("ls-files", "-z", "--", ":(glob)**/.gitattributes"):
            self._distrust_index()
            await self._add_all()

    async def _require_room(self, most: int) -> None:
        untracked = await self._shadow.names("ls-files", "-z", "-o", "--exclude-standard")
        sizes = await asyncio.to_thread(_sizes, self._root, untracked)
        if (total := sum(sizes.values())) > most:
            largest = clean_text(max(sizes, key=sizes.__getitem__))
            message = (
                f"{self._root} holds {total} bytes that git neither tracks nor ignores, the most in {largest}; "
                f"a snapshot takes {most} (workspace.max_untracked_bytes); ignore what it need not hold"
            )
            details = {"field": "workspace.max_untracked_bytes", "bytes": total, "largest": largest}
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details=details)

    async def _seed(self) -> bool:
        """
        Begin with the repository's own index: what it knows of the files saves reading them all.

        Returns:
            Whether it can be trusted: no file may differ from its blob by a conversion.
        """
        if not self._shadow.user_index.exists():
            return False
        await asyncio.to_thread(shutil.copy2, self._shadow.user_index, self._shadow.index)
        try:
            is_plain = {entry.tag for entry in await self._entries()} <= PLAIN_TAGS
        except AsmError:  # one that only its own folder can complete
            is_plain = False
        if not is_plain:
            self._shadow.index.unlink()
            head = await self._head()
            if head.commit:
                await self._shadow.git("read-tree", head.commit)
        elif self._converts:
            self._distrust_index()
        return is_plain and not self._converts

    def _distrust_index(self) -> None:
        """To git each file is younger than this index, so that it reads them all."""
        os.utime(self._shadow.index, (1, 1))

    async def _entries(self) -> list[Entry]:
        """Of the private index."""
        listed = await self._shadow.names("ls-files", "-s", "-v", "-z")
        return [Entry(line[0], line[2:8], line.partition("\t")[2]) for line in listed]

    async def _add_all(self) -> None:
        """Nested repositories as if they were new: of one that it knows, git would ask more than its HEAD."""
        if nested := [entry.path for entry in await self._entries() if entry.mode == NESTED]:
            await self._shadow.git("update-index", "--force-remove", "--", *nested)
        done = await self._shadow.git("add", "-A", "--ignore-errors", accept=(0, 1))
        errors = [line for line in done.stderr.splitlines() if line.startswith(("error:", "fatal:"))]
        if bad := [line for line in errors if NOT_BORN not in line]:
            raise AsmError(ErrorCode.STORAGE_ERROR, f"git cannot read all of {self._root}: {bad[0]}")

    async def _tree(self, of: str | None = None) -> str:
        """Of the private index, or of a commit."""
        args = ("write-tree",) if of is None else ("rev-parse", "--verify", f"{of}^{{tree}}")
        return (await self._shadow.git(*args)).stdout.strip()

    async def _head(self) -> Head:
        text = self._shadow.repository.head_text
        found = await self._shadow.in_repository("rev-parse", "HEAD^{commit}", "HEAD^{tree}", accept=(0, 128))
        if found.exit_code == 0:
            commit, tree = found.stdout.split()
            return Head(text, commit, tree)
        if not text.startswith("ref: "):
            raise AsmError(ErrorCode.STORAGE_ERROR, f"the repository {self._root} has no readable HEAD")
        return Head(text, None, None)

    async def _belongings(self) -> Belongings:
        if not self._options.rollback_on_failure:
            return Belongings()
        files, others, ignored = await together(
            self._shadow.names("ls-files", "-z"),
            self._shadow.names("ls-files", "-z", "-o", "--directory", "--exclude-standard"),
            self._shadow.names("status", *IGNORED),
        )
        return await asyncio.to_thread(
            Belongings.of, self._root, files, others, [line[3:] for line in ignored if line.startswith("!! ")]
        )

    # Differences

    async def diff(
        self, before: Snapshot, after: Snapshot, *, capture_patch: bool = False, max_patch_bytes: int | None = None
    ) -> Diff:
        self._require_same(before, after)
        changes, lines = await self._changes(before.ref, after.ref)
        paths = {kind: tuple(clean_text(c.path) for c in changes if c.kind == kind) for kind in "AD"}
        diff = Diff(
            backend=self.backend,
            from_ref=before.ref,
            to_ref=after.ref,
            added=paths["A"],
            modified=tuple(clean_text(c.path) for c in changes if c.kind not in "AD"),
            deleted=paths["D"],
            insertions=lines[0],
            deletions=lines[1],
            metadata={"patch_truncated": False},
        )
        return await self._with_patch(diff, max_patch_bytes) if capture_patch else diff

    async def _with_patch(self, diff: Diff, most: int | None) -> Diff:
        file = await self._patch_file(diff.from_ref, diff.to_ref)
        size = file.stat().st_size
        is_truncated = most is not None and size > most
        text = None if is_truncated else clean_text((await asyncio.to_thread(file.read_bytes)).decode(errors="replace"))
        file.unlink()
        about = {"patch_truncated": is_truncated, "patch_bytes": size}
        return Diff(**{name: getattr(diff, name) for name in Diff.__slots__} | {"patch": text, "metadata": about})

    async def read_patch(self, before: Snapshot, after: Snapshot) -> AsyncGenerator[bytes, None]:
        self._require_same(before, after)
        file = await self._patch_file(before.ref, after.ref)
        with file.open("rb") as stream:
            file.unlink()
            while chunk := await asyncio.to_thread(stream.read, READ_SIZE):
                yield chunk

    async def _patch_file(self, old: str, new: str) -> Path:
        file = self._file()
        form = ("-p", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color")
        await self._shadow.git("diff-tree", "-r", *form, f"--output={file}", old, new)
        return file

    async def _changes(self, old: str, new: str) -> tuple[list[Change], tuple[int, int]]:
        """By path, and the lines added and removed; through a file, because names need not be text."""
        file = self._file()
        form = ("-r", "-z", "--raw", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv")
        await self._shadow.git("diff-tree", *form, f"--output={file}", old, new)
        tokens = iter((await asyncio.to_thread(file.read_bytes)).split(b"\0"))
        file.unlink()
        return _parsed(tokens)

    def _require_same(self, *snapshots: Snapshot) -> None:
        for snapshot in snapshots:
            if (snapshot.backend, snapshot.path) != (self.backend, self._path):
                message = f"a snapshot by {snapshot.backend} of {snapshot.path} is none by git of {self._path}"
                raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "snapshot"})
            if not all(map(OBJECT_ID.fullmatch, (snapshot.ref, str(snapshot.metadata.get("commit", snapshot.ref))))):
                message = f"a snapshot by git refers to a commit, not to {snapshot.ref!r}"
                raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "snapshot"})

    # Rollback

    async def rollback(self, to: Snapshot, *, allow_head_move: bool = False) -> Rollback:
        self._require_same(to)
        was, now = to.metadata, await self._head()
        is_moved = (now.commit, now.text) != (was.get("head_ref"), was.get("head", now.text))
        if is_moved and not allow_head_move:
            message = f"HEAD of {self._root} has moved since the snapshot: from {was.get('head_ref')} to {now.commit}"
            raise AsmError(ErrorCode.INVALID_OPERATION, message, details={"reason": "head_moved"})
        tree = await self._tree(to.ref)
        guard = await self._snapshot("guard", None)
        try:
            await self._restore(to, tree, guard)
        except (AsmError, OSError):
            await self._shadow.git("read-tree", "--reset", "-u", guard.ref)
            raise
        if is_moved:
            await self._move_head(was)
        await asyncio.to_thread(self._restore_index)
        return Rollback(ref=to.ref, guard=guard)

    async def _restore(self, to: Snapshot, tree: str, guard: Snapshot) -> None:
        commit = to.metadata.get("commit")
        belongings: Belongings = (await self._said_in(commit))["belongings"] if commit else Belongings()
        await self._restore_ignore_files(tree, guard, belongings)
        await self._ignore_what_was_ignored(tree, belongings)
        changes, _ = await self._changes(await self._tree(), tree)
        await asyncio.to_thread(_remove, self._root, _created_repositories(changes, belongings))
        await self._shadow.git("read-tree", "--reset", "-u", tree)
        if belongings.is_known:
            now = await self._belongings()
            await asyncio.to_thread(belongings.restore, self._root, now)
        await self._add_all()
        if await self._tree() != tree:
            message = f"{self._root} could not be restored: something in it is still being changed, or cannot be"
            raise AsmError(ErrorCode.STORAGE_ERROR, message, details={"reason": "not_restored"})

    async def _restore_ignore_files(self, tree: str, guard: Snapshot, belongings: Belongings) -> None:
        changes, _ = await self._changes(tree, guard.ref)
        changed = [change for change in changes if PurePosixPath(change.path).name == ".gitignore"]
        new = [change.path for change in changed if change.kind == "A"]
        if belongings.is_known:
            hidden = ("ls-files", "-z", "-o", "-i", "--exclude-standard", "--", ":(glob)**/.gitignore")
            new += [path for path in await self._shadow.names(*hidden) if not belongings.ignores(path)]
        for path in new:
            (self._root / path).unlink()
        if old := [change.path for change in changed if change.kind != "A"]:
            await self._shadow.git("checkout", "-f", tree, "--", *old, GIT_LITERAL_PATHSPECS="1")

    async def _ignore_what_was_ignored(self, tree: str, belongings: Belongings) -> None:
        """The index anew, under the rules of then."""
        with self._shadow.excludes.open("a", errors="surrogateescape") as excludes:
            excludes.write(literal_lines(belongings.ignored))
        await self._shadow.git("read-tree", tree)
        await self._add_all()

    async def _move_head(self, was: Mapping[str, Any]) -> None:
        """Back to its branch, and the branch to its commit; other branches stay where they are."""
        text, commit = str(was.get("head")), was["head_ref"]
        if text.startswith(BRANCH):
            place = text.removeprefix("ref: ")
            await self._shadow.in_repository("symbolic-ref", "HEAD", place)
        else:
            place = "HEAD"
        change = ("--no-deref", place, str(commit)) if commit else ("-d", place)
        await self._shadow.in_repository("update-ref", *change)

    def _restore_index(self) -> None:
        """The repository's own, where it has changed since this workspace was opened."""
        then, own = self._shadow.user_index, self._shadow.repository.git_dir / "index"
        wanted = then.read_bytes() if then.exists() else None
        if wanted == (own.read_bytes() if own.exists() else None):
            return
        if wanted is None:
            own.unlink()
            return
        lock = own.with_name("index.lock")
        try:
            with lock.open("xb") as stream:  # as git itself does it
                stream.write(wanted)
        except FileExistsError as cause:
            message = f"the index of {self._root} is locked: {lock}"
            raise AsmError(ErrorCode.STORAGE_ERROR, message, details={"reason": "index_locked"}) from cause
        shutil.copystat(then, lock)
        lock.replace(own)

    def _file(self) -> Path:
        return self._shadow.folder / new_id("file")


def _parsed(tokens: Iterator[bytes]) -> tuple[list[Change], tuple[int, int]]:
    """`:old_mode new_mode old new KIND`, path, …; then `insertions TAB deletions TAB path`, … (`-`: a binary file)."""
    changes, insertions, deletions = [], 0, 0
    for token in filter(None, tokens):
        if token.startswith(b":"):
            old_mode, new_mode, _, _, kind = token[1:].decode().split(" ")
            changes.append(Change(os.fsdecode(next(tokens)), old_mode, new_mode, kind))
            continue
        added, removed, _ = token.split(b"\t", 2)
        insertions += int(added) if added.isdigit() else 0
        deletions += int(removed) if removed.isdigit() else 0
    return changes, (insertions, deletions)


def _created_repositories(changes: Sequence[Change], belongings: Belongings) -> list[str]:
    """
    Nested ones, which go as a whole. Of others only HEAD is known, so that they cannot be restored.

    Args:
        changes: from now to then.

    Raises:
        AsmError: `invalid_operation`, naming one that has changed.
    """
    created = [change.path for change in changes if change.old_mode == NESTED != change.new_mode]
    lost = [change.path for change in changes if change.new_mode == NESTED]
    if lost := [*lost, *(path for path in created if path in belongings.unborn)]:
        message = f"the nested repository {clean_text(lost[0])} has changed; it must be restored by itself"
        raise AsmError(ErrorCode.INVALID_OPERATION, message, details={"reason": "nested_repository"})
    return created


def _sizes(root: Path, paths: Sequence[str]) -> dict[str, int]:
    """Of those that are still there."""
    sizes, above = {}, f"{root}/"
    for path in paths:
        with suppress(OSError):
            sizes[path] = os.lstat(above + path).st_size
    return sizes


def _remove(root: Path, paths: Sequence[str]) -> None:
    for path in paths:
        shutil.rmtree(root / path)
