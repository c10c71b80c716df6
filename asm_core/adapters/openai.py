"""
Provider `openai`: the Responses API, or Chat Completions for the servers of others that speak it.

Source: spec/04 §4.6; spec/06 §5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Literal

from asm_core.adapters.api import ApiAdapter
from asm_core.adapters.openai_chat import ChatProtocol
from asm_core.adapters.openai_responses import ResponsesProtocol
from asm_core.adapters.tool_loop import ModelProtocol
from asm_core.domain.errors import AsmError, ErrorCode

Api = Literal["responses", "chat"]
PROTOCOLS: Mapping[str, Callable[[str], ModelProtocol]] = {"responses": ResponsesProtocol, "chat": ChatProtocol}


class OpenAIAdapter(ApiAdapter):
    """
    Args:
        api: `responses`, or `chat` for Chat Completions.
        others: as of `ApiAdapter`.

    Raises:
        AsmError: `validation_error` for another api.
    """

    name: ClassVar[str] = "openai"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"
    _public_url: ClassVar[str] = "https://api.openai.com/v1"
    _own: ClassVar[frozenset[str]] = frozenset({"model", "input", "messages", "stream"})

    def __init__(self, *, api: Api = "responses", **others: Any) -> None:
        super().__init__(**others)
        if api not in PROTOCOLS:
            message = f"api must be one of {', '.join(PROTOCOLS)}, not {api!r}"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "api"})
        self._api = api

    def _protocol(self, model: str) -> ModelProtocol:
        return PROTOCOLS[self._api](model)

    def _connect(self, sdk: ModuleType, **access: Any) -> Any:
        return sdk.AsyncOpenAI(**access)

    def _create(self, client: Any) -> Any:
        return client.responses.create if self._api == "responses" else client.chat.completions.create
