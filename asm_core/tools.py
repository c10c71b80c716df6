"""
Python functions as tools of a model.

    from asm_core import HostTools, tool

    @tool(access="read")
    def temperature(city: str) -> float:
        "Degrees Celsius in a city."

    tools = HostTools(temperature)

The schema comes from the annotations; what the model sends is checked by them before the function is called.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from importlib import import_module
from threading import Thread
from typing import Any, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model
from pydantic_core import to_jsonable_python

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.tool import ToolAccess, ToolResult, ToolSpec

Function = Callable[..., Any]


class Tool:
    """
    A function that a model may call; calling the tool calls the function.

    Raises:
        AsmError: `validation_error`: parameters that have no name or no type that JSON can carry.
    """

    def __init__(self, function: Function, *, name: str | None = None, access: str = ToolAccess.EXECUTE) -> None:
        self._function = function
        name = name or str(getattr(function, "__name__", ""))
        self._model = _arguments(function, name)
        self.spec = ToolSpec(
            name=name,
            description=inspect.getdoc(function) or name,
            input_schema=_schema(self._model, name),
            access=_access(access, name),
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    async def call(self, input: Mapping[str, Any]) -> ToolResult:
        """What the function returns, as plain JSON; every failure is a result for the model to read."""
        try:
            given = self._model.model_validate(dict(input))
        except ValidationError as error:
            return ToolResult(_problems(error), is_error=True)
        fields = type(given).model_fields
        arguments = {str(field.alias): getattr(given, name) for name, field in fields.items()}
        try:
            return ToolResult(to_jsonable_python(await self._called(arguments), fallback=str))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return ToolResult("cancelled", is_error=True)  # something that the function waited for, not the run
        except Exception as error:
            return ToolResult(f"{type(error).__name__}: {error}", is_error=True)

    async def _called(self, arguments: Mapping[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(**arguments)
        return await _in_thread(lambda: self._function(**arguments))


@overload
def tool(function: Function, /) -> Tool: ...
@overload
def tool(*, name: str | None = None, access: str = ToolAccess.EXECUTE) -> Callable[[Function], Tool]: ...
def tool(
    function: Function | None = None, /, *, name: str | None = None, access: str = ToolAccess.EXECUTE
) -> Tool | Callable[[Function], Tool]:
    """
    Makes a typed function, plain or async, into a tool. Its docstring tells the model what it is for.

    Args:
        name: the function's own when omitted.
        access: `read`, `edit` or `execute`: which permission modes let it run.
    """
    if function is not None:
        return Tool(function)
    return lambda given: Tool(given, name=name, access=access)


class HostTools:
    """A `ToolSource` of functions in this process; plain ones become tools that may do anything."""

    def __init__(self, *tools: Tool | Function) -> None:
        made = [given if isinstance(given, Tool) else Tool(given) for given in tools]
        self._tools = {made_tool.spec.name: made_tool for made_tool in made}

    async def specs(self) -> Sequence[ToolSpec]:
        return [each.spec for each in self._tools.values()]

    async def call(self, name: str, input: Mapping[str, Any]) -> ToolResult:
        return await self._tools[name].call(input)


class NamedTools:
    """
    The tools of an installation, by `module:attribute`; imported when they are first asked for, so that only workers
    need the modules. An attribute is a tool, a function, or a list of them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._loaded: HostTools | None = None

    async def specs(self) -> Sequence[ToolSpec]:
        """Raises AsmError `validation_error`, naming an entry that cannot be had."""
        return await (await self._tools()).specs()

    async def call(self, name: str, input: Mapping[str, Any]) -> ToolResult:
        return await (await self._tools()).call(name, input)

    async def _tools(self) -> HostTools:
        if self._loaded is None:
            found = await asyncio.to_thread(lambda: [each for name in self._names for each in _named(name)])
            self._loaded = HostTools(*found)
        return self._loaded


async def _in_thread(call: Callable[[], Any]) -> Any:
    """
    A thread of its own for a function that blocks: it can hold up neither the loop's few shared threads nor the end of
    the process. Stopping the run does not stop it, but nobody waits for it any more.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        try:
            result, error = call(), None
        except Exception as raised:
            result, error = None, raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_settle, answer, result, error)

    Thread(target=copy_context().run, args=(run,), name="tool", daemon=True).start()
    return await answer


def _settle(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)


def _named(name: str) -> Iterable[Tool | Function]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as cause:
        message = f"tools: cannot load {name!r} (module:attribute): {cause}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "tools"}) from cause
    return found if isinstance(found, list | tuple) else [found]


def _arguments(function: Function, name: str) -> type[BaseModel]:
    """A model of the parameters. Its fields have made-up names, because a model reserves some (`schema`, `json`)."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise _invalid(name, f"the parameter {parameter.name} cannot be given by name")
        default = ... if parameter.default is parameter.empty else parameter.default
        hint = hints.get(parameter.name, Any)
        fields[f"field_{number}"] = (hint, Field(default, alias=parameter.name))
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
    except PydanticUserError as cause:
        raise _invalid(name, str(cause)) from cause


def _schema(model: type[BaseModel], name: str) -> dict[str, Any]:
    try:
        schema = model.model_json_schema(by_alias=True)
    except PydanticUserError as cause:
        raise _invalid(name, str(cause)) from cause
    schema.pop("title", None)
    for told in schema.setdefault("properties", {}).values():
        told.pop("title", None)
    return schema


def _access(value: str, name: str) -> ToolAccess:
    if value not in ToolAccess._value2member_map_:
        raise _invalid(name, f"access must be one of {', '.join(ToolAccess)}, not {value!r}")
    return ToolAccess(value)


def _problems(error: ValidationError) -> str:
    """One line per field, without the values."""
    lines = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
    return "invalid input: " + "; ".join(lines)


def _invalid(name: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, f"tool {name!r}: {problem}", details={"field": "tools"})
