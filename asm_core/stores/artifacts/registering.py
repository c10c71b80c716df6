"""
An artifact store that also keeps the registry: the bytes first, the row second.

Every put stores its bytes under a name of its own (`storage_ref`), and the row says which one is the key's. So a key
changes at one moment, whole; what a crash between the two leaves is bytes that no row points at, which garbage
collection removes; tenants that use the same key in the same bucket do not meet; and any text can be a key, whatever
the store below takes for a name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

from asm_core.clock import new_id
from asm_core.domain import ids
from asm_core.domain.artifact import Artifact, ArtifactInfo, Chunk, Payload, require_registrable, require_storable
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.ports.artifacts import ArtifactStore
from asm_core.stores.artifacts.failures import not_found
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.artifacts.source import marked, unmarked

REGISTERED = "registered/"
"""What the names of such bytes begin with in the store below; garbage collection looks at no others."""


class RegisteringArtifactStore:
    """
    Args:
        inner: where the bytes go.
        registry: where the rows go.
        tenant_id: whose artifacts these are; those of others do not exist.
        session_id, run_id, fence: who writes them; `fence` is that of the run's lease.

    A put that fails after its bytes were stored leaves them to garbage collection: whether the row was committed may
    be unknown. Repeating it is safe.
    """

    def __init__(
        self,
        inner: ArtifactStore,
        registry: ArtifactRegistry,
        tenant_id: str,
        *,
        session_id: str | None = None,
        run_id: str | None = None,
        fence: int | None = None,
    ) -> None:
        self._inner = inner
        self._registry = registry
        self._tenant_id = require_storable("tenant_id", tenant_id)
        self._writer = {"session_id": session_id, "run_id": run_id, "fence": fence}

    @property
    def backend(self) -> str:
        return self._inner.backend

    async def put(
        self, key: str, data: Payload, *, content_type: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> ArtifactInfo:
        ref = _new_ref(key)
        with _named(key):
            info = await self._inner.put(ref, data, content_type=content_type, metadata=metadata)
        await self._register(key, ref, info)
        return info

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterable[Chunk],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> ArtifactInfo:
        ref = _new_ref(key)
        with unmarked(), _named(key):
            info = await self._inner.put_stream(ref, marked(chunks), content_type=content_type, metadata=metadata)
        await self._register(key, ref, info)
        return info

    async def get(self, key: str) -> bytes:
        ref = await self._ref_of(key)
        with _named(key):
            return await self._inner.get(ref)

    async def open_read(self, key: str) -> AsyncGenerator[bytes, None]:
        ref = await self._ref_of(key)
        with _named(key):
            async with aclosing(self._inner.open_read(ref)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def head(self, key: str) -> ArtifactInfo | None:
        """From the row alone."""
        row = await self._registry.get_by_key(key, self._tenant_id)
        return None if row is None else _info_of(row)

    async def delete(self, key: str) -> None:
        """Hides the row; garbage collection removes the bytes later."""
        await self._registry.delete(key, self._tenant_id)

    async def _register(self, key: str, ref: str, info: ArtifactInfo) -> None:
        attrs = self._writer | {
            "key": key,
            "storage_backend": self._inner.backend,
            "storage_ref": ref,
            "byte_size": info.byte_size,
            "checksum_sha256": info.checksum_sha256,
            "content_type": info.content_type,
            "metadata": info.metadata,
        }
        await self._registry.replace(attrs, self._tenant_id)

    async def _ref_of(self, key: str) -> str:
        row = await self._registry.get_by_key(key, self._tenant_id)
        if row is None:
            raise not_found(key)
        return row.storage_ref


def _new_ref(key: str) -> str:
    """Refuses a key that could not be registered, before its bytes are stored."""
    require_registrable(key)
    return f"{REGISTERED}{new_id(ids.ARTIFACT)}"


def _info_of(row: Artifact) -> ArtifactInfo:
    return ArtifactInfo(
        byte_size=row.byte_size,
        checksum_sha256=row.checksum_sha256,
        content_type=row.content_type,
        metadata=row.metadata,
    )


@contextmanager
def _named(key: str) -> Iterator[None]:
    """The store below knows the bytes by another name. Bytes that a row points at and that are not there are lost."""
    try:
        yield
    except AsmError as cause:
        code = ErrorCode.STORAGE_ERROR if cause.code is ErrorCode.NOT_FOUND else cause.code
        raise AsmError(code, f"artifact {key!r}: {cause.message}", details=cause.details | {"key": key}) from cause
