"""The second run of a session goes on from what was said in the first, with any provider that reads the transcript."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from _common import MEMORY, claim, main

from asm_core import Completion, EventType, Execution, RawEvent, ScriptedAdapter, SessionManager, open_manager

ASKED = "What is my dog called?"
UNKNOWN = "You have not told me."


class Attentive(ScriptedAdapter):
    """A provider without any memory of its own: it knows what is in the transcript that it is handed."""

    name = "attentive"

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        yield RawEvent(EventType.RUN_STARTED)
        yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": _answer(execution), "role": "assistant"})
        yield Completion()


def _answer(execution: Execution) -> str:
    if execution.run.input != {"prompt": ASKED}:
        return "I will keep that in mind."
    said = execution.transcript.messages if execution.transcript else ()
    told = [message.content or "" for message in said if message.role == "user"]
    names = [text.rpartition(" is called ")[2].rstrip(".") for text in told if " is called " in text]
    return f"Your dog is called {names[-1]}." if names else UNKNOWN


async def ask(manager: SessionManager, session_id: str, prompt: str, **options: Any) -> str:
    run = await manager.start_run(session_id, {"prompt": prompt}, **options)
    answer: str = (await manager.execute_run(run.id)).output["content"]
    print(f"  {prompt}  ->  {answer}")
    return answer


async def example() -> None:
    async with open_manager(MEMORY, Attentive()) as manager:
        session = await manager.open_session("companion")
        await ask(manager, session.id, "My dog is called Rex.")
        bounds = {"max_messages": 20, "max_tokens_approx": 4_000}
        goes_on = await ask(manager, session.id, ASKED, continuation="auto", continuation_opts=bounds)
        claim("the second run knows what was said in the first", goes_on == "Your dog is called Rex.")
        replayed = await ask(manager, session.id, ASKED, continuation="replay")
        claim("`replay` hands over the conversation, too", replayed == goes_on)
        claim("a run that continues nothing knows nothing", await ask(manager, session.id, ASKED) == UNKNOWN)

        short = await ask(manager, session.id, ASKED, continuation="auto", continuation_opts={"max_messages": 2})
        claim("what lies beyond the bounds is not handed over", short == UNKNOWN)
        other = await manager.open_session("companion")
        claim("nor is another session", await ask(manager, other.id, ASKED, continuation="auto") == UNKNOWN)


if __name__ == "__main__":
    main(example)
