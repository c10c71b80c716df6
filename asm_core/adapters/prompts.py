"""What a provider is told: the conversation before the run, if it goes on from one by replay, then the run's input."""

from __future__ import annotations

from collections.abc import Iterator

from asm_core.domain.fields import text_of
from asm_core.domain.messages import Role, input_messages
from asm_core.domain.transcript import Message
from asm_core.ports.provider import Execution
from asm_core.wire import dumps_text


def conversation(execution: Execution, *, replay: bool) -> list[dict[str, str]]:
    """
    `{role, content}` per message; calls of tools and their results as text, because they were not this provider's.

    Args:
        replay: whether the conversation before the run belongs to it; not when the provider's own session is resumed.
    """
    before = execution.transcript.messages if replay and execution.transcript else ()
    told = [line for message in before for line in _told(message)]
    return told + input_messages(execution.run.input)


def prompt(execution: Execution, *, replay: bool) -> str:
    """The same for an agent that takes one text."""
    messages = conversation(execution, replay=replay)
    if len(messages) == 1 and messages[0]["role"] == Role.USER:
        return messages[0]["content"]
    given = input_messages(execution.run.input)
    before = messages[: len(messages) - len(given)]
    lines = "\n".join(f"{message['role']}: {message['content']}" for message in before)
    asked = "\n".join(message["content"] for message in given if message["role"] == Role.USER)
    return "\n\n".join(part for part in (lines, asked) if part)


def _told(message: Message) -> Iterator[dict[str, str]]:
    call = message.tool_call_id or "unknown"
    if message.is_tool_call:
        told = f"tool_call({call}): {message.tool_name} {dumps_text(message.tool_input or {})}"
        yield {"role": str(Role.ASSISTANT), "content": told}
    elif message.is_tool_result:
        output = "" if message.tool_output is None else text_of(message.tool_output)
        yield {"role": str(Role.USER), "content": f"tool_result({call}): {message.tool_name} {output}"}
    elif message.content:
        yield {"role": str(message.role), "content": message.content}
