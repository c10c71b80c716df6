"""What the adapters of plain APIs share: one SDK client per process and credential, and what its errors mean."""

from __future__ import annotations

import asyncio
import json
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from copy import copy
from datetime import UTC, datetime
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Self

import httpx2

from asm_core.adapters.failures import (
    BY_TYPE,
    CUT,
    MALFORMED,
    UNAUTHENTICATED,
    classify,
    provider_failure,
    retry_after_ms,
)
from asm_core.adapters.mcp_tools import check_servers, mcp_tools
from asm_core.adapters.prompts import check_blocks
from asm_core.adapters.tool_loop import ModelProtocol, Raw, Request, Toolbox, ToolLoop
from asm_core.domain.capability import Capability, CapabilityType
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.pricing import default_model
from asm_core.domain.provider_options import ProviderOptions
from asm_core.ports.provider import Completion, Execution, RawEvent, ToolSource

Item = RawEvent | Completion

TIMEOUT_S = 600.0
"""Without a byte from the provider."""
CONNECT_S = 10.0
"""For a connection to it."""
MERGED: Mapping[str, type] = {"tools": list, "output_config": Mapping, "reasoning": Mapping, "text": Mapping}
"""What of `sdk_opts` is not only passed on: our own part goes over it, or behind it."""
CATCH_ALL = "invalid_request_error"
"""OpenAI's word for most refusals; the status tells more."""
CAPABILITIES = (
    Capability(name="streaming", type=CapabilityType.SAMPLING),
    Capability(name="tool_use", type=CapabilityType.TOOL),
    Capability(name="mcp", type=CapabilityType.TOOL),
    Capability(name="vision", type=CapabilityType.RESOURCE),
    Capability(name="system_prompts", type=CapabilityType.PROMPT),
    Capability(name="structured_output", type=CapabilityType.SAMPLING),
    Capability(name="interrupt", type=CapabilityType.SAMPLING),
)


class ApiAdapter(ABC):
    """
    A provider that is reached by its SDK over HTTP, with our own loop over tools. Keeps no session of its own: a run
    that goes on from a conversation is told it again.

    Args:
        api_key: None: the vendor's own variable; without any, runs fail with `provider_authentication_failed`.
        base_url: None: the SDK's own default.
        model: for runs that name none.
        tools: what the model may use besides the MCP servers of a run's options.
        timeout_s: how long the provider may be silent.
    """

    name: ClassVar[str]
    key_variable: ClassVar[str]
    """The vendor's own."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        model: str | None = None,
        tools: ToolSource | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._key = api_key or os.environ.get(self.key_variable)
        self._base_url, self._model, self._timeout_s = base_url, model, timeout_s
        self._tools = [] if tools is None else [tools]
        self._opening = asyncio.Lock()
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def capabilities(self) -> Sequence[Capability]:
        return CAPABILITIES

    def validate_input(self, value: Mapping[str, Any]) -> None:
        check_blocks(value)

    def validate_options(self, options: ProviderOptions) -> None:
        check_servers(options.mcp_servers)
        for name, value in options.sdk_opts.items():
            if name in self._own:
                raise _invalid(f"sdk_opts.{name}", "is not open: the adapter sets it itself")
            if name in MERGED and not isinstance(value, MERGED[name] | None):
                raise _invalid(f"sdk_opts.{name}", f"must be a {MERGED[name].__name__.lower()}")

    async def execute(self, execution: Execution) -> AsyncGenerator[Item, None]:
        options = execution.options
        async with mcp_tools(options.mcp_servers, cwd=options.cwd) as remote:
            toolbox = await Toolbox.of(execution, [*self._tools, *remote])
            model = execution.model or self._model or default_model(self.name)
            loop = ToolLoop(self.name, self._protocol(str(model)), self._open, toolbox, execution)
            async with aclosing(loop.run()) as items:
                async for item in items:
                    yield item

    @property
    def server(self) -> str:
        return self._base_url or self._public_url

    def at(self, server: str) -> Self:
        other = copy(self)
        other._base_url, other._client, other._opening = server, None, asyncio.Lock()
        return other

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # What a provider adds

    _public_url: ClassVar[str]
    """The vendor's."""
    _own: ClassVar[frozenset[str]]
    """Fields of a request that `sdk_opts` may not set."""

    @abstractmethod
    def _protocol(self, model: str) -> ModelProtocol:
        """How this model is asked, and answers."""

    @abstractmethod
    def _connect(self, sdk: ModuleType, **access: Any) -> Any:
        """The SDK's client."""

    @abstractmethod
    def _create(self, client: Any) -> Any:
        """The client's method that takes a request."""

    # Requests

    @asynccontextmanager
    async def _open(self, request: Request) -> AsyncIterator[AsyncIterator[Raw]]:
        """Send a request; its stream as plain JSON. However the block is left, the connection is closed."""
        client = await self._connected()
        with self._failures():
            try:
                sending = self._create(client)(**request, stream=True)
            except TypeError as cause:  # only sdk_opts can name what the SDK does not know
                raise _invalid("sdk_opts", f"is not what the SDK takes: {cause}") from cause
            stream = await sending
            try:
                async with aclosing(_plain(stream)) as raws:
                    yield raws
            finally:
                await stream.close()

    async def _connected(self) -> Any:
        """
        The one client, made when it is first needed: in a thread, because importing an SDK takes seconds. Its
        connections belong to the loop; a library's next `asyncio.run` gets another.
        """
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            async with self._opening:
                if self._client is None or self._loop is not loop:
                    self._client, self._loop = await asyncio.to_thread(self._made), loop
        return self._client

    def _made(self) -> Any:
        if not self._key:
            message = f"{self.name} needs a key: set ASM_{self.key_variable} or {self.key_variable}"
            raise provider_failure(self.name, message, UNAUTHENTICATED)
        timeout = httpx2.Timeout(self._timeout_s, connect=min(CONNECT_S, self._timeout_s))
        access = {"api_key": self._key, "base_url": self._base_url, "timeout": timeout, "max_retries": 0}
        return self._connect(import_module(self.name), **access)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except AsmError:
            raise
        except Exception as error:
            if told := failure_of(self.name, error, datetime.now(UTC)):
                raise told from error
            raise


async def _plain(stream: Any) -> AsyncGenerator[Raw, None]:
    async for event in stream:
        yield event.to_dict()


def _invalid(option: str, problem: str) -> AsmError:
    field = f"provider_options.{option}"
    return AsmError(ErrorCode.VALIDATION_ERROR, f"{field} {problem}", details={"field": field})


def failure_of(provider: str, error: Exception, now: datetime) -> AsmError | None:
    """
    What an exception of an SDK means; None for one that is not the SDK's. Both SDKs are made by one generator: the same
    classes, found in the module of that name.
    """
    sdk = import_module(provider)
    what = None
    if isinstance(error, sdk.APIStatusError):
        return _refused(provider, error, now)
    if isinstance(error, sdk.APITimeoutError | httpx2.TimeoutException):
        what = classify(408)
    elif isinstance(error, sdk.APIConnectionError | httpx2.TransportError):
        what = CUT
    elif isinstance(error, sdk.APIError):
        what = classify(type=_word(error))
    elif isinstance(error, json.JSONDecodeError):
        return provider_failure(provider, f"the stream has an event that is not JSON: {error}", MALFORMED)
    return what and provider_failure(provider, _message(error), what, type=_word(error))


def _refused(provider: str, error: Any, now: datetime) -> AsmError:
    """An answer with a status; 200 for an error within a stream."""
    word = _word(error)
    says_less = word == CATCH_ALL and error.status_code >= 400
    return provider_failure(
        provider,
        _message(error),
        classify(error.status_code, None if says_less else word),
        retry_after_ms=retry_after_ms(error.response.headers, now),
        status=error.status_code,
        type=word,
        request_id=error.request_id,
    )


def _word(error: Any) -> str | None:
    """The provider's word for it, the most exact one that we know."""
    words = [getattr(error, name, None) for name in ("error_code", "code", "type")]
    told = [word for word in words if isinstance(word, str)]
    return next((word for word in told if word in BY_TYPE), told[0] if told else None)


def _message(error: Any) -> str:
    """In the provider's own words, without what the SDK writes around them."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    message = inner.get("message") if isinstance(inner, Mapping) else None
    return message if isinstance(message, str) and message else str(error) or type(error).__name__
