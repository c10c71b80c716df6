"""What every artifact store does, whatever it is made of."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from hashlib import sha256

import pytest

from asm_core.domain.artifact import ArtifactInfo
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.ports.artifacts import ArtifactStore
from asm_core.testing.contracts.answers import code_of

RANDOM = random.Random(7).randbytes(1024)
LARGE = random.Random(8).randbytes(9 * 1024 * 1024 + 17)
"""More than a store takes in one piece."""


class ArtifactStoreContract:
    """
    Fixture `store`: an ArtifactStore in which nothing is kept under the keys used here, a new one for each test.

    Source: spec/02 §12, checks 173-175, 180, 182.
    """

    pytestmark = pytest.mark.asyncio

    async def test_what_is_put_is_got_and_replaced_and_deleted(self, store: ArtifactStore) -> None:
        """Check 173."""
        await store.put("patch_1", b"old")
        assert await store.get("patch_1") == b"old"
        await store.put("patch_1", b"new")
        assert await store.get("patch_1") == await read(store, "patch_1") == b"new"
        await store.delete("patch_1")
        assert await code_of(store.get("patch_1")) is ErrorCode.NOT_FOUND

    async def test_what_is_not_there(self, store: ArtifactStore) -> None:
        """Check 174: deleting it is no error; getting it is `not_found` and names the key."""
        await store.delete("nothing")
        assert await store.head("nothing") is None
        for get in (store.get, lambda key: read(store, key)):
            with pytest.raises(AsmError, match="'nothing'") as caught:
                await get("nothing")
            assert caught.value.code is ErrorCode.NOT_FOUND

    @pytest.mark.parametrize(
        ("data", "kept"),
        [
            (RANDOM, RANDOM),
            (bytes(range(128, 256)), bytes(range(128, 256))),
            (b"", b""),
            (bytearray(b"abc"), b"abc"),
            (memoryview(b"abcd")[1:3], b"bc"),
            ("süß", "süß".encode()),
            ([b"a", "b", bytearray(b"c")], b"abc"),
        ],
        ids=["random", "high-bits", "empty", "bytearray", "memoryview", "text", "chunks"],
    )
    async def test_bytes_come_back_unchanged(self, store: ArtifactStore, data: object, kept: bytes) -> None:
        """Check 175: chunks are joined, text is its UTF-8."""
        await store.put("key", data)  # type: ignore[arg-type]
        assert await store.get("key") == await read(store, "key") == kept

    async def test_any_iterable_of_chunks_is_joined(self, store: ArtifactStore) -> None:
        """Check 175."""
        await store.put("key", (part for part in (b"x", b"", "y")))
        assert await store.get("key") == b"xy"

    async def test_a_stream_larger_than_one_piece_comes_back_in_chunks(self, store: ArtifactStore) -> None:
        info = await store.put_stream("large", in_chunks(LARGE, 700_001), content_type="application/x-tar")
        assert info == await store.head("large")
        assert (info.byte_size, info.checksum_sha256) == (len(LARGE), sha256(LARGE).hexdigest())
        chunks = [chunk async for chunk in store.open_read("large")]
        assert len(chunks) > 1
        assert b"".join(chunks) == LARGE

    async def test_an_empty_stream_is_an_empty_artifact(self, store: ArtifactStore) -> None:
        assert (await store.put_stream("empty", in_chunks(b"", 1))).byte_size == 0
        assert await store.get("empty") == await read(store, "empty") == b""

    async def test_head_says_what_was_put(self, store: ArtifactStore) -> None:
        """Metadata keep their keys' case and any text."""
        metadata = {"Origin": "git", "grüße": "☃ 😀", "parts": [1, None, {"deep": True}]}
        info = await store.put("notes", b"hello", content_type="text/plain; charset=utf-8", metadata=metadata)
        assert info == ArtifactInfo(
            byte_size=5,
            checksum_sha256=sha256(b"hello").hexdigest(),
            content_type="text/plain; charset=utf-8",
            metadata=metadata,
        )
        assert await store.head("notes") == info
        assert store.backend in ("file", "s3")

    async def test_a_put_replaces_what_was_said_of_the_old_bytes(self, store: ArtifactStore) -> None:
        await store.put("key", b"old", content_type="text/plain", metadata={"a": 1})
        info = await store.put("key", b"newer")
        assert await store.head("key") == info
        assert (info.content_type, info.metadata, info.byte_size) == (None, {}, 5)

    async def test_keys_are_apart(self, store: ArtifactStore) -> None:
        """Check 180."""
        keys = ["a", "a.b", "a/b", "a/b.json", "A", "ünï ☃", "x" * 900, "what?is#this%2F&that=1", "a\\b", " blank "]
        for key in keys:
            await store.put(key, f"of {key}")
        await store.delete("a")
        assert await store.head("a") is None
        for key in keys[1:]:
            assert await store.get(key) == f"of {key}".encode()

    @pytest.mark.parametrize("key", ["", "nul\0", "half \ud800", None, 7])
    async def test_no_text_no_key(self, store: ArtifactStore, key: str) -> None:
        for call in (
            store.put(key, b"x"),
            store.put_stream(key, in_chunks(b"x", 1)),
            store.get(key),
            store.delete(key),
        ):
            assert await code_of(call) is ErrorCode.VALIDATION_ERROR
        assert await code_of(store.head(key)) is await code_of(read(store, key)) is ErrorCode.VALIDATION_ERROR

    @pytest.mark.parametrize("content_type", ["", "text/plain\r\nx-evil: 1", "text/ünï", " text/plain", "x" * 256])
    async def test_a_content_type_that_no_header_can_carry_is_refused(
        self, store: ArtifactStore, content_type: str
    ) -> None:
        assert await code_of(store.put("key", b"x", content_type=content_type)) is ErrorCode.VALIDATION_ERROR
        assert await store.head("key") is None

    @pytest.mark.parametrize("data", [None, 5, {"a": 1}, [b"a", 5], ["\ud800"]])
    async def test_what_is_no_bytes_is_refused(self, store: ArtifactStore, data: object) -> None:
        """And leaves what was there."""
        await store.put("key", b"old")
        assert await code_of(store.put("key", data)) is ErrorCode.VALIDATION_ERROR  # type: ignore[arg-type]
        assert await store.get("key") == b"old"

    @pytest.mark.parametrize(
        "error", [OSError(5, "mine"), ValueError("mine"), AsmError(ErrorCode.NOT_FOUND, "mine")], ids=repr
    )
    async def test_a_stream_that_fails_passes_its_own_error_and_keeps_the_old(
        self, store: ArtifactStore, error: Exception
    ) -> None:
        """The failure is the caller's: it does not become one of the store."""

        async def failing() -> AsyncIterator[bytes]:
            yield b"half of it"
            raise error

        await store.put("key", b"old")
        with pytest.raises(type(error)) as caught:
            await store.put_stream("key", failing())
        assert caught.value is error
        assert await store.get("key") == b"old"

    async def test_a_cancelled_stream_keeps_the_old(self, store: ArtifactStore) -> None:
        waiting = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"half of it"
            waiting.set()
            await asyncio.Event().wait()

        await store.put("key", b"old")
        task = asyncio.create_task(store.put_stream("key", endless()))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.get("key") == b"old"

    async def test_a_reader_may_leave_early(self, store: ArtifactStore) -> None:
        await store.put("large", LARGE)
        async with aclosing(store.open_read("large")) as chunks:
            async for chunk in chunks:
                assert LARGE.startswith(chunk)
                break
        await store.put("large", b"small")
        assert await store.get("large") == b"small"

    async def test_of_puts_at_once_one_is_kept_whole(self, store: ArtifactStore) -> None:
        """Readers meanwhile find one of them, never a mixture and never nothing."""
        contents = [bytes([number]) * (10_000 + number) for number in range(8)]
        await store.put("key", contents[0])
        reads = [store.get("key") for _ in range(8)]
        answers = await asyncio.gather(*(store.put("key", content) for content in contents), *reads)
        assert all(answer in contents for answer in answers[8:])
        kept = await store.get("key")
        assert kept in contents
        info = await store.head("key")
        assert info is not None
        assert info.checksum_sha256 == sha256(kept).hexdigest()


async def in_chunks(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def read(store: ArtifactStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.open_read(key)])
