"""The pretended providers, driven by the providers' own SDKs; the command lines are in test_fake_clis.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.builders import eventually
from tests.fakes import script as s
from tests.fakes.clis import KEY
from tests.fakes.script import Failure, Fault, ToolCall
from tests.fakes.server import OutwardProxy, ProviderServer

MODEL = "some-model"
ADD = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WITHIN_S = 10.0
"""Guards against hanging."""


@pytest.fixture(scope="module")
async def claude_api(provider_server: ProviderServer) -> AsyncIterator[anthropic.AsyncAnthropic]:
    given = {"api_key": KEY, "base_url": provider_server.url, "max_retries": 0, "timeout": WITHIN_S}
    async with anthropic.AsyncAnthropic(**given) as client:
        yield client


@pytest.fixture(scope="module")
async def openai_api(provider_server: ProviderServer) -> AsyncIterator[openai.AsyncOpenAI]:
    given = {"api_key": KEY, "base_url": provider_server.openai_url, "max_retries": 0, "timeout": WITHIN_S}
    async with openai.AsyncOpenAI(**given) as client:
        yield client


def said(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


async def messages(client: anthropic.AsyncAnthropic, prompt: str = "hello", **more: Any) -> Any:
    """A streamed turn: its final message."""
    given = {"model": MODEL, "max_tokens": 100, "messages": said(prompt)} | more
    async with client.messages.stream(**given) as stream:
        return await stream.get_final_message()


async def responses(client: openai.AsyncOpenAI, prompt: Any = "hello", **more: Any) -> list[Any]:
    """A streamed turn: all of its events."""
    async with client.responses.stream(**{"model": MODEL, "input": prompt, "store": False} | more) as stream:
        return [event async for event in stream]


async def chat(client: openai.AsyncOpenAI, prompt: str = "hello", **more: Any) -> list[Any]:
    """A streamed turn: all of its chunks."""
    given = {"model": MODEL, "messages": said(prompt), "stream_options": {"include_usage": True}} | more
    return [chunk async for chunk in await client.chat.completions.create(**given, stream=True)]


Turn = Callable[[], Awaitable[Any]]


@pytest.fixture
def turns(claude_api: anthropic.AsyncAnthropic, openai_api: openai.AsyncOpenAI) -> dict[str, Turn]:
    """One streamed turn in each protocol."""
    return {
        "messages": lambda: messages(claude_api),
        "responses": lambda: responses(openai_api),
        "chat": lambda: chat(openai_api),
    }


# Anthropic's Messages API


async def test_messages_stream_text_thinking_and_usage(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic
) -> None:
    """Text comes in the pieces of the script, thinking before it, and the cache's tokens are told."""
    reply = s.Reply((s.Thinking("let me see"), s.Text(("hel", "lo"))))
    providers.script.add(reply.with_usage(input=3, output=7, cache_read=400, cache_write=100))
    async with claude_api.messages.stream(model=MODEL, max_tokens=100, messages=said("hi")) as stream:
        pieces = [event.text async for event in stream if event.type == "text"]
        final = await stream.get_final_message()
    assert pieces == ["hel", "lo"]
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.stop_reason == "end_turn"
    usage = final.usage
    assert (usage.input_tokens, usage.output_tokens) == (3, 7)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (400, 100)


async def test_messages_loop_over_parallel_tools(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic
) -> None:
    """Two calls arrive whole in one message; the results go back in the next request and the loop ends with text."""
    calls = ToolCall("add", {"a": 1}, "call_one"), ToolCall("add", {"a": 22}, "call_two")
    providers.script.add(s.tools(*calls, say="adding"), s.text("23"))
    tools = [{"name": "add", "description": "adds", "input_schema": ADD}]
    first = await messages(claude_api, tools=tools)
    assert first.stop_reason == "tool_use"
    wanted = [block for block in first.content if block.type == "tool_use"]
    assert [(block.id, block.name, block.input) for block in wanted] == [
        ("call_one", "add", {"a": 1}),
        ("call_two", "add", {"a": 22}),
    ]
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "ok"} for block in wanted]
    history = [*said("hello"), {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = await messages(claude_api, tools=tools, messages=history)
    assert second.content[0].text == "23"
    assert len(providers.asked("/v1/messages")[1].body["messages"]) == 3


async def test_messages_answers_without_a_stream_and_counts_tokens(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic
) -> None:
    """The same script answers a plain request; counting takes nothing from it."""
    counted = await claude_api.messages.count_tokens(model=MODEL, messages=said("hello there"))
    assert counted.input_tokens > 0
    providers.script.add(s.tool("add", {"a": 1}, say="so"))
    whole = await claude_api.messages.create(model=MODEL, max_tokens=100, messages=said("hi"))
    assert [block.type for block in whole.content] == ["text", "tool_use"]


@pytest.mark.parametrize(
    ("reply", "stop_reason"),
    [
        (s.max_tokens("cut"), "max_tokens"),
        (s.refusal(), "refusal"),
        (s.context_window("full"), "model_context_window_exceeded"),
    ],
)
async def test_messages_stop_for_every_reason(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic, reply: s.Reply, stop_reason: str
) -> None:
    """An answer that ended otherwise than well says so, and raises nothing."""
    providers.script.add(reply)
    assert (await messages(claude_api)).stop_reason == stop_reason


ANTHROPIC_FAILURES = [
    (Failure.AUTH, anthropic.AuthenticationError, "authentication_error"),
    (Failure.FORBIDDEN, anthropic.PermissionDeniedError, "permission_error"),
    (Failure.NOT_FOUND, anthropic.NotFoundError, "not_found_error"),
    (Failure.INVALID, anthropic.BadRequestError, "invalid_request_error"),
    (Failure.CONTEXT_LENGTH, anthropic.BadRequestError, "invalid_request_error"),
    (Failure.TOO_LARGE, anthropic.APIStatusError, "request_too_large"),
    (Failure.RATE_LIMIT, anthropic.RateLimitError, "rate_limit_error"),
    (Failure.QUOTA, anthropic.APIStatusError, "billing_error"),
    (Failure.SERVER_ERROR, anthropic.InternalServerError, "api_error"),
    (Failure.OVERLOADED, anthropic.InternalServerError, "overloaded_error"),
]


@pytest.mark.parametrize(("failure", "error", "kind"), ANTHROPIC_FAILURES)
async def test_messages_refusals_are_the_sdks_own_errors(
    providers: ProviderServer,
    claude_api: anthropic.AsyncAnthropic,
    failure: Failure,
    error: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    """Each status surfaces as the exception that the SDK documents, with the provider's word for it."""
    providers.script.add(s.refused(failure))
    with pytest.raises(error) as raised:
        await messages(claude_api)
    assert raised.value.type == kind
    assert raised.value.request_id


async def test_messages_stream_error_has_status_200(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic
) -> None:
    """An error within the stream is told apart by its type alone."""
    providers.script.add(s.stream_error(Failure.OVERLOADED))
    with pytest.raises(anthropic.APIStatusError) as raised:
        await messages(claude_api)
    assert (raised.value.status_code, raised.value.type) == (200, "overloaded_error")


# OpenAI's Responses and Chat Completions


async def test_responses_stream_reasoning_text_and_usage(
    providers: ProviderServer, openai_api: openai.AsyncOpenAI
) -> None:
    """Text comes in the pieces of the script, and the input counts the cached tokens in."""
    reply = s.Reply((s.Thinking("let me see"), s.Text(("hel", "lo"))))
    providers.script.add(reply.with_usage(input=3, output=7, cache_read=400, reasoning=2))
    events = await responses(openai_api)
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["hel", "lo"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message"]
    usage = final.usage
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens) == (403, 400)
    assert (usage.output_tokens, usage.output_tokens_details.reasoning_tokens) == (7, 2)


async def test_responses_loop_over_parallel_tools(providers: ProviderServer, openai_api: openai.AsyncOpenAI) -> None:
    """Function and custom calls arrive whole; their outputs go back in the next request."""
    calls = ToolCall("add", {"a": 1}, "call_one"), ToolCall("apply_patch", "*** Begin Patch", "call_two")
    providers.script.add(s.tools(*calls), s.text("done"))
    first = (await responses(openai_api))[-1].response
    assert [(item.type, item.call_id) for item in first.output] == [
        ("function_call", "call_one"),
        ("custom_tool_call", "call_two"),
    ]
    assert json.loads(first.output[0].arguments) == {"a": 1}
    assert first.output[1].input == "*** Begin Patch"
    history = [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in first.output]
    outputs = [
        {"type": "function_call_output", "call_id": "call_one", "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "call_two", "output": "patched"},
    ]
    second = await responses(openai_api, [*said("hello"), *history, *outputs])
    assert second[-1].response.output_text == "done"
    assert len(providers.asked("/v1/responses")[1].body["input"]) == 5


@pytest.mark.parametrize(
    ("reply", "ending"),
    [
        (s.max_tokens("cut"), "response.incomplete"),
        (s.refusal(), "response.completed"),
        (s.stream_error(Failure.RATE_LIMIT), "error"),
        (s.stream_error(Failure.RATE_LIMIT, as_response=True), "response.failed"),
        (s.broken(Fault.ENDED), "response.output_text.delta"),
    ],
)
async def test_responses_end_for_every_reason(
    providers: ProviderServer, openai_api: openai.AsyncOpenAI, reply: s.Reply, ending: str
) -> None:
    """Whatever ends a stream that began well is an event and no exception: the last event must be looked at."""
    providers.script.add(reply)
    assert (await responses(openai_api))[-1].type == ending


async def test_chat_streams_text_and_parallel_tools(providers: ProviderServer, openai_api: openai.AsyncOpenAI) -> None:
    """Chunks put together give the text and both calls; usage comes in the last chunk."""
    calls = ToolCall("add", {"a": 1}, "call_one"), ToolCall("add", {"a": 22}, "call_two")
    providers.script.add(s.tools(*calls, say="adding"))
    async with openai_api.chat.completions.stream(
        model=MODEL, messages=said("hello"), stream_options={"include_usage": True}
    ) as stream:
        final = await stream.get_final_completion()
    choice = final.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("adding", "tool_calls")
    wanted = [(call.id, call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
    assert wanted == [("call_one", "add", {"a": 1}), ("call_two", "add", {"a": 22})]
    assert final.usage.total_tokens == 15


@pytest.mark.parametrize(
    ("reply", "finish_reason"),
    [(s.text("well"), "stop"), (s.max_tokens("cut"), "length"), (s.broken(Fault.ENDED), None)],
)
async def test_chat_finishes_for_every_reason(
    providers: ProviderServer, openai_api: openai.AsyncOpenAI, reply: s.Reply, finish_reason: str | None
) -> None:
    """A stream that just ends gives no reason, and no exception."""
    providers.script.add(reply)
    chunks = await chat(openai_api)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == finish_reason


async def test_openai_answers_without_a_stream(providers: ProviderServer, openai_api: openai.AsyncOpenAI) -> None:
    """The same script answers plain requests in both protocols."""
    providers.script.always(s.text("plain"))
    whole = await openai_api.responses.create(model=MODEL, input="hi")
    assert (whole.status, whole.output_text) == ("completed", "plain")
    completion = await openai_api.chat.completions.create(model=MODEL, messages=said("hi"))
    assert completion.choices[0].message.content == "plain"


OPENAI_FAILURES = [
    (Failure.AUTH, openai.AuthenticationError, "invalid_api_key"),
    (Failure.FORBIDDEN, openai.PermissionDeniedError, "unsupported_country_region_territory"),
    (Failure.NOT_FOUND, openai.NotFoundError, "model_not_found"),
    (Failure.INVALID, openai.BadRequestError, "invalid_prompt"),
    (Failure.CONTEXT_LENGTH, openai.BadRequestError, "context_length_exceeded"),
    (Failure.RATE_LIMIT, openai.RateLimitError, "rate_limit_exceeded"),
    (Failure.QUOTA, openai.RateLimitError, "insufficient_quota"),
    (Failure.SERVER_ERROR, openai.InternalServerError, "server_error"),
    (Failure.OVERLOADED, openai.InternalServerError, "server_is_overloaded"),
]


@pytest.mark.parametrize("protocol", ["responses", "chat"])
@pytest.mark.parametrize(("failure", "error", "code"), OPENAI_FAILURES)
async def test_openai_refusals_are_the_sdks_own_errors(
    providers: ProviderServer,
    turns: dict[str, Turn],
    protocol: str,
    failure: Failure,
    error: type[openai.APIStatusError],
    code: str,
) -> None:
    """Each status surfaces as the exception that the SDK documents, with the provider's code for it."""
    providers.script.add(s.refused(failure))
    with pytest.raises(error) as raised:
        await turns[protocol]()
    assert raised.value.code == code


async def test_chat_stream_error_is_an_api_error(providers: ProviderServer, openai_api: openai.AsyncOpenAI) -> None:
    """An error object within a stream is raised, without a status."""
    providers.script.add(s.stream_error(Failure.OVERLOADED))
    with pytest.raises(openai.APIError) as raised:
        await chat(openai_api)
    assert raised.value.code == "server_is_overloaded"


# What all protocols share


@pytest.mark.parametrize(
    ("protocol", "error"),
    [
        ("messages", httpx2.RemoteProtocolError),
        ("responses", openai.APIConnectionError),
        ("chat", openai.APIConnectionError),
    ],
)
async def test_cut_connection_raises(
    providers: ProviderServer, turns: dict[str, Turn], protocol: str, error: type[Exception]
) -> None:
    """A connection that drops within the body raises; Anthropic's SDK lets the transport's own error through."""
    providers.script.add(s.broken(Fault.CUT))
    with pytest.raises(error):
        await turns[protocol]()


@pytest.mark.parametrize("protocol", ["messages", "responses", "chat"])
async def test_malformed_json_raises_a_value_error(
    providers: ProviderServer, turns: dict[str, Turn], protocol: str
) -> None:
    """An event that is no JSON comes through as the decoder's own error: no SDK wraps it."""
    providers.script.add(s.broken(Fault.GARBAGE))
    with pytest.raises(json.JSONDecodeError):
        await turns[protocol]()


async def test_messages_that_just_end_have_no_stop_reason(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic
) -> None:
    """A body that ends in good form without its closing events raises nothing."""
    providers.script.add(s.broken(Fault.ENDED))
    assert (await messages(claude_api)).stop_reason is None


async def test_silence_is_a_timeout(providers: ProviderServer) -> None:
    """
    A stream that stops without ending runs into the client's own limit, and the server sees the client go.
    Anthropic's SDK lets the transport's own error through.
    """
    providers.script.add(s.broken(Fault.SILENT), s.broken(Fault.SILENT))
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=providers.url, max_retries=0, timeout=0.1) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await messages(client)
    async with openai.AsyncOpenAI(api_key=KEY, base_url=providers.openai_url, max_retries=0, timeout=0.1) as client:
        with pytest.raises(openai.APITimeoutError):
            await responses(client)
    assert [await request.was_left() for request in providers.requests] == [True, True]


@pytest.mark.parametrize("retry_after", [7, datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)])
async def test_rate_limit_says_when_to_come_back(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic, retry_after: int | datetime
) -> None:
    """In seconds, or as an HTTP date."""
    providers.script.add(s.rate_limited(retry_after))
    with pytest.raises(anthropic.RateLimitError) as raised:
        await messages(claude_api)
    expected = "7" if retry_after == 7 else "Tue, 06 May 2031 07:08:09 GMT"
    assert raised.value.response.headers["retry-after"] == expected


@pytest.mark.parametrize("protocol", ["messages", "responses", "chat"])
async def test_client_that_leaves_is_noticed(providers: ProviderServer, turns: dict[str, Turn], protocol: str) -> None:
    """A cancelled turn closes its connection, and an endless answer ends with it."""
    providers.script.add(s.endless())
    turn = asyncio.create_task(turns[protocol]())

    async def begun() -> None:
        assert providers.requests

    await eventually(begun)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert await providers.requests[0].was_left()
    assert not providers.requests[0].answered.is_set()


async def test_slow_answer_is_whole(providers: ProviderServer, claude_api: anthropic.AsyncAnthropic) -> None:
    """Delay changes nothing but the time."""
    providers.script.add(s.slow(pieces=4, delay_s=0.001, piece="a"))
    assert (await messages(claude_api)).content[0].text == "aaaa"


async def test_queues_are_chosen_by_word_then_by_model(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic
) -> None:
    """Concurrent runs are told apart by a word in the newest prompt that has one, else by model, else share a queue."""
    providers.script.add(s.text("common"))
    providers.script.add(s.text("of the model"), model="other-model")
    providers.script.add(s.text("apple 1"), s.text("apple 2"), prompt="apple")
    providers.script.add(s.text("pear 1"), prompt="pear")
    asked = [("an apple", MODEL), ("a pear", MODEL), ("else", "other-model"), ("else", MODEL), ("apple", "other-model")]
    answers = await asyncio.gather(*(messages(claude_api, prompt, model=model) for prompt, model in asked))
    texts = [answer.content[0].text for answer in answers]
    assert {texts[0], texts[4]} == {"apple 1", "apple 2"}
    assert texts[1:4] == ["pear 1", "of the model", "common"]


async def test_unscripted_request_is_refused_and_remembered(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic
) -> None:
    """A request that no test expected does not look like success."""
    with pytest.raises(anthropic.BadRequestError, match="no answer is scripted"):
        await messages(claude_api)
    assert [asked.model for asked in providers.script.unexpected] == [MODEL]
    providers.script.unexpected.clear()


async def test_records_hold_the_request_and_show_no_key(
    providers: ProviderServer, claude_api: anthropic.AsyncAnthropic
) -> None:
    """Headers and body are there to assert on; what a failing assertion prints has no key in it."""
    providers.script.add(s.text("hi"))
    await messages(claude_api)
    [request] = providers.asked("/v1/messages")
    assert (request.method, request.headers["authorization"], request.body["model"]) == ("POST", f"Bearer {KEY}", MODEL)
    assert KEY not in repr(request)


async def test_outward_proxy_refuses_and_notes(outward_proxy: OutwardProxy) -> None:
    """Nothing leaves loopback, and the attempt is seen."""
    outward_proxy.wanted.clear()
    async with httpx2.AsyncClient(proxy=outward_proxy.url) as client:
        with pytest.raises(httpx2.ProxyError):
            await client.get("https://example.invalid/")
    assert outward_proxy.wanted == ["CONNECT example.invalid:443 HTTP/1.1"]
    outward_proxy.wanted.clear()
