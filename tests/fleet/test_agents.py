"""
Codex and Amp as providers of a fleet: submitted over HTTP, executed by real workers with the real Codex and a stand-in
for Amp's command line, against pretended servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from asm_api.client import AsyncAsmClient
from tests.fakes import script as s
from tests.fakes.clis import AMP_STAND_IN, KEY
from tests.fakes.script import Failure
from tests.fakes.server import ProviderServer
from tests.fixtures.fleet import Fleet
from tests.fixtures.golden import assert_golden
from tests.fixtures.processes import eventually, marked
from tests.fixtures.providers import CliHome

pytest.importorskip("openai_codex")
pytest.importorskip("amp_sdk")

PROVIDERS = ("codex", "amp")
TOOLS = {"codex": ("exec_command", "cmd"), "amp": ("Bash", "cmd")}
FREELY = {"permission_mode": "dangerously_skip_permissions"}
MASKED = ("thread_id", "turn_id", "session_id", "duration_ms", "cwd", "tools", "mcp_servers", "tool_call_id")
IDS = re.compile(r"call_\d{6}|req_\w+|http://127\.0\.0\.1:\d+")


async def opened(fleet: Fleet, providers: ProviderServer) -> AsyncAsmClient:
    await fleet.start(
        ASM_TRUSTED_SUBMITTERS=1,
        ASM_ARTIFACTS_URL=(fleet.folder / "artifacts").as_uri(),
        ASM_CODEX_BASE_URL=providers.openai_url,
        ASM_CODEX_API_KEY=KEY,
        ASM_CODEX_MODEL="gpt-5.5",
        ASM_AMP_BASE_URL=providers.url,
        ASM_AMP_API_KEY=KEY,
    )
    return await fleet.start_api()


async def add_worker(fleet: Fleet, name: str) -> Path:
    """With agents' folders of its own, as on a machine of its own."""
    folder = fleet.folder / name
    await fleet.add_workers(1, ASM_AGENTS_DIR=folder, AMP_CLI_PATH=AMP_STAND_IN)
    return folder


async def ran(client: AsyncAsmClient, session: str, prompt: str, **options: Any) -> dict[str, Any]:
    submitted = await client.submit(session, {"prompt": prompt}, **options)
    run: dict[str, Any] = await client.wait(submitted["id"], 30)
    return run


async def told(fleet: Fleet, run_id: str, *folders: Path) -> list[list[Any]]:
    """Type and data of a run's events, without what differs each time."""
    return [[event["type"], masked(event["data"], folders)] for event in await fleet.events_of(run_id)]


def masked(value: Any, folders: Iterable[Path]) -> Any:
    if isinstance(value, dict):
        return {name: "…" if name in MASKED and inner else masked(inner, folders) for name, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner, folders) for inner in value]
    if isinstance(value, str):
        for folder in folders:
            value = value.replace(str(folder), "/agents")
        return IDS.sub("…", value)
    return value


async def test_what_a_run_of_an_agent_leaves_in_the_log(
    fleet: Fleet, providers: ProviderServer, cli_home: CliHome
) -> None:
    """A text turn, a tool and a refused key: event by event as in the golden files."""
    client, folder = await opened(fleet, providers), await add_worker(fleet, "one")
    for provider in PROVIDERS:
        tool, argument = TOOLS[provider]
        session = (await client.create_session("tester", provider=provider))["id"]
        fleet.follow_remotely(session)
        call = s.tool(tool, {argument: "echo ran"}, say="look")
        providers.script.add(s.text("hel", "lo").with_usage(input=3, output=7, cache_read=400), prompt="first")
        providers.script.add(call, s.text("done"), prompt="second")
        providers.script.add(s.refused(Failure.AUTH), prompt="third")
        runs = {
            "text": await ran(client, session, "the first"),
            "tools": await ran(client, session, "the second", provider_options=FREELY),
            "refused": await ran(client, session, "the third"),
        }
        assert [run["status"] for run in runs.values()] == ["completed", "completed", "failed"]
        assert [run["output"]["content"] for run in runs.values() if run["output"]] == ["hello", "done"]
        assert runs["refused"]["error"]["code"] == "provider_authentication_failed"
        for case, run in runs.items():
            assert_golden(f"fleet/{provider}_{case}", await told(fleet, run["id"], folder))
        providers.clear()
    await fleet.ends_well()


async def test_an_interrupted_agent_is_gone(fleet: Fleet, providers: ProviderServer, cli_home: CliHome) -> None:
    """The server sees it, the run ends cancelled with what it had, and no process of it is left."""
    client, folder = await opened(fleet, providers), await add_worker(fleet, "one")
    providers.script.add(s.endless(), prompt="for ever")
    submitted = await client.submit_once({"prompt": "go on for ever"}, provider="codex")
    await fleet.emitted(submitted["id"], "message_streamed", 3)
    await client.interrupt(submitted["id"])
    run = await client.wait(submitted["id"], 10)
    assert (run["status"], run["output"]["content"][:10]) == ("cancelled", "word word ")
    assert await providers.requests[0].was_left()
    assert not marked(f"{folder}/")
    await fleet.ends_well()


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_conversation_goes_on_on_another_machine(
    fleet: Fleet, providers: ProviderServer, cli_home: CliHome, provider: str
) -> None:
    """Natively: in the provider's own session, with nothing but the artifacts in common."""
    client, _ = await opened(fleet, providers), await add_worker(fleet, "one")
    session = (await client.create_session("tester", provider=provider))["id"]
    providers.script.add(s.text("an apple"), prompt="first")
    providers.script.add(s.text("as I said"), prompt="second")
    first = await ran(client, session, "the first")
    fleet.workers.pop().kill()
    await add_worker(fleet, "two")
    second = await ran(client, session, "the second", continuation="native")
    assert (second["status"], second["output"]["content"]) == ("completed", "as I said")
    assert second["provider_metadata"]["continuation"]["how"] == "native"
    assert second["provider_metadata"]["provider_session_id"] == first["provider_metadata"]["provider_session_id"]
    asked = [request.body for request in providers.requests if "second" in str(request.body)]
    assert any("an apple" in str(body) for body in asked)
    await fleet.ends_well()


async def test_no_agent_outlives_its_worker(fleet: Fleet, providers: ProviderServer, cli_home: CliHome) -> None:
    """A worker is killed while its agents run commands; another one goes on where Codex was."""
    client, folder = await opened(fleet, providers), await add_worker(fleet, "one")
    for provider, (tool, argument) in TOOLS.items():
        providers.script.add(s.tool(tool, {argument: "sleep 600 & sleep 601"}), prompt=f"at {provider}")
    options: dict[str, Any] = {"provider_options": FREELY, "on_worker_lost": "resume"}
    codex = await client.submit_once({"prompt": "at codex"}, provider="codex", **options)
    amp = await client.submit_once({"prompt": "at amp"}, provider="amp", provider_options=FREELY)
    for run in (codex, amp):
        await fleet.emitted(run["id"], "tool_call_started")
    assert len(marked(f"{folder}/")) >= 4
    providers.script.add(s.text("finished"), prompt="cut off")
    fleet.workers.pop().kill()
    await eventually(lambda: not marked(f"{folder}/"))
    await add_worker(fleet, "two")
    resumed = await client.wait(codex["id"], 30)
    assert (resumed["status"], resumed["attempt"], resumed["output"]["content"]) == ("completed", 2, "finished")
    assert (await client.wait(amp["id"], 30))["status"] == "failed"
    await fleet.ends_well()
