"""Claude Code as the provider of a fleet: submitted over HTTP, executed by real workers, against a pretended server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from asm_api.client import AsyncAsmClient
from asm_core.domain.errors import AsmError, ErrorCode
from tests.fakes import script as s
from tests.fakes.clis import KEY
from tests.fakes.script import Failure, ToolCall
from tests.fakes.server import ProviderServer
from tests.fixtures.fleet import Fleet
from tests.fixtures.golden import assert_golden
from tests.fixtures.processes import marked
from tests.fixtures.providers import CliHome

pytest.importorskip("claude_agent_sdk")

MODEL = "claude-haiku-4-5-20251001"
FULL = {"permission_mode": "full_auto"}
MASKED = ("session_id", "provider_session_id", "cwd", "duration_ms", "tools", "provider_version")
"""What differs each time, or with the command line's version."""
ENDS_S = 30.0


async def opened(fleet: Fleet, providers: ProviderServer, tmp_path: Path) -> AsyncAsmClient:
    await fleet.start(
        ASM_CLAUDE_BASE_URL=providers.url,
        ASM_CLAUDE_API_KEY=KEY,
        ASM_CLAUDE_MODEL=MODEL,
        ASM_ARTIFACTS_URL=(tmp_path / "artifacts").as_uri(),
        ASM_TRUSTED_SUBMITTERS=1,
    )
    await add_worker(fleet, tmp_path / "agents1")
    return await fleet.start_api()


async def add_worker(fleet: Fleet, agents: Path) -> None:
    """As on a machine of its own."""
    await fleet.add_workers(1, ASM_AGENTS_DIR=agents, ASM_TOOLS=json.dumps(["tests.fixtures.host_tools:TOOLS"]))


async def told(fleet: Fleet, run_id: str) -> list[list[Any]]:
    """Type, data and metadata of a run's events, without what differs each time."""
    events = await fleet.events_of(run_id)
    return [[event["type"], _masked(event["data"]), _masked(event["metadata"])] for event in events]


def _masked(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: "…" if name in MASKED else _masked(inner) for name, inner in value.items()}


async def test_what_a_run_of_claude_leaves_in_the_log(
    fleet: Fleet, providers: ProviderServer, cli_home: CliHome, tmp_path: Path
) -> None:
    """A text turn; tools that work, fail and are denied, one of the host; a refusal: as in the golden files."""
    client = await opened(fleet, providers, tmp_path)
    calls = [
        ToolCall("Bash", {"command": "echo worked", "description": "works"}, "call_one"),
        ToolCall("Bash", {"command": "echo failed; exit 3", "description": "fails"}, "call_two"),
        ToolCall("Write", {"file_path": "/nowhere/x", "content": "x"}, "call_three"),
        ToolCall("mcp__asm__add", {"a": 1}, "call_four"),
    ]
    providers.script.add(s.text("hel", "lo").with_usage(input=3, output=7, cache_read=400), prompt="qtext")
    providers.script.add(s.tools(*calls[:2], say="so"), s.text("done"), prompt="qtools")
    providers.script.add(s.tools(calls[2]), s.tools(calls[3]), s.text("so be it"), prompt="qdenied")
    providers.script.add(s.refused(Failure.AUTH, "wrong key"), prompt="qrefused")
    session = (await client.create_session("tester", provider="claude"))["id"]
    fleet.follow_remotely(session)
    runs = {}
    for case in ("text", "tools", "denied", "refused"):
        options = FULL if case == "tools" else {}
        submitted = await client.submit(session, {"prompt": f"q{case}"}, provider_options=options)
        runs[case] = await client.wait(submitted["id"], ENDS_S)
    assert {case: (run["status"], (run["output"] or {}).get("content")) for case, run in runs.items()} == {
        "text": ("completed", "hello"), "tools": ("completed", "done"), "denied": ("completed", "so be it"),
        "refused": ("failed", None),
    }  # fmt: skip
    assert runs["refused"]["error"]["code"] == "provider_authentication_failed"
    for case, run in runs.items():
        assert_golden(f"fleet/claude_{case}", await told(fleet, run["id"]))
    await fleet.ends_well()


async def test_a_conversation_with_claude_goes_on_on_another_worker(
    fleet: Fleet, providers: ProviderServer, cli_home: CliHome, tmp_path: Path
) -> None:
    """In the agent's own session, though it was interrupted and its worker is dead; nothing of the agent is left."""
    client = await opened(fleet, providers, tmp_path)
    providers.script.add(s.endless(), prompt="qfirst")
    providers.script.add(s.text("two"), prompt="qsecond")
    session = (await client.create_session("tester", provider="claude"))["id"]
    first = await client.submit(session, {"prompt": "qfirst"})
    await fleet.emitted(first["id"], "message_streamed", 2)
    await client.interrupt(first["id"])
    cut = await client.wait(first["id"], ENDS_S)
    assert (cut["status"], cut["token_usage"]["input_tokens"]) == ("cancelled", 10)
    assert str(cut["output"]["content"]).startswith("word word")
    assert await providers.asked("/v1/messages")[0].was_left()
    assert marked(str(tmp_path / "agents1" / session)) == []

    [before] = fleet.workers
    before.kill()
    await add_worker(fleet, tmp_path / "agents2")
    second = await client.submit(session, {"prompt": "qsecond"}, continuation="native")
    run = await client.wait(second["id"], ENDS_S)
    assert (run["status"], run["output"]["content"]) == ("completed", "two")
    assert run["provider_metadata"]["continuation"]["how"] == "native"
    assert run["cost_usd"] == 0.000035
    assert (tmp_path / "agents2" / session).is_dir()
    said = str(providers.asked("/v1/messages")[-1].body["messages"])
    assert all(word in said for word in ("qfirst", "word word", "qsecond"))
    await fleet.ends_well()


async def test_what_claude_cannot_do_is_refused_at_submit(
    fleet: Fleet, providers: ProviderServer, tmp_path: Path
) -> None:
    """Before there is a run; and it is told among the providers."""
    client = await opened(fleet, providers, tmp_path)
    [claude] = [told for told in (await client.providers())["providers"] if told["name"] == "claude"]
    assert "native_resume" in str(claude)
    refused = [
        ({"input": {"prompt": ""}}, ErrorCode.INVALID_INPUT),
        ({"input": {"prompt": "x"}, "provider_options": {"sdk_opts": {"env": {}}}}, ErrorCode.VALIDATION_ERROR),
    ]
    for body, code in refused:
        with pytest.raises(AsmError) as raised:
            await asyncio.wait_for(client.submit_once(provider="claude", **body), 10)
        assert raised.value.code is code
