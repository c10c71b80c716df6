"""Which providers a process offers: those whose packages are there, imported when they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asm_core import providers
from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.providers import Providers, build_providers
from asm_core.stores.memory import MemoryRecords, MemorySessionStore
from tests.builders import SteppedClock


def built() -> Providers:
    return build_providers(Settings(), MemorySessionStore(MemoryRecords(), SteppedClock()))


@pytest.mark.parametrize("name", providers.EXTRAS)
def test_an_agent_without_its_extra_is_not_offered_and_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "EXTRAS", {name: "no_such_package"})
    assert name not in built().names
    with pytest.raises(AsmError, match=rf"pip install 'agent-session-manager\[{name}\]'") as raised:
        built().get(name)
    assert raised.value.code is ErrorCode.DEPENDENCY_NOT_AVAILABLE
    assert raised.value.details["dependency"] == "no_such_package"


def test_an_unknown_provider_is_told_those_there_are() -> None:
    with pytest.raises(AsmError, match="scripted") as raised:
        built().get("nobody")
    assert raised.value.code is ErrorCode.VALIDATION_ERROR


def test_the_shell_is_offered_by_the_operator_alone_and_with_the_operators_lists(tmp_path: Path) -> None:
    assert "shell" not in built().names
    settings = Settings(shell_enabled=True, shell_cwd=tmp_path, shell_denied_commands=["rm"])
    shell = build_providers(settings, MemorySessionStore(MemoryRecords(), SteppedClock())).get("shell")
    shell.validate_input({"prompt": "ls"})
    with pytest.raises(AsmError) as raised:
        shell.validate_input({"prompt": "ls; rm x"})
    assert raised.value.code is ErrorCode.POLICY_VIOLATION


SUBMITS = """
import sys
from asm_core.domain.provider_options import ProviderOptions
from tests.unit.test_providers import built

name, package = sys.argv[1:]
adapter = built().get(name)
adapter.validate_input({"prompt": "x"})
adapter.validate_options(ProviderOptions(max_turns=3))
print(package in sys.modules)
"""


@pytest.mark.parametrize(("name", "package"), providers.EXTRAS.items())
def test_to_check_a_submit_needs_no_sdk(name: str, package: str) -> None:
    """It takes a second to import, and the API never runs it."""
    pytest.importorskip(package)
    answer = subprocess.run([sys.executable, "-c", SUBMITS, name, package], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
