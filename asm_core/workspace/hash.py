"""A folder by the digests of its files: it sees what changed and can restore nothing."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Callable, Iterator
from hashlib import file_digest, sha256
from pathlib import Path
from threading import Event
from typing import NamedTuple

from asm_core.clock import SystemClock
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import clean_text
from asm_core.domain.workspace import NOTHING_IGNORED, Diff, Ignore, Rollback, Snapshot
from asm_core.workspace.ignoring import ignored_by

ALWAYS_IGNORED = frozenset(
    {".git", "deps", "_build", "node_modules", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache"}
)
"""Folders that are made from others, at any depth."""


class Digests(NamedTuple):
    of: dict[str, str]
    """By path from the root."""
    unreadable: list[str]


class HashWorkspace:
    """
    Args:
        path: an existing folder.
    """

    backend = "hash"

    def __init__(self, path: Path, ignore: Ignore = NOTHING_IGNORED) -> None:
        self._path = path
        self._is_ignored = ignored_by(ignore, ALWAYS_IGNORED)

    async def earlier(self) -> Snapshot | None:
        return None

    async def keep(self, snapshot: Snapshot) -> None:
        """Nothing outside the snapshot itself could vanish."""

    async def let_go(self) -> None:
        """Nothing was kept."""

    async def snapshot(self, label: str | None = None) -> Snapshot:
        abandoned = Event()
        try:
            digests = await asyncio.to_thread(_digests, self._path, self._is_ignored, abandoned)
        finally:
            abandoned.set()
        lines = "\n".join(f"{path}:{digest}" for path, digest in sorted(digests.of.items()))
        unreadable = {"unreadable": digests.unreadable} if digests.unreadable else {}
        return Snapshot(
            backend=self.backend,
            path=str(self._path),
            ref=sha256(lines.encode("utf-8", "surrogateescape")).hexdigest(),
            captured_at=SystemClock().now(),
            label=label,
            metadata={"file_hashes": digests.of, **unreadable},
        )

    async def diff(
        self, before: Snapshot, after: Snapshot, *, capture_patch: bool = False, max_patch_bytes: int | None = None
    ) -> Diff:
        old, new = _hashes_of(before), _hashes_of(after)
        return Diff(
            backend=self.backend,
            from_ref=before.ref,
            to_ref=after.ref,
            added=tuple(sorted(new.keys() - old.keys())),
            modified=tuple(sorted(path for path in old.keys() & new.keys() if old[path] != new[path])),
            deleted=tuple(sorted(old.keys() - new.keys())),
        )

    async def read_patch(self, before: Snapshot, after: Snapshot) -> AsyncGenerator[bytes, None]:
        return
        yield b""

    async def rollback(self, to: Snapshot, *, allow_head_move: bool = False) -> Rollback:
        message = "a snapshot by hashes cannot be restored; use git"
        raise AsmError(ErrorCode.INVALID_OPERATION, message, details={"backend": self.backend})


def _hashes_of(snapshot: Snapshot) -> dict[str, str]:
    hashes = snapshot.metadata.get("file_hashes")
    if not isinstance(hashes, dict):
        raise AsmError(ErrorCode.VALIDATION_ERROR, "not a snapshot by hashes", details={"field": "snapshot"})
    return hashes


def _digests(root: Path, is_ignored: Callable[[str], bool], abandoned: Event) -> Digests:
    found = Digests({}, [])
    for path, entry in _files(root, is_ignored, found.unreadable):
        if abandoned.is_set():
            break
        try:
            found.of[clean_text(path)] = _digest(entry)
        except OSError:
            found.unreadable.append(clean_text(path))
    return found


def _files(root: Path, is_ignored: Callable[[str], bool], unreadable: list[str]) -> Iterator[tuple[str, Path]]:
    """Every file and link below the root; other kinds have no content."""
    folders = [""]
    while folders:
        above = folders.pop()
        try:
            names = os.listdir(root / above)  # noqa: PTH208 (only the names)
        except OSError:
            unreadable.append(clean_text(above))
            continue
        for name in names:
            path = f"{above}/{name}" if above else name
            if is_ignored(path):
                continue
            mode = _mode(root / path)
            if stat.S_ISDIR(mode):
                folders.append(path)
            elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                yield path, root / path


def _mode(path: Path) -> int:
    """0 for what has vanished."""
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _digest(file: Path) -> str:
    if file.is_symlink():
        return sha256(os.fsencode(file.readlink())).hexdigest()
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()
