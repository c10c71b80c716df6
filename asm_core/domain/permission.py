"""
How much an agent may do without asking, in five modes, and what each means to a provider's SDK.

A provider that has no equal of a mode gets the next narrower one: an agent never may more than was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode


class PermissionMode(StrEnum):
    """From the narrowest to the widest, but for `plan`: there nothing is changed at all. Source: spec/01 §16."""

    DEFAULT = "default"
    ACCEPT_EDITS = "accept_edits"
    PLAN = "plan"
    FULL_AUTO = "full_auto"
    DANGEROUSLY_SKIP_PERMISSIONS = "dangerously_skip_permissions"


_M = PermissionMode

_CODEX_ASKS = {"approval_mode": "on_request", "sandbox": "read_only"}
"""What goes beyond reading is asked of the host."""
_CODEX = {"approval_mode": "deny_all"}
"""Never unset: the SDK's own default asks a second model, at a price. What a host allows runs outside the sandbox, so
where more than reading is allowed nothing is asked."""

NATIVE: Mapping[str, Mapping[PermissionMode, Mapping[str, Any]]] = {
    "claude": {
        _M.ACCEPT_EDITS: {"permission_mode": "acceptEdits"},
        _M.PLAN: {"permission_mode": "plan"},
        _M.FULL_AUTO: {"permission_mode": "bypassPermissions"},
        _M.DANGEROUSLY_SKIP_PERMISSIONS: {"permission_mode": "bypassPermissions"},
    },
    "codex": {
        _M.DEFAULT: _CODEX_ASKS,
        _M.ACCEPT_EDITS: _CODEX_ASKS,
        _M.PLAN: {**_CODEX, "sandbox": "read_only"},
        _M.FULL_AUTO: {**_CODEX, "sandbox": "workspace_write"},
        _M.DANGEROUSLY_SKIP_PERMISSIONS: {**_CODEX, "sandbox": "full_access"},
    },
    "amp": {
        _M.FULL_AUTO: {"dangerously_allow_all": True},
        _M.DANGEROUSLY_SKIP_PERMISSIONS: {"dangerously_allow_all": True},
    },
}
"""Provider → mode → SDK options; what is not listed sets nothing. Source: spec/01 §16, spec/06 §3 (as seen)."""


def is_permission_mode(value: object) -> bool:
    """True for members only, not for their text."""
    return isinstance(value, PermissionMode)


def parse_permission_mode(value: object) -> PermissionMode | None:
    """
    A member or its text as the member; None stays None.

    Raises:
        AsmError: `validation_error`, listing the valid modes.
    """
    if value is None:
        return None
    if not isinstance(value, str) or value not in PermissionMode._value2member_map_:
        known = ", ".join(PermissionMode)
        message = f"unknown permission mode {value!r}; one of: {known}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "permission_mode"})
    return PermissionMode(value)


def native_options(provider: str, mode: PermissionMode | None) -> Mapping[str, Any]:
    """What the provider's SDK is told; empty where it has no such setting. No mode means the default one."""
    return NATIVE.get(provider, {}).get(mode or PermissionMode.DEFAULT, {})
