"""Looking at a folder before and after a run, and restoring it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from asm_core.domain.workspace import Diff, Rollback, Snapshot, WorkspaceOptions


class Workspace(Protocol):
    """
    One folder, opened for as long as a run takes. Nothing that it does changes the folder but `rollback`.

    Raises (every method):
        AsmError: `storage_error` for what git or the file system refuses, `dependency_not_available` without git.
            Nothing here is bounded in time; whoever calls sets the bound, and may cancel.

    Source: spec/05 §10 to §13.
    """

    @property
    def backend(self) -> str:
        """`git` or `hash`."""

    async def earlier(self) -> Snapshot | None:
        """What `keep` kept for this run before: another attempt of it died here. None where nothing is kept."""

    async def snapshot(self, label: str | None = None) -> Snapshot: ...

    async def keep(self, snapshot: Snapshot) -> None:
        """From now on it survives this process, until it is let go."""

    async def let_go(self) -> None:
        """What was kept for this run is kept no longer."""

    async def diff(
        self, before: Snapshot, after: Snapshot, *, capture_patch: bool = False, max_patch_bytes: int | None = None
    ) -> Diff:
        """
        Args:
            max_patch_bytes: a larger patch is left out, and `metadata.patch_truncated` says so; None: no bound.

        Raises:
            AsmError: `validation_error`: the snapshots are of different folders or backends.
        """

    def read_patch(self, before: Snapshot, after: Snapshot) -> AsyncGenerator[bytes, None]:
        """The whole patch, binary files included; empty where there is none. Raises as `diff`."""

    async def rollback(self, to: Snapshot, *, allow_head_move: bool = False) -> Rollback:
        """
        Make the folder what it was: what was changed or deleted since is restored, what was created is removed.

        Args:
            allow_head_move: also where commits were made since; the branch goes back, too.

        Raises:
            AsmError: `invalid_operation`: hashes restore nothing; HEAD has moved; a nested repository has changed.
                `validation_error`: not a snapshot of this folder. Whatever it is, the folder is as it was found.
        """


OpenWorkspace = Callable[[WorkspaceOptions, str, str], AbstractAsyncContextManager[Workspace]]
"""
By options, folder and run id. Waits until no other run on this machine has the folder open.

Raises AsmError `validation_error` for a folder that is none, or a rollback that nothing here could do.
"""
