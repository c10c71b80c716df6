"""The AsmErrors of artifact stores. They name the key, and nothing that a driver or a server says in its own words."""

from __future__ import annotations

from asm_core.domain.errors import AsmError, ErrorCode


def not_found(key: str) -> AsmError:
    return AsmError(ErrorCode.NOT_FOUND, f"no artifact {key!r}", details={"key": key})


def storage_failed(key: str, verb: str, reason: str) -> AsmError:
    """
    Args:
        verb: what could not be done: `stored`, `read`, `deleted`.
        reason: a short name: an errno's, a server's error code, an exception's type.
    """
    message = f"artifact {key!r} could not be {verb} ({reason})"
    return AsmError(ErrorCode.STORAGE_ERROR, message, details={"key": key, "reason": reason})


def damaged(key: str, found: str) -> AsmError:
    """The bytes, or what is written about them, are not what was put."""
    message = f"artifact {key!r} is damaged: {found}"
    return AsmError(ErrorCode.STORAGE_ERROR, message, details={"key": key, "reason": "damaged"})


def require_checksum(key: str, expected: str, actual: str) -> None:
    """Raises `storage_error` naming the key when the two SHA-256 differ."""
    if actual != expected:
        raise damaged(key, f"its SHA-256 is {actual}, it was put with {expected}")
