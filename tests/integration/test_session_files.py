"""`asm export` and `asm import`: a session as one file, from one database into another."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asm_api.session_files import import_from
from asm_core import AsmError, ScriptedAdapter, sync
from asm_core.domain.errors import ErrorCode
from asm_core.domain.retention import RetentionPolicy
from asm_core.library import open_store
from asm_core.ports.query import SessionSearch
from asm_core.stores.artifacts.file import FileArtifactStore
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from tests.fixtures.dev import ASM, asm_here

USAGE = {"usage": {"input_tokens": 10, "output_tokens": 5}}
PATCH = os.urandom(3_000_000)
KEYS = {"patch": PATCH, "empty": b"", "note": b"a note"}


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'source.db'}"


@pytest.fixture
def target(database: str) -> str:
    """SQLite and Postgres."""
    return database


def a_session(url: str, runs: int = 2) -> str:
    with sync.open_manager(url, ScriptedAdapter()) as manager:
        session = manager.open_session("agent", tags=["kept"])
        for number in range(runs):
            run = manager.start_run(session.id, {"script": [{"say": f"number {number}", "chunks": 20}, USAGE]})
            manager.execute_run(run.id)
        manager.complete_session(session.id)
    return session.id


async def with_artifacts(url: str, folder: Path, session_id: str) -> None:
    async with open_store(url) as store:
        assert store.engine is not None
        registry, blobs = ArtifactRegistry(store.engine), FileArtifactStore(folder)
        artifacts = RegisteringArtifactStore(blobs, registry, "default", session_id=session_id)
        for key, content in KEYS.items():
            await artifacts.put(key, content, content_type="text/plain", metadata={"of": key})


async def bytes_of(url: str, folder: Path) -> dict[str, bytes]:
    async with open_store(url) as store:
        assert store.engine is not None
        artifacts = RegisteringArtifactStore(FileArtifactStore(folder), ArtifactRegistry(store.engine), "default")
        return {key: await artifacts.get(key) for key in KEYS}


def exported(url: str, session_id: str, file: Path, **env: str) -> list[dict[str, Any]]:
    answer = asm_here("export", session_id, "--output", str(file), "--database-url", url, env=env)
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def without(values: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [value for value in values if not set(value) & set(kinds)]


async def test_a_session_is_the_same_in_another_database(source: str, target: str, tmp_path: Path) -> None:
    """Runs, events, artifacts and their bytes; exported from there it is the same file, and the database is sound."""
    session_id = a_session(source)
    here, there = tmp_path / "here", tmp_path / "there"
    await with_artifacts(source, here, session_id)
    first = exported(source, session_id, tmp_path / "first", ASM_ARTIFACTS_URL=here.as_uri())
    env = {"ASM_ARTIFACTS_URL": there.as_uri()}
    answer = asm_here("import", str(tmp_path / "first"), "--database-url", target, "--json", env=env)
    assert answer.returncode == 0, answer.stderr
    events = sum("event" in value for value in first)
    assert json.loads(answer.stdout) == {"session_id": session_id, "runs": 2, "events": events, "artifacts": 3}
    assert await bytes_of(target, there) == KEYS
    again = exported(target, session_id, tmp_path / "again", **env)
    assert without(again, "artifact", "bytes", "end") == without(first, "artifact", "bytes", "end")
    assert asm_here("verify", "--database-url", target).returncode == 0


def test_a_session_through_a_pipe(source: str, tmp_path: Path) -> None:
    """From one process into another, with no file between."""
    session_id, target = a_session(source), f"sqlite:///{tmp_path / 'target.db'}"
    with sync.open_store(target):
        pass
    with sync.open_manager(source, ScriptedAdapter()) as manager:
        events = len(manager.get_session_events(session_id))
    asm = shlex.join(ASM)
    pipe = f"{asm} export {session_id} -o - --database-url {source} | {asm} import - --database-url {target}"
    done = subprocess.run(pipe, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{session_id}: 2 runs, {events} events, 0 artifacts\n"), done.stderr


async def test_pruned_events_stay_accounted_for(source: str, target: str, tmp_path: Path) -> None:
    """Numbers keep their holes, and sums their pruned parts."""
    session_id = a_session(source)
    with sync.open_store(source) as store:
        policy = RetentionPolicy(max_events_per_session=10, prune_event_types_first=("token_usage_updated",))
        assert store.maintenance().prune_session_events(session_id, "default", policy)
    first = exported(source, session_id, tmp_path / "first")
    assert asm_here("import", str(tmp_path / "first"), "--database-url", target).returncode == 0
    assert without(exported(target, session_id, tmp_path / "again"), "end") == without(first, "end")
    answer = asm_here("verify", "--database-url", target)
    assert answer.returncode == 0, answer.stdout


async def test_a_fork_becomes_a_session_of_its_own(source: str, target: str, tmp_path: Path) -> None:
    """It reads as before, without its parent, and beside it."""
    parent = a_session(source)
    with sync.open_manager(source, ScriptedAdapter()) as manager:
        fork = manager.fork_session(parent, at=12).id
        told = [(event.type, event.sequence_number, event.data) for event in manager.get_session_events(fork)]
    exported(source, fork, tmp_path / "fork")
    exported(source, parent, tmp_path / "parent")
    for name in ("fork", "parent"):
        answer = asm_here("import", str(tmp_path / name), "--database-url", target)
        assert answer.returncode == 0, answer.stderr
    with sync.open_manager(target, ScriptedAdapter()) as manager:
        assert [(e.type, e.sequence_number, e.data) for e in manager.get_session_events(fork)] == told
    assert asm_here("verify", "--database-url", target).returncode == 0


def test_what_is_there_is_not_replaced(source: str, tmp_path: Path) -> None:
    session_id = a_session(source)
    before = exported(source, session_id, tmp_path / "first")
    for tenant in ("default", "other"):
        answer = asm_here("import", str(tmp_path / "first"), "--database-url", source, "--tenant", tenant)
        assert answer.returncode != 0
        assert f"session id {session_id} is taken [already_exists]" in answer.stderr
    assert exported(source, session_id, tmp_path / "again") == before


async def test_an_artifacts_key_that_is_taken_imports_nothing(source: str, tmp_path: Path) -> None:
    """The keys that were free are free afterwards, too."""
    session_id, other = a_session(source), f"sqlite:///{tmp_path / 'other.db'}"
    here, env = tmp_path / "here", {"ASM_ARTIFACTS_URL": (tmp_path / "here").as_uri()}
    await with_artifacts(source, here, session_id)
    exported(source, session_id, tmp_path / "first", **env)
    async with open_store(other) as store:
        assert store.engine is not None
        artifacts = RegisteringArtifactStore(FileArtifactStore(here), ArtifactRegistry(store.engine), "default")
        await artifacts.put("note", b"mine")
        answer = asm_here("import", str(tmp_path / "first"), "--database-url", other, env=env)
        assert "artifact id note is taken" in answer.stderr
        assert await artifacts.get("note") == b"mine"
        assert await artifacts.head("patch") is None
    assert json.loads(asm_here("query", "sessions", "--database-url", other, "--json").stdout)["sessions"] == []


def cut(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def changed(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b"number 0", b"number 9") for line in lines]


def longer(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[1]]


def of_no_kind(lines: list[bytes]) -> list[bytes]:
    return [b'{"rows":1}', *lines[1:]]


def of_text(_: list[bytes]) -> list[bytes]:
    return [b"not JSON"]


def empty(_: list[bytes]) -> list[bytes]:
    return []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A file's lines."""
    folder = tmp_path_factory.mktemp("whole")
    url = f"sqlite:///{folder / 'source.db'}"
    exported(url, a_session(url, 1), folder / "file")
    return (folder / "file").read_bytes().splitlines()


@pytest.mark.parametrize("spoil", [cut, changed, longer, of_no_kind, of_text, empty])
def test_a_spoilt_file_changes_nothing(
    whole: list[bytes], sqlite_path: Path, tmp_path: Path, spoil: Callable[[list[bytes]], list[bytes]]
) -> None:
    """The error names the file, and the database stays empty."""
    file = tmp_path / "file"
    file.write_bytes(b"\n".join(spoil(whole)))
    with pytest.raises(AsmError, match="cannot import") as refused:
        import_from(file, f"sqlite:///{sqlite_path}", "default")
    assert (refused.value.code, str(file) in refused.value.message) == (ErrorCode.VALIDATION_ERROR, True)
    with sync.open_store(f"sqlite:///{sqlite_path}") as store:
        assert not store.queries().search_sessions("default", SessionSearch()).items


def test_a_file_that_is_not_there(sqlite_path: Path) -> None:
    answer = asm_here("import", "/nowhere/file", "--database-url", f"sqlite:///{sqlite_path}")
    assert (answer.returncode, len(answer.stderr.strip().splitlines())) == (2, 1), answer.stderr


def test_a_run_that_has_not_ended_is_not_imported(source: str, tmp_path: Path) -> None:
    """It would be executed, and paid, a second time."""
    with sync.open_manager(source, ScriptedAdapter()) as manager:
        session = manager.open_session("agent")
        run = manager.start_run(session.id, {"prompt": "wait"})
    exported(source, session.id, tmp_path / "first")
    answer = asm_here("import", str(tmp_path / "first"), "--database-url", source)
    assert answer.returncode == 2
    assert f"run {run.id} is pending; export the session again when its runs have ended" in answer.stderr


def test_an_export_that_fails_leaves_no_file(source: str, tmp_path: Path) -> None:
    a_session(source)
    unknown = asm_here("export", "ses_nope", "--output", str(tmp_path / "out"), "--database-url", source)
    assert (unknown.returncode, "no session ses_nope" in unknown.stderr) == (1, True)
    assert not [*tmp_path.glob("out*")]
    nowhere = asm_here("export", "ses_nope", "--output", str(tmp_path / "no" / "out"), "--database-url", source)
    assert (nowhere.returncode, "cannot write" in nowhere.stderr) == (1, True)
