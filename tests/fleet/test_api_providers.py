"""The plain APIs as providers of a fleet: submitted over HTTP, executed by real workers, against pretended servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from asm_api.client import AsyncAsmClient
from tests.fakes import script as s
from tests.fakes.clis import KEY
from tests.fakes.script import Failure, ToolCall
from tests.fakes.server import ProviderServer
from tests.fixtures.fleet import Fleet
from tests.fixtures.golden import assert_golden

CLOSED_S = 3.0
"""Guard: a provider shall see the end of an interrupted stream within a second."""
PRICES = {name: {"default": {"input": 0.000001, "output": 0.000005}} for name in ("anthropic", "openai")}
PROVIDERS = ("anthropic", "openai")
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/responses"}
MASKED = ("provider_event_id", "request_id")


async def opened(fleet: Fleet, providers: ProviderServer, workers: int = 1) -> AsyncAsmClient:
    await fleet.start(
        ASM_ANTHROPIC_BASE_URL=providers.url,
        ASM_ANTHROPIC_API_KEY=KEY,
        ASM_OPENAI_BASE_URL=providers.openai_url,
        ASM_OPENAI_API_KEY=KEY,
        ASM_OPENAI_MODEL="some-model",
    )
    await add_workers(fleet, workers)
    return await fleet.start_api()


async def add_workers(fleet: Fleet, how_many: int, slots: int = 8) -> None:
    own = {"ASM_TOOLS": json.dumps(["tests.fixtures.host_tools:TOOLS"]), "ASM_PRICING_TABLE": json.dumps(PRICES)}
    await fleet.add_workers(how_many, slots, **own)


async def told(fleet: Fleet, run_id: str) -> list[list[Any]]:
    """Type, data and metadata of a run's events, without what differs each time."""
    return [
        [event["type"], _masked(event["data"]), _masked(event["metadata"])] for event in await fleet.events_of(run_id)
    ]


def _masked(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: "…" if name in MASKED else _masked(inner) for name, inner in value.items()}


async def test_what_a_run_on_an_api_leaves_in_the_log(fleet: Fleet, providers: ProviderServer) -> None:
    """A text turn, tools allowed, denied and unknown, and a refusal: event by event as in the golden files."""
    client = await opened(fleet, providers)
    for provider in PROVIDERS:
        session = (await client.create_session("tester", provider=provider, context={"system_prompt": "be brief"}))[
            "id"
        ]
        fleet.follow_remotely(session)
        calls = (
            ToolCall("add", {"a": 1}, "call_one"),
            ToolCall("erase", {}, "call_two"),
            ToolCall("no", {}, "call_three"),
        )
        providers.script.add(
            s.thinking("let me see", "hello").with_usage(input=3, output=7, cache_read=400, reasoning=2),
            s.tools(calls[0], say="so"),
            s.tools(*calls[1:]),
            s.text("two"),
            s.refused(Failure.AUTH, "wrong key"),
        )
        cases = {}
        for case in ("text", "tools", "refused"):
            submitted = await client.submit(session, {"prompt": case}, model="some-model")
            cases[case] = await client.wait(submitted["id"], 30)
        assert {case: run["status"] for case, run in cases.items()} == {
            "text": "completed", "tools": "completed", "refused": "failed",
        }  # fmt: skip
        assert cases["tools"]["output"]["content"] == "two"
        assert cases["refused"]["error"]["code"] == "provider_authentication_failed"
        for case, run in cases.items():
            assert_golden(f"fleet/{provider}_{case}", await told(fleet, run["id"]))
        assert "be brief" in str(providers.asked(PATHS[provider])[0].body)
    await fleet.ends_well()


async def test_an_interrupt_closes_the_providers_connection(fleet: Fleet, providers: ProviderServer) -> None:
    """In the middle of a stream: the provider sees it at once, and the run ends cancelled with what it had."""
    client = await opened(fleet, providers)
    providers.script.always(s.endless(delay_s=0.01))
    for provider in PROVIDERS:
        submitted = await client.submit_once({"prompt": "go on"}, provider=provider)
        await fleet.emitted(submitted["id"], "message_streamed", 3)
        await client.interrupt(submitted["id"])
        await asyncio.to_thread(providers.asked(PATHS[provider])[0].left.wait, CLOSED_S)
        assert providers.asked(PATHS[provider])[0].left.is_set()
        run = await client.wait(submitted["id"], 10)
        assert run["status"] == "cancelled"
        assert run["output"]["content"].startswith("word word word")
        has_usage = [event["type"] for event in await fleet.events_of(run["id"])].count("token_usage_updated")
        assert has_usage == (provider == "anthropic")
    await fleet.ends_well()


async def test_a_conversation_goes_on_on_another_worker(fleet: Fleet, providers: ProviderServer) -> None:
    """By replay: the API keeps nothing, the log does."""
    client = await opened(fleet, providers)
    session = (await client.create_session("tester", provider="anthropic"))["id"]
    providers.script.add(s.tool("add", {"a": 41}, say="adding"), s.text("it is 42"), s.text("as I said"))
    first = await client.submit(session, {"prompt": "what is 41 and 1?"})
    await client.wait(first["id"], 30)
    [before] = fleet.workers
    before.kill()
    await add_workers(fleet, 1)
    second = await client.submit(session, {"prompt": "are you sure?"}, continuation="auto")
    run = await client.wait(second["id"], 30)
    assert (run["status"], run["output"]["content"]) == ("completed", "as I said")
    said = [message["content"] for message in providers.asked("/v1/messages")[-1].body["messages"]]
    assert (said[0], said[1], said[-2:]) == ("what is 41 and 1?", "adding", ["it is 42", "are you sure?"])
    assert run["provider_metadata"]["continuation"]["how"] == "replay"
    await fleet.ends_well()


async def test_many_streaming_runs_in_one_worker(fleet: Fleet, providers: ProviderServer) -> None:
    """All at once, each whole; at full size in benchmarks/provider_concurrency.py."""
    many = 40
    client = await opened(fleet, providers, workers=0)
    await add_workers(fleet, 1, slots=many)
    providers.script.always(s.slow(10, 0.05))
    submits = [client.submit_once({"prompt": f"number {n}"}, provider="anthropic") for n in range(many)]
    runs = await asyncio.gather(*(client.wait(run["id"], 60) for run in await asyncio.gather(*submits)))
    assert [run["output"]["content"] for run in runs] == ["word " * 10] * many
    await fleet.ends_well()
