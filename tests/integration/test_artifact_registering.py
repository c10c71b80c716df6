"""Bytes and rows together, and what becomes of bytes that nobody can reach: spec 02 §14, W21, W25."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.artifacts import garbage
from asm_core.stores.artifacts.file import FileArtifactStore
from asm_core.stores.artifacts.garbage import ORPHAN_MARGIN, collect_garbage
from asm_core.stores.artifacts.registering import REGISTERED, RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from tests.builders import SteppedClock
from tests.fixtures.artifacts import Bucket, engine_of

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Shelf:
    """A registering store, and its two parts."""

    def __init__(self, engine: AsyncEngine, inner: FileArtifactStore) -> None:
        self.clock = SteppedClock(LONG_AGO)
        self.registry = ArtifactRegistry(engine, self.clock)
        self.inner = inner
        self.store = self.of("acme")

    def of(self, tenant_id: str, **writer: Any) -> RegisteringArtifactStore:
        return RegisteringArtifactStore(self.inner, self.registry, tenant_id, **writer)

    async def refs(self) -> set[str]:
        return {stored.key async for stored in self.inner.list_keys()}

    async def ref_of(self, key: str) -> str:
        row = await self.registry.get_by_key(key, "acme")
        assert row is not None
        return row.storage_ref

    def hours_later(self, hours: float) -> datetime:
        self.clock.elapsed += hours * 3600
        return self.clock.now()


@pytest.fixture
def shelf(registry_engine: AsyncEngine, tmp_path: Path) -> Shelf:
    return Shelf(registry_engine, FileArtifactStore(tmp_path / "blobs"))


@pytest.fixture
async def unmigrated(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/empty.db") as engine:
        yield engine


async def test_a_put_registers_what_and_whose_it_is(shelf: Shelf) -> None:
    store = shelf.of("acme", session_id="ses_1", run_id="run_1", fence=4)
    info = await store.put("patch", b"hello", content_type="text/x-diff", metadata={"from": "a1"})
    [row] = await shelf.registry.list_by_session("ses_1", "acme")
    assert (row.key, row.run_id, row.fence, row.storage_backend) == ("patch", "run_1", 4, "file")
    assert (row.byte_size, row.checksum_sha256) == (5, info.checksum_sha256)
    assert (row.content_type, row.metadata) == ("text/x-diff", {"from": "a1"})
    assert await shelf.inner.get(row.storage_ref) == b"hello"


async def test_tenants_with_one_key_in_one_store_do_not_meet(shelf: Shelf) -> None:
    ours, theirs = shelf.of("acme"), shelf.of("other")
    await ours.put("key", b"ours")
    for get in (theirs.get("key"), anext(theirs.open_read("key"))):
        with pytest.raises(AsmError) as caught:
            await get
        assert caught.value.code is ErrorCode.NOT_FOUND
    assert await theirs.head("key") is None
    await theirs.put("key", b"theirs")
    await theirs.delete("key")
    assert await ours.get("key") == b"ours"


async def test_a_row_that_cannot_be_written_leaves_the_old_artifact_and_the_new_bytes(
    shelf: Shelf, unmigrated: AsyncEngine
) -> None:
    """The bytes come first. They stay: whether a row was committed may be unknown."""
    await shelf.store.put("key", b"old")
    known = await shelf.refs()
    broken = RegisteringArtifactStore(shelf.inner, ArtifactRegistry(unmigrated), "acme")
    with pytest.raises(AsmError) as caught:
        await broken.put("key", b"new")
    assert caught.value.code is ErrorCode.MIGRATION_REQUIRED
    assert await shelf.store.get("key") == b"old"
    [orphan] = await shelf.refs() - known
    assert await shelf.inner.get(orphan) == b"new"


async def test_bytes_that_cannot_be_stored_leave_no_row(shelf: Shelf, tmp_path: Path) -> None:
    """The error names the key that the caller knows."""
    await shelf.store.put("key", b"old")
    (tmp_path / "blobs" / "staging").rmdir()
    with pytest.raises(AsmError, match="'key'") as caught:
        await shelf.store.put("key", b"new")
    assert (caught.value.code, caught.value.details["key"]) == (ErrorCode.STORAGE_ERROR, "key")
    assert await shelf.store.get("key") == b"old"


async def test_a_key_too_long_for_the_registry_stores_no_bytes(shelf: Shelf) -> None:
    with pytest.raises(AsmError) as caught:
        await shelf.store.put("x" * 2_001, b"new")
    assert caught.value.code is ErrorCode.VALIDATION_ERROR
    assert await shelf.refs() == set()


async def test_bytes_that_a_row_points_at_and_that_are_gone_are_lost_not_absent(shelf: Shelf) -> None:
    await shelf.store.put("key", b"x")
    await shelf.inner.delete(await shelf.ref_of("key"))
    for get in (shelf.store.get("key"), anext(shelf.store.open_read("key"))):
        with pytest.raises(AsmError, match="'key'") as caught:
            await get
        assert caught.value.code is ErrorCode.STORAGE_ERROR


async def test_any_text_is_a_key_whatever_the_store_below_takes(sqlite_url: str, bucket: Bucket) -> None:
    """S3 itself would refuse these."""
    async with engine_of(sqlite_url) as engine:
        store = RegisteringArtifactStore(bucket.store(), ArtifactRegistry(engine), "acme")
        for key in ("/a", "a/", "..", "a//b", "new\nline", "x" * 2_000):
            await store.put(key, f"of {key}")
            assert await store.get(key) == f"of {key}".encode()


async def test_deleted_and_replaced_bytes_are_collected_when_they_are_old_enough(shelf: Shelf) -> None:
    """W21: bytes and rows go together; what lives and what went lately stays."""
    for key in ("kept", "deleted", "replaced"):
        await shelf.store.put(key, b"old")
    doomed = {await shelf.ref_of(key) for key in ("deleted", "replaced")}
    await shelf.store.delete("deleted")
    await shelf.store.put("replaced", b"new")
    moment = shelf.hours_later(1)
    await shelf.store.put("late", b"x")
    late = await shelf.ref_of("late")
    await shelf.store.delete("late")
    assert await collect_garbage(shelf.registry, shelf.inner, LONG_AGO) == garbage.Collected([], [], [])
    collected = await collect_garbage(shelf.registry, shelf.inner, moment)
    assert len(collected.purged) == 2
    refs = await shelf.refs()
    assert not refs & doomed
    assert late in refs
    assert await shelf.registry.referenced([*doomed, late]) == {late}
    assert await shelf.store.get("kept") == b"old"
    assert await shelf.store.get("replaced") == b"new"
    assert (await collect_garbage(shelf.registry, shelf.inner, moment)).purged == []


async def test_more_garbage_than_one_batch_is_collected(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "BATCH", 3)
    for number in range(8):
        await shelf.store.put("key", f"{number}")
    assert len((await collect_garbage(shelf.registry, shelf.inner, shelf.hours_later(1))).purged) == 7
    assert await shelf.refs() == {await shelf.ref_of("key")}


async def test_garbage_of_all_tenants_is_collected_and_other_backends_are_left_alone(shelf: Shelf) -> None:
    for tenant in ("acme", "other"):
        await shelf.of(tenant).put("key", b"x")
        await shelf.of(tenant).delete("key")
    elsewhere = {"key": "far", "byte_size": 1, "checksum_sha256": "0" * 64, "storage_ref": "r", "storage_backend": "s3"}
    await shelf.registry.register(elsewhere, "acme")
    await shelf.registry.delete("far", "acme")
    assert len((await collect_garbage(shelf.registry, shelf.inner, shelf.hours_later(1))).purged) == 2
    assert await shelf.registry.referenced(["r"]) == {"r"}


async def test_bytes_that_a_live_row_points_at_too_are_kept(shelf: Shelf) -> None:
    """Who registers by hand may give one name to two rows."""
    await shelf.store.put("key", b"shared")
    ref = await shelf.ref_of("key")
    again = {"byte_size": 6, "checksum_sha256": "0" * 64, "storage_backend": "file", "storage_ref": ref}
    await shelf.registry.register({"key": "second"} | again, "acme")
    await shelf.store.delete("key")
    assert len((await collect_garbage(shelf.registry, shelf.inner, shelf.hours_later(1))).purged) == 1
    assert await shelf.store.get("second") == b"shared"


async def test_bytes_that_cannot_be_deleted_keep_their_row_and_hold_up_nothing(shelf: Shelf) -> None:
    """They are reported, and collected the next time."""

    class Stubborn(FileArtifactStore):
        async def delete(self, key: str) -> None:
            if key == stuck:
                raise AsmError(ErrorCode.STORAGE_ERROR, "the store refuses")
            await super().delete(key)

    refs = []
    for number in range(3):
        await shelf.store.put("key", f"{number}")
        refs.append(await shelf.ref_of("key"))
    await shelf.store.delete("key")
    stuck, moment = refs[1], shelf.hours_later(1)
    stubborn = Stubborn(shelf.inner._disk._root)
    collected = await collect_garbage(shelf.registry, stubborn, moment)
    assert (len(collected.purged), collected.failed) == (2, [stuck])
    assert await shelf.refs() == {stuck}
    assert len((await collect_garbage(shelf.registry, shelf.inner, moment)).purged) == 1
    assert await shelf.refs() == set()


@asynccontextmanager
async def an_orphan(shelf: Shelf) -> AsyncIterator[str]:
    """Bytes that a crash has left before their row, beside a live artifact and one put past the registry."""
    orphan = f"{REGISTERED}art_crashed"
    await shelf.inner.put(orphan, b"lost")
    await shelf.inner.put("patch_of_somebody_else", b"x")
    await shelf.store.put("key", b"kept")
    yield orphan
    assert await shelf.inner.get("patch_of_somebody_else") == b"x"
    assert await shelf.store.get("key") == b"kept"


async def test_bytes_without_a_row_are_reported_and_deleted_only_on_request(shelf: Shelf) -> None:
    async with an_orphan(shelf) as orphan:
        old = datetime.now(UTC) + ORPHAN_MARGIN + timedelta(hours=1)
        assert (await collect_garbage(shelf.registry, shelf.inner, old)).orphans == [orphan]
        assert await shelf.inner.get(orphan) == b"lost"
        assert (await collect_garbage(shelf.registry, shelf.inner, old, delete_orphans=True)).orphans == [orphan]
        assert await shelf.inner.head(orphan) is None


async def test_bytes_of_a_put_under_way_are_no_orphans(shelf: Shelf) -> None:
    """Even when everything up to now shall go: the row may be about to come."""
    async with an_orphan(shelf) as under_way:
        collected = await collect_garbage(shelf.registry, shelf.inner, datetime.now(UTC), delete_orphans=True)
        assert collected.orphans == []
        assert await shelf.inner.get(under_way) == b"lost"


async def test_garbage_in_s3_is_collected(sqlite_url: str, bucket: Bucket) -> None:
    async with engine_of(sqlite_url) as engine:
        inner, registry = bucket.store(prefix="asm/"), ArtifactRegistry(engine, SteppedClock(LONG_AGO))
        store = RegisteringArtifactStore(inner, registry, "acme")
        await store.put("key", b"x")
        await store.delete("key")
        await inner.put(f"{REGISTERED}art_crashed", b"x")
        old = datetime.now(UTC) + 2 * ORPHAN_MARGIN
        collected = await collect_garbage(registry, inner, old, delete_orphans=True)
        assert (len(collected.purged), collected.orphans) == (1, [f"{REGISTERED}art_crashed"])
        assert [stored async for stored in inner.list_keys()] == []
