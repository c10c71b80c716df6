"""Every provider adapter of ours is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.adapters.shell import ShellAdapter
from asm_core.ports.provider import Execution, ProviderAdapter
from asm_core.testing import SCRIPTS, ProviderAdapterContract, RecordingAdapter, build_execution

COMPLETING = [name for name in SCRIPTS if name not in ("rate_limited", "never_ending")]


def plain(adapter: ProviderAdapter) -> ProviderAdapter:
    return adapter


@pytest.mark.parametrize("seen_as", [plain, RecordingAdapter])
class TestScriptedAdapter(ProviderAdapterContract):
    """As it is, and behind the double that takes notes."""

    @pytest.fixture
    def adapter(self, seen_as: Callable[[ProviderAdapter], ProviderAdapter]) -> ProviderAdapter:
        return seen_as(ScriptedAdapter())

    @pytest.fixture(params=COMPLETING)
    def execution(self, request: pytest.FixtureRequest) -> Execution:
        return build_execution({"script": SCRIPTS[request.param]})

    @pytest.fixture
    def long_execution(self) -> Execution:
        return build_execution({"script": SCRIPTS["never_ending"]})

    @pytest.fixture
    def failing_execution(self) -> Execution:
        return build_execution({"script": SCRIPTS["rate_limited"]})


class TestShellAdapter(ProviderAdapterContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> ProviderAdapter:
        return ShellAdapter(str(tmp_path))

    @pytest.fixture
    def execution(self) -> Execution:
        return build_execution({"command": "echo one; echo two"})

    @pytest.fixture
    def long_execution(self) -> Execution:
        return build_execution({"command": "sleep 120", "timeout_ms": 120_000})

    @pytest.fixture
    def failing_execution(self) -> Execution:
        return build_execution({"command": "echo half of it; exit 3"})
