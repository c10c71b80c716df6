"""The Claude adapter keeps what every adapter promises, on Claude Code itself. A start costs: one run serves all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from asm_core.adapters.claude import ClaudeAdapter
from asm_core.agent_process import AgentFolders
from asm_core.config import ProviderAccess
from asm_core.domain.permission import PermissionMode
from asm_core.domain.provider_options import ProviderOptions
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.testing import ProviderAdapterContract
from asm_core.testing.contracts.provider_adapter import all_of
from tests.builders import an_execution
from tests.fakes import script as s
from tests.fakes.clis import KEY
from tests.fakes.script import Failure
from tests.fakes.server import ProviderServer
from tests.fixtures.providers import CliHome

pytest.importorskip("claude_agent_sdk")

_told: list[RawEvent | Completion] = []


class TestClaudeAdapter(ProviderAdapterContract):
    @pytest.fixture
    def adapter(self, providers: ProviderServer, cli_home: CliHome, tmp_path: Path) -> ClaudeAdapter:
        return ClaudeAdapter(AgentFolders(tmp_path), ProviderAccess(providers.url, SecretStr(KEY), "claude-haiku-4-5"))

    @pytest.fixture
    def execution(self, providers: ProviderServer) -> Execution:
        providers.script.always(s.text("hel", "lo"))
        return an_execution(prompt="greet")

    @pytest.fixture
    async def items(self, adapter: ClaudeAdapter, providers: ProviderServer) -> list[RawEvent | Completion]:  # type: ignore[override]
        """Of a run with tools."""
        if not _told:
            calls = [s.ToolCall("Bash", {"command": command, "description": "x"}) for command in ("echo hi", "exit 3")]
            providers.script.add(s.tools(*calls, say="look"), s.text("done"), prompt="qtools")
            options = ProviderOptions(permission_mode=PermissionMode.FULL_AUTO)
            _told.extend(await all_of(adapter, replace(an_execution(prompt="qtools"), options=options)))
        return _told

    @pytest.fixture
    def long_execution(self, providers: ProviderServer) -> Execution:
        providers.script.add(s.endless(), s.endless(), prompt="qlong")
        return an_execution(prompt="qlong")

    @pytest.fixture
    def failing_execution(self, providers: ProviderServer) -> Execution:
        providers.script.add(s.refused(Failure.AUTH), prompt="qfail")
        return an_execution(prompt="qfail")
