"""A run recorded with all that its provider and the SDK said to each other, then played as a test."""

from __future__ import annotations

from typing import Any

from _common import MEMORY, claim, main, model_api

from asm_core import ExecutionResult, HostTools, PermissionMode, Recording, open_manager, played, recorded, tool

OPTIONS = {"permission_mode": PermissionMode.FULL_AUTO}


@tool(access="read")
def weather(city: str) -> str:
    "The weather in a city."
    return f"Sunny in {city}."


async def ask(adapter: Any) -> ExecutionResult:
    async with open_manager(MEMORY, adapter) as manager:
        return await manager.run_once({"prompt": "What is the weather in Rome?"}, provider_options=OPTIONS)


def told(result: ExecutionResult) -> list[tuple[str, Any]]:
    return [(event.type, event.data) for event in result.events]


async def example() -> None:
    answers = ("call", {"weather": {"city": "Rome"}}), ("say", "Take your sunglasses.")
    with model_api("anthropic", *answers, tools=HostTools(weather)) as adapter:
        recording = Recording(adapter.name)
        async with recorded(adapter.server, recording) as url:
            first = await ask(adapter.at(url))
        kept = recording.to_bytes()
    print(f"  {len(recording.exchanges)} exchanges, {len(kept)} bytes")
    claim("no key is in it", b"api-key" not in kept.lower() and b"authorization" not in kept.lower())
    async with played(Recording.from_bytes(kept)) as url:
        again = await ask(adapter.at(url))
    claim("the adapter makes the same of it, event by event", told(again) == told(first))
    claim("and the same answer", again.output == first.output)


if __name__ == "__main__":
    main(example)
