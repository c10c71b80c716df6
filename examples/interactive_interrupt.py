"""Interrupt an agent in the middle of its answer, then go on in the same conversation, in the agent's own session."""

from __future__ import annotations

from _common import MEMORY, a_claude, claim, main

from asm_core import RunStatus, SessionRuntime, open_manager


async def example() -> None:
    with a_claude() as (adapter, s, server):
        server.script.add(s.endless("and on "), prompt="tell a long story")
        server.script.add(s.text("In short: it ended well."), prompt="make it short")
        async with open_manager(MEMORY, adapter) as manager:
            session = await manager.open_session("teller")
            async with SessionRuntime(manager, session.id) as runtime:
                first = (await runtime.submit_run({"prompt": "Please tell a long story"})).run_id
                async for event in runtime.subscribe():
                    if event.type == "message_streamed":
                        print(event.data["delta"], end="", flush=True)
                        break
                await runtime.interrupt_run(first)
                cut = await runtime.await_run(first)
                print("… interrupted")
                claim("the run is cancelled", cut.status is RunStatus.CANCELLED)
                claim("what was said until then is kept", str((cut.output or {})["content"]).startswith("and on"))
                claim("so are the tokens", cut.token_usage["input_tokens"] == 10)
                claim("the model is not kept waiting", await server.requests[0].was_left())

                goes_on = await runtime.submit_run({"prompt": "Please make it short"}, continuation="native")
                short = await runtime.await_run(goes_on.run_id)
                print(f"  {(short.output or {})['content']}")
                how = short.provider_metadata["continuation"]["how"]
                claim("the next run goes on in the agent's own session", how == "native")
                asked = str(server.requests[-1].body["messages"])
                claim("which knows the interrupted answer", "long story" in asked and "and on" in asked)


if __name__ == "__main__":
    main(example)
