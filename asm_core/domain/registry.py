"""Registry: manifests by name. A value: every change is a new registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from asm_core.domain.capability import CapabilityType, valid_capability_type
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import to_jsonable
from asm_core.domain.manifest import Manifest
from asm_core.domain.negotiation import has_capability_type
from asm_core.domain.session import optional_mapping, require_mapping, require_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Source: spec/01 §8.4."""

    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def register(self, manifest: Manifest) -> Registry:
        """Raises `validation_error`, `already_exists` naming the manifest."""
        validate_manifest(manifest)
        if self.exists(manifest.name):
            raise AsmError(ErrorCode.ALREADY_EXISTS, f"manifest {manifest.name!r} is registered already")
        return self._with(manifest)

    def unregister(self, name: str) -> Registry:
        """Raises `not_found`."""
        self.get(name)
        return replace(self, manifests={key: one for key, one in self.manifests.items() if key != name})

    def update(self, manifest: Manifest) -> Registry:
        """The registry with this manifest in the place of its namesake. Raises `validation_error`, `not_found`."""
        validate_manifest(manifest)
        self.get(manifest.name)
        return self._with(manifest)

    def get(self, name: str) -> Manifest:
        """Raises `not_found`."""
        if name not in self.manifests:
            raise AsmError(ErrorCode.NOT_FOUND, f"no manifest {name!r} is registered")
        return self.manifests[name]

    def exists(self, name: str) -> bool:
        return name in self.manifests

    def count(self) -> int:
        return len(self.manifests)

    def list(self) -> tuple[Manifest, ...]:
        """All of them, by name."""
        return tuple(self.manifests[name] for name in sorted(self.manifests))

    def filter_by_provider(self, provider: str) -> tuple[Manifest, ...]:
        """By name."""
        return tuple(manifest for manifest in self.list() if manifest.provider == provider)

    def filter_by_capability(self, kind: CapabilityType) -> tuple[Manifest, ...]:
        """Those with an enabled capability of this type, by name."""
        return tuple(manifest for manifest in self.list() if has_capability_type(manifest.capabilities, kind))

    def to_map(self) -> dict[str, Any]:
        return {
            "manifests": [manifest.to_map() for manifest in self.list()],
            "metadata": to_jsonable(self.metadata),
        }

    @classmethod
    def from_map(cls, value: object) -> Registry:
        """The registry that `to_map` wrote. Raises as `Manifest.from_map` for the first bad one, and as `register`."""
        given = require_mapping("registry", value)
        manifests = given.get("manifests") or []
        if not isinstance(manifests, list | tuple):
            message = f"registry manifests must be a list, not {type(manifests).__name__}"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "manifests"})
        registry = cls(metadata=optional_mapping("registry", "metadata", given.get("metadata")))
        for written in manifests:
            registry = registry.register(Manifest.from_map(written))
        return registry

    def _with(self, manifest: Manifest) -> Registry:
        return replace(self, manifests={**self.manifests, manifest.name: manifest})


def validate_manifest(manifest: Manifest) -> None:
    """
    Check what a manifest built by hand may lack.

    Raises:
        AsmError: `validation_error` naming `name`, `version` or `capability`, in this order.
    """
    require_text("manifest", "name", manifest.name)
    require_text("manifest", "version", manifest.version)
    for capability in manifest.capabilities:
        require_text("manifest capability", "name", capability.name)
        if not valid_capability_type(capability.type):
            message = f"manifest capability {capability.name!r} has an unknown type: {capability.type!r}"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "type"})
