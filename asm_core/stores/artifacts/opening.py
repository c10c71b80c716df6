"""An artifact store by its URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.ports.artifacts import ArtifactStore
from asm_core.stores.artifacts.file import FileArtifactStore


def open_artifact_store(url: str) -> ArtifactStore:
    """
    Args:
        url: `file:///folder`, or `s3://bucket/prefix` with region, endpoint and keys from the `AWS_*` environment.

    Raises:
        AsmError: `validation_error` for another URL, `storage_error` (the folder cannot be used),
            `dependency_not_available` (extra `s3`).
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return FileArtifactStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from asm_core.stores.artifacts.s3 import S3ArtifactStore

        prefix = unquote(parts.path.lstrip("/"))
        return S3ArtifactStore(parts.netloc, prefix=f"{prefix.rstrip('/')}/" if prefix else "")
    message = f"artifacts_url must be file:///folder or s3://bucket/prefix, not {url!r}"
    raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "artifacts_url"})
