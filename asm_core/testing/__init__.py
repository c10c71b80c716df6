"""
What you need to test your own code on ASM, and stores and adapters of your own making.

    from asm_core.testing import SessionStoreContract, build_session, eventually

Names are imported when they are first used; only the contracts and the fixtures need pytest. For the fixtures, name
`asm_core.testing.fixtures` in `pytest_plugins`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asm_core.testing.builders import build_event as build_event
    from asm_core.testing.builders import build_execution as build_execution
    from asm_core.testing.builders import build_run as build_run
    from asm_core.testing.builders import build_session as build_session
    from asm_core.testing.contracts.artifact_store import ArtifactStoreContract as ArtifactStoreContract
    from asm_core.testing.contracts.maintenance import MaintenanceContract as MaintenanceContract
    from asm_core.testing.contracts.provider_adapter import ProviderAdapterContract as ProviderAdapterContract
    from asm_core.testing.contracts.query_api import QueryAPIContract as QueryAPIContract
    from asm_core.testing.contracts.session_store import SessionStoreContract as SessionStoreContract
    from asm_core.testing.doubles import BlindStore as BlindStore
    from asm_core.testing.doubles import CrashingArtifactStore as CrashingArtifactStore
    from asm_core.testing.doubles import FlushRecorder as FlushRecorder
    from asm_core.testing.doubles import RecordingAdapter as RecordingAdapter
    from asm_core.testing.doubles import RefusingStore as RefusingStore
    from asm_core.testing.scripts import SCRIPTS as SCRIPTS
    from asm_core.testing.waiting import SteppedClock as SteppedClock
    from asm_core.testing.waiting import eventually as eventually

_HOMES = {
    "build_event": "builders",
    "build_execution": "builders",
    "build_run": "builders",
    "build_session": "builders",
    "ArtifactStoreContract": "contracts.artifact_store",
    "MaintenanceContract": "contracts.maintenance",
    "ProviderAdapterContract": "contracts.provider_adapter",
    "QueryAPIContract": "contracts.query_api",
    "SessionStoreContract": "contracts.session_store",
    "BlindStore": "doubles",
    "CrashingArtifactStore": "doubles",
    "FlushRecorder": "doubles",
    "RecordingAdapter": "doubles",
    "RefusingStore": "doubles",
    "SCRIPTS": "scripts",
    "SteppedClock": "waiting",
    "eventually": "waiting",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
