"""The messages of a run's input, and the roles that speak in them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import text_of


class Role(StrEnum):
    """Who speaks in a conversation."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


def input_messages(value: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """
    `{role, content}` for each message of the input that has content, in order; the content as text.

    `messages` wins over `prompt`; anything else has no messages. Unknown roles are lower-cased, missing ones `user`.

    Source: spec/01 §12.3.
    """
    return [{"role": said["role"], "content": _as_text(said["content"])} for said in input_contents(value)]


def input_contents(value: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The same with each content as it was given: text, or a list of blocks."""
    given = value or {}
    messages = given.get("messages")
    if isinstance(messages, list):
        return [message for item in messages if (message := _message(item)) is not None]
    prompt = given.get("prompt")
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) and prompt else []


def check_messages(value: Mapping[str, Any]) -> None:
    """Raises `invalid_input`, naming the field, when the input, its `messages` or its `prompt` has the wrong shape."""
    if not isinstance(value, Mapping):
        raise AsmError(ErrorCode.INVALID_INPUT, f"the input must be a mapping, not {type(value).__name__}")
    messages, prompt = value.get("messages"), value.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise _invalid("prompt", f"prompt must be text, not {type(prompt).__name__}")
    if messages is None:
        return
    if not isinstance(messages, list):
        raise _invalid("messages", f"messages must be a list, not {type(messages).__name__}")
    for index, item in enumerate(messages):
        if not isinstance(item, Mapping) or "content" not in item:
            raise _invalid(f"messages.{index}", "each message needs a role and content")


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.INVALID_INPUT, message, details={"field": f"input.{field}"})


def _as_text(content: Any) -> str:
    """Of blocks what they say; one that says nothing (an image) leaves its kind."""
    if isinstance(content, list) and all(isinstance(block, Mapping) and "type" in block for block in content):
        return "\n".join(text_of(block.get("text", f"[{block['type']}]")) for block in content)
    return content if isinstance(content, str) else text_of(content)


def _message(item: object) -> dict[str, Any] | None:
    if not isinstance(item, Mapping) or item.get("content") in (None, "", []):
        return None
    role = item.get("role")
    return {"role": role.lower() if isinstance(role, str) and role else "user", "content": item["content"]}
