"""OpenAI's Responses API, with a tool of this program and an answer in a shape of one's own."""

from __future__ import annotations

from typing import Literal

from _common import claim, main, model_api
from pydantic import BaseModel

from asm_core import HostTools, open_manager, tool


class Invoice(BaseModel):
    number: int
    cents: int
    currency: Literal["EUR", "USD"] = "EUR"


class Sum(BaseModel, extra="forbid"):
    cents: int


@tool(access="read")
def invoices(customer: str) -> list[Invoice]:
    """The open invoices of a customer."""
    return [Invoice(number=1, cents=1_950), Invoice(number=2, cents=50)] if customer == "ACME" else []


ANSWERS = (("call", {"invoices": {"customer": "ACME"}}), ("say", '{"cents": 2000}'))


async def example() -> None:
    with model_api("openai", *ANSWERS, tools=HostTools(invoices)) as adapter:
        async with open_manager("memory://", adapter) as manager:
            result = await manager.run_once(
                {"prompt": "Add up the open invoices of the customer ACME, with the tool invoices."},
                provider_options={"output_schema": Sum.model_json_schema(), "max_turns": 4},
            )
        await adapter.aclose()
    [call] = result.output["tool_calls"]
    print(f"  {call['name']} {call['input']} -> {call['output']}")
    claim("the tool's models are plain JSON to the model", call["output"][0]["currency"] == "EUR")
    claim("the answer has the shape that was asked for", Sum(**result.output["object"]).cents == 2_000)
    claim("the tokens of both requests are counted", result.token_usage["output_tokens"] > 0)


if __name__ == "__main__":
    main(example)
