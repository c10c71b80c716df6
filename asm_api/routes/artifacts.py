"""A session's artifacts: patches, files, recordings."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from asm_api.auth import Tenant
from asm_api.routes import answer
from asm_api.schemas import ArtifactList
from asm_api.wiring import Wired
from asm_core.domain.artifact import Artifact
from asm_core.domain.errors import AsmError, ErrorCode

router = APIRouter(prefix="/v1/sessions/{session_id}/artifacts", tags=["artifacts"])

OCTETS = "application/octet-stream"
TOLD = ("key", "run_id", "content_type", "byte_size", "checksum_sha256", "metadata", "created_at")


@router.get("", response_model=ArtifactList)
async def list_artifacts(session_id: str, deps: Wired, tenant_id: Tenant) -> Response:
    """All of them, oldest first."""
    await deps.store.get_session(session_id, tenant_id)
    rows = await deps.artifacts.list_by_session(session_id, tenant_id)
    return answer({"artifacts": [{name: getattr(row, name) for name in TOLD} for row in rows]})


@router.get("/{key:path}", response_class=Response, responses={200: {"content": {OCTETS: {}}}})
async def read_artifact(session_id: str, key: str, deps: Wired, tenant_id: Tenant) -> Response:
    """Its bytes, to be saved and not to be shown: they are whatever an agent made."""
    row = await deps.artifacts.get_by_key(key, tenant_id)
    if row is None or row.session_id != session_id:
        raise AsmError(ErrorCode.NOT_FOUND, f"session {session_id} has no artifact {key!r}", details={"key": key})
    chunks = deps.artifacts_of(tenant_id).open_read(key)
    first = await anext(chunks, b"")
    return StreamingResponse(_all(first, chunks), headers=_headers(row))


def _headers(row: Artifact) -> dict[str, str]:
    return {
        "Content-Type": row.content_type or OCTETS,
        "Content-Length": str(row.byte_size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(row.key.rpartition('/')[2], safe='')}",
        "X-Content-Type-Options": "nosniff",
    }


async def _all(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk
