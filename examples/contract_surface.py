"""What every provider's run leaves behind, whoever it was: order, one end, usage, and the callback's view of it."""

from __future__ import annotations

from _common import MEMORY, claim, every_provider, main, pretended_providers, temporary_folder

from asm_core import Event, EventType, ProviderAdapter, open_manager

TERMINAL = (EventType.RUN_COMPLETED, EventType.RUN_FAILED, EventType.RUN_CANCELLED, EventType.RUN_TIMEOUT)


async def check(adapter: ProviderAdapter) -> None:
    heard: list[Event] = []
    async with open_manager(MEMORY, adapter) as manager:
        result = await manager.run_once({"prompt": "Hello"}, event_callback=heard.append)
    kinds = [event.type for event in result.events]
    print(f"  {adapter.name}: {' '.join(kinds)}")
    claim("the callback heard what the result holds", [e.id for e in heard] == [e.id for e in result.events])
    claim("the input comes first, then the start", kinds[:2] == [EventType.MESSAGE_SENT, EventType.RUN_STARTED])
    claim("there is one end, and it is the last", [k for k in kinds if k in TERMINAL] == [kinds[-1]])
    claim("the message is whole", result.output["content"] in ("Hello there.", "Hello"))
    usage = [event.data for event in result.events if event.type is EventType.TOKEN_USAGE_UPDATED]
    total = sum(data["output_tokens"] for data in usage)
    claim("usage adds up to the run's", result.token_usage.get("output_tokens", 0) == total)
    numbers = [event.sequence_number or 0 for event in result.events]
    claim("numbers rise by one", numbers == [*range(numbers[0], numbers[0] + len(numbers))])
    claim("all events name the provider", {event.provider for event in result.events} == {adapter.name})


async def example() -> None:
    with pretended_providers() as (script, server), temporary_folder() as folder:
        for adapter in every_provider(script, server, folder):
            await check(adapter)
            await adapter.aclose()


if __name__ == "__main__":
    main(example)
