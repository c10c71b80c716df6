"""Artifact: bytes under a text key, too large or too opaque for an event: patches, files, recordings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from hashlib import sha256
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import clean_text, to_jsonable
from asm_core.domain.session import require_mapping, require_text

Chunk = bytes | bytearray | memoryview | str
"""Text counts as its UTF-8 bytes."""

Payload = Chunk | Iterable[Chunk]
"""Chunks of one payload are joined."""

MAX_CONTENT_TYPE = 255
"""Characters."""

MAX_INDEXED_BYTES = 2_000
"""Of a registered key and of its storage_ref, in UTF-8: an entry of a Postgres index holds 2,704 bytes."""

_CONTENT_TYPE = re.compile(r"[!-~]([ -~]*[!-~])?")
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactInfo:
    """What a store knows of one artifact's bytes."""

    byte_size: int
    checksum_sha256: str | None
    """64 hex digits; None for what was not put there by us."""
    content_type: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, content: bytes, description: Description) -> ArtifactInfo:
        return description.info(len(content), sha256(content).hexdigest())


@dataclass(frozen=True, slots=True)
class Description:
    """What the caller says of the bytes."""

    content_type: str | None
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, content_type: object, metadata: object) -> Description:
        """
        Args:
            content_type: printable ASCII, as it will stand in an HTTP header.
            metadata: a mapping, made plain JSON.

        Raises:
            AsmError: `validation_error` naming the field.
        """
        plain = to_jsonable(require_mapping("artifact's metadata", metadata if metadata is not None else {}))
        return cls(require_content_type(content_type), plain)

    def info(self, byte_size: int, checksum_sha256: str) -> ArtifactInfo:
        return ArtifactInfo(
            byte_size=byte_size,
            checksum_sha256=checksum_sha256,
            content_type=self.content_type,
            metadata=self.metadata,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A row of the registry: what is stored where, and for whom. Source: spec/02 §14."""

    id: str
    tenant_id: str
    key: str
    byte_size: int
    checksum_sha256: str
    storage_backend: str
    """Kind of store: `file`, `s3`."""
    storage_ref: str
    """The store's own key of the bytes."""
    created_at: datetime
    session_id: str | None = None
    run_id: str | None = None
    fence: int | None = None
    """Of the lease under which a run wrote it."""
    content_type: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    deleted_at: datetime | None = None

    @classmethod
    def new(cls, attrs: Mapping[str, Any], *, id: str, tenant_id: str, now: datetime) -> Artifact:
        """
        A live row from what a caller says; `id` stands when `attrs` names none, `created_at` is always `now`.

        Args:
            attrs: `key, byte_size, checksum_sha256, storage_backend, storage_ref` are required; `id, session_id,
                run_id, fence, content_type, metadata` may be given, and nothing else.

        Raises:
            AsmError: `validation_error` naming the first field that is missing, unknown or malformed.
        """
        given = {name: value for name, value in require_mapping("artifact", attrs).items() if value is not None}
        if unknown := sorted(str(name) for name in given if name not in _ATTRS):
            raise _invalid(unknown[0], "is not a field of an artifact")
        description = Description.of(given.pop("content_type", None), given.pop("metadata", None))
        _require_row(given)
        return cls(
            **{"id": id} | given,
            tenant_id=require_storable("tenant_id", tenant_id),
            created_at=now,
            content_type=description.content_type,
            metadata=description.metadata,
        )


_ATTRS = {field.name for field in fields(Artifact)} - {"tenant_id", "created_at", "deleted_at"}


@dataclass(frozen=True, slots=True)
class ArtifactStats:
    """Of a session's live artifacts."""

    artifact_count: int
    total_bytes: int


def require_key(key: object) -> str:
    """Raises `validation_error`, as `require_storable`."""
    return require_storable("key", key)


def require_storable(name: str, value: object) -> str:
    """A non-empty text without NUL and lone surrogates: any store takes it. Raises `validation_error`."""
    text = require_text("artifact", name, value)
    if clean_text(text) != text:
        raise _invalid(name, f"cannot be stored: {text!r}")
    return text


def require_registrable(key: object) -> str:
    """A key that also fits into the registry's index. Raises `validation_error`."""
    return _require_indexable("key", require_key(key))


def require_content_type(value: object) -> str | None:
    """None, or printable ASCII without blanks around it. Raises `validation_error`."""
    if value is None:
        return None
    text = require_text("artifact", "content_type", value)
    if len(text) > MAX_CONTENT_TYPE or not _CONTENT_TYPE.fullmatch(text):
        raise _invalid("content_type", f"must be up to {MAX_CONTENT_TYPE} printable ASCII characters, not {text!r}")
    return text


def payload_bytes(data: Payload) -> bytes:
    """`data` in one piece. Raises `validation_error` for what is neither bytes, text nor an iterable of those."""
    if isinstance(data, Chunk):
        return chunk_bytes(data)
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise _invalid("data", f"must be bytes, text or an iterable of those, not {type(data).__name__}")
    return b"".join(chunk_bytes(chunk) for chunk in data)


def chunk_bytes(chunk: object) -> bytes:
    """Raises `validation_error`, also for text that has no UTF-8 form."""
    if isinstance(chunk, str):
        try:
            return chunk.encode()
        except UnicodeEncodeError as cause:
            raise _invalid("data", "is text with lone surrogates") from cause
    if isinstance(chunk, bytes | bytearray | memoryview):
        return bytes(chunk)
    raise _invalid("data", f"has a chunk that is neither bytes nor text, but {type(chunk).__name__}")


def _require_row(given: Mapping[str, Any]) -> None:
    require_registrable(given.get("key"))
    _require_count("byte_size", given.get("byte_size"), required=True)
    if not _SHA256.fullmatch(require_text("artifact", "checksum_sha256", given.get("checksum_sha256"))):
        raise _invalid("checksum_sha256", f"must be 64 hex digits in lower case, not {given['checksum_sha256']!r}")
    require_storable("storage_backend", given.get("storage_backend"))
    _require_indexable("storage_ref", require_storable("storage_ref", given.get("storage_ref")))
    for name in ("id", "session_id", "run_id"):
        if name in given:
            require_storable(name, given[name])
    _require_count("fence", given.get("fence"), required=False)


def _require_indexable(name: str, text: str) -> str:
    if (size := len(text.encode())) > MAX_INDEXED_BYTES:
        raise _invalid(name, f"is too long for the registry: {size} of {MAX_INDEXED_BYTES} bytes")
    return text


def _require_count(name: str, value: object, *, required: bool) -> None:
    if value is None and not required:
        return
    if value is None:
        raise _invalid(name, "is required")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise _invalid(name, f"must be an integer from 0 to 2^63 - 1, not {value!r}")


def _invalid(name: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, f"artifact {name} {problem}", details={"field": name})
