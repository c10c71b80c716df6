"""
What our way costs beside the vendor's SDK: from the call to the first piece of text, and to the end of the answer, the
SDK alone (in its leanest form, the bare events) and through our adapter, in turns, against a pretended server in a
process of its own.

    python benchmarks/provider_overhead.py [--small]
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from _common import SystemClock, new_id
from _figures import SMALL, digits, ratio, report, spread
from _provider import KEY, pretended_provider

from asm_core.adapters.anthropic import AnthropicAdapter
from asm_core.adapters.api import ApiAdapter
from asm_core.adapters.openai import OpenAIAdapter
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.ports.provider import Execution, RawEvent

TURNS = 5 if SMALL else 300
WARM_UP = 2 if SMALL else 20
PIECES = 20
MODEL, PROMPT = "some-model", "say something"
Way = Callable[[], AsyncIterator[Any]]
"""One turn: yields at each piece of text."""


def ours(adapter: ApiAdapter) -> Way:
    async def turn() -> AsyncIterator[Any]:
        async with aclosing(adapter.execute(execution())) as items:
            async for item in items:
                if isinstance(item, RawEvent) and item.type == "message_streamed":
                    yield item

    return turn


def execution() -> Execution:
    now = SystemClock().now()
    session = Session.new(id=new_id("ses"), now=now, agent_id="bench")
    run = Run(
        id=new_id("run"), session_id=session.id, status=RunStatus.RUNNING, created_at=now, input={"prompt": PROMPT}
    )  # fmt: skip
    return Execution(run=run, session=session, attempt=1, model=MODEL)


def anthropics(client: Any) -> Way:
    async def turn() -> AsyncIterator[Any]:
        said = [{"role": "user", "content": PROMPT}]
        async for event in await client.messages.create(model=MODEL, max_tokens=8_192, messages=said, stream=True):
            if event.type == "content_block_delta":
                yield event

    return turn


def openais(client: Any) -> Way:
    async def turn() -> AsyncIterator[Any]:
        said = [{"role": "user", "content": PROMPT}]
        async for event in await client.responses.create(model=MODEL, input=said, store=False, stream=True):
            if event.type == "response.output_text.delta":
                yield event

    return turn


async def seconds(way: Way) -> tuple[float, float]:
    """To the first piece, and to the end."""
    began = time.perf_counter()
    first = None
    async for _ in way():
        first = first or time.perf_counter() - began
    assert first is not None
    return first, time.perf_counter() - began


async def measure(way: Way, limit: Way) -> dict[str, object]:
    pairs = [(await seconds(way), await seconds(limit)) for _ in range(WARM_UP + TURNS)][WARM_UP:]
    figures: dict[str, object] = {}
    for place, name in enumerate(("first_piece", "whole_answer")):
        our, their = [pair[0][place] for pair in pairs], [pair[1][place] for pair in pairs]
        figures[name] = {
            "ours_ms": spread(our, 1_000),
            "sdk_ms": spread(their, 1_000),
            "overhead_ms": digits(statistics.median(a - b for a, b in zip(our, their, strict=True)) * 1_000),
            "ours_to_sdk": ratio(our, their),
        }
    return figures


async def compare(url: str) -> dict[str, object]:
    import anthropic
    import openai

    adapters = AnthropicAdapter(api_key=KEY, base_url=url), OpenAIAdapter(api_key=KEY, base_url=f"{url}/v1")
    clients = (
        anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0),
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0),
    )
    try:
        return {
            "anthropic": await measure(ours(adapters[0]), anthropics(clients[0])),
            "openai": await measure(ours(adapters[1]), openais(clients[1])),
        }
    finally:
        for closing in (*(adapter.aclose() for adapter in adapters), *(client.close() for client in clients)):
            await closing


def main() -> None:
    with pretended_provider(PIECES, 0.0, "some words ") as url:
        figures = asyncio.run(compare(url))
    report("provider_overhead", turns=TURNS, pieces=PIECES, **figures)


if __name__ == "__main__":
    main()
