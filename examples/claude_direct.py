"""Claude Code as the provider: an answer as it streams, a tool that the agent runs itself, and what it all cost."""

from __future__ import annotations

from _common import MEMORY, a_claude, claim, main

from asm_core import PermissionMode, StreamSession, open_manager


async def example() -> None:
    with a_claude() as (adapter, s, server):
        server.script.add(s.text("Hello, ", "I am ", "an agent."), prompt="introduce yourself")
        count = s.tool("Bash", {"command": "seq 3 | wc -l", "description": "Count"}, say="Let me count.")
        server.script.add(count, s.text("There are 3."), prompt="count the lines")
        async with open_manager(MEMORY, adapter) as manager:
            async with StreamSession(manager, {"prompt": "Please introduce yourself"}) as stream:
                async for event in stream:
                    if event.type == "message_streamed":
                        print(event.data["delta"], end="", flush=True)
            print()
            claim("the pieces make up the answer", (await stream.result()).output["content"] == "Hello, I am an agent.")

            options = {"permission_mode": PermissionMode.FULL_AUTO, "max_turns": 5}
            result = await manager.run_once({"prompt": "Please count the lines"}, provider_options=options)
            [call] = result.output["tool_calls"]
            claim("the agent ran its own tool, and its output is real", (call["name"], call["output"]) == ("Bash", "3"))
            claim("the answer is what was said behind the tool", result.output["content"] == "There are 3.")
            print(f"  {dict(result.token_usage)} cost {result.cost_usd} USD")
            claim("tokens of both requests are counted", result.token_usage["output_tokens"] == 10)
            claim("the cost is the agent's own figure", result.cost_usd == result.events[-1].data["total_cost_usd"])


if __name__ == "__main__":
    main(example)
