"""
One handle for a session store and an artifact store.

It holds the two side by side and funnels nothing: `sessions` is the session store itself, so that its results, errors
and waits are its own and a parked call holds up no other; `artifacts` is the artifact store, from which nothing but an
AsmError comes out. The two share no transaction, and deleting a session leaves its artifacts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

from asm_core.domain.artifact import ArtifactInfo, Chunk, Payload
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.ports.artifacts import ArtifactStore
from asm_core.ports.store import SessionStore
from asm_core.stores.artifacts.source import SourceFailed, marked, unmarked


class CompositeSessionStore:
    """Source: spec/02 §13."""

    def __init__(self, session_store: SessionStore, artifact_store: ArtifactStore) -> None:
        self.sessions = session_store
        self.artifacts = GuardedArtifactStore(artifact_store)


class GuardedArtifactStore:
    """
    An artifact store of whoever's making: its AsmErrors pass, everything else that it raises is `storage_error`.
    What a caller's own chunks raise passes, too.
    """

    def __init__(self, inner: ArtifactStore) -> None:
        self._inner = inner

    @property
    def backend(self) -> str:
        return self._inner.backend

    async def put(
        self, key: str, data: Payload, *, content_type: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> ArtifactInfo:
        with _storage_errors(key):
            return await self._inner.put(key, data, content_type=content_type, metadata=metadata)

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterable[Chunk],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> ArtifactInfo:
        with unmarked(), _storage_errors(key):
            return await self._inner.put_stream(key, marked(chunks), content_type=content_type, metadata=metadata)

    async def get(self, key: str) -> bytes:
        with _storage_errors(key):
            return await self._inner.get(key)

    async def open_read(self, key: str) -> AsyncGenerator[bytes, None]:
        with _storage_errors(key):
            async with aclosing(self._inner.open_read(key)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def head(self, key: str) -> ArtifactInfo | None:
        with _storage_errors(key):
            return await self._inner.head(key)

    async def delete(self, key: str) -> None:
        with _storage_errors(key):
            await self._inner.delete(key)


@contextmanager
def _storage_errors(key: str) -> Iterator[None]:
    try:
        yield
    except (AsmError, SourceFailed):
        raise
    except Exception as cause:
        name = type(cause).__name__
        message = f"the artifact store failed at {key!r} ({name})"
        raise AsmError(ErrorCode.STORAGE_ERROR, message, details={"key": key, "original_exception": name}) from cause
