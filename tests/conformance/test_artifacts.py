"""Every artifact store of ours is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from asm_core.ports.artifacts import ArtifactStore
from asm_core.stores.artifacts.file import FileArtifactStore
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.composite import CompositeSessionStore
from asm_core.stores.sql.store import SqlSessionStore
from asm_core.testing import ArtifactStoreContract
from tests.fixtures.artifacts import engine_of


@pytest.fixture(params=["file", "s3", "registering-file-sqlite", "registering-s3-postgres", "composite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStore]:
    asked: Callable[[str], str] = request.getfixturevalue
    async with AsyncExitStack() as stack:
        if request.param == "s3":
            yield request.getfixturevalue("bucket").store(prefix="some/where-")
        elif request.param == "registering-s3-postgres":
            engine = await stack.enter_async_context(engine_of(asked("emptied_database_url")))
            yield RegisteringArtifactStore(request.getfixturevalue("bucket").store(), ArtifactRegistry(engine), "acme")
        elif request.param == "registering-file-sqlite":
            engine = await stack.enter_async_context(engine_of(asked("sqlite_url")))
            yield RegisteringArtifactStore(FileArtifactStore(tmp_path), ArtifactRegistry(engine), "acme")
        elif request.param == "composite":
            engine = await stack.enter_async_context(engine_of(asked("sqlite_url")))
            inner = RegisteringArtifactStore(FileArtifactStore(tmp_path), ArtifactRegistry(engine), "acme")
            yield CompositeSessionStore(SqlSessionStore(engine), inner).artifacts
        else:
            yield FileArtifactStore(tmp_path / "artifacts")


class TestArtifactStore(ArtifactStoreContract):
    """File, S3, both with a registry, and behind a composite."""
