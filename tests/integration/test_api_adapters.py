"""The adapters of the plain APIs, with the vendors' own SDKs, against the pretended providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from genai_prices import Usage, calc_price

from asm_core.adapters import tool_loop
from asm_core.adapters.anthropic import AnthropicAdapter
from asm_core.adapters.api import ApiAdapter
from asm_core.adapters.openai import OpenAIAdapter
from asm_core.config import RunLimits
from asm_core.domain.errors import AsmError
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.tool import ToolUse, Verdict, judge
from asm_core.library import open_manager
from asm_core.manager.session_manager import SessionManager
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.tools import HostTools, tool
from tests.builders import an_execution
from tests.fakes import script as s
from tests.fakes.clis import KEY
from tests.fakes.script import Failure, Fault, ToolCall
from tests.fakes.server import ProviderServer

APIS = ("anthropic", "responses", "chat")
PATHS = {"anthropic": "/v1/messages", "responses": "/v1/responses", "chat": "/v1/chat/completions"}
SILENCE_S = 0.3
WITHIN_S = 3.0
"""Guard against hanging: a provider shall see the end of a stream within a second."""


class Tools:
    """What the model may call, and how far it got."""

    def __init__(self) -> None:
        self.together = asyncio.Barrier(2)
        self.stopped = asyncio.Event()
        self.waiting = asyncio.Event()

    def offered(self) -> HostTools:
        @tool(access="read")
        async def meet(name: str) -> str:
            """Waits until another one is there."""
            async with asyncio.timeout(WITHIN_S):
                await self.together.wait()
            return f"met {name}"

        @tool(access="read")
        async def wait() -> None:
            """For ever."""
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.stopped.set()

        @tool(access="read")
        def add(a: int, b: int = 1) -> int:
            """Adds two numbers."""
            return a + b

        @tool(access="read")
        def fail() -> None:
            """Always."""
            raise ValueError("out of order")

        @tool(access="execute")
        def erase() -> None:
            """Everything."""
            raise AssertionError("nobody allowed this")

        return HostTools(meet, wait, add, fail, erase)


@pytest.fixture(scope="module")
def tools() -> Tools:
    return Tools()


@pytest.fixture(scope="module")
async def adapters(provider_server: ProviderServer, tools: Tools) -> AsyncIterator[Mapping[str, ApiAdapter]]:
    given: dict[str, Any] = {"api_key": KEY, "tools": tools.offered(), "model": "some-model"}
    made: dict[str, ApiAdapter] = {
        "anthropic": AnthropicAdapter(base_url=provider_server.url, **given),
        "responses": OpenAIAdapter(base_url=provider_server.openai_url, **given),
        "chat": OpenAIAdapter(base_url=provider_server.openai_url, api="chat", **given),
    }
    yield made
    for adapter in made.values():
        await adapter.aclose()


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def adapter(api: str, adapters: Mapping[str, ApiAdapter], providers: ProviderServer) -> ApiAdapter:
    return adapters[api]


def asking(prompt: str = "hello", **options: Any) -> Execution:
    """A run with the gate that the product puts before tools."""
    said = ProviderOptions(**options)

    async def gate(use: ToolUse) -> Verdict:
        return judge(use, said)

    return replace(an_execution(prompt=prompt), options=said, gate=gate)


async def played(adapter: ApiAdapter, execution: Execution | None = None) -> list[RawEvent | Completion]:
    async with aclosing(adapter.execute(execution or asking())) as items:
        return [item async for item in items]


async def events_until_failure(adapter: ApiAdapter, execution: Execution) -> tuple[list[str], AsmError]:
    kinds: list[str] = []
    with pytest.raises(AsmError) as raised:
        async with aclosing(adapter.execute(execution)) as items:
            async for item in items:
                assert isinstance(item, RawEvent)
                kinds.append(item.type)
    return kinds, raised.value


def kinds(items: list[RawEvent | Completion]) -> list[str]:
    return [item.type for item in items if isinstance(item, RawEvent)]


def the(items: list[RawEvent | Completion], kind: str) -> list[Mapping[str, Any]]:
    return [item.data for item in items if isinstance(item, RawEvent) and item.type == kind]


def completion(items: list[RawEvent | Completion]) -> Completion:
    [last] = [item for item in items if isinstance(item, Completion)]
    assert items[-1] is last
    return last


# Answers


async def test_a_text_turn(adapter: ApiAdapter, providers: ProviderServer) -> None:
    """spec/04 checks 20-25, 34, 42: streamed, whole, paid for, and completed once."""
    providers.script.add(s.text("hel", "lo").with_usage(input=3, output=7, cache_read=400, reasoning=2))
    items = await played(adapter)
    assert kinds(items) == [
        "run_started", "message_streamed", "message_streamed", "message_received", "token_usage_updated",
    ]  # fmt: skip
    assert the(items, "run_started")[0]["model"] == "some-model"
    assert [data["delta"] for data in the(items, "message_streamed")] == ["hel", "lo"]
    assert the(items, "message_received") == [{"content": "hello", "role": "assistant"}]
    [usage] = the(items, "token_usage_updated")
    assert {name: usage[name] for name in ("input_tokens", "output_tokens", "cache_read_tokens")} == {
        "input_tokens": 3, "output_tokens": 7, "cache_read_tokens": 400,
    }  # fmt: skip
    assert completion(items).data == {"stop_reason": "end_turn", "num_turns": 1}


async def test_tools_run_at_once_and_their_results_go_back(
    api: str, adapter: ApiAdapter, providers: ProviderServer
) -> None:
    """spec/04 checks 26, 36-39: two that wait for each other end; each turn is told, the last one's text counts."""
    calls = ToolCall("meet", {"name": "x"}, "call_one"), ToolCall("meet", {"name": "y"}, "call_two")
    providers.script.add(s.tools(*calls, say="so"), s.text("both"))
    items = await played(adapter)
    started, ended = the(items, "tool_call_started"), the(items, "tool_call_completed")
    assert [data["tool_call_id"] for data in started] == ["call_one", "call_two"]
    assert {data["tool_call_id"]: data["tool_output"] for data in ended} == {"call_one": "met x", "call_two": "met y"}
    assert all(data.keys() == {"tool_call_id", "tool_name", "tool_input", "tool_output"} for data in ended)
    assert [data["content"] for data in the(items, "message_received")] == ["so", "both"]
    assert kinds(items).count("turn_completed") == 1
    assert kinds(items).count("run_started") == 1
    assert completion(items).data["num_turns"] == 2
    second = str(providers.asked(PATHS[api])[1].body)
    assert second.index("met x") < second.index("met y")


async def test_a_tool_that_comes_to_nothing_is_told_to_the_model(
    api: str, adapter: ApiAdapter, providers: ProviderServer
) -> None:
    """A failing, a denied, an unknown and a wrongly called one: each failed with its reason, and the run goes on."""
    asked = s.tools(
        ToolCall("fail", {}, "c1"),
        ToolCall("erase", {}, "c2"),
        ToolCall("nonsense", {}, "c3"),
        ToolCall("add", {"a": "many", "c": 1}, "c4"),
        ToolCall("add", {"a": 1}, "c5"),
    )
    providers.script.add(asked, s.text("well"))
    items = await played(adapter)
    failed = {data["tool_call_id"]: data["tool_output"] for data in the(items, "tool_call_failed")}
    assert failed.keys() == {"c1", "c2", "c3", "c4"}
    assert failed["c1"] == "ValueError: out of order"
    assert failed["c2"] == "the tool erase (execute) is not allowed in the permission mode default"
    assert failed["c3"] == "there is no tool nonsense in this run"
    assert failed["c4"].startswith("invalid input: a: ")
    assert "c: " in failed["c4"]
    assert [data["tool_output"] for data in the(items, "tool_call_completed")] == [2]
    assert completion(items).error is None
    following = str(providers.asked(PATHS[api])[1].body)
    assert all(reason in following for reason in failed.values())


async def test_only_permitted_tools_are_offered(api: str, adapter: ApiAdapter, providers: ProviderServer) -> None:
    """By name, before the model asks for them; asked for all the same, they are unknown."""
    providers.script.add(s.tool("fail", {}), s.text("well"))
    items = await played(adapter, asking(allowed_tools=["add", "fail"], denied_tools=["fail"]))
    assert the(items, "run_started")[0]["tools"] == ["add"]
    assert len(providers.asked(PATHS[api])[0].body["tools"]) == 1
    assert the(items, "tool_call_failed")[0]["tool_output"] == "there is no tool fail in this run"


async def test_a_bound_on_turns_fails_the_run_and_keeps_its_output(
    adapter: ApiAdapter, providers: ProviderServer
) -> None:
    """The calls of the last turn that may be are not run, and closed."""
    providers.script.add(s.tool("add", {"a": 1}), s.tool("add", {"a": 2}, say="more"))
    items = await played(adapter, asking(max_turns=2))
    end = completion(items)
    assert end.error is not None
    assert (end.error.code, end.error.details["reason"], end.error.retryable) == ("provider_error", "max_turns", False)
    assert len(the(items, "tool_call_completed")) == len(the(items, "tool_call_failed")) == 1
    assert end.data["num_turns"] == 2


async def test_a_result_that_no_model_reads_is_cut(
    adapters: Mapping[str, ApiAdapter], providers: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it gets into the log or the next request."""
    monkeypatch.setattr(tool_loop, "MAX_RESULT", 4)
    providers.script.add(s.tool("add", {"a": 123_456_000}), s.text("much"))
    items = await played(adapters["anthropic"])
    assert the(items, "tool_call_completed")[0]["tool_output"] == "1234… [5 more characters]"


async def test_an_answer_cut_in_a_call_closes_the_call(adapter: ApiAdapter, providers: ProviderServer) -> None:
    """Its input may be half of what was meant."""
    providers.script.add(replace(s.tool("add", {"a": 1}), stop=s.Stop.MAX_TOKENS))
    items = await played(adapter)
    [failed] = the(items, "tool_call_failed")
    assert failed["tool_output"].startswith("not run: the answer ended with max_") or "length" in failed["tool_output"]
    assert completion(items).error is None


async def test_an_answer_with_a_schema_is_an_object(api: str, adapter: ApiAdapter, providers: ProviderServer) -> None:
    """spec/04 §2.9: `object` in the output; what is no JSON fails the run, what was cut has none."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    providers.script.add(s.text('{"n":', " 3}"), s.text("three"), s.max_tokens('{"n":'))
    good, bad, cut = [completion(await played(adapter, asking(output_schema=schema))) for _ in range(3)]
    assert good.output["object"] == {"n": 3}
    assert bad.error is not None
    assert (bad.error.provider_error or {})["kind"] == "parse_error"
    assert (cut.error, "object" in cut.output) == (None, False)
    assert "n" in str(providers.asked(PATHS[api])[0].body)


@pytest.mark.parametrize(
    ("reply", "reasons"),
    [
        (s.max_tokens("cut"), {"max_tokens", "max_output_tokens", "length"}),
        (s.refusal(), {"refusal"}),
    ],
)
async def test_an_answer_that_ends_otherwise_says_so(
    adapter: ApiAdapter, providers: ProviderServer, reply: s.Reply, reasons: set[str]
) -> None:
    """spec/04 §3.4, §4.6: a completed run, with the provider's word for why."""
    providers.script.add(reply)
    end = completion(await played(adapter))
    assert end.error is None
    assert end.data["stop_reason"] in reasons


async def test_a_full_window_is_a_failure_with_output(
    adapters: Mapping[str, ApiAdapter], providers: ProviderServer
) -> None:
    """spec/04 §3.4: another try would not help."""
    providers.script.add(s.context_window("as much as"))
    items = await played(adapters["anthropic"])
    error = completion(items).error
    assert error is not None
    assert (error.code, (error.provider_error or {})["kind"]) == ("provider_error", "context_overflow")
    assert the(items, "message_received")[0]["content"] == "as much as"


async def test_an_answer_that_pauses_is_sent_back(
    adapters: Mapping[str, ApiAdapter], providers: ProviderServer
) -> None:
    """spec/04 §3.4: `pause_turn` goes on."""
    providers.script.add(s.Reply((s.Thinking("hm"), s.Text(("one, ",))), stop=s.Stop.PAUSE), s.text("two"))
    items = await played(adapters["anthropic"])
    assert [data["content"] for data in the(items, "message_received")] == ["one, ", "two"]
    sent = providers.asked("/v1/messages")[1].body["messages"]
    assert [block["type"] for block in sent[-1]["content"]] == ["thinking", "text"]


# Failures


FAILURES = [
    (Failure.AUTH, "provider_authentication_failed", "authentication", False),
    (Failure.FORBIDDEN, "provider_authentication_failed", "authentication", False),
    (Failure.NOT_FOUND, "provider_error", "invalid_request", False),
    (Failure.INVALID, "provider_error", "invalid_request", False),
    (Failure.TOO_LARGE, "provider_error", "context_overflow", False),
    (Failure.RATE_LIMIT, "provider_rate_limited", "rate_limit", True),
    (Failure.QUOTA, "provider_quota_exceeded", "quota", False),
    (Failure.SERVER_ERROR, "provider_unavailable", "overloaded", True),
    (Failure.OVERLOADED, "provider_unavailable", "overloaded", True),
]


@pytest.mark.parametrize(("failure", "code", "kind", "retryable"), FAILURES)
async def test_a_refusal_of_the_server_is_classified(
    adapter: ApiAdapter, providers: ProviderServer, failure: Failure, code: str, kind: str, retryable: bool
) -> None:
    """spec/04 §2.10, B1, B34: nothing was emitted, one request was made, and the request's id is told."""
    providers.script.add(s.refused(failure, "in its own words", retry_after="7"))
    execution = asking()
    told, error = await events_until_failure(adapter, execution)
    assert (told, execution.last_words) == ([], [])
    assert (error.code, (error.provider_error or {})["kind"], error.retryable) == (code, kind, retryable)
    assert error.message == "in its own words"
    assert error.details["request_id"].startswith("req_")
    assert error.details["retry_after_ms"] == 7_000
    assert len(providers.requests) == 1


async def test_when_to_come_again_may_be_a_date(adapters: Mapping[str, ApiAdapter], providers: ProviderServer) -> None:
    """spec/04 §2.10."""
    providers.script.add(s.rate_limited(datetime.now(UTC) + timedelta(seconds=90)))
    _, error = await events_until_failure(adapters["anthropic"], asking())
    assert 60_000 < error.details["retry_after_ms"] <= 90_000


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Failure.OVERLOADED, "provider_unavailable"), (Failure.RATE_LIMIT, "provider_rate_limited")],
)
async def test_an_error_within_the_stream_is_classified_by_its_type(
    adapter: ApiAdapter, providers: ProviderServer, failure: Failure, code: str
) -> None:
    """spec/04 §2.10: its status is 200; what was said before stands."""
    providers.script.add(s.stream_error(failure))
    told, error = await events_until_failure(adapter, asking())
    assert told == ["run_started", "message_streamed"]
    assert error.code == code


BROKEN = [
    (Fault.CUT, "provider_unavailable", "protocol_error"),
    (Fault.ENDED, "provider_unavailable", "protocol_error"),
    (Fault.SILENT, "provider_timeout", "timeout"),
    (Fault.GARBAGE, "provider_error", "parse_error"),
]


@pytest.mark.parametrize(("fault", "code", "kind"), BROKEN)
async def test_a_broken_stream_is_never_a_success(
    adapter: ApiAdapter, providers: ProviderServer, fault: Fault, code: str, kind: str
) -> None:
    """spec/04 check 45, B21; spec/06 §3.2: a stream that ends is no answer that is complete."""
    providers.script.add(s.broken(fault))
    options = {"sdk_opts": {"timeout": SILENCE_S}} if fault is Fault.SILENT else {}
    told, error = await events_until_failure(adapter, asking(**options))
    assert told == ["run_started", "message_streamed"]
    assert (error.code, (error.provider_error or {})["kind"]) == (code, kind)


async def test_tokens_of_a_broken_answer_are_told(
    adapters: Mapping[str, ApiAdapter], providers: ProviderServer
) -> None:
    """What the provider has counted until then is paid for."""
    providers.script.add(s.broken(Fault.CUT).with_usage(input=100, cache_read=5))
    execution = asking()
    await events_until_failure(adapters["anthropic"], execution)
    [usage] = execution.last_words
    assert (usage.data["input_tokens"], usage.data["cache_read_tokens"]) == (100, 5)


async def test_a_server_that_is_not_there(provider_server: ProviderServer) -> None:
    """spec/04 §2.10: may pass."""
    for made in (AnthropicAdapter, OpenAIAdapter):
        adapter = made(api_key=KEY, base_url="http://127.0.0.1:9")
        told, error = await events_until_failure(adapter, asking())
        assert (told, error.code, error.retryable) == ([], "provider_unavailable", True)
        await adapter.aclose()


async def test_without_a_key_a_run_fails_and_a_submit_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API's process needs none."""
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for adapter in (AnthropicAdapter(), OpenAIAdapter()):
        adapter.validate_input({"prompt": "hello"})
        told, error = await events_until_failure(adapter, asking())
        assert (told, error.code) == ([], "provider_authentication_failed")
        assert f"ASM_{adapter.name.upper()}_API_KEY" in error.message
        await adapter.aclose()


async def test_what_the_sdk_does_not_know_is_told(
    adapters: Mapping[str, ApiAdapter], providers: ProviderServer
) -> None:
    """An option is not ignored in silence."""
    for adapter in adapters.values():
        told, error = await events_until_failure(adapter, asking(sdk_opts={"warp": 9}))
        assert (told, error.code, "warp" in error.message) == ([], "validation_error", True)


# Being stopped


async def test_stopping_closes_the_connection(adapter: ApiAdapter, providers: ProviderServer) -> None:
    """B17: at once, not with the next event; the tokens so far are left for the run."""
    providers.script.add(s.endless(delay_s=0.005))
    execution = asking()
    begun = asyncio.Event()

    async def consume() -> None:
        async with aclosing(adapter.execute(execution)) as items:
            async for item in items:
                if isinstance(item, RawEvent) and item.type == "message_streamed":
                    begun.set()

    consuming = asyncio.create_task(consume())
    async with asyncio.timeout(WITHIN_S):
        await begun.wait()
        consuming.cancel()
        await asyncio.wait([consuming])
        await asyncio.to_thread(providers.requests[0].left.wait, WITHIN_S)
    assert consuming.cancelled()
    assert providers.requests[0].left.is_set()
    counted = adapter.name == "anthropic"  # the others tell at the end alone
    assert [event.type for event in execution.last_words] == (["token_usage_updated"] if counted else [])


async def test_leaving_the_generator_closes_the_connection(adapter: ApiAdapter, providers: ProviderServer) -> None:
    """As a consumer does that has seen enough."""
    providers.script.add(s.endless(delay_s=0.005))
    async with aclosing(adapter.execute(asking())) as items:
        async for item in items:
            if isinstance(item, RawEvent) and item.type == "message_streamed":
                break
    assert await providers.requests[0].was_left()


async def test_stopping_stops_the_tools(
    adapters: Mapping[str, ApiAdapter], providers: ProviderServer, tools: Tools
) -> None:
    """Whatever they wait for."""
    providers.script.add(s.tool("wait", {}))
    consuming = asyncio.create_task(played(adapters["anthropic"]))
    async with asyncio.timeout(WITHIN_S):
        await tools.waiting.wait()
        consuming.cancel()
        await asyncio.wait([consuming])
        await tools.stopped.wait()
    assert consuming.cancelled()


# Through the manager

Managed = Callable[..., Any]
HAIKU = "claude-haiku-4-5-20251001"


@pytest.fixture
async def manager(adapter: ApiAdapter) -> AsyncIterator[SessionManager]:
    async with open_manager("memory://", adapter, run_limits=RunLimits(retries=2)) as opened:
        yield opened


async def log_of(manager: SessionManager, run_id: str) -> list[Any]:
    run = await manager.get_run(run_id)
    return [event for event in await manager.get_session_events(run.session_id) if event.run_id == run_id]


@pytest.mark.parametrize("failure", [Failure.RATE_LIMIT, Failure.OVERLOADED])
async def test_a_refused_first_request_is_repeated(
    manager: SessionManager, providers: ProviderServer, failure: Failure
) -> None:
    """B7, B34: by the one retry layer, told in the log, with one result."""
    providers.script.add(s.refused(failure, retry_after_ms="5"), s.text("at last"))
    result = await manager.run_once({"prompt": "hello"})
    assert result.output["content"] == "at last"
    [told] = [event.data for event in result.events if event.type == "error_occurred"]
    assert (told["will_retry"], told["retry_in_ms"]) == (True, 5)
    assert [event.type for event in result.events if event.is_terminal] == ["run_completed"]
    assert [event.type for event in result.events].count("run_started") == 1
    assert len(providers.requests) == 2


async def test_a_failure_behind_the_first_event_is_the_runs(manager: SessionManager, providers: ProviderServer) -> None:
    """B14: tools may have run, so nothing is repeated; what there was is kept."""
    providers.script.add(s.tool("add", {"a": 1}, say="so"), s.refused(Failure.RATE_LIMIT))
    with pytest.raises(AsmError) as raised:
        await manager.run_once({"prompt": "hello"})
    run = await manager.get_run(raised.value.context["run_id"])
    assert (run.status, raised.value.code) == (RunStatus.FAILED, "provider_rate_limited")
    assert run.output is not None
    assert run.output["tool_calls"][0]["output"] == 2
    assert run.token_usage["input_tokens"] == 10


async def test_a_run_costs_what_its_tokens_cost(adapters: Mapping[str, ApiAdapter], providers: ProviderServer) -> None:
    """spec/06 §3.4, §9: cached tokens at their own price, none of them twice, whichever way a provider counts."""
    used = {"input": 25, "output": 70, "cache_read": 4_000, "cache_write": 1_000}
    for api, model in (("anthropic", HAIKU), ("responses", "gpt-5-mini")):
        providers.script.add(s.tool("add", {"a": 1}).with_usage(**used), s.text("2").with_usage(**used))
        async with open_manager("memory://", adapters[api]) as manager:
            result = await manager.run_once({"prompt": "hello"}, model=model)
        told = Usage(input_tokens=5_025, output_tokens=70, cache_read_tokens=4_000, cache_write_tokens=1_000)
        once = calc_price(told, model, provider_id=adapters[api].name).total_price
        assert result.cost_usd == pytest.approx(2 * float(once), abs=1e-8)
        assert result.token_usage["input_tokens"] == 50


async def test_an_interrupted_call_of_a_tool_is_closed(
    adapters: Mapping[str, ApiAdapter], providers: ProviderServer, tools: Tools
) -> None:
    """spec/06 §3.1: the log of a cancelled run leaves none open."""
    tools.waiting.clear()
    providers.script.add(s.tool("wait", {}, say="wait"))
    async with open_manager("memory://", adapters["anthropic"]) as manager:
        session = await manager.start_session()
        await manager.activate_session(session.id)
        run = await manager.start_run(session.id, {"prompt": "hello"})
        executing = asyncio.create_task(manager.execute_run(run.id))
        async with asyncio.timeout(WITHIN_S):
            await tools.waiting.wait()
        await manager.cancel_run(run.id)
        await asyncio.wait([executing])
        events = await log_of(manager, run.id)
    assert [event.type for event in events][-2:] == ["tool_call_failed", "run_cancelled"]
    assert events[-2].data["tool_output"] == "interrupted"
    assert executing.exception() is not None


async def test_a_conversation_is_replayed(api: str, manager: SessionManager, providers: ProviderServer) -> None:
    """spec/04 check 50: the second run's request holds what was said in the first, once."""
    providers.script.add(s.tool("add", {"a": 1}), s.text("it is 2"), s.text("as I said"))
    session = await manager.start_session(context={"system_prompt": "be brief"})
    await manager.activate_session(session.id)
    for prompt in ("one and one?", "sure?"):
        run = await manager.start_run(session.id, {"prompt": prompt}, continuation="auto")
        await manager.execute_run(run.id)
    asked = str(providers.asked(PATHS[api])[-1].body)
    for said in ("one and one?", "tool_call(", "tool_result(", "it is 2", "sure?", "be brief"):
        assert asked.count(said) == 1


async def test_an_image_is_told_in_words_to_the_log(manager: SessionManager, providers: ProviderServer) -> None:
    """The model gets it whole; the log, and a later run, learn that there was one."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}}
    providers.script.add(s.text("a cat"))
    content = [{"type": "text", "text": "what is it?"}, image]
    result = await manager.run_once({"messages": [{"role": "user", "content": content}]})
    assert result.events[0].data == {"role": "user", "content": "what is it?\n[image]"}
    assert "iVBORw0=" in str(providers.requests[0].body)


async def test_many_runs_at_once(adapters: Mapping[str, ApiAdapter], providers: ProviderServer) -> None:
    """In one process, over one client; here fewer, at full size in benchmarks/provider_concurrency.py."""
    many = 25
    providers.script.always(s.slow(5, 0.01))
    ends = await asyncio.gather(*(played(adapters["anthropic"]) for _ in range(many)))
    assert [len(the(items, "message_streamed")) for items in ends] == [5] * many


# What is refused at submit


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "input"),
        ({"messages": []}, "input"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "input.messages.0.role"),
        ({"messages": [{"content": 7}]}, "input.messages.0.content"),
        ({"messages": [{"content": [{"type": "text"}]}]}, "input.messages.0.content.0"),
        ({"messages": [{"content": [{"type": "image", "source": {"type": "file"}}]}]}, "input.messages.0.content.0"),
    ],
)
def test_an_input_that_no_model_takes_is_refused(value: Mapping[str, Any], field: str) -> None:
    """spec/04 §2.5."""
    for adapter in (AnthropicAdapter(), OpenAIAdapter()):
        with pytest.raises(AsmError) as raised:
            adapter.validate_input(value)
        assert (raised.value.code, raised.value.details["field"]) == ("invalid_input", field)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"sdk_opts": {"stream": False}}, "sdk_opts.stream"),
        ({"sdk_opts": {"messages": []}}, "sdk_opts.messages"),
        ({"sdk_opts": {"tools": {}}}, "sdk_opts.tools"),
        ({"sdk_opts": {"text": 1}}, "sdk_opts.text"),
        ({"mcp_servers": {"a b": {"command": "x"}}}, "mcp_servers.a b"),
        ({"mcp_servers": {"a": {"command": "x", "args": "y"}}}, "mcp_servers.a"),
        ({"mcp_servers": {"a": {"command": "x", "env": {"A": 1}}}}, "mcp_servers.a"),
    ],
)
def test_an_option_that_cannot_be_kept_is_refused(options: Mapping[str, Any], field: str) -> None:
    for adapter in (AnthropicAdapter(), OpenAIAdapter()):
        with pytest.raises(AsmError) as raised:
            adapter.validate_options(ProviderOptions(**options))
        assert (raised.value.code, raised.value.details["field"]) == ("validation_error", f"provider_options.{field}")


def test_another_api_is_refused() -> None:
    with pytest.raises(AsmError, match="responses, chat"):
        OpenAIAdapter(api="telegraph")  # type: ignore[arg-type]


def test_both_can_do_the_same() -> None:
    """spec/04 check 18."""
    names = [{capability.name for capability in made().capabilities()} for made in (AnthropicAdapter, OpenAIAdapter)]
    assert names[0] == names[1] >= {"streaming", "tool_use", "vision", "system_prompts", "interrupt"}
