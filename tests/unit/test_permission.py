"""Permission modes and what they mean to each provider."""

from __future__ import annotations

from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.permission import (
    NATIVE,
    PermissionMode,
    is_permission_mode,
    native_options,
    parse_permission_mode,
)

CODEX_ASKS = {"approval_mode": "on_request", "sandbox": "read_only"}
MODES = ["default", "accept_edits", "plan", "full_auto", "dangerously_skip_permissions"]


def test_there_are_five_modes() -> None:
    """spec/01 check 237: in this order; only members are valid."""
    assert [str(mode) for mode in PermissionMode] == MODES
    assert all(is_permission_mode(mode) for mode in PermissionMode)
    assert not any(is_permission_mode(value) for value in ("plan", "magic", None, 5))


@pytest.mark.parametrize("mode", PermissionMode)
def test_a_mode_or_its_text_becomes_the_mode(mode: PermissionMode) -> None:
    """spec/01 check 237."""
    assert parse_permission_mode(mode) is mode
    assert parse_permission_mode(str(mode)) is mode


def test_no_mode_stays_none() -> None:
    """spec/01 check 237."""
    assert parse_permission_mode(None) is None


@pytest.mark.parametrize("value", ["magic", "", "PLAN", 5, ["plan"], True, {}])
def test_everything_else_is_refused_and_the_valid_listed(value: object) -> None:
    """spec/01 check 237."""
    with pytest.raises(AsmError) as caught:
        parse_permission_mode(value)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR
    assert all(mode in caught.value.message for mode in MODES)


@pytest.mark.parametrize(
    ("mode", "claude", "codex", "amp"),
    [
        (None, {}, CODEX_ASKS, {}),
        ("default", {}, CODEX_ASKS, {}),
        ("accept_edits", {"permission_mode": "acceptEdits"}, CODEX_ASKS, {}),
        ("plan", {"permission_mode": "plan"}, {"sandbox": "read_only"}, {}),
        ("full_auto", {"permission_mode": "bypassPermissions"}, {"sandbox": "workspace_write"},
         {"dangerously_allow_all": True}),
        ("dangerously_skip_permissions", {"permission_mode": "bypassPermissions"}, {"sandbox": "full_access"},
         {"dangerously_allow_all": True}),
    ],
)  # fmt: skip
def test_each_mode_in_the_words_of_each_sdk(mode: Any, claude: Any, codex: Any, amp: Any) -> None:
    """spec/01 §16, spec/06 §3: codex never asks its second model; the shell ignores modes."""
    parsed = parse_permission_mode(mode)
    assert native_options("claude", parsed) == claude
    assert native_options("codex", parsed) == {"approval_mode": "deny_all"} | codex
    assert native_options("amp", parsed) == amp
    assert native_options("shell", parsed) == {}


def test_only_the_widest_modes_lift_all_restrictions() -> None:
    """A provider without an equal of a mode gets a narrower one."""
    narrow = [PermissionMode.DEFAULT, PermissionMode.ACCEPT_EDITS, PermissionMode.PLAN]
    granted = [value for provider in NATIVE for mode in narrow for value in native_options(provider, mode).values()]
    assert not {"bypassPermissions", "workspace_write", "full_access", True} & set(granted)
