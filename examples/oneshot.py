"""The shortest way: one question, one answer, nothing to set up."""

from __future__ import annotations

from _common import MEMORY, claim, main

from asm_core import AsmError, ScriptedAdapter, run_once


async def example() -> None:
    result = await run_once(MEMORY, ScriptedAdapter(), {"prompt": "Hello"}, agent_id="greeter", tags=("demo",))
    print(result.output["content"])
    claim("the answer is there", result.output["content"] == "Hello")
    claim("the run has a terminal event", result.events[-1].type == "run_completed")

    try:
        await run_once(MEMORY, ScriptedAdapter(), {"script": [{"fail": {"code": "provider_rate_limited"}}]})
    except AsmError as error:
        claim("a failed run raises what it failed with", error.code == "provider_rate_limited" and error.retryable)


main(example())
