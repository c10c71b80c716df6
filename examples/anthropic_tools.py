"""Claude by its API, with functions of this program as tools: typed, run at once, denied where they are not allowed."""

from __future__ import annotations

import asyncio

from _common import claim, main, model_api

from asm_core import HostTools, open_manager, tool

FORECAST = {"Graz": 11, "Wien": 13}
QUESTION = "Use the tools to get the temperature in Graz and in Wien, then delete the record of Graz."


@tool(access="read")
async def temperature(city: str) -> int:
    """The temperature in a city, in degrees Celsius."""
    await asyncio.sleep(0.05)
    return FORECAST[city]


@tool(access="execute")
def delete_record(city: str) -> None:
    """Deletes what is known of a city."""
    FORECAST.pop(city)


ANSWERS = (
    ("call", {"temperature": {"city": "Graz"}}),
    ("call", {"temperature": {"city": "Wien"}, "delete_record": {"city": "Graz"}}),
    ("say", "It is 11 degrees in Graz and 13 in Wien; I was not allowed to delete anything."),
)


async def example() -> None:
    with model_api("anthropic", *ANSWERS, tools=HostTools(temperature, delete_record)) as adapter:
        async with open_manager("memory://", adapter) as manager:
            result = await manager.run_once({"prompt": QUESTION})
        await adapter.aclose()
    print(f"  {result.output['content']}")
    calls = result.output["tool_calls"]
    degrees = {call["input"]["city"]: call["output"] for call in calls if call["name"] == "temperature"}
    claim("the model got both temperatures", degrees == {"Graz": 11, "Wien": 13})
    refused = [call["output"] for call in calls if call["name"] == "delete_record"]
    claim("what may change something was not run", refused != [] and "Graz" in FORECAST)
    claim("and the model was told why", "permission mode default" in refused[0])
    claim("each turn is in the log", any(event.type == "turn_completed" for event in result.events))
    claim("the run has a price", (result.cost_usd or 0) > 0)


if __name__ == "__main__":
    main(example)
