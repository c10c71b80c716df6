"""What a tree of git does not say of a folder, and a rollback must know to restore it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any


@dataclass(frozen=True, slots=True)
class Belongings:
    """All paths are from the root of the working tree, with `/`."""

    is_known: bool = False
    ignored: Sequence[str] = ()
    """Files and whole folders that git did not look at."""
    empty: Sequence[str] = ()
    """Folders without anything in them."""
    unborn: Sequence[str] = ()
    """Nested repositories without a commit, which git cannot even name."""
    modes: Mapping[str, int] = field(default_factory=dict)
    """Of the files and folders that would get another if they were made anew by this process."""

    @classmethod
    def of(cls, root: Path, files: Sequence[str], others: Sequence[str], ignored: Sequence[str]) -> Belongings:
        """
        Args:
            files: all that a snapshot holds.
            others: what git lists beside them: empty folders, and nested repositories.
        """
        folders = [path.rstrip("/") for path in others if path.endswith("/")]
        unborn = [path for path in folders if (root / path / ".git").exists()]
        empty = [path for folder in folders if folder not in unborn for path in _empty_below(root, folder)]
        modes = dict(_unusual_modes(root, {*files, *_parents([*files, *empty]), *empty}))
        return cls(True, ignored, empty, unborn, modes)

    def ignores(self, path: str) -> bool:
        """Whether the file was among the ignored ones, or in a folder that was."""
        return not {path, *(f"{folder}/" for folder in _parents([path]))}.isdisjoint(self.ignored)

    def to_map(self) -> dict[str, Any]:
        if not self.is_known:
            return {}
        return {"ignored": self.ignored, "empty": self.empty, "unborn": self.unborn, "modes": self.modes}

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> Belongings:
        return cls(True, **value) if value else cls()

    def restore(self, root: Path, now: Belongings) -> None:
        """From what there is now, when the files are restored already."""
        for path in set(now.unborn) - set(self.unborn):
            shutil.rmtree(root / path)
            _remove_empty(root, str(PurePosixPath(path).parent), self.empty)
        for path in set(now.empty) - set(self.empty):
            _remove_empty(root, path, self.empty)
        for path in self.empty:
            if _is_inside(root, path):
                (root / path).mkdir(parents=True, exist_ok=True)
        usual = _UsualModes()
        for path in now.modes.keys() - self.modes.keys():
            with suppress(FileNotFoundError):
                _change_mode(root / path, usual.of((root / path).lstat().st_mode))
        for path, mode in self.modes.items():
            with suppress(FileNotFoundError):
                if _is_inside(root, path):
                    _change_mode(root / path, mode)


def _is_inside(root: Path, path: str) -> bool:
    """This may have been written by an agent, and no link or `..` shall lead out of its folder."""
    return (root / path).parent.resolve().is_relative_to(root)


def _empty_below(root: Path, folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(root / folder):
        if not folders and not files:
            yield Path(place).relative_to(root).as_posix()


def _parents(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return found


def _remove_empty(root: Path, path: str, wanted: Sequence[str]) -> None:
    """With the folders above that it leaves empty."""
    with suppress(OSError):  # not empty, or gone already
        while path not in (".", *wanted):
            (root / path).rmdir()
            path = str(PurePosixPath(path).parent)


class _UsualModes:
    """What new files and folders get in this process; asked of the file system, for only that can be asked safely."""

    def __init__(self) -> None:
        with TemporaryDirectory() as place:
            folder, file = Path(place) / "folder", Path(place) / "file"
            folder.mkdir()
            file.touch()
            self._folder, self._file = (stat.S_IMODE(path.stat().st_mode) for path in (folder, file))

    def of(self, mode: int) -> int:
        """Of a file as executable as this, or a folder."""
        return self._folder if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else self._file


def _unusual_modes(root: Path, paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    usual, above = _UsualModes(), f"{root}/"
    for path in paths:
        with suppress(OSError):
            mode = os.lstat(above + path).st_mode  # thousands of them
            if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) != usual.of(mode):
                yield path, stat.S_IMODE(mode)


def _change_mode(path: Path, mode: int) -> None:
    if not path.is_symlink():
        path.chmod(mode)
