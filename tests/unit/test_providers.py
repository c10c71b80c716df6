"""Which providers a process offers: those whose packages are there, imported when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from asm_core import providers
from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.providers import Providers, build_providers
from asm_core.stores.memory import MemoryRecords, MemorySessionStore
from tests.builders import SteppedClock


def built() -> Providers:
    return build_providers(Settings(), MemorySessionStore(MemoryRecords(), SteppedClock()))


def test_an_agent_without_its_extra_is_not_offered_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "EXTRAS", {"claude": "no_such_package"})
    assert "claude" not in built().names
    with pytest.raises(AsmError, match=r"pip install 'agent-session-manager\[claude\]'") as raised:
        built().get("claude")
    assert raised.value.code is ErrorCode.DEPENDENCY_NOT_AVAILABLE
    assert raised.value.details["dependency"] == "no_such_package"


def test_an_unknown_provider_is_told_those_there_are() -> None:
    with pytest.raises(AsmError, match="scripted") as raised:
        built().get("nobody")
    assert raised.value.code is ErrorCode.VALIDATION_ERROR


SUBMITS = """
import sys
from asm_core.domain.provider_options import ProviderOptions
from tests.unit.test_providers import built

claude = built().get("claude")
claude.validate_input({"prompt": "x"})
claude.validate_options(ProviderOptions(max_turns=3))
print("claude_agent_sdk" in sys.modules)
"""


def test_to_check_a_submit_needs_no_sdk() -> None:
    """It takes a second to import, and the API never runs it."""
    pytest.importorskip("claude_agent_sdk")
    answer = subprocess.run([sys.executable, "-c", SUBMITS], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
