"""
What `FileArtifactStore` does on disk. Everything here blocks.

    root/staging/<random>            a file on its way; renamed to its place, or removed
    root/ab/cd/<digest>.json         the sidecar: the key, what is known of the bytes, and which file holds them
    root/ab/cd/<digest>.<random>     the bytes

`digest` is the SHA-256 of the key and `ab`, `cd` are its first digits, so that no key can name a path.

Two files cannot be replaced at once. So every put brings its bytes under a new name, and the sidecar's rename is the
one moment at which the artifact changes: a crash before it leaves the old pair whole, a crash after it the new. A lock
on the folder (`flock`, gone with its process) makes writers take turns and lets readers open a pair that belongs
together. Under it, a file of the same digest that the sidecar does not name is what a crash has left, and is removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from asm_core.domain.artifact import ArtifactInfo, Description
from asm_core.ports.artifacts import StoredKey

LOCK_TIMEOUT_S = 10.0
"""For a folder's lock; held for a few renames, unless its holder is frozen."""
LOCK_POLL_S = 0.005
STALE_STAGING_S = 86_400.0
"""A staged file that nobody has written to for so long belongs to a process that died."""

_STAGING = "staging"
_FAN_OUT = "[0-9a-f][0-9a-f]"


class Damaged(Exception):
    """What is on disk cannot be what was put there."""


class StagedFile:
    """Bytes on their way: in a file of their own, hashed and counted as they pass."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.byte_size = 0
        self._digest = sha256()
        self._file: BinaryIO | None = None

    def write(self, chunk: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("xb")
        self._file.write(chunk)
        self._digest.update(chunk)
        self.byte_size += len(chunk)

    def seal(self) -> None:
        """The bytes are on the disk, and no more will come."""
        self.write(b"")
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    @property
    def checksum_sha256(self) -> str:
        return self._digest.hexdigest()

    def discard(self) -> None:
        """After a commit there is nothing left to remove."""
        if self._file is not None:
            with suppress(OSError):  # closing flushes, and the disk may be full
                self._file.close()
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Sidecar:
    key: str
    content: str
    """Name of the file beside it that holds the bytes."""
    info: ArtifactInfo

    def to_json(self) -> bytes:
        known = {
            "key": self.key,
            "content": self.content,
            "byte_size": self.info.byte_size,
            "checksum_sha256": self.info.checksum_sha256,
            "content_type": self.info.content_type,
            "metadata": self.info.metadata,
        }
        return orjson.dumps(known, option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, text: bytes, digest: str) -> Sidecar:
        """Raises Damaged; a content file may only lie beside its sidecar."""
        try:
            known: dict[str, Any] = orjson.loads(text)
            content = known.pop("content")
            if not re.fullmatch(digest + r"\.[0-9a-f]{32}", content):
                raise ValueError(f"it names the file {content!r}")
            return cls(known.pop("key"), content, ArtifactInfo(**known))
        except (ValueError, TypeError, KeyError, AttributeError) as cause:
            raise Damaged(f"its sidecar cannot be read ({type(cause).__name__})") from cause


class Disk:
    """
    Args:
        root: absolute; created with its parents.

    Raises (every method): OSError.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / _STAGING).mkdir(parents=True, exist_ok=True)

    def stage(self) -> StagedFile:
        return StagedFile(self._root / _STAGING / secrets.token_hex(16))

    def commit(self, key: str, staged: StagedFile, description: Description) -> ArtifactInfo:
        """The staged bytes become the key's; what fails before the sidecar's rename leaves those that were there."""
        staged.seal()
        digest = _digest_of(key)
        folder = self._made_folder(digest)
        sidecar = Sidecar(
            key, f"{digest}.{staged.path.name}", description.info(staged.byte_size, staged.checksum_sha256)
        )
        with _locked(folder, fcntl.LOCK_EX) as handle:
            staged.path.replace(folder / sidecar.content)
            try:
                self._write_sidecar(folder / f"{digest}.json", sidecar)
            except BaseException:
                (folder / sidecar.content).unlink(missing_ok=True)
                raise
            os.fsync(handle)
            _remove_all_but(folder, digest, keep=sidecar.content)
        return sidecar.info

    def find(self, key: str) -> ArtifactInfo | None:
        """Raises Damaged."""
        digest = _digest_of(key)
        with suppress(FileNotFoundError):
            return _read_sidecar(self._folder(digest), digest).info
        return None

    def open(self, key: str) -> tuple[ArtifactInfo, BinaryIO] | None:
        """What is known of the bytes, and their file: it stays readable whatever is put meanwhile. Raises Damaged."""
        digest = _digest_of(key)
        folder = self._folder(digest)
        try:
            with _locked(folder, fcntl.LOCK_SH):
                sidecar = _read_sidecar(folder, digest)
                return sidecar.info, _open_content(folder / sidecar.content)
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        digest = _digest_of(key)
        folder = self._folder(digest)
        with suppress(FileNotFoundError), _locked(folder, fcntl.LOCK_EX) as handle:
            (folder / f"{digest}.json").unlink(missing_ok=True)
            os.fsync(handle)
            _remove_all_but(folder, digest, keep=None)

    def parts(self) -> list[Path]:
        """Folders that `keys_in` can be asked about, together all."""
        return sorted(self._root.glob(_FAN_OUT))

    def keys_in(self, part: Path) -> list[StoredKey]:
        return [stored for path in part.glob(f"{_FAN_OUT}/*.json") if (stored := _stored_key(path)) is not None]

    def remove_stale(self) -> None:
        """Files that were being written when their process died."""
        for path in (self._root / _STAGING).iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_STAGING_S:
                    path.unlink()

    def _write_sidecar(self, path: Path, sidecar: Sidecar) -> None:
        staged = self.stage()
        try:
            staged.write(sidecar.to_json())
            staged.seal()
            staged.path.replace(path)
        finally:
            staged.discard()

    def _folder(self, digest: str) -> Path:
        return self._root / digest[:2] / digest[2:4]

    def _made_folder(self, digest: str) -> Path:
        """Made where it is missing, and known to the disk before anything is put into it."""
        folder = self._folder(digest)
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _sync_folder(folder.parent)
            _sync_folder(self._root)
        return folder


def _digest_of(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def _read_sidecar(folder: Path, digest: str) -> Sidecar:
    """Raises FileNotFoundError, Damaged."""
    return Sidecar.from_json((folder / f"{digest}.json").read_bytes(), digest)


def _open_content(path: Path) -> BinaryIO:
    """Raises Damaged: its sidecar says that it is there."""
    try:
        return path.open("rb")
    except FileNotFoundError as cause:
        raise Damaged("the file of its bytes is missing") from cause


def _stored_key(sidecar_path: Path) -> StoredKey | None:
    """None for what has gone meanwhile, and for what nobody can read any more."""
    try:
        changed = sidecar_path.stat().st_mtime
        key = Sidecar.from_json(sidecar_path.read_bytes(), sidecar_path.stem).key
    except (FileNotFoundError, Damaged):
        return None
    return StoredKey(key, datetime.fromtimestamp(changed, UTC))


def _remove_all_but(folder: Path, digest: str, *, keep: str | None) -> None:
    """Content files that no sidecar names. What cannot be removed now is left to the next writer."""
    for path in folder.glob(f"{digest}.*"):
        if path.name not in (keep, f"{digest}.json"):
            with suppress(OSError):
                path.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[int]:
    """The folder's descriptor, locked. Raises FileNotFoundError, TimeoutError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(handle, how)
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, how: int) -> None:
    give_up_at = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                raise TimeoutError("the folder is locked by another process") from None
        time.sleep(LOCK_POLL_S)
