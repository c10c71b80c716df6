"""Artifacts in a folder of this machine, or of one that all machines share. How they lie there: `disk.py`."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from asm_core.domain.artifact import ArtifactInfo, Chunk, Description, Payload, chunk_bytes, payload_bytes, require_key
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.session import require_text
from asm_core.ports.artifacts import StoredKey
from asm_core.stores.artifacts.disk import Damaged, Disk, StagedFile
from asm_core.stores.artifacts.failures import damaged, not_found, require_checksum, storage_failed
from asm_core.stores.artifacts.threads import in_thread

READ_CHUNK = 1 << 20
"""Bytes per chunk of `open_read`."""


class FileArtifactStore:
    """
    Args:
        root: a folder, created with its parents; `~` is the user's home.

    Raises:
        AsmError: `validation_error` without a root, `storage_error` when it cannot be made.

    Source: spec/02 §12.1.
    """

    backend = "file"

    def __init__(self, root: str | os.PathLike[str]) -> None:
        path = require_text("file artifact store", "root", os.fspath(root) if isinstance(root, os.PathLike) else root)
        try:
            self._disk = Disk(Path(path).expanduser().absolute())
            self._disk.remove_stale()
        except (OSError, RuntimeError) as cause:
            reason = _reason(cause) if isinstance(cause, OSError) else "no home folder"
            message = f"the artifact folder {path!r} cannot be used ({reason})"
            raise AsmError(ErrorCode.STORAGE_ERROR, message, details={"reason": reason}) from cause

    async def put(
        self, key: str, data: Payload, *, content_type: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> ArtifactInfo:
        description, content = Description.of(content_type, metadata), payload_bytes(data)
        with _storage_errors(require_key(key), "stored"):
            return await in_thread(self._put, key, content, description)

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterable[Chunk],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> ArtifactInfo:
        description = Description.of(content_type, metadata)
        require_key(key)
        staged = self._disk.stage()
        try:
            async for chunk in chunks:
                await _write(key, staged, chunk_bytes(chunk))
            with _storage_errors(key, "stored"):
                return await in_thread(self._disk.commit, key, staged, description)
        finally:
            with _storage_errors(key, "stored"):
                await in_thread(staged.discard)

    async def get(self, key: str) -> bytes:
        with _storage_errors(require_key(key), "read"):
            return await in_thread(self._get, key)

    async def open_read(self, key: str) -> AsyncGenerator[bytes, None]:
        with _storage_errors(require_key(key), "read"):
            info, file = await in_thread(self._open, key)
        digest = sha256()
        try:
            while chunk := await _read(key, file):
                digest.update(chunk)
                yield chunk
        finally:
            file.close()
        require_checksum(key, info.checksum_sha256 or "", digest.hexdigest())

    async def head(self, key: str) -> ArtifactInfo | None:
        with _storage_errors(require_key(key), "read"):
            return await in_thread(self._disk.find, key)

    async def delete(self, key: str) -> None:
        with _storage_errors(require_key(key), "deleted"):
            await in_thread(self._disk.delete, key)

    async def list_keys(self) -> AsyncGenerator[StoredKey, None]:
        """A damaged artifact is not among them; `get` says what is wrong with it."""
        with _storage_errors("*", "listed"):
            parts = await in_thread(self._disk.parts)
        for part in parts:
            with _storage_errors("*", "listed"):
                found = await in_thread(self._disk.keys_in, part)
            for stored in found:
                yield stored

    def _put(self, key: str, content: bytes, description: Description) -> ArtifactInfo:
        staged = self._disk.stage()
        try:
            staged.write(content)
            return self._disk.commit(key, staged, description)
        finally:
            staged.discard()

    def _get(self, key: str) -> bytes:
        info, file = self._open(key)
        with file:
            content = file.read()
        require_checksum(key, info.checksum_sha256 or "", sha256(content).hexdigest())
        return content

    def _open(self, key: str) -> tuple[ArtifactInfo, BinaryIO]:
        found = self._disk.open(key)
        if found is None:
            raise not_found(key)
        return found


async def _write(key: str, staged: StagedFile, chunk: bytes) -> None:
    with _storage_errors(key, "stored"):
        await in_thread(staged.write, chunk)


async def _read(key: str, file: BinaryIO) -> bytes:
    with _storage_errors(key, "read"):
        return await in_thread(file.read, READ_CHUNK)


@contextmanager
def _storage_errors(key: str, verb: str) -> Iterator[None]:
    """Around our own work only: what a caller's chunks raise is the caller's."""
    try:
        yield
    except Damaged as cause:
        raise damaged(key, str(cause)) from cause
    except OSError as cause:
        raise storage_failed(key, verb, _reason(cause)) from cause


def _reason(cause: OSError) -> str:
    return errno.errorcode.get(cause.errno or 0, type(cause).__name__)
