"""Where providers keep their own sessions between runs: artifacts, or this process's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.lease import Lease
from asm_core.ports.artifacts import ArtifactStore
from asm_core.ports.provider import ProviderFiles


@dataclass(frozen=True, slots=True)
class ArtifactFiles:
    """As artifacts under a key per session, provider and name; written under the fence of the run's lease."""

    artifacts_of: Callable[[Lease], ArtifactStore]
    lease: Lease
    provider: str

    async def load(self, name: str) -> bytes | None:
        try:
            return await self.artifacts_of(self.lease).get(self._key(name))
        except AsmError as error:
            if error.code is ErrorCode.NOT_FOUND:
                return None
            raise

    async def save(self, name: str, data: bytes) -> None:
        await self.artifacts_of(self.lease).put(self._key(name), data)

    def _key(self, name: str) -> str:
        return f"provider-sessions/{self.lease.session_id}/{self.provider}/{name}"


def kept_as_artifacts(artifacts_of: Callable[[Lease], ArtifactStore]) -> Callable[[Lease, str], ProviderFiles]:
    """
    Args:
        artifacts_of: the store that writes in the name of a lease; asked when a provider keeps anything at all.
    """
    return partial(ArtifactFiles, artifacts_of)


@dataclass(slots=True)
class RememberedFiles:
    """In memory, gone with the process."""

    _kept: dict[tuple[str, str, str], bytes] = field(default_factory=dict)

    def of(self, lease: Lease, provider: str) -> ProviderFiles:
        return _Remembered(self._kept, lease.session_id, provider)


@dataclass(frozen=True, slots=True)
class _Remembered:
    kept: dict[tuple[str, str, str], bytes]
    session_id: str
    provider: str

    async def load(self, name: str) -> bytes | None:
        return self.kept.get((self.session_id, self.provider, name))

    async def save(self, name: str, data: bytes) -> None:
        self.kept[(self.session_id, self.provider, name)] = data
