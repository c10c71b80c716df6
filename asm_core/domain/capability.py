"""What a provider can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


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

    def to_map(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": str(self.type),
            "enabled": self.enabled,
            "description": self.description,
            "config": dict(self.config),
            "permissions": list(self.permissions),
        }
