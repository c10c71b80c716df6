"""
Artifacts in S3, or in anything that speaks its protocol (MinIO, Ceph, R2).

The object's name is prefix + key, plainly joined. The client library quietly drops a slash at either end of a name and
refuses empty and dotted segments, so such names are refused here: `a/` must not be another word for `a`.

What is known of the bytes travels as the object's own metadata, in ASCII: a header that is no ASCII makes an object
that cannot be read again. It has to be sent before the bytes, so a stream is first spooled: in memory, then on disk.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import IO, Any
from urllib.parse import urlsplit

from asm_core.domain.artifact import ArtifactInfo, Chunk, Description, Payload, chunk_bytes, payload_bytes, require_key
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.session import require_text
from asm_core.optional import require
from asm_core.ports.artifacts import StoredKey
from asm_core.stores.artifacts.failures import not_found, require_checksum, storage_failed
from asm_core.stores.artifacts.threads import in_thread

ARTIFACT_TIMEOUT_MS = 60_000
"""For one request, and for repeating it; a large upload is many requests."""
CONNECT_TIMEOUT_MS = 5_000
PART_BYTES = 8 << 20
"""What is larger goes up and is read in parts of this size, and a stream of it is spooled to disk."""
MAX_NAME_BYTES = 1_024
"""S3's bound for an object's name in UTF-8."""
MAX_METADATA_BYTES = 1_900
"""Of the metadata's JSON; S3's bound for all of an object's own headers is 2 KB."""

CHECKSUM, METADATA, CONTENT_TYPE = "asm-sha256", "asm-metadata", "Content-Type"
"""The object's headers; the first two are stored as `x-amz-meta-…`."""

_UNTYPED = "binary/octet-stream"
"""What S3 says of an object that was put without a content type."""
_BUCKET = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
_SERVER_CODE = re.compile("<Code>([A-Za-z0-9.]{1,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")


class S3ArtifactStore:
    """
    Args:
        bucket: must exist.
        prefix: put before every key as it is; end it with `/` for a folder.
        endpoint_url: `http://…` or `https://…` of another server than Amazon's.
        region, access_key_id, secret_access_key, session_token: what is not given comes from the AWS environment
            (`AWS_REGION`, `AWS_ACCESS_KEY_ID`, …, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`; also
            `AWS_SERVER_SIDE_ENCRYPTION`, `AWS_SSE_KMS_KEY_ID`) or from the machine's role.
        timeout_ms: bound of one request, and of repeating it.

    Raises:
        AsmError: `validation_error` naming the argument; `dependency_not_available` without the extra `s3`.

    Source: spec/02 §12.2.
    """

    backend = "s3"

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        timeout_ms: int = ARTIFACT_TIMEOUT_MS,
    ) -> None:
        self._prefix = _checked_prefix(prefix)
        endpoint = _checked_endpoint(endpoint_url or _endpoint_of_environment())
        given = {
            "endpoint": endpoint,
            "region": region,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "session_token": session_token,
        }
        library = require("obstore.store", "s3", operation="S3ArtifactStore")
        self._objects = library.S3Store(
            _checked_bucket(bucket),
            **{name: value for name, value in given.items() if value},
            **_client_options(timeout_ms, plain_http=endpoint is not None and endpoint.startswith("http://")),
        )

    async def put(
        self, key: str, data: Payload, *, content_type: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> ArtifactInfo:
        description, content = Description.of(content_type, metadata), payload_bytes(data)
        info = ArtifactInfo.of(content, description)
        await self._upload(key, content, info)
        return info

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterable[Chunk],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> ArtifactInfo:
        description = Description.of(content_type, metadata)
        self._name(key)
        spool = SpooledTemporaryFile(max_size=PART_BYTES)  # noqa: SIM115 - closed below, in a thread
        try:
            info = description.info(*await _fill(key, spool, chunks))
            await self._upload(key, spool, info)
        finally:
            await in_thread(spool.close)
        return info

    async def get(self, key: str) -> bytes:
        with _storage_errors(key, "read"):
            found = await self._objects.get_async(self._name(key))
            content: bytes = (await found.bytes_async()).to_bytes()
        _require_checksum(key, found, sha256(content).hexdigest())
        return content

    async def open_read(self, key: str) -> AsyncGenerator[bytes, None]:
        """One request per chunk, so that a slow reader meets no time limit; all of the same version of the object."""
        name = self._name(key)
        with _storage_errors(key, "read"):
            found = await self._get_headers(name)
        digest = sha256()
        for start in range(0, found.meta["size"], PART_BYTES):
            chunk = await self._get_part(key, name, found.meta, start)
            digest.update(chunk)
            yield chunk
        _require_checksum(key, found, digest.hexdigest())

    async def head(self, key: str) -> ArtifactInfo | None:
        name = self._name(key)
        try:
            with _storage_errors(key, "read"):
                found = await self._get_headers(name)
        except AsmError as error:
            if error.code is ErrorCode.NOT_FOUND:
                return None
            raise
        return _info_of(found)

    async def delete(self, key: str) -> None:
        name = self._name(key)
        try:
            with _storage_errors(key, "deleted"):
                await self._objects.delete_async(name)
        except AsmError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise

    async def list_keys(self) -> AsyncGenerator[StoredKey, None]:
        folder = self._prefix.rpartition("/")[0] or None  # the server lists whole segments
        pages = aiter(self._objects.list(folder))
        while (page := await _next_page(pages)) is not None:
            for item in page:
                if item["path"].startswith(self._prefix):
                    yield StoredKey(item["path"].removeprefix(self._prefix), item["last_modified"])

    async def _upload(self, key: str, content: bytes | IO[bytes], info: ArtifactInfo) -> None:
        name, headers = self._name(key), _headers_of(info)
        try:
            with _storage_errors(key, "stored"):
                await self._objects.put_async(name, content, attributes=headers, chunk_size=PART_BYTES)
        except AsmError as error:
            if error.code is ErrorCode.NOT_FOUND:  # of a put, only the place can be missing
                raise storage_failed(key, "stored", "NotFound") from None
            raise

    async def _get_part(self, key: str, name: str, known: Mapping[str, Any], start: int) -> bytes:
        options = {"range": (start, min(start + PART_BYTES, known["size"])), "if_match": known["e_tag"]}
        with _storage_errors(key, "read"):
            part = await self._objects.get_async(name, options=options)
            content: bytes = (await part.bytes_async()).to_bytes()
        return content

    async def _get_headers(self, name: str) -> Any:
        try:
            return await self._objects.get_async(name, options={"head": True})
        except FileNotFoundError:
            # the answer to HEAD has no body; that to GET tells a missing object from a missing bucket
            return await self._objects.get_async(name)

    def _name(self, key: str) -> str:
        """The object's name. Raises `validation_error` when it could not be kept under exactly this one."""
        name = self._prefix + require_key(key)
        if len(name.encode()) > MAX_NAME_BYTES:
            raise _invalid("key", f"is too long for S3: {len(name.encode())} of {MAX_NAME_BYTES} bytes with its prefix")
        if any(segment in ("", ".", "..") for segment in name.split("/")):
            raise _invalid("key", f"{key!r} has an empty or dotted segment, which S3 clients change")
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise _invalid("key", f"{key!r} has control characters")
        return name


async def _fill(key: str, spool: IO[bytes], chunks: AsyncIterable[Chunk]) -> tuple[int, str]:
    """Byte size and SHA-256 of what is in the spool now, which is wound back."""
    byte_size, digest = 0, sha256()
    async for chunk in chunks:
        content = chunk_bytes(chunk)
        with _storage_errors(key, "stored"):
            await in_thread(spool.write, content)
        digest.update(content)
        byte_size += len(content)
    spool.seek(0)
    return byte_size, digest.hexdigest()


async def _next_page(pages: Any) -> Sequence[Any] | None:
    """None at the end."""
    with _storage_errors("*", "listed"):
        try:
            page: Sequence[Any] = await anext(pages)  # its default would be a SystemError with this library's futures
        except StopAsyncIteration:
            return None
    return page


def _require_checksum(key: str, found: Any, actual: str) -> None:
    """What somebody else has put may have none."""
    expected = found.attributes.get(CHECKSUM)
    if expected is not None:
        require_checksum(key, expected, actual)


def _headers_of(info: ArtifactInfo) -> dict[str, str]:
    """Raises `validation_error` for metadata that S3 has no room for."""
    written = json.dumps(info.metadata, separators=(",", ":"))  # in ASCII
    if len(written) > MAX_METADATA_BYTES:
        raise _invalid("metadata", f"is too large for S3: {len(written)} of {MAX_METADATA_BYTES} bytes")
    headers = {CHECKSUM: info.checksum_sha256 or "", METADATA: written}
    return headers | ({CONTENT_TYPE: info.content_type} if info.content_type else {})


def _info_of(found: Any) -> ArtifactInfo:
    headers: Mapping[str, str] = found.attributes
    content_type = headers.get(CONTENT_TYPE)
    return ArtifactInfo(
        byte_size=found.meta["size"],
        checksum_sha256=headers.get(CHECKSUM),
        content_type=None if content_type == _UNTYPED else content_type,
        metadata=_metadata_of(headers),
    )


def _metadata_of(headers: Mapping[str, str]) -> Mapping[str, Any]:
    """Ours; empty for an object that somebody else has put."""
    try:
        found = json.loads(headers.get(METADATA, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _storage_errors(key: str, verb: str) -> Iterator[None]:
    """
    The library's errors share no base, and some are panics of its own runtime, so that all count. Their text quotes
    the server's answer, which may repeat a request's signature and session token: it goes no further, also not as a
    cause that a traceback would show.
    """
    try:
        yield
    except AsmError:
        raise
    except Exception as cause:
        reason = _server_code(str(cause)) or type(cause).__name__
        if isinstance(cause, FileNotFoundError) and reason != "NoSuchBucket":
            raise not_found(key) from None
        raise storage_failed(key, verb, reason) from None


def _server_code(text: str) -> str | None:
    """The server's own word for what is wrong (`AccessDenied`), else the status it answered with."""
    found = _SERVER_CODE.search(text) or _STATUS.search(text)
    return found.group(1) if found else None


def _client_options(timeout_ms: int, *, plain_http: bool) -> dict[str, Any]:
    if timeout_ms < 1:
        raise _invalid("timeout_ms", f"must be positive, not {timeout_ms!r}")
    limit = timedelta(milliseconds=timeout_ms)
    connecting = timedelta(milliseconds=min(timeout_ms, CONNECT_TIMEOUT_MS))
    return {
        "client_options": {"timeout": limit, "connect_timeout": connecting, "allow_http": plain_http},
        "retry_config": {"retry_timeout": limit},
    }


def _endpoint_of_environment() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _checked_bucket(bucket: object) -> str:
    name = require_text("S3 artifact store", "bucket", bucket)
    if not _BUCKET.fullmatch(name):
        raise _invalid("bucket", f"must be letters, digits, dots, dashes and underscores, not {name!r}")
    return name


def _checked_prefix(prefix: object) -> str:
    """Empty, or what may stand before a key: its last segment may still be open."""
    if not isinstance(prefix, str):
        raise _invalid("prefix", f"must be text, not {type(prefix).__name__}")
    if prefix and any(segment in ("", ".", "..") for segment in prefix.split("/")[:-1]):
        raise _invalid("prefix", f"{prefix!r} has an empty or dotted segment")
    return prefix


def _checked_endpoint(url: str | None) -> str | None:
    """Without this check a malformed URL is a panic at the first request."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        usable = False
    if not usable:
        raise _invalid("endpoint_url", "must be http://host or https://host, without credentials")
    return url


def _invalid(name: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, f"S3 artifact store: {name} {problem}", details={"field": name})
