"""Recordings of provider traffic: made by a proxy, played by a server, with the vendor's own SDK at the other end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from pydantic import SecretStr

from asm_core.adapters.amp import AmpAdapter
from asm_core.adapters.anthropic import AnthropicAdapter
from asm_core.adapters.claude import ClaudeAdapter
from asm_core.adapters.codex import CodexAdapter
from asm_core.adapters.openai import OpenAIAdapter
from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.agent_process import AgentFolders
from asm_core.config import ProviderAccess
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.permission import PermissionMode
from asm_core.domain.provider_options import ProviderOptions
from asm_core.library import open_manager
from asm_core.ports.provider import Completion, ProviderAdapter
from asm_core.recording import Recording, RecordingAdapter, played, recorded
from asm_core.tools import HostTools, tool
from tests.builders import an_execution
from tests.fakes import script as s
from tests.fakes.clis import AMP_STAND_IN
from tests.fakes.script import Failure, Fault
from tests.fakes.server import ProviderServer
from tests.fixtures.providers import CliHome

FULL_AUTO = ProviderOptions(permission_mode=PermissionMode.FULL_AUTO)


@tool
def look(at: str) -> str:
    "Looks at something."
    return f"{at} is fine"


class Shelf:
    """Files in a dict."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        self._kept = kept

    async def load(self, name: str) -> bytes | None:
        return self._kept.get(name)

    async def save(self, name: str, data: bytes) -> None:
        self._kept[name] = data


ASKED: dict[str, Any] = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}


async def events(base_url: str) -> list[Any]:
    """What the SDK makes of a streamed answer."""
    async with AsyncAnthropic(api_key="sk-ant-not-a-real-key", base_url=base_url, max_retries=0) as client:
        stream = await client.messages.create(stream=True, **ASKED)
        return [event.model_dump() async for event in stream]


async def body(base_url: str) -> tuple[int, bytes]:
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{base_url}/v1/messages", json=ASKED | {"stream": True}, headers={"x-api-key": "k"})
        return answer.status_code, answer.content


async def test_what_was_recorded_is_played_byte_for_byte(providers: ProviderServer) -> None:
    """Through a file, without the provider; the SDK cannot tell the difference."""
    providers.script.add(s.text("Hel", "lo"))
    providers.script.add(s.tool("look", {"at": "it"}))
    recording = Recording("anthropic")
    async with recorded(providers.url, recording) as url:
        first, (status, raw) = await events(url), await body(url)
    assert len(providers.requests) == 2
    kept = Recording.from_bytes(recording.to_bytes())
    async with played(kept) as url:
        assert await events(url) == first
        assert await body(url) == (status, raw)
        assert (await body(url))[0] == 404, "each exchange is played once"
    assert len(providers.requests) == 2


async def test_no_key_is_in_a_recording(providers: ProviderServer) -> None:
    """Neither from headers nor in what was said, also where a chunk's border cuts it."""
    secret = "sk-ant-api03-" + "aB3dE5" * 8
    providers.script.add(s.text(secret[:20], secret[20:], " and ", secret))
    recording = Recording("anthropic")
    async with recorded(providers.url, recording) as url:
        await events(url)
    written = recording.to_bytes()
    assert b"not-a-real-key" not in written
    assert secret.encode() not in written
    assert "authorization" not in str([exchange.headers for exchange in recording.exchanges])


async def test_failures_are_recorded_too(providers: ProviderServer) -> None:
    """An error status with what it asks for; and a connection that breaks, which breaks again."""
    providers.script.add(s.rate_limited(3))
    providers.script.add(s.refused(Failure.OVERLOADED))
    providers.script.add(s.broken(Fault.CUT))
    recording = Recording("anthropic")
    async with recorded(providers.url, recording) as url:
        assert [(await body(url))[0] for _ in range(2)] == [429, 529]
        with pytest.raises(httpx2.TransportError):
            await body(url)
    kept = Recording.from_bytes(recording.to_bytes())
    assert kept.exchanges[0].headers["retry-after"] == "3"
    assert [exchange.is_complete for exchange in kept.exchanges] == [True, True, False]
    async with played(kept) as url:
        assert [(await body(url))[0] for _ in range(2)] == [429, 529]
        with pytest.raises(httpx2.TransportError):
            await body(url)


@pytest.mark.parametrize(
    "data", [b"", b"{}\n", b'{"v":9,"provider":"x"}\n', b"no json\n", b'{"v":1,"provider":"x"}\n{}\n']
)
def test_what_is_no_recording_is_refused(data: bytes) -> None:
    with pytest.raises(AsmError) as caught:
        Recording.from_bytes(data)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR


async def test_a_recorded_run_is_played_as_a_test(providers: ProviderServer) -> None:
    """With the vendor's own code: the run of then gives the same events without the provider."""
    providers.script.add(s.tool("look", {"at": "it"}), s.text("Seen."))
    kept: dict[str, bytes] = {}
    adapter = AnthropicAdapter(api_key="sk-ant-not-a-real-key", base_url=providers.url, tools=HostTools(look))
    given = replace(an_execution(prompt="Look"), files=Shelf(kept), options=FULL_AUTO)
    first = [item async for item in RecordingAdapter(adapter).execute(given)]
    assert isinstance(first[-1], Completion)
    assert [*kept] == [first[-1].output["recording"]]
    [recording] = map(Recording.from_bytes, kept.values())
    before = len(providers.requests)
    async with played(recording) as url:
        playing = adapter.at(url)
        again = [item async for item in playing.execute(given)]
    for used in (adapter, playing):
        await used.aclose()
    assert len(providers.requests) == before
    assert again[:-1] == first[:-1]


def test_what_asks_no_server_cannot_be_recorded() -> None:
    with pytest.raises(AsmError) as caught:
        RecordingAdapter(ScriptedAdapter())
    assert caught.value.code is ErrorCode.CAPABILITY_NOT_SUPPORTED


@pytest.mark.parametrize("name", ["openai", "claude", "codex", "amp"])
async def test_every_provider_is_recorded_and_played(
    name: str, providers: ProviderServer, cli_home: CliHome, tmp_path: Path
) -> None:
    """Command lines too: they are given the address of their server as any SDK is."""
    providers.script.always(s.text("Hello ", "there."))
    key, folders = SecretStr("none"), AgentFolders(tmp_path / "agents")
    adapter = {
        "openai": lambda: OpenAIAdapter(api_key="none", base_url=providers.openai_url),
        "claude": lambda: ClaudeAdapter(folders, ProviderAccess(base_url=providers.url, api_key=key)),
        "codex": lambda: CodexAdapter(folders, ProviderAccess(providers.openai_url, key, "gpt-5.5")),
        "amp": lambda: AmpAdapter(folders, ProviderAccess(base_url=providers.url, api_key=key), str(AMP_STAND_IN)),
    }[name]()
    recording = Recording(name)
    async with recorded(adapter.server, recording) as url:
        first = await asked(adapter.at(url))
    before = len(providers.requests)
    async with played(Recording.from_bytes(recording.to_bytes())) as url:
        again = await asked(adapter.at(url))
    assert len(providers.requests) == before
    assert again == first
    assert first[-1] == "Hello there."


async def asked(adapter: ProviderAdapter) -> list[Any]:
    """The types of the run's events, and its answer."""
    async with open_manager("memory://", adapter) as manager:
        result = await manager.run_once({"prompt": "Hello"})
    await adapter.aclose()
    return [*(event.type for event in result.events), result.output["content"]]
