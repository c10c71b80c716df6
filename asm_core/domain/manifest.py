"""Manifest: what an agent brings along, as a named and versioned list of capabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from asm_core.domain.capability import Capability
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import to_jsonable
from asm_core.domain.session import optional_mapping, require_mapping, require_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Source: spec/01 §8.3."""

    name: str
    version: str
    description: str | None = None
    provider: str | None = None
    capabilities: tuple[Capability, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def new(
        cls,
        *,
        name: object,
        version: object,
        description: str | None = None,
        provider: str | None = None,
        capabilities: object = (),
        config: object = None,
        metadata: object = None,
    ) -> Manifest:
        """
        A manifest from untrusted values.

        Args:
            capabilities: capabilities or their mappings; what is no list counts as empty. Doubles are kept.

        Raises:
            AsmError: `validation_error` naming the field, `invalid_capability_type`; the first capability's error.
        """
        listed = capabilities if isinstance(capabilities, list | tuple) else ()
        return cls(
            name=require_text("manifest", "name", name),
            version=require_text("manifest", "version", version),
            description=description,
            provider=provider,
            capabilities=tuple(_capability(one) for one in listed),
            config=optional_mapping("manifest", "config", config),
            metadata=optional_mapping("manifest", "metadata", metadata),
        )

    @property
    def enabled_capabilities(self) -> tuple[Capability, ...]:
        return tuple(capability for capability in self.capabilities if capability.enabled)

    def add_capability(self, capability: Capability | Mapping[str, Any]) -> Manifest:
        """The manifest with one more at the end. Raises `duplicate_capability`, and as `Capability.new`."""
        added = _capability(capability)
        if any(one.name == added.name for one in self.capabilities):
            raise AsmError(ErrorCode.DUPLICATE_CAPABILITY, f"manifest {self.name} has capability {added.name} already")
        return replace(self, capabilities=(*self.capabilities, added))

    def remove_capability(self, name: str) -> Manifest:
        """The manifest without it. Raises `capability_not_found`."""
        self.get_capability(name)
        return replace(self, capabilities=tuple(one for one in self.capabilities if one.name != name))

    def get_capability(self, name: str) -> Capability:
        """Raises `capability_not_found`."""
        for capability in self.capabilities:
            if capability.name == name:
                return capability
        raise AsmError(ErrorCode.CAPABILITY_NOT_FOUND, f"manifest {self.name} has no capability {name!r}")

    def to_map(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "provider": self.provider,
            "capabilities": [capability.to_map() for capability in self.capabilities],
            "config": to_jsonable(self.config),
            "metadata": to_jsonable(self.metadata),
        }

    @classmethod
    def from_map(cls, value: object) -> Manifest:
        """The manifest that `to_map` wrote. Raises as `new`."""
        given = require_mapping("manifest", value)
        return cls.new(
            name=given.get("name"),
            version=given.get("version"),
            description=given.get("description"),
            provider=given.get("provider"),
            capabilities=given.get("capabilities"),
            config=given.get("config"),
            metadata=given.get("metadata"),
        )


def _capability(value: object) -> Capability:
    return value if isinstance(value, Capability) else Capability.from_map(value)
