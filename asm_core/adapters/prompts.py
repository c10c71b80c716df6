"""What a provider is told: the conversation before the run, if it goes on from one by replay, then the run's input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import text_of
from asm_core.domain.messages import Role, check_messages, input_contents, input_messages
from asm_core.domain.transcript import Message
from asm_core.ports.provider import Execution
from asm_core.wire import dumps_text

SPEAKERS = (Role.SYSTEM, Role.USER, Role.ASSISTANT)
"""Who may speak in an input."""


def conversation(execution: Execution, *, replay: bool) -> list[dict[str, str]]:
    """
    `{role, content}` per message; calls of tools and their results as text, because they were not this provider's.

    Args:
        replay: whether the conversation before the run belongs to it; not when the provider's own session is resumed.
    """
    return (_before(execution) if replay else []) + input_messages(execution.run.input)


def conversation_in_blocks(execution: Execution) -> list[dict[str, Any]]:
    """The whole of it, for a model that takes blocks: what the input gives as blocks is left as it is."""
    return [*_before(execution), *input_contents(execution.run.input)]


def check_blocks(value: Mapping[str, Any]) -> None:
    """
    Checks an input for a model that takes blocks: `{"type": "text", "text"}` and `{"type": "image", "source"}`, whose
    source is `{"type": "base64", "media_type", "data"}` or `{"type": "url", "url"}`.

    Raises:
        AsmError: `invalid_input`, naming the field.
    """
    check_messages(value)
    if not input_contents(value):
        raise _invalid("input", "needs messages or a prompt")
    for index, message in enumerate(value.get("messages") or ()):
        where = f"input.messages.{index}"
        if str(message.get("role") or Role.USER).lower() not in SPEAKERS:
            raise _invalid(f"{where}.role", f"must be one of {', '.join(SPEAKERS)}, not {message.get('role')!r}")
        content = message["content"]
        if not isinstance(content, str | list | None):
            raise _invalid(f"{where}.content", f"must be text or a list of blocks, not {type(content).__name__}")
        for place, block in enumerate(content if isinstance(content, list) else ()):
            if not _is_block(block):
                raise _invalid(f"{where}.content.{place}", "must be a text block or an image block")


def _is_block(block: object) -> bool:
    match block:
        case {"type": "text", "text": str()}:
            return True
        case {"type": "image", "source": {"type": "base64", "media_type": str(), "data": str()}}:
            return True
        case {"type": "image", "source": {"type": "url", "url": str()}}:
            return True
    return False


def text_in(content: str | list[Any]) -> str:
    """What a content says in words."""
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def _invalid(field: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.INVALID_INPUT, f"{field} {problem}", details={"field": field})


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


def _before(execution: Execution) -> list[dict[str, str]]:
    messages = execution.transcript.messages if execution.transcript else ()
    return [line for message in messages for line in _told(message)]


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
