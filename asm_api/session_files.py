"""`asm export` and `asm import`: sessions of a database as files."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from sqlalchemy.ext.asyncio import AsyncEngine

from asm_api.files import whole_file
from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.library import Store, open_store
from asm_core.stores.artifacts.opening import open_artifact_store
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.session_file import export_session, import_session

MIB = 1024 * 1024


def export_to(
    target: Path, url: str, session_id: str, tenant_id: str, *, with_artifacts: bool, tell: Callable[[str], None]
) -> int:
    """
    Write the file whole or not at all; `-` is standard output.

    Returns:
        Its size in bytes.

    Raises:
        AsmError: `storage_error` when the file cannot be written, and those of `export_session`.
    """
    if str(target) == "-":
        return asyncio.run(_export(sys.stdout.buffer, url, session_id, tenant_id, with_artifacts, tell))
    with whole_file(target) as out:
        return asyncio.run(_export(out, url, session_id, tenant_id, with_artifacts, tell))


def import_from(file: Path, url: str, tenant_id: str) -> dict[str, Any]:
    """What was imported; `-` is standard input. Raises as `import_session`."""
    if str(file) != "-":
        return asyncio.run(_import(file, url, tenant_id))
    with TemporaryDirectory() as folder:  # it is read more than once
        whole = Path(folder, "stdin")
        with whole.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        return asyncio.run(_import(whole, url, tenant_id))


async def _export(
    out: BinaryIO, url: str, session_id: str, tenant_id: str, with_artifacts: bool, tell: Callable[[str], None]
) -> int:
    size = 0
    async with _opened(url) as (store, engine):
        artifacts = await _artifacts(engine, session_id, tenant_id) if with_artifacts else None
        async for piece in export_session(store.queries(), artifacts, session_id, tenant_id):
            out.write(piece)
            size += len(piece)
            tell(f"{size / MIB:.1f} MiB written")
    return size


async def _artifacts(engine: AsyncEngine, session_id: str, tenant_id: str) -> RegisteringArtifactStore | None:
    """The tenant's artifacts, where the session has any: else no store need be there."""
    registry = ArtifactRegistry(engine)
    if not await registry.list_by_session(session_id, tenant_id):
        return None
    return RegisteringArtifactStore(open_artifact_store(Settings().artifacts_location), registry, tenant_id)


async def _import(file: Path, url: str, tenant_id: str) -> dict[str, Any]:
    async with _opened(url) as (_, engine):
        blobs = open_artifact_store(Settings().artifacts_location)
        contents = await import_session(engine, blobs, file, tenant_id)
    return {
        "session_id": contents.session.id,
        "runs": len(contents.runs),
        "events": contents.events,
        "artifacts": len(contents.artifacts),
    }


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[tuple[Store, AsyncEngine]]:
    async with open_store(url) as store:
        if store.engine is None:
            raise AsmError(ErrorCode.VALIDATION_ERROR, f"{url} holds nothing that could be a file")
        yield store, store.engine
