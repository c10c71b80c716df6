"""A session's artifacts over HTTP, by the client and by the command."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from asm_api.client import AsmClient
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.artifacts.file import FileArtifactStore
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.sql.engine import open_engine
from tests.builders import World
from tests.fixtures.api import LiveApi, StartApi, problem_in
from tests.fixtures.dev import asm_here

LARGE = os.urandom(3_000_000)
ODD = "reports/März 1?#.html"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def live(start_api: StartApi, world: World, folder: Path) -> LiveApi:
    return start_api(database_url=world.url, artifacts_url=folder.as_uri())


@pytest.fixture
async def session_id(world: World, folder: Path) -> AsyncIterator[str]:
    """With three artifacts; other sessions and tenants have some, too."""
    engine = open_engine(world.url, application_name="tests")
    registry, blobs = ArtifactRegistry(engine), FileArtifactStore(folder)
    session_id, other = await world.session(), await world.session()
    artifacts = RegisteringArtifactStore(blobs, registry, "default", session_id=session_id)
    await artifacts.put("large", LARGE, content_type="text/x-diff", metadata={"of": "a run"})
    await artifacts.put("empty", b"")
    await artifacts.put(ODD, b"<script>", content_type="text/html")
    await RegisteringArtifactStore(blobs, registry, "default", session_id=other).put("theirs", b"of another session")
    await RegisteringArtifactStore(blobs, registry, "other", session_id=session_id).put("foreign", b"of another tenant")
    yield session_id
    await engine.dispose()


async def test_artifacts_are_listed_and_read(http: httpx2.AsyncClient, session_id: str) -> None:
    """In order, each as it was put, and only the session's own."""
    listed = (await http.get(f"/v1/sessions/{session_id}/artifacts")).json()["artifacts"]
    assert [row["key"] for row in listed] == ["large", "empty", ODD]
    assert listed[0]["checksum_sha256"] == sha256(LARGE).hexdigest()
    assert (listed[0]["byte_size"], listed[0]["metadata"]) == (len(LARGE), {"of": "a run"})
    read = await http.get(f"/v1/sessions/{session_id}/artifacts/large")
    assert (read.content, read.headers["content-type"]) == (LARGE, "text/x-diff")
    assert (await http.get(f"/v1/sessions/{session_id}/artifacts/empty")).content == b""


async def test_what_an_agent_made_is_saved_and_not_shown(live: LiveApi, session_id: str) -> None:
    """A page of its making must not run in the console's origin."""
    async with httpx2.AsyncClient(base_url=live.base_url) as http:
        read = await http.get(f"/v1/sessions/{session_id}/artifacts/reports/M%C3%A4rz%201%3F%23.html")
    assert read.content == b"<script>"
    assert read.headers["content-disposition"] == "attachment; filename*=UTF-8''M%C3%A4rz%201%3F%23.html"
    assert read.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("key", ["theirs", "foreign", "nothing", "large/"])
async def test_what_is_not_the_sessions_is_not_there(http: httpx2.AsyncClient, session_id: str, key: str) -> None:
    problem_in(await http.get(f"/v1/sessions/{session_id}/artifacts/{key}"), 404, "not_found")


async def test_an_unknown_session(http: httpx2.AsyncClient) -> None:
    problem_in(await http.get("/v1/sessions/ses_nope/artifacts"), 404, "session_not_found")


async def test_bytes_that_are_lost_are_an_error(http: httpx2.AsyncClient, session_id: str, folder: Path) -> None:
    """Not an empty answer."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    problem_in(await http.get(f"/v1/sessions/{session_id}/artifacts/large"), 500, "storage_error")


def test_by_the_client_and_the_command(live: LiveApi, session_id: str, tmp_path: Path) -> None:
    """A file is there whole, or not at all."""
    with AsmClient(live.base_url) as client:
        assert b"".join(client.read_artifact(session_id, ODD)) == b"<script>"
        assert b"".join(client.read_artifact(session_id, "large")) == LARGE
        with pytest.raises(AsmError) as refused:
            list(client.read_artifact(session_id, "nothing"))
    assert refused.value.code is ErrorCode.NOT_FOUND
    server, out = ("--server", live.base_url), tmp_path / "out"
    listed = asm_here("artifacts", session_id, *server)
    assert (listed.returncode, ODD in listed.stdout) == (0, True)
    saved = asm_here("artifacts", session_id, "large", "-o", str(out), *server)
    assert (saved.returncode, out.read_bytes()) == (0, LARGE), saved.stderr
    lost = asm_here("artifacts", session_id, "nothing", "-o", str(tmp_path / "lost"), *server)
    assert (lost.returncode, "has no artifact 'nothing'" in lost.stderr) == (1, True)
    assert not [*tmp_path.glob("lost*")]
