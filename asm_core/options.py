"""
What a library call falls back to where its caller says nothing, in three layers: the overrides of this context, the
settings (environment, `ASM_*`), the built-in defaults.

    with options.override(default_event_query_limit=10):
        ...

An override holds inside its block, for this thread or task and the tasks it starts there; nobody else sees it. The keys
are the fields of `config.LibraryOptions`; everything else in the settings belongs to a process and is read at its rim.

Source: spec/01 §13.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from asm_core.config import LibraryOptions, Settings
from asm_core.domain.errors import AsmError, ErrorCode

_NONE: Mapping[str, Any] = MappingProxyType({})
_overrides: ContextVar[Mapping[str, Any]] = ContextVar("asm_options", default=_NONE)


def get(key: str) -> Any:
    """
    The value in force here and now.

    Raises:
        AsmError: `validation_error` for an unknown key, or for a setting that is not valid.
    """
    _check_keys(key)
    overrides = _overrides.get()
    return overrides[key] if key in overrides else getattr(_settings(), key)


def default(key: str) -> Any:
    """The built-in value, whatever is set. Raises `validation_error` for an unknown key."""
    _check_keys(key)
    return LibraryOptions.model_fields[key].get_default(call_default_factory=True)


def current() -> LibraryOptions:
    """All values in force here and now. Raises as `get`."""
    return LibraryOptions(**{key: get(key) for key in LibraryOptions.model_fields})


def valid_keys() -> list[str]:
    return sorted(LibraryOptions.model_fields)


@contextmanager
def override(**values: Any) -> Iterator[None]:
    """
    Other values for as long as the block lasts; what an outer block overrides stays in force beside them.

    Raises:
        AsmError: `validation_error`, naming the key that is unknown or whose value is not valid.
    """
    token = put(**values)
    try:
        yield
    finally:
        _overrides.reset(token)


def put(**values: Any) -> Token[Mapping[str, Any]]:
    """
    As `override`, for the rest of this thread or task.

    Raises:
        AsmError: as `override`.
    """
    return _overrides.set({**_overrides.get(), **_valid(values)})


def _check_keys(*keys: str) -> None:
    if unknown := [key for key in keys if key not in LibraryOptions.model_fields]:
        message = f"unknown option {unknown[0]!r}; one of: {', '.join(valid_keys())}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": unknown[0]})


def _valid(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as their fields hold them."""
    _check_keys(*values)
    try:
        checked = LibraryOptions.model_validate(values)
    except ValidationError as cause:
        raise _invalid(cause) from cause
    return {key: getattr(checked, key) for key in values}


def _settings() -> Settings:
    """Those of the environment as it is now; parsed again only when it has changed."""
    return _parsed(frozenset((name, text) for name, text in os.environ.items() if name.upper().startswith("ASM_")))


@lru_cache(maxsize=1)
def _parsed(_environment: frozenset[tuple[str, str]]) -> Settings:
    try:
        return Settings()
    except ValidationError as cause:
        raise _invalid(cause) from cause
    except SettingsError as cause:
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"settings: {cause}") from cause


def _invalid(cause: ValidationError) -> AsmError:
    first = cause.errors(include_url=False, include_context=False)[0]
    if not first["loc"]:  # about several settings at once: the input would be all of them, secrets too
        return AsmError(ErrorCode.VALIDATION_ERROR, f"settings: {first['msg']}")
    key = str(first["loc"][0])
    return AsmError(
        ErrorCode.VALIDATION_ERROR, f"{key}: {first['msg']}, not {first['input']!r}", details={"field": key}
    )
