"""Tools that a model may use, what a use of one is and comes to, and whether it may happen at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from asm_core.domain.permission import PermissionMode
from asm_core.domain.provider_options import ProviderOptions


class ToolAccess(StrEnum):
    """What a tool may do to the world."""

    READ = "read"
    EDIT = "edit"
    """Changes files, as an editor would."""
    EXECUTE = "execute"
    """Anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    name: str
    description: str
    input_schema: Mapping[str, Any]
    """JSON Schema of an object."""
    access: ToolAccess = ToolAccess.EXECUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """What a model asks for."""

    id: str
    name: str
    input: Mapping[str, Any]
    access: ToolAccess | None = ToolAccess.EXECUTE
    """None: a tool of the agent's own, which was told the run's permission mode and keeps to it by itself."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    content: Any
    """Text, or plain JSON."""
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    is_allowed: bool
    reason: str = ""
    """Why not; the model gets to read it."""


ALLOWED = Verdict(True)

_OPEN_TO: Mapping[PermissionMode, frozenset[ToolAccess]] = {
    PermissionMode.PLAN: frozenset(),
    PermissionMode.DEFAULT: frozenset({ToolAccess.READ}),
    PermissionMode.ACCEPT_EDITS: frozenset({ToolAccess.READ, ToolAccess.EDIT}),
    PermissionMode.FULL_AUTO: frozenset(ToolAccess),
    PermissionMode.DANGEROUSLY_SKIP_PERMISSIONS: frozenset(ToolAccess),
}


def judge(use: ToolUse, options: ProviderOptions) -> Verdict:
    """
    Whether a tool may run, by its name and, for those of ours, by what it may do in the run's permission mode.

    Source: spec/04 §2.9.
    """
    if not options.permits(use.name):
        return Verdict(False, f"the tool {use.name} is not allowed in this run")
    mode = options.permission_mode or PermissionMode.DEFAULT
    if use.access is not None and use.access not in _OPEN_TO[mode]:
        return Verdict(False, f"the tool {use.name} ({use.access}) is not allowed in the permission mode {mode}")
    return ALLOWED
