"""The registry's rows on Postgres and on SQLite: spec 02 §14, checks 189-195, W25."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from asm_core.domain.artifact import Artifact, ArtifactStats
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.sql.tables import artifacts
from tests.builders import NOW, SteppedClock
from tests.fixtures.artifacts import engine_of

CHECKSUM = "0" * 64
SECRET = "a-value-that-no-message-may-carry"


def attrs(key: str = "key", **given: Any) -> dict[str, Any]:
    fields = {"byte_size": 100, "checksum_sha256": CHECKSUM, "storage_backend": "file", "storage_ref": key}
    return {"key": key} | fields | given


async def failure(awaitable: Awaitable[Any]) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await awaitable
    return caught.value


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def registry(registry_engine: AsyncEngine, clock: SteppedClock) -> ArtifactRegistry:
    return ArtifactRegistry(registry_engine, clock)


async def test_a_registered_artifact_is_found_by_its_key(registry: ArtifactRegistry) -> None:
    """Check 190: all fields; an unknown key is None."""
    given = attrs(
        session_id="ses_1",
        run_id="run_1",
        fence=3,
        content_type="text/plain",
        metadata={"from": "ünï", "n": [1, None]},
        storage_ref="registered/x",
    )
    stored = await registry.register(given, "acme")
    assert stored == Artifact(id=stored.id, tenant_id="acme", created_at=NOW, **given)
    assert stored.id.startswith("art_")
    assert await registry.get_by_key("key", "acme") == stored
    assert await registry.get_by_key("other", "acme") is None


async def test_what_is_not_said_is_empty(registry: ArtifactRegistry) -> None:
    stored = await registry.register(attrs(id="art_given"), "acme")
    assert stored == await registry.get_by_key("key", "acme")
    assert (stored.id, stored.session_id, stored.fence, stored.metadata) == ("art_given", None, None, {})


async def test_a_sessions_artifacts_are_listed_in_order_of_creation(
    registry: ArtifactRegistry, clock: SteppedClock
) -> None:
    """Checks 189, 191: only its own and live ones; an unknown session has none."""
    for key in ("c", "a", "b"):
        await registry.register(attrs(key, session_id="ses_1"), "acme")
        clock.elapsed += 1
    await registry.register(attrs("other", session_id="ses_2"), "acme")
    await registry.delete("a", "acme")
    assert [row.key for row in await registry.list_by_session("ses_1", "acme")] == ["c", "b"]
    assert await registry.list_by_session("ses_3", "acme") == []


async def test_a_sessions_live_artifacts_are_counted(registry: ArtifactRegistry) -> None:
    """Check 192."""
    assert await registry.session_stats("ses_1", "acme") == ArtifactStats(0, 0)
    for key, size in (("a", 100), ("b", 200), ("gone", 5_000_000_000)):
        await registry.register(attrs(key, session_id="ses_1", byte_size=size), "acme")
    await registry.delete("gone", "acme")
    assert await registry.session_stats("ses_1", "acme") == ArtifactStats(artifact_count=2, total_bytes=300)


async def test_a_deleted_artifact_is_hidden_and_deleting_again_is_no_error(registry: ArtifactRegistry) -> None:
    """Check 193."""
    await registry.register(attrs(), "acme")
    for _ in range(2):
        await registry.delete("key", "acme")
        await registry.delete("never there", "acme")
    assert await registry.get_by_key("key", "acme") is None


async def test_a_key_is_registered_once(registry: ArtifactRegistry) -> None:
    """Check 194; the first stays."""
    first = await registry.register(attrs(), "acme")
    error = await failure(registry.register(attrs(byte_size=7), "acme"))
    assert (error.code, error.details["key"]) == (ErrorCode.ALREADY_EXISTS, "key")
    assert await registry.get_by_key("key", "acme") == first


async def test_an_id_is_given_once(registry: ArtifactRegistry) -> None:
    await registry.register(attrs("a", id="art_1"), "acme")
    for write in (registry.register, registry.replace):
        assert (await failure(write(attrs("b", id="art_1"), "acme"))).code is ErrorCode.ALREADY_EXISTS


@pytest.mark.parametrize("missing", ["key", "byte_size", "checksum_sha256", "storage_backend", "storage_ref"])
async def test_a_required_field_that_is_missing_is_named(registry: ArtifactRegistry, missing: str) -> None:
    """Check 194."""
    for given in ({name: value for name, value in attrs().items() if name != missing}, attrs() | {missing: None}):
        error = await failure(registry.register(given, "acme"))
        assert (error.code, error.details["field"]) == (ErrorCode.VALIDATION_ERROR, missing)


async def test_a_deleted_key_can_be_registered_again(registry: ArtifactRegistry, clock: SteppedClock) -> None:
    """Check 195, W25: as often as one likes; each time it is a new row."""
    for round_number in range(3):
        clock.elapsed = round_number
        row = await registry.register(attrs(byte_size=round_number), "acme")
        assert await registry.get_by_key("key", "acme") == row
        await registry.delete("key", "acme")
    assert await registry.get_by_key("key", "acme") is None


async def test_tenants_do_not_meet(registry: ArtifactRegistry) -> None:
    """The same key is another artifact, and nothing of another tenant is seen, counted or deleted."""
    ours = await registry.register(attrs(session_id="ses_1"), "acme")
    theirs = await registry.register(attrs(session_id="ses_1", byte_size=1), "other")
    await registry.delete("key", "nobody")
    assert await registry.get_by_key("key", "acme") == ours
    assert await registry.list_by_session("ses_1", "other") == [theirs]
    assert await registry.session_stats("ses_1", "acme") == ArtifactStats(1, 100)
    with pytest.raises(AsmError) as caught:
        await registry.register(attrs("own", id=theirs.id), "acme")
    assert (caught.value.code, caught.value.details) == (ErrorCode.ALREADY_EXISTS, {"key": "own", "id": theirs.id})
    await registry.replace(attrs(), "other")
    await registry.delete("key", "other")
    assert await registry.get_by_key("key", "acme") == ours


async def test_replacing_hides_the_old_row_at_the_same_moment(
    registry: ArtifactRegistry, registry_engine: AsyncEngine
) -> None:
    await registry.register(attrs(id="art_1"), "acme")
    row = await registry.replace(attrs(id="art_2"), "acme")
    assert await registry.get_by_key("key", "acme") == row
    async with registry_engine.connect() as connection:
        found = await connection.execute(sa.select(artifacts.c.id, artifacts.c.deleted_at.is_(None)))
        assert sorted(map(tuple, found)) == [("art_1", False), ("art_2", True)]


async def test_a_replacement_that_fails_leaves_the_old_row(registry: ArtifactRegistry) -> None:
    """Hiding and inserting are one transaction, also on an engine that commits by itself."""
    await registry.register(attrs("taken", id="art_1"), "acme")
    old = await registry.register(attrs("key"), "acme")
    await failure(registry.replace(attrs("key", id="art_1"), "acme"))
    assert await registry.get_by_key("key", "acme") == old


async def test_of_replacements_at_once_one_stays(registry: ArtifactRegistry, registry_engine: AsyncEngine) -> None:
    """None of them fails, and the key has one live row."""
    rows = await asyncio.gather(*(registry.replace(attrs(byte_size=size), "acme") for size in range(8)))
    assert await registry.get_by_key("key", "acme") in rows
    async with registry_engine.connect() as connection:
        live = sa.select(sa.func.count()).select_from(artifacts).where(artifacts.c.deleted_at.is_(None))
        assert await connection.scalar(live) == 1


async def test_of_registrations_at_once_one_wins(registry: ArtifactRegistry) -> None:
    answers = await asyncio.gather(*(registry.register(attrs(), "acme") for _ in range(8)), return_exceptions=True)
    refused = [answer.code for answer in answers if isinstance(answer, AsmError)]
    assert refused == [ErrorCode.ALREADY_EXISTS] * 7


@pytest.mark.parametrize("text", ["", "nul\0", "\ud800", None])
async def test_text_that_no_database_takes_is_refused_before_it(registry: ArtifactRegistry, text: str) -> None:
    for call in (
        registry.get_by_key(text, "acme"),
        registry.get_by_key("key", text),
        registry.list_by_session(text, "acme"),
        registry.session_stats("ses_1", text),
        registry.delete(text, "acme"),
        registry.register(attrs(), text),
        registry.register(attrs(text), "acme"),
    ):
        assert (await failure(call)).code is ErrorCode.VALIDATION_ERROR


async def test_the_longest_key_fits_into_the_index(registry: ArtifactRegistry) -> None:
    """Also when it cannot be compressed; one byte more is refused before the database is asked."""
    key = "".join(chr(0x4E00 + (number * 7919) % 20_000) for number in range(666)) + "xx"
    assert len(key.encode()) == 2_000
    assert (await registry.register(attrs(key), "acme")).key == key
    for given in (attrs(key + "x"), attrs(storage_ref="r" * 2_001)):
        assert (await failure(registry.register(given, "acme"))).code is ErrorCode.VALIDATION_ERROR


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
async def test_a_database_without_the_table_asks_for_the_migration(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    empty = f"sqlite+aiosqlite:///{tmp_path}/empty.db"
    url = request.getfixturevalue("empty_database_url") if kind == "postgres" else empty
    async with engine_of(url) as engine:
        registry = ArtifactRegistry(engine)
        for call in (registry.get_by_key("key", "acme"), registry.register(attrs(SECRET), "acme")):
            error = await failure(call)
            assert error.code is ErrorCode.MIGRATION_REQUIRED
            assert SECRET not in str(error.to_map())


@pytest.mark.parametrize("url", ["postgresql://nobody:secret@127.0.0.1:1/none", "sqlite+aiosqlite:////no/such/dir/x"])
async def test_a_database_that_cannot_be_reached_is_said_so(url: str) -> None:
    async with engine_of(url) as engine:
        registry = ArtifactRegistry(engine)
        for call in (registry.get_by_key("key", "acme"), registry.delete(SECRET, "acme")):
            error = await failure(call)
            assert (error.code, error.retryable) == (ErrorCode.STORAGE_CONNECTION_FAILED, True)
            assert "secret" not in str(error.to_map())
            assert SECRET not in str(error.to_map())


async def assert_fails_with_codes_of_its_own(registry: ArtifactRegistry) -> None:
    """And shows no value and no SQL."""
    read, write = await failure(registry.get_by_key(SECRET, "acme")), await failure(registry.delete(SECRET, "acme"))
    assert (read.code, write.code) == (ErrorCode.QUERY_ERROR, ErrorCode.PERSISTENCE_ERROR)
    for error in (read, write):
        assert SECRET not in str(error.to_map())
        assert "asm_artifacts" not in str(error.to_map())


async def test_postgres_refusing_a_statement_is_no_outage(database_url: str) -> None:
    async with engine_of(database_url) as engine:
        async with engine.begin() as connection:
            await connection.execute(sa.text("ALTER TABLE asm_artifacts ALTER COLUMN key TYPE bytea USING key::bytea"))
        await assert_fails_with_codes_of_its_own(ArtifactRegistry(engine))


async def test_a_damaged_sqlite_file_is_no_outage(tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(b"this is no database" * 1_000)
    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/damaged.db") as engine:
        await assert_fails_with_codes_of_its_own(ArtifactRegistry(engine))
