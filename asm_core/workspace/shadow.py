"""
A git folder of our own over somebody else's repository.

The working tree belongs to whoever runs an agent in it, the repository's settings and attributes to the agent itself:
a filter, a hook or a file system monitor that it writes there must not run in the worker. So git works here with a
private folder (settings, attributes, excludes and index are ours) that shares nothing with the repository but its
objects. The repository's own folder is opened for three things only: to read HEAD, to read which files are ignored, and
to write refs below `refs/asm/`, with hooks off.

A nested repository is its HEAD, and git is never asked for more: to look for changes in it, it would start another git
there, which obeys.

No conversion applies (line ends, filters, encodings): a blob is a file's bytes, so that what is restored is what was
there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.process import CommandResult, exec_run

NEUTRAL = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.untrackedCache=false", "core.splitIndex=false",
    "core.excludesFile=/dev/null", "core.attributesFile=/dev/null", "core.logAllRefUpdates=false",
    "submodule.recurse=false", "gc.auto=0", "maintenance.auto=false", "advice.addEmbeddedRepo=false",
)  # fmt: skip
ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_AUTHOR_NAME": "asm",
    "GIT_AUTHOR_EMAIL": "asm@localhost",
    "GIT_COMMITTER_NAME": "asm",
    "GIT_COMMITTER_EMAIL": "asm@localhost",
}
ATTRIBUTES = "* -text !eol !crlf !ident !filter !working-tree-encoding\n"
MAX_LISTING_BYTES = 256 * 1024 * 1024
"""Of a list of file names."""
MAX_SAID = 2_000
"""Characters of git's own words in an error."""
NESTED = "160000"
"""Mode of a nested repository in a tree."""


@dataclass(frozen=True, slots=True)
class Repository:
    """Where it lies; found without asking git, which would believe the repository's own settings."""

    root: Path
    """Top of the working tree."""
    git_dir: Path
    common_dir: Path
    """`git_dir`, but for a linked working tree."""

    @classmethod
    def around(cls, path: Path) -> Repository | None:
        """The repository that the folder is in."""
        for folder in (path, *path.parents):
            git_dir = _git_dir(folder / ".git")
            if git_dir is not None:
                return cls(folder, git_dir, _common_dir(git_dir))
        return None

    @property
    def head_text(self) -> str:
        """Which branch is checked out, or which commit."""
        head = self.git_dir / "HEAD"
        if not head.is_file():
            raise AsmError(ErrorCode.STORAGE_ERROR, f"the repository {self.root} has no HEAD")
        return head.read_text(errors="replace").strip()


def _git_dir(entry: Path) -> Path | None:
    """A folder, or a file that names one, as in linked working trees and submodules."""
    if entry.is_file():
        word, _, place = entry.read_text(errors="surrogateescape").strip().partition(" ")
        entry = entry.parent / place if word == "gitdir:" else entry
    return entry.resolve() if (entry / "HEAD").exists() else None


def _common_dir(git_dir: Path) -> Path:
    named = git_dir / "commondir"
    return (git_dir / named.read_text().strip()).resolve() if named.is_file() else git_dir


async def git(args: Sequence[str], cwd: Path, env: dict[str, str], *, accept: Sequence[int] = (0,)) -> CommandResult:
    """
    Raises:
        AsmError: `storage_error` for any other exit; `dependency_not_available` without git.
    """
    settings = [part for setting in NEUTRAL for part in ("-c", setting)]
    done = await _run([*settings, *args], cwd, ENVIRONMENT | env)
    if done.exit_code not in accept:
        said = done.stderr.strip()[-MAX_SAID:]
        message = f"git command failed: git {args[0]} in {cwd}: {said or f'exit {done.exit_code}'}"
        raise AsmError(ErrorCode.STORAGE_ERROR, message, details={"operation": args[0], "exit_code": done.exit_code})
    return done


async def _run(args: Sequence[str], cwd: Path, env: dict[str, str]) -> CommandResult:
    """Whatever its exit. Raises AsmError `storage_error`, `dependency_not_available`."""
    try:
        return await exec_run(["git", *args], cwd=cwd, env=env, timeout_ms=None, max_output_bytes=MAX_LISTING_BYTES)
    except AsmError as error:
        if error.details.get("reason") != "command_not_found":
            raise AsmError(ErrorCode.STORAGE_ERROR, f"git cannot run: {error.message}") from error
        details = {"dependency": "git", "operation": "workspace"}
        raise AsmError(ErrorCode.DEPENDENCY_NOT_AVAILABLE, "git is not installed", details=details) from error


@dataclass(frozen=True, slots=True)
class Shadow:
    """
    Args:
        folder: empty, private, this object's own.
    """

    repository: Repository
    folder: Path

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def head(self) -> Path:
        return self.folder / "HEAD"

    @property
    def user_index(self) -> Path:
        """As the repository's own was when this began."""
        return self.folder / "user-index"

    @property
    def excludes(self) -> Path:
        return self.folder / "info" / "exclude"

    async def open(self) -> bool:
        """
        Returns:
            Whether files may differ from their blobs in the repository's own index, by settings of their owner.

        Raises:
            AsmError: `storage_error`: git does not take this for a repository.
        """
        found, settings = await together(self.in_repository("rev-parse", "--show-object-format"), self._settings())
        excludes = _exclude_rules(self.repository, settings.get("core.excludesfile"))
        await asyncio.to_thread(self._make, found.stdout.strip(), excludes)
        attributes = self.repository.common_dir / "info" / "attributes"
        return (
            attributes.is_file()
            or "core.attributesfile" in settings
            or settings.get("core.autocrlf", "false") != "false"
        )

    async def _settings(self) -> dict[str, str]:
        """The user's own, read and not obeyed."""
        pattern = r"^core\.(autocrlf|excludesfile|attributesfile)$"
        env = {"GIT_DIR": str(self.repository.git_dir)}
        done = await _run(["config", "--null", "--get-regexp", pattern], self.repository.root, env)
        pairs = (entry.partition("\n") for entry in done.stdout.split("\0") if entry)
        return {name: value for name, _, value in pairs}

    def _make(self, object_format: str, excludes: str) -> None:
        for name in ("objects", "refs", "info"):
            (self.folder / name).mkdir()
        self.head.write_text("ref: refs/heads/none\n")
        version, extension = (
            (0, "") if object_format == "sha1" else (1, f"[extensions]\nobjectFormat={object_format}\n")
        )
        (self.folder / "config").write_text(f"[core]\nrepositoryFormatVersion={version}\nbare=false\n{extension}")
        (self.folder / "info" / "attributes").write_text(ATTRIBUTES)
        self.excludes.write_text(excludes, errors="surrogateescape")
        own = self.repository.git_dir / "index"
        if own.exists():
            shutil.copy2(own, self.user_index)  # its time, too: git compares the files' times with it

    async def git(self, *args: str, accept: Sequence[int] = (0,), **env: str) -> CommandResult:
        """Over the working tree, with the private folder. Raises as `git`."""
        env = {
            "GIT_DIR": str(self.folder),
            "GIT_WORK_TREE": str(self.repository.root),
            "GIT_INDEX_FILE": str(self.index),
            "GIT_OBJECT_DIRECTORY": str(self.repository.common_dir / "objects"),
            **env,
        }
        return await git(args, self.repository.root, env, accept=accept)

    async def names(self, *args: str) -> list[str]:
        """What git lists."""
        return [name for name in (await self.git(*args)).stdout.split("\0") if name]

    async def in_repository(self, *args: str, accept: Sequence[int] = (0,)) -> CommandResult:
        """With the repository's own folder: HEAD and refs. Raises as `git`."""
        env = {"GIT_DIR": str(self.repository.git_dir), "GIT_WORK_TREE": str(self.repository.root)}
        return await git(args, self.repository.root, env, accept=accept)


async def together(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """All of them at once; none outlives the call."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _exclude_rules(repository: Repository, users: str | None) -> str:
    """The user's, then the repository's: what is said last counts."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    files = [Path(users).expanduser() if users else home / "git" / "ignore"]
    files.append(repository.common_dir / "info" / "exclude")
    return "".join(file.read_text(errors="surrogateescape") + "\n" for file in files if file.is_file())
