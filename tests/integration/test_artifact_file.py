"""Artifacts in a folder: crashes, full disks, damage, and keys that would like to be paths. Spec 02 §12.1."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.artifacts import disk
from asm_core.stores.artifacts.file import FileArtifactStore

DIES_AT_A_RENAME = """
import asyncio, os, pathlib, signal, sys
from asm_core.stores.artifacts.file import FileArtifactStore

rename, calls = pathlib.Path.replace, []

def replace(self, target):
    calls.append(target)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

pathlib.Path.replace = replace
asyncio.run(FileArtifactStore(sys.argv[1]).put("key", b"new"))
"""

HAS_NO_ROOM = """
import asyncio, resource, sys
from asm_core.domain.errors import AsmError
from asm_core.stores.artifacts.file import FileArtifactStore

async def stream():
    for _ in range(16):
        yield b"x" * 16_384

async def main():
    store = FileArtifactStore(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))
    for put in (store.put("key", b"x" * 262_144), store.put_stream("key", stream())):
        try:
            await put
        except AsmError as error:
            print(error.code, error.details["key"], error.details["reason"])

asyncio.run(main())
"""


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, timeout=60)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def sidecar(root: Path) -> Path:
    [path] = root.rglob("*.json")
    return path


def content(root: Path) -> Path:
    [path] = [path for path in files(root) if path.suffix != ".json"]
    return path


@pytest.mark.parametrize("rename", [1, 2])
async def test_a_crash_before_the_last_rename_leaves_the_old_content(tmp_path: Path, rename: int) -> None:
    """Check 181. And the next put clears away what the crash has left beside it."""
    store = FileArtifactStore(tmp_path)
    await store.put("key", b"old", content_type="text/plain")
    assert run(DIES_AT_A_RENAME, tmp_path, rename).returncode == -signal.SIGKILL
    assert await store.get("key") == b"old"
    info = await store.head("key")
    assert info is not None
    assert info.content_type == "text/plain"
    await store.put("key", b"newest")
    assert await store.get("key") == b"newest"
    assert len([path for path in files(tmp_path) if path.parent.name != "staging"]) == 2


async def test_a_put_that_survives_all_renames_is_done(tmp_path: Path) -> None:
    """Guards the test above: there are two renames, and the second makes the new content visible."""
    assert run(DIES_AT_A_RENAME, tmp_path, 3).returncode == 0
    assert await FileArtifactStore(tmp_path).get("key") == b"new"


async def test_what_a_crash_left_half_written_is_removed_when_it_is_old(tmp_path: Path) -> None:
    """And not before: it may be a slow put of another process."""
    assert run(DIES_AT_A_RENAME, tmp_path, 1).returncode == -signal.SIGKILL
    [left] = files(tmp_path)
    FileArtifactStore(tmp_path)
    assert left.exists()
    os.utime(left, (0, 0))
    FileArtifactStore(tmp_path)
    assert files(tmp_path) == []


async def test_a_disk_that_takes_no_more_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    store = FileArtifactStore(tmp_path)
    await store.put("key", b"old")
    before = sorted(files(tmp_path))
    answer = run(HAS_NO_ROOM, tmp_path)
    assert answer.stdout.splitlines() == ["storage_error key EFBIG"] * 2, answer.stderr
    assert await store.get("key") == b"old"
    assert sorted(files(tmp_path)) == before


@pytest.mark.parametrize("failing", [1, 2])
async def test_a_disk_that_cannot_keep_what_it_took_leaves_the_old_content(
    tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems say only at fsync that they are full: for the content, or for its sidecar."""
    store = FileArtifactStore(tmp_path)
    await store.put("key", b"old")
    before, calls, fsync = sorted(files(tmp_path)), [], os.fsync

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AsmError, match=r"'key' could not be stored \(ENOSPC\)") as caught:
        await store.put("key", b"new")
    assert caught.value.code is ErrorCode.STORAGE_ERROR
    assert await store.get("key") == b"old"
    assert sorted(files(tmp_path)) == before


@pytest.mark.parametrize(
    "key",
    ["../../etc/passwd", "/etc/passwd", "..", ".", "a/../../b", "~/x", "C:\\x", "con", "\u202e☃", "日本語" * 600,
     "x" * 2_000, "/" * 2_000, "new\nline", "a/b/", ".json", "staging/x", "%2e%2e%2f"],
)  # fmt: skip
async def test_no_key_is_a_path(tmp_path: Path, key: str) -> None:
    """Check 182: any text up to 2,000 characters and more comes back, and nothing is written outside the root."""
    root = tmp_path / "deep" / "root"
    store = FileArtifactStore(root)
    await store.put(key, b"content")
    assert await store.get(key) == b"content"
    assert [stored.key async for stored in store.list_keys()] == [key]
    assert files(tmp_path) == files(root)
    assert all(path.is_relative_to(root) and len(path.name) < 110 for path in files(root))
    await store.delete(key)
    assert files(tmp_path) == []


@pytest.mark.parametrize("root", [None, "", 7])
def test_a_root_is_required(root: str) -> None:
    """Check 176."""
    with pytest.raises(AsmError, match="root") as caught:
        FileArtifactStore(root)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR


def test_a_root_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(AsmError, match="ENOTDIR") as caught:
        FileArtifactStore(tmp_path / "file" / "root")
    assert caught.value.code is ErrorCode.STORAGE_ERROR


async def test_the_root_is_made_with_its_parents_and_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays where it was meant when the process changes its folder."""
    monkeypatch.chdir(tmp_path)
    store = FileArtifactStore("some/where")
    await store.put("key", b"here")
    monkeypatch.chdir("/")
    assert await store.get("key") == b"here"
    assert content(tmp_path / "some" / "where").read_bytes() == b"here"


async def test_the_sidecar_says_what_the_file_is(tmp_path: Path) -> None:
    await FileArtifactStore(tmp_path).put("a/key", b"hello", content_type="text/plain", metadata={"n": 1})
    known = json.loads(sidecar(tmp_path).read_text())
    assert known.pop("content") == content(tmp_path).name
    assert known == {
        "key": "a/key",
        "byte_size": 5,
        "checksum_sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "content_type": "text/plain",
        "metadata": {"n": 1},
    }


@pytest.mark.parametrize("damage", [b"hellO", b"hell", b"", b"hello again"])
async def test_bytes_that_changed_on_disk_are_not_handed_out_in_silence(tmp_path: Path, damage: bytes) -> None:
    """`get` hands out none of them; `open_read` says so at the end."""
    store = FileArtifactStore(tmp_path)
    await store.put("a/key", b"hello")
    content(tmp_path).write_bytes(damage)
    with pytest.raises(AsmError, match="'a/key' is damaged") as caught:
        await store.get("a/key")
    assert caught.value.code is ErrorCode.STORAGE_ERROR
    with pytest.raises(AsmError, match="'a/key' is damaged"):
        [chunk async for chunk in store.open_read("a/key")]


async def test_a_missing_content_file_is_damage_not_absence(tmp_path: Path) -> None:
    store = FileArtifactStore(tmp_path)
    await store.put("key", b"hello")
    content(tmp_path).unlink()
    with pytest.raises(AsmError, match="is damaged") as caught:
        await store.get("key")
    assert caught.value.code is ErrorCode.STORAGE_ERROR


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"content": 7}'])
async def test_an_unreadable_sidecar_is_a_storage_error_until_the_next_put(tmp_path: Path, text: bytes) -> None:
    store = FileArtifactStore(tmp_path)
    await store.put("key", b"hello")
    sidecar(tmp_path).write_bytes(text)
    for call in (store.get("key"), store.head("key")):
        with pytest.raises(AsmError, match="'key' is damaged"):
            await call
    assert [stored async for stored in store.list_keys()] == []
    await store.put("key", b"healed")
    assert await store.get("key") == b"healed"


async def test_a_sidecar_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    """Not even one that knows the size and checksum of what it points at."""
    secret = b"not for readers"
    (tmp_path / "secret").write_bytes(secret)
    store = FileArtifactStore(tmp_path / "root")
    await store.put("key", secret)
    path = sidecar(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"content": "../../../secret"}))
    for read in (store.get("key"), anext(store.open_read("key"))):
        with pytest.raises(AsmError, match="is damaged"):
            await read


async def test_an_open_reader_keeps_what_it_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asm_core.stores.artifacts.file.READ_CHUNK", 2)
    store = FileArtifactStore(tmp_path)
    await store.put("key", b"hello")
    reader = store.open_read("key")
    first = await anext(reader)
    await store.put("key", b"other")
    assert first + b"".join([chunk async for chunk in reader]) == b"hello"


async def test_a_folder_held_by_a_frozen_process_is_an_error_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for a lock has a bound, and the artifact is as it was."""
    monkeypatch.setattr(disk, "LOCK_TIMEOUT_S", 0.05)
    store = FileArtifactStore(tmp_path)
    await store.put("key", b"old")
    handle = os.open(content(tmp_path).parent, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(AsmError, match="TimeoutError") as caught:
        await store.put("key", b"new")
    assert caught.value.code is ErrorCode.STORAGE_ERROR
    os.close(handle)
    assert await store.get("key") == b"old"
    assert len(files(tmp_path)) == 2


async def test_all_keys_are_listed_with_their_times(tmp_path: Path) -> None:
    store = FileArtifactStore(tmp_path)
    for number in range(20):
        await store.put(f"key/{number}", b"x")
    await store.delete("key/7")
    listed = [stored async for stored in store.list_keys()]
    assert {stored.key for stored in listed} == {f"key/{number}" for number in range(20)} - {"key/7"}
    assert all(abs(stored.modified_at - datetime.now(UTC)) < timedelta(minutes=5) for stored in listed)
