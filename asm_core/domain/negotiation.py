"""Whether what a run needs and what a provider can do go together. Only the types of enabled capabilities count."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from asm_core.domain.capability import Capability, CapabilityType, parse_capability_type
from asm_core.domain.errors import AsmError, ErrorCode


class NegotiationStatus(StrEnum):
    UNKNOWN = "unknown"
    FULL = "full"
    DEGRADED = "degraded"
    """Something optional is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NegotiationResult:
    """What a negotiation came to; the caller shows the warnings of a degraded one."""

    status: NegotiationStatus = NegotiationStatus.UNKNOWN
    supported: frozenset[CapabilityType] = frozenset()
    """Of what was asked for, required and optional."""
    unsupported: frozenset[CapabilityType] = frozenset()
    """Optional and missing."""
    warnings: tuple[str, ...] = ()
    """One sentence per missing optional type, in the order of their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityResolver:
    """What is asked of a provider. Source: spec/01 §8.2."""

    required: frozenset[CapabilityType] = frozenset()
    optional: frozenset[CapabilityType] = frozenset()

    @classmethod
    def new(cls, *, required: Iterable[object] = (), optional: Iterable[object] = ()) -> CapabilityResolver:
        """Types as members or text. Raises `invalid_capability_type`."""
        return cls(
            required=frozenset(parse_capability_type(kind) for kind in required),
            optional=frozenset(parse_capability_type(kind) for kind in optional),
        )

    def negotiate(self, capabilities: Iterable[Capability]) -> NegotiationResult:
        """
        Raises:
            AsmError: `missing_required_capability`, naming every required type that is missing.
        """
        available = frozenset(capability.type for capability in capabilities if capability.enabled)
        if missing := self.required - available:
            names = ", ".join(sorted(missing))
            raise AsmError(
                ErrorCode.MISSING_REQUIRED_CAPABILITY,
                f"the provider lacks required capabilities: {names}",
                details={"missing": sorted(missing)},
            )
        unsupported = self.optional - available
        return NegotiationResult(
            status=NegotiationStatus.DEGRADED if unsupported else NegotiationStatus.FULL,
            supported=(self.required | self.optional) & available,
            unsupported=unsupported,
            warnings=tuple(f"the provider lacks the optional capability {kind}" for kind in sorted(unsupported)),
        )


def capabilities_of_type(capabilities: Iterable[Capability], kind: CapabilityType) -> list[Capability]:
    """The enabled ones of this type, in order."""
    return [capability for capability in capabilities if capability.enabled and capability.type == kind]


def has_capability_type(capabilities: Collection[Capability], kind: CapabilityType) -> bool:
    """Whether an enabled one has this type."""
    return any(capability.enabled and capability.type == kind for capability in capabilities)
