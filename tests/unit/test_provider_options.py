"""What a run asks of its provider: its form, what it may say, and what that allows its tools."""

from __future__ import annotations

from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.permission import PermissionMode
from asm_core.domain.provider_options import NO_OPTIONS, ProviderOptions, check_trusted
from asm_core.domain.tool import ToolAccess, ToolUse, judge

FULL = {
    "system_prompt": "Be brief", "permission_mode": "plan", "max_turns": 3, "max_tokens": 100,
    "reasoning_effort": "low", "allowed_tools": ["look"], "denied_tools": ["bash"], "output_schema": {"type": "object"},
    "mcp_servers": {"files": {"command": "serve"}}, "cwd": "/work", "sdk_opts": {"verbose": True}, "record": True,
}  # fmt: skip


def test_what_is_said_comes_back_and_nothing_else() -> None:
    assert ProviderOptions.from_map(FULL).to_map() == FULL
    assert ProviderOptions.from_map({"max_turns": None}).to_map() == NO_OPTIONS.to_map() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_turns", 0), ("max_turns", True), ("max_tokens", "7"), ("system_prompt", ""), ("cwd", 7),
        ("allowed_tools", "bash"), ("denied_tools", [""]), ("permission_mode", "yolo"), ("output_schema", []),
        ("mcp_servers", {"x": {}}), ("mcp_servers", {"x": "serve"}), ("sdk_opts", 1), ("tempo", "fast"),
        ("record", "yes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(AsmError) as caught:
        ProviderOptions.from_map({name: value})
    assert caught.value.code is ErrorCode.VALIDATION_ERROR
    assert name in caught.value.details["field"]


def test_a_run_goes_before_its_session_and_no_denial_is_lost() -> None:
    """What a run does not say counts as its session says it; a tool denied by either is denied."""
    session = ProviderOptions(system_prompt="Be brief", max_turns=9, denied_tools=("bash",))
    run = ProviderOptions(max_turns=2, denied_tools=("edit",)).over(session)
    assert (run.system_prompt, run.max_turns, run.denied_tools) == ("Be brief", 2, ("bash", "edit"))
    assert NO_OPTIONS.over(session).to_map() == session.to_map()


@pytest.mark.parametrize(
    "said",
    [
        {"mcp_servers": {"x": {"command": "serve"}}}, {"cwd": "/"}, {"sdk_opts": {"add_dirs": ["/"]}}, {"record": True},
        {"permission_mode": "full_auto"}, {"permission_mode": "dangerously_skip_permissions"},
    ],
)  # fmt: skip
def test_what_acts_on_a_worker_is_not_for_everybody(said: dict[str, Any]) -> None:
    with pytest.raises(AsmError) as caught:
        check_trusted(ProviderOptions.from_map(said))
    assert caught.value.code is ErrorCode.FORBIDDEN
    assert caught.value.details["field"] == f"provider_options.{next(iter(said))}"
    check_trusted(ProviderOptions.from_map({"permission_mode": "accept_edits", "max_turns": 2, "denied_tools": ["x"]}))


@pytest.mark.parametrize(
    ("mode", "open_to"),
    [
        (None, {"read"}),
        (PermissionMode.DEFAULT, {"read"}),
        (PermissionMode.ACCEPT_EDITS, {"read", "edit"}),
        (PermissionMode.PLAN, set()),
        (PermissionMode.FULL_AUTO, {"read", "edit", "execute"}),
        (PermissionMode.DANGEROUSLY_SKIP_PERMISSIONS, {"read", "edit", "execute"}),
    ],
)
def test_a_mode_opens_tools_by_what_they_may_do(mode: PermissionMode | None, open_to: set[str]) -> None:
    """spec/04 §2.9, last column; a refusal says why."""
    options = ProviderOptions(permission_mode=mode)
    verdicts = {access: judge(ToolUse(id="t", name="look", input={}, access=access), options) for access in ToolAccess}
    assert {str(access) for access, verdict in verdicts.items() if verdict.is_allowed} == open_to
    assert all("look" in verdict.reason for verdict in verdicts.values() if not verdict.is_allowed)


@pytest.mark.parametrize(
    ("said", "is_allowed"),
    [({}, True), ({"allowed_tools": ["look"]}, True), ({"allowed_tools": []}, False),
     ({"denied_tools": ["look"]}, False), ({"allowed_tools": ["look"], "denied_tools": ["look"]}, False)],
)  # fmt: skip
def test_a_denied_name_wins_over_an_allowed_one_in_every_mode(said: dict[str, Any], is_allowed: bool) -> None:
    options = ProviderOptions.from_map(said | {"permission_mode": "dangerously_skip_permissions"})
    assert judge(ToolUse(id="t", name="look", input={}), options).is_allowed is is_allowed


def test_a_tool_of_the_agents_own_is_judged_by_its_name_alone() -> None:
    """The agent was told the mode: in `plan` it reads and writes nothing, of which a name says little."""
    use = ToolUse(id="t", name="look", input={}, access=None)
    assert judge(use, ProviderOptions(permission_mode=PermissionMode.PLAN)).is_allowed
    assert not judge(use, ProviderOptions(denied_tools=["look"])).is_allowed
