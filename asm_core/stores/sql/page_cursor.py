"""Opaque page cursors: tied to what is listed and to its order."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import parse_datetime, timestamp_text
from asm_core.wire import dumps, loads

VERSION = 1


def check_limit(limit: object) -> None:
    """Raises `validation_error` for a page of no rows, and for what is no number."""
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        message = f"limit must be an integer from 1, not {limit!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "limit"})


def encode_cursor(kind: str, at: datetime, record_id: str) -> str:
    payload = dumps({"v": VERSION, "k": kind, "s": timestamp_text(at), "i": record_id})
    return urlsafe_b64encode(payload).rstrip(b"=").decode()


def decode_cursor(text: str, kind: str) -> tuple[datetime, str]:
    """The sort key behind which the next page begins. Raises `invalid_cursor`."""
    try:
        payload = loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if payload["v"] != VERSION or payload["k"] != kind or not isinstance(payload["i"], str):
            raise ValueError(f"a cursor for {payload['k']!r}")
        return parse_datetime(payload["s"]), payload["i"]
    except (ValueError, KeyError, TypeError) as cause:
        message = f"not a cursor of this list: {text[:80]!r}"
        raise AsmError(ErrorCode.INVALID_CURSOR, message, details={"field": "cursor"}) from cause
