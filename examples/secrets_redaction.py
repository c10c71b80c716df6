"""No secret is stored or shown: what a provider says is redacted on its way, streamed text too."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from _common import MEMORY, claim, main

from asm_core import (
    Completion,
    EventType,
    Execution,
    RawEvent,
    RedactionOptions,
    Replace,
    ScriptedAdapter,
    open_manager,
    options,
    redact_map,
)

SAMPLES = {  # none of them opens anything
    "aws_access_key": "AKIAIOSFODNN7EXAMPLE",
    "github_pat": "ghp_" + "a1B2c3D4e5F6" * 3,
    "stripe_key": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "anthropic_key": "sk-ant-api03-" + "Ab1" * 20,
    "slack_token": "xoxb-123456789012-" + "aBcDeFgHiJkLmNoP",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "google_api_key": "AIza" + "SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY"[:35],
    "connection_string": "postgres://agent:open-sesame@db.internal/agents",
    "password": "correct-horse-battery",
}


class Talkative(ScriptedAdapter):
    """A provider that tells every secret it knows: in a tool's output, in streamed chunks, in a message."""

    name = "talkative"

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        told = "\n".join(f"{name}={value}" for name, value in SAMPLES.items())
        call = {"tool_call_id": "tc_1", "tool_name": "printenv", "tool_input": {"password": SAMPLES["password"]}}
        yield RawEvent(EventType.RUN_STARTED)
        yield RawEvent(EventType.TOOL_CALL_STARTED, call)
        yield RawEvent(EventType.TOOL_CALL_COMPLETED, call | {"tool_output": told})
        for start in range(0, len(told), 7):  # no secret is in one piece
            yield RawEvent(EventType.MESSAGE_STREAMED, {"delta": told[start : start + 7]})
        yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": told, "role": "assistant"})
        yield Completion(output={"seen": told})


async def example() -> None:
    with options.override(redaction_replacement="categorized"):
        async with open_manager(MEMORY, Talkative()) as manager:
            result = await manager.run_once({"prompt": f"Use {SAMPLES['github_pat']}"})
            events = await manager.get_session_events(result.session_id)
            run = await manager.get_run(result.run_id)
    print(result.output["content"])
    kept = json.dumps([run.to_map(), *(event.to_map() for event in events)])
    claim("no secret is stored", not [value for value in SAMPLES.values() if value in kept])
    streamed = "".join(event.data["delta"] for event in events if event.type == "message_streamed")
    claim("streamed text is redacted as the whole is", streamed == result.output["content"])
    claim("it says what stood there", "[REDACTED:github_pat]" in streamed)
    claim("a value under the name of a secret is one", "[REDACTED" in events[4].data["tool_input"]["password"])
    claim("a run's input is redacted before it is queued", run.input == {"prompt": "Use [REDACTED:github_pat]"})
    of_ones_own()


def of_ones_own() -> None:
    """The same for mappings of one's own: what a callback sends elsewhere, say."""
    ticket: dict[str, Any] = {
        "title": "Broken build",
        "notes": ["token " + SAMPLES["github_pat"], "order ACME-0042"],
        "attempts": 3,
    }
    claim("nested data is searched, the rest stays as it is", redact_map(ticket) == {
        "title": "Broken build", "notes": ["token [REDACTED]", "order ACME-0042"], "attempts": 3
    })  # fmt: skip
    more = RedactionOptions(patterns=[("order", r"ACME-\d{4}")], replacement="categorized")
    claim("own patterns are added", redact_map(ticket, more)["notes"] == [
        "token [REDACTED:github_pat]", "order [REDACTED:order]"
    ])  # fmt: skip
    only = RedactionOptions(patterns=Replace([r"ACME-\d{4}"]), replacement="***")
    claim("or stand alone", redact_map(ticket, only)["notes"] == [ticket["notes"][0], "order ***"])


if __name__ == "__main__":
    main(example)
