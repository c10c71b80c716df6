"""
Bytes that nobody can reach any more. Rows are only hidden when an artifact is deleted or replaced; this is where their
bytes go, and where what a crash has left between bytes and row is found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from asm_core.domain.artifact import Artifact
from asm_core.domain.errors import AsmError
from asm_core.ports.artifacts import ListableArtifactStore
from asm_core.stores.artifacts.registering import REGISTERED
from asm_core.stores.artifacts.registry import ArtifactRegistry

BATCH = 200
"""Rows or names per query."""
ORPHAN_MARGIN = timedelta(days=1)
"""Bytes without a row may be a put that is under way: they must be this much older than the caller's `older_than`."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What one collection did."""

    purged: Sequence[str]
    """Ids of rows removed together with their bytes."""
    orphans: Sequence[str]
    """Names of bytes that no row points at."""
    failed: Sequence[str]
    """Names of bytes that could not be deleted; the next collection tries again."""


async def collect_garbage(
    registry: ArtifactRegistry, store: ListableArtifactStore, older_than: datetime, *, delete_orphans: bool = False
) -> Collected:
    """
    Remove the bytes of artifacts deleted before `older_than`, then their rows; find bytes without a row.

    Args:
        registry: of all tenants.
        store: the one below `RegisteringArtifactStore`. Rows of other backends are left alone, and so are names that
            it did not give.
        older_than: aware UTC; readers that found a row before it have long ended.
        delete_orphans: not only report them. Only for a bucket and prefix, or a folder, that belong to this registry
            alone: to another registry's bytes no row of this one points.

    Raises:
        AsmError: `query_error`, `persistence_error`, `storage_connection_failed`; `storage_error` when the store
            cannot list its names. What is done by then stays done; repeat it.

    Source: spec/02 W21.
    """
    purged, failed = await _purge_deleted(registry, store, older_than)
    orphans = [ref async for ref in _orphans(registry, store, older_than - ORPHAN_MARGIN)]
    if delete_orphans:
        failed += [ref for ref in orphans if not await _is_deleted(store, ref)]
    return Collected(purged, orphans, failed)


async def _purge_deleted(
    registry: ArtifactRegistry, store: ListableArtifactStore, older_than: datetime
) -> tuple[list[str], list[str]]:
    """Ids of rows that are gone, names of bytes that are not. Bytes before rows: a crash between is made good later."""
    purged: list[str] = []
    failed: list[str] = []
    last_id = ""
    while rows := await registry.deleted_before(older_than, store.backend, after_id=last_id, limit=BATCH):
        stuck = await _delete_bytes(registry, store, rows)
        gone = [row.id for row in rows if row.storage_ref not in stuck]
        await registry.purge(gone)
        purged += gone
        failed += stuck
        last_id = rows[-1].id
    return purged, failed


async def _delete_bytes(
    registry: ArtifactRegistry, store: ListableArtifactStore, rows: Sequence[Artifact]
) -> list[str]:
    """Names of bytes that could not be deleted. Bytes that a live row points at, too, stay on purpose."""
    refs = [row.storage_ref for row in rows]
    live = await registry.referenced(refs, live_only=True)
    return [ref for ref in refs if ref not in live and not await _is_deleted(store, ref)]


async def _is_deleted(store: ListableArtifactStore, ref: str) -> bool:
    try:
        await store.delete(ref)
    except AsmError:
        return False
    return True


async def _orphans(
    registry: ArtifactRegistry, store: ListableArtifactStore, older_than: datetime
) -> AsyncIterator[str]:
    async for refs in _batches(store, older_than):
        known = await registry.referenced(refs)
        for ref in refs:
            if ref not in known:
                yield ref


async def _batches(store: ListableArtifactStore, older_than: datetime) -> AsyncIterator[list[str]]:
    """Names given by `RegisteringArtifactStore` before that moment."""
    batch: list[str] = []
    async for stored in store.list_keys():
        if stored.key.startswith(REGISTERED) and stored.modified_at < older_than:
            batch.append(stored.key)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
