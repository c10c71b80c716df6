"""Keeping bytes under a key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from asm_core.domain.artifact import Artifact, ArtifactInfo, Chunk, Payload


class ArtifactStore(Protocol):
    """
    Opaque bytes under a text key, unchanged by the way there and back.

    A put is seen whole or not at all: until it is done, and when it fails, readers find what was there before.

    Raises (every method):
        AsmError: `validation_error` for a key that this store cannot hold, `storage_error` for every failure of what
            lies behind it, naming the key. A store behind a database adds `storage_connection_failed` and
            `migration_required`.

    Source: spec/02 §12.
    """

    @property
    def backend(self) -> str:
        """Kind of store, as it stands in `storage_backend`."""

    async def put(
        self, key: str, data: Payload, *, content_type: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> ArtifactInfo:
        """
        Keep the bytes under the key, instead of what was there.

        Raises:
            AsmError: `validation_error` for a content type that no HTTP header can carry, or data that are no bytes.
        """

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterable[Chunk],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> ArtifactInfo:
        """
        `put` of what need not fit into memory. An exception of `chunks` passes through, and nothing is kept.

        Raises:
            AsmError: as `put`.
        """

    async def get(self, key: str) -> bytes:
        """Raises AsmError `not_found`; `storage_error` also when the bytes are not those that were put."""

    def open_read(self, key: str) -> AsyncGenerator[bytes, None]:
        """
        The bytes in chunks, in order. Who leaves before the end closes it (`contextlib.aclosing`).

        Raises:
            AsmError: as `get`. `not_found` comes before the first chunk; that the bytes are damaged may come as late
                as behind the last one, so act on the whole only after the end.
        """

    async def head(self, key: str) -> ArtifactInfo | None:
        """What is kept under the key, without its bytes; None when nothing is."""

    async def delete(self, key: str) -> None:
        """A key under which nothing is kept is no error."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    key: str
    modified_at: datetime
    """By the store's clock."""


class ListableArtifactStore(ArtifactStore, Protocol):
    """A store that can say what it holds; garbage collection needs it."""

    def list_keys(self) -> AsyncGenerator[StoredKey, None]:
        """Every key, in no order. What is put or deleted meanwhile may be missing or present."""


class ArtifactIndex(Protocol):
    """
    What is stored, for whom.

    Raises (every method):
        AsmError: `validation_error`, `storage_connection_failed`, `migration_required`, `query_error`.
    """

    async def get_by_key(self, key: str, tenant_id: str) -> Artifact | None: ...

    async def list_by_session(self, session_id: str, tenant_id: str) -> Sequence[Artifact]:
        """In order of creation; an unknown session has none."""
