"""What every provider adapter promises, by those of the plain APIs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from asm_core.adapters.anthropic import AnthropicAdapter
from asm_core.adapters.api import ApiAdapter
from asm_core.adapters.openai import OpenAIAdapter
from asm_core.ports.provider import Execution
from asm_core.testing import ProviderAdapterContract
from asm_core.tools import HostTools
from tests.builders import an_execution
from tests.fakes import script as s
from tests.fakes.clis import KEY
from tests.fakes.script import Failure, ToolCall
from tests.fakes.server import ProviderServer
from tests.fixtures.host_tools import add


@pytest.fixture(scope="module")
async def apis(provider_server: ProviderServer) -> AsyncIterator[Mapping[str, ApiAdapter]]:
    given: dict[str, Any] = {"api_key": KEY, "model": "some-model", "tools": HostTools(add)}
    made: dict[str, ApiAdapter] = {
        "anthropic": AnthropicAdapter(base_url=provider_server.url, **given),
        "responses": OpenAIAdapter(base_url=provider_server.openai_url, **given),
        "chat": OpenAIAdapter(base_url=provider_server.openai_url, api="chat", **given),
    }
    yield made
    for adapter in made.values():
        await adapter.aclose()


@pytest.mark.parametrize("api", ["anthropic", "responses", "chat"])
class TestApiAdapter(ProviderAdapterContract):
    @pytest.fixture
    def adapter(self, api: str, apis: Mapping[str, ApiAdapter], providers: ProviderServer) -> ApiAdapter:
        return apis[api]

    @pytest.fixture
    def execution(self, request: pytest.FixtureRequest, providers: ProviderServer) -> Execution:
        """With tools where they are what is asked about: the server cannot tell runs of one prompt apart."""
        if request.function.__name__ == "test_tool_calls_that_began_end":
            providers.script.add(s.tools(ToolCall("add", {"a": 1}), ToolCall("unknown", {}), say="so"))
        providers.script.always(s.text("it", " is 2"))
        return an_execution(prompt="please add")

    @pytest.fixture
    def long_execution(self, providers: ProviderServer) -> Execution:
        providers.script.always(s.endless(delay_s=0.01))
        return an_execution(prompt="go on")

    @pytest.fixture
    def failing_execution(self, providers: ProviderServer) -> Execution:
        providers.script.add(s.stream_error(Failure.OVERLOADED))
        return an_execution(prompt="fail")
