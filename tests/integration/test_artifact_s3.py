"""Artifacts in S3, over real HTTP: names, headers, errors, credentials. Spec 02 §12.2."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.artifacts.s3 import MAX_METADATA_BYTES, PART_BYTES, S3ArtifactStore
from tests.fixtures.artifacts import SECRET, Bucket

TOKEN = "FwoGZXIvYXdzEXAMPLE-session-token"

CALLS: list[Callable[[S3ArtifactStore], Awaitable[Any]]] = [
    lambda store: store.put("a/key", b"x"),
    lambda store: store.put_stream("a/key", _once(b"x")),
    lambda store: store.get("a/key"),
    lambda store: _all(store.open_read("a/key")),
    lambda store: store.head("a/key"),
    lambda store: store.delete("a/key"),
]
each_call = pytest.mark.parametrize("call", CALLS, ids=["put", "put_stream", "get", "open_read", "head", "delete"])


async def _once(chunk: bytes) -> Any:
    yield chunk


async def _all(chunks: Any) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def failure(awaitable: Awaitable[Any]) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await awaitable
    return caught.value


class _Refuses(BaseHTTPRequestHandler):
    """Answers as S3 does to a bad signature: with everything that was signed."""

    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("x-amz-security-token", "")
        body = f"<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>{token}</CanonicalRequest></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _refuse

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def refusing_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("prefix", ["runs/", "runs-", "a/b/c", ""])
async def test_the_objects_name_is_prefix_and_key_and_its_bytes_are_the_joined_ones(
    bucket: Bucket, prefix: str
) -> None:
    """Checks 177, 178: no slash is added, and an empty prefix leaves the key as it is."""
    await bucket.store(prefix=prefix).put("patch/1", [b"jo", b"in", b"ed"])
    assert bucket.request("GET", f"{prefix}patch/1") == b"joined"


async def test_without_a_prefix_the_key_is_the_name(bucket: Bucket) -> None:
    """Check 178."""
    await S3ArtifactStore(
        bucket.name, endpoint_url=bucket.endpoint_url, region="us-east-1", access_key_id="a", secret_access_key="b"
    ).put("key", b"x")
    assert bucket.request("GET", "key") == b"x"


async def test_the_environment_says_what_the_arguments_do_not(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": bucket.endpoint_url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }.items():
        monkeypatch.setenv(name, value)
    store = S3ArtifactStore(bucket.name)
    await store.put("key", b"x")
    assert await store.get("key") == bucket.request("GET", "key") == b"x"


@each_call
async def test_a_missing_bucket_is_a_storage_error_and_no_missing_artifact(
    bucket: Bucket, call: Callable[[S3ArtifactStore], Awaitable[Any]]
) -> None:
    """Check 179: the server answers 404 to both; deleting from nowhere is no success."""
    error = await failure(call(bucket.store(bucket="no-such-bucket")))
    assert error.code is ErrorCode.STORAGE_ERROR
    assert "'a/key'" in error.message


@each_call
async def test_a_server_that_cannot_be_reached_is_a_storage_error(
    call: Callable[[S3ArtifactStore], Awaitable[Any]],
) -> None:
    """Check 179; within the time limit."""
    nowhere = Bucket("http://127.0.0.1:1", "bucket").store(timeout_ms=200)
    error = await failure(call(nowhere))
    assert (error.code, error.details["key"]) == (ErrorCode.STORAGE_ERROR, "a/key")


@each_call
async def test_a_refusal_names_the_key_and_never_a_credential(
    refusing_url: str, call: Callable[[S3ArtifactStore], Awaitable[Any]]
) -> None:
    """The server's answer quotes the request with its session token; a traceback would print a cause's words."""
    store = Bucket(refusing_url, "bucket").store(session_token=TOKEN)
    error = await failure(call(store))
    assert error.code is ErrorCode.STORAGE_ERROR
    assert "'a/key'" in error.message
    assert error.details["reason"] in ("SignatureDoesNotMatch", "403")
    assert error.__suppress_context__
    shown = f"{error!s} {error.to_map()} {error.__cause__} {store!r} {vars(store)}"
    assert not [word for word in (TOKEN, SECRET, "AKIDTEST") if word in shown]


@pytest.mark.parametrize(
    "key", ["/a", "a/", "a//b", "..", ".", "../a", "a/./b", "a\nb", "tab\t", "x" * 1_025, "ü" * 513]
)
async def test_a_key_that_would_become_another_name_is_refused(bucket: Bucket, key: str) -> None:
    """The library drops slashes at the ends: `a/` must not be read or deleted as `a`."""
    store = bucket.store()
    await store.put("a", b"kept")
    for call in (store.put(key, b"x"), store.get(key), store.head(key), store.delete(key)):
        error = await failure(call)
        assert (error.code, error.details["field"]) == (ErrorCode.VALIDATION_ERROR, "key")
    assert [stored.key async for stored in store.list_keys()] == ["a"]
    assert await store.get("a") == b"kept"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"bucket": ""}, "bucket"),
        ({"bucket": None}, "bucket"),
        ({"bucket": "../other"}, "bucket"),
        ({"prefix": None}, "prefix"),
        ({"prefix": "/rooted/"}, "prefix"),
        ({"prefix": "a/../b/"}, "prefix"),
        ({"endpoint_url": "localhost:9000"}, "endpoint_url"),
        ({"endpoint_url": "ftp://host"}, "endpoint_url"),
        ({"endpoint_url": "http://[bad"}, "endpoint_url"),
        ({"endpoint_url": f"http://AKIDTEST:{SECRET}@host"}, "endpoint_url"),
        ({"timeout_ms": 0}, "timeout_ms"),
    ],
    ids=str,
)
def test_an_argument_that_cannot_work_is_refused_at_once(given: dict[str, Any], field: str) -> None:
    with pytest.raises(AsmError) as caught:
        S3ArtifactStore(**{"bucket": "bucket"} | given)
    assert (caught.value.code, caught.value.details["field"]) == (ErrorCode.VALIDATION_ERROR, field)
    assert SECRET not in str(caught.value)


async def test_metadata_without_room_are_refused(bucket: Bucket) -> None:
    store = bucket.store()
    await store.put("key", b"x", metadata={"a": "b" * (MAX_METADATA_BYTES - len('{"a":""}'))})
    error = await failure(store.put("key", b"y", metadata={"a": "b" * MAX_METADATA_BYTES}))
    assert (error.code, error.details["field"]) == (ErrorCode.VALIDATION_ERROR, "metadata")
    assert await store.get("key") == b"x"


async def test_the_content_type_is_the_objects_own(bucket: Bucket) -> None:
    """Whoever serves the bucket to a browser needs it."""
    await bucket.store().put("page", b"<p>", content_type="text/html")
    info = await bucket.store().head("page")
    assert info is not None
    assert info.content_type == "text/html"


async def test_an_object_of_somebody_else_is_read_as_it_is(bucket: Bucket) -> None:
    """It has no checksum of ours, and may have anything under our names."""
    bucket.request("PUT", "theirs", b"bytes", Content_Type="text/csv", x_amz_meta_asm_metadata="no json")
    store = bucket.store()
    info = await store.head("theirs")
    assert info is not None
    assert (info.byte_size, info.checksum_sha256, info.metadata) == (5, None, {})
    assert await store.get("theirs") == await _all(store.open_read("theirs")) == b"bytes"


async def test_bytes_that_are_not_those_that_were_put_are_not_handed_out(bucket: Bucket) -> None:
    store = bucket.store()
    info = await store.put("key", b"hello")
    assert info.checksum_sha256 is not None
    bucket.request("PUT", "key", b"hellO", x_amz_meta_asm_sha256=info.checksum_sha256)
    for call in (store.get("key"), _all(store.open_read("key"))):
        error = await failure(call)
        assert error.code is ErrorCode.STORAGE_ERROR
        assert "'key' is damaged" in error.message


async def test_a_large_object_is_read_by_requests_of_bounded_size(bucket: Bucket) -> None:
    """One request for all of it would be cut off by its time limit when the reader is slow."""
    store = bucket.store()
    await store.put("large", bytes(2 * PART_BYTES + 1))
    assert [len(chunk) async for chunk in store.open_read("large")] == [PART_BYTES, PART_BYTES, 1]


async def test_an_object_replaced_while_it_is_read_is_an_error_and_no_mixture(bucket: Bucket) -> None:
    store = bucket.store()
    await store.put("large", b"a" * (PART_BYTES + 1))
    reader = store.open_read("large")
    await anext(reader)
    await store.put("large", b"b" * (PART_BYTES + 1))
    error = await failure(anext(reader))
    assert (error.code, error.details["reason"]) == (ErrorCode.STORAGE_ERROR, "PreconditionFailed")


@pytest.mark.parametrize("prefix", ["", "one/", "one/two-"])
async def test_the_keys_under_the_prefix_are_listed_without_it(bucket: Bucket, prefix: str) -> None:
    for other in ("elsewhere", "one", "one/two/three"):
        bucket.request("PUT", other, b"x")
    expected = {"k/1", "k 2"} | ({"elsewhere", "one", "one/two/three"} if not prefix else set())
    expected |= {"two/three"} if prefix == "one/" else set()
    store = bucket.store(prefix=prefix)
    for key in ("k/1", "k 2"):
        await store.put(key, b"x")
    assert {stored.key async for stored in store.list_keys()} == expected


async def test_listing_a_missing_bucket_is_a_storage_error(bucket: Bucket) -> None:
    error = await failure(anext(bucket.store(bucket="no-such-bucket").list_keys()))
    assert error.code is ErrorCode.STORAGE_ERROR


def test_without_the_extra_it_is_said_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks 172, 250."""
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(AsmError, match=r"agent-session-manager\[s3\]") as caught:
        S3ArtifactStore("bucket")
    assert caught.value.code is ErrorCode.DEPENDENCY_NOT_AVAILABLE
    assert caught.value.details == {
        "dependency": "obstore",
        "module": "obstore.store",
        "operation": "S3ArtifactStore",
    }
