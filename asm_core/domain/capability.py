"""What a provider can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.session import optional_mapping, require_mapping, require_text


class CapabilityType(StrEnum):
    TOOL = "tool"
    RESOURCE = "resource"
    PROMPT = "prompt"
    SAMPLING = "sampling"
    FILE_ACCESS = "file_access"
    NETWORK_ACCESS = "network_access"
    CODE_EXECUTION = "code_execution"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Source: spec/01 §8.1."""

    name: str
    type: CapabilityType
    enabled: bool = True
    description: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    permissions: tuple[str, ...] = ()

    @classmethod
    def new(
        cls,
        *,
        name: object,
        type: object,
        enabled: object = True,
        description: str | None = None,
        config: object = None,
        permissions: object = None,
    ) -> Capability:
        """
        A capability from untrusted values; None for `config` or `permissions` means empty.

        Raises:
            AsmError: `validation_error` naming the field, `invalid_capability_type`.
        """
        name = require_text("capability", "name", name)
        if type is None:
            raise _invalid("type", "is required")
        if not isinstance(enabled, bool):
            raise _invalid("enabled", f"must be true or false, not {enabled!r}")
        if not isinstance(permissions, list | tuple | None):
            raise _invalid("permissions", f"must be a list, not {permissions!r}")
        return cls(
            name=name,
            type=parse_capability_type(type),
            enabled=enabled,
            description=description,
            config=optional_mapping("capability", "config", config),
            permissions=tuple(permissions or ()),
        )

    def enable(self) -> Capability:
        return replace(self, enabled=True)

    def disable(self) -> Capability:
        return replace(self, enabled=False)

    def to_map(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": str(self.type),
            "enabled": self.enabled,
            "description": self.description,
            "config": dict(self.config),
            "permissions": list(self.permissions),
        }

    @classmethod
    def from_map(cls, value: object) -> Capability:
        """The capability that `to_map` wrote. Raises as `new`."""
        given = require_mapping("capability", value)
        return cls.new(
            name=given.get("name"),
            type=given.get("type"),
            enabled=given.get("enabled", True),
            description=given.get("description"),
            config=given.get("config"),
            permissions=given.get("permissions"),
        )


def valid_capability_type(kind: object) -> bool:
    """True for a capability type or its exact text."""
    return isinstance(kind, str) and kind in CapabilityType._value2member_map_


def parse_capability_type(kind: object) -> CapabilityType:
    """Raises `invalid_capability_type`, listing the valid ones."""
    if not valid_capability_type(kind):
        known = ", ".join(CapabilityType)
        raise AsmError(ErrorCode.INVALID_CAPABILITY_TYPE, f"unknown capability type {kind!r}; one of: {known}")
    return CapabilityType(str(kind))


def _invalid(name: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, f"capability {name} {problem}", details={"field": name})
