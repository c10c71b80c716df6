"""
Which backend a folder gets, and a folder opened for one run or one call.

Runs on one machine that share a folder take turns: each would see, and roll back, the other's changes. The lock is the
kernel's, so it ends with the process. Runs on other machines are not held back.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from asm_core.clock import new_id
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.workspace import NOTHING_IGNORED, Diff, Ignore, Rollback, Snapshot, Strategy, WorkspaceOptions
from asm_core.ports.workspace import Workspace
from asm_core.process import clean_env
from asm_core.workspace.git import GitWorkspace
from asm_core.workspace.hash import HashWorkspace
from asm_core.workspace.shadow import Repository, Shadow

TRY_AGAIN_S = 0.05


@asynccontextmanager
async def open_workspace(options: WorkspaceOptions, path: str, run_id: str) -> AsyncIterator[Workspace]:
    """As of `ports.workspace.OpenWorkspace`."""
    folder = _existing(path)
    repository = None if options.strategy is Strategy.HASH else Repository.around(folder)
    top = repository.root if repository else folder
    async with _alone(top), _opened(options, folder, repository, run_id) as workspace:
        yield workspace


@asynccontextmanager
async def _opened(
    options: WorkspaceOptions, folder: Path, repository: Repository | None, run_id: str
) -> AsyncIterator[Workspace]:
    backend = await backend_for_path(str(folder), options.strategy)
    if options.rollback_on_failure and backend is Strategy.HASH:
        message = f"workspace.rollback_on_failure needs git, and {folder} is in no repository"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "workspace.rollback_on_failure"})
    if backend is Strategy.HASH:
        yield HashWorkspace(folder, options.ignore)
        return
    if repository is None:
        raise AsmError(ErrorCode.STORAGE_ERROR, f"git command failed: {folder} is in no repository")
    with TemporaryDirectory(prefix="asm-workspace-", ignore_cleanup_errors=True) as place:
        shadow = Shadow(repository, Path(place))
        opened = GitWorkspace(shadow, str(folder), run_id, options)
        await opened.open()
        yield opened


def _existing(path: str) -> Path:
    """Raises `validation_error`."""
    if not path or not Path(path).expanduser().is_dir():
        message = f"the workspace must be an existing folder, not {path!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "workspace.path"})
    return Path(path).expanduser().resolve()


@asynccontextmanager
async def _alone(root: Path) -> AsyncIterator[None]:
    """Waits for as long as the caller does."""
    locks = Path(gettempdir()) / f"asm-workspaces-{os.getuid()}"
    locks.mkdir(mode=0o700, exist_ok=True)
    name = locks / sha256(os.fsencode(root)).hexdigest()
    lock = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while not _locked(lock):  # noqa: ASYNC110 (the lock is another process's)
            await asyncio.sleep(TRY_AGAIN_S)
        yield
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def detect_backend(path: str) -> Strategy:
    """`git` inside of a repository that git can work with, else `hash`; `hash` also without git."""
    folder = _existing(path)
    has_git = shutil.which("git", path=clean_env().get("PATH")) is not None
    return Strategy.GIT if has_git and Repository.around(folder) else Strategy.HASH


async def backend_for_path(path: str, strategy: str = Strategy.AUTO) -> Strategy:
    """Raises AsmError `validation_error` for an unknown strategy."""
    chosen = WorkspaceOptions(strategy=strategy).strategy  # type: ignore[arg-type]
    return await detect_backend(path) if chosen is Strategy.AUTO else chosen


# One call each


async def take_snapshot(
    path: str, *, strategy: str = Strategy.AUTO, label: str | None = None, ignore: Ignore = NOTHING_IGNORED
) -> Snapshot:
    """
    The folder as it is now. In git nothing points at it: it can be used until git collects its garbage (14 days).

    Raises:
        AsmError: `validation_error`, `storage_error`, `dependency_not_available`.
    """
    async with _for_call(path, await backend_for_path(path, strategy), ignore) as workspace:
        return await workspace.snapshot(label)


async def diff(
    before: Snapshot, after: Snapshot, *, capture_patch: bool = False, max_patch_bytes: int | None = None
) -> Diff:
    """Raises AsmError as `Workspace.diff`."""
    if before.backend != after.backend:
        message = f"both snapshots must use the same backend, not {before.backend} and {after.backend}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "snapshot"})
    async with _for_call(before.path, Strategy(before.backend)) as workspace:
        return await workspace.diff(before, after, capture_patch=capture_patch, max_patch_bytes=max_patch_bytes)


async def rollback(to: Snapshot, *, allow_head_move: bool = False) -> Rollback:
    """Raises AsmError as `Workspace.rollback`. The repository's index stays as it is."""
    async with _for_call(to.path, Strategy(to.backend)) as workspace:
        return await workspace.rollback(to, allow_head_move=allow_head_move)


@asynccontextmanager
async def _for_call(path: str, backend: Strategy, ignore: Ignore = NOTHING_IGNORED) -> AsyncIterator[Workspace]:
    exact = backend is Strategy.GIT
    options = WorkspaceOptions(strategy=backend, ignore=ignore, rollback_on_failure=exact)
    try:
        async with open_workspace(options, path, new_id("call")) as workspace:
            yield workspace
    except OSError as cause:
        raise AsmError(ErrorCode.STORAGE_ERROR, f"the workspace {path}: {cause}") from cause
