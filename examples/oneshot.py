"""The shortest way: one question, one answer, nothing to set up."""

from __future__ import annotations

from _common import MEMORY, claim, main, refusal

from asm_core import ScriptedAdapter, run_once


async def example() -> None:
    result = await run_once(MEMORY, ScriptedAdapter(), {"prompt": "Hello"}, agent_id="greeter", tags=("demo",))
    print(result.output["content"])
    claim("the answer is there", result.output["content"] == "Hello")
    claim("the run has a terminal event", result.events[-1].type == "run_completed")

    limited = {"script": [{"fail": {"code": "provider_rate_limited"}}]}
    error = await refusal(run_once(MEMORY, ScriptedAdapter(), limited))
    claim("a failed run raises what it failed with", error.code == "provider_rate_limited" and error.retryable)


if __name__ == "__main__":
    main(example)
