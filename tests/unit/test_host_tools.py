"""Functions as tools: what the model is told of them, and what it gets back."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from asm_core.domain.errors import AsmError
from asm_core.domain.tool import ToolAccess, ToolResult
from asm_core.tools import HostTools, NamedTools, Tool, tool


class Unit(StrEnum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


class Place(BaseModel):
    city: str
    country: str = "AT"


@dataclass
class Reading:
    degrees: float
    on: date


@tool(access="read")
def temperature(
    place: Place, unit: Unit = Unit.CELSIUS, *, days: Annotated[int, Field(ge=1, description="How many.")] = 1
) -> Reading:
    """
    The temperature in a place.

    Never above 20 degrees.
    """
    return Reading(19.5 if place.city == "Wien" and unit is Unit.CELSIUS else float(days), date(2026, 1, 2))


def test_a_typed_function_tells_its_schema() -> None:
    """From the annotations and the docstring alone."""
    spec = temperature.spec
    assert (spec.name, spec.access) == ("temperature", ToolAccess.READ)
    assert spec.description == "The temperature in a place.\n\nNever above 20 degrees."
    schema = spec.input_schema
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["place"], False)
    assert schema["properties"]["days"] == {"default": 1, "description": "How many.", "minimum": 1, "type": "integer"}
    assert schema["$defs"]["Unit"]["enum"] == ["celsius", "kelvin"]


async def test_the_function_gets_what_its_annotations_say() -> None:
    """Models, enumerations, defaults; and it stays a function."""
    result = await temperature.call({"place": {"city": "Wien"}})
    assert result == ToolResult({"degrees": 19.5, "on": "2026-01-02"})
    assert temperature(Place(city="Graz"), days=3).degrees == 3.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, ["place: Field required"]),
        ({"place": {"city": 1}}, ["place.city: "]),
        ({"place": {"city": "Wien"}, "days": 0, "unit": "warm"}, ["unit: ", "days: "]),
        ({"place": {"city": "Wien"}, "colour": "red"}, ["colour: "]),
    ],
)
async def test_a_wrong_input_is_told_field_by_field(given: dict[str, Any], told: list[str]) -> None:
    """For the model to try again; the function is not called."""
    result = await temperature.call(given)
    assert result.is_error
    assert all(part in result.content for part in told)


async def test_names_that_models_of_data_reserve_are_fine() -> None:
    """A parameter may be called as it likes."""

    @tool
    def odd(schema: str, json: int, copy: bool = False, model_config: str = "c", _own: int = 1) -> list[Any]:
        return [schema, json, copy, model_config, _own]

    assert odd.spec.input_schema["required"] == ["schema", "json"]
    assert (await odd.call({"schema": "s", "json": 2})).content == ["s", 2, False, "c", 1]


async def test_what_a_function_raises_is_a_result() -> None:
    @tool
    async def fail(how: Literal["badly"] = "badly") -> None:
        raise LookupError(how)

    assert await fail.call({}) == ToolResult("LookupError: badly", is_error=True)


async def test_what_a_function_cancels_itself_does_not_cancel_the_run() -> None:
    @tool
    async def stumble() -> None:
        raise asyncio.CancelledError

    assert await stumble.call({}) == ToolResult("cancelled", is_error=True)


async def test_a_blocked_function_is_left_behind() -> None:
    """Stopping the run does not wait for it."""
    begun, go_on = threading.Event(), threading.Event()

    @tool
    def block() -> None:
        begun.set()
        go_on.wait(10)

    calling = asyncio.create_task(block.call({}))
    await asyncio.to_thread(begun.wait, 10)
    calling.cancel()
    await asyncio.wait([calling], timeout=5)
    assert calling.cancelled()
    go_on.set()


async def test_results_are_plain_json() -> None:
    """What has no form in JSON is its text."""

    @tool
    def give() -> list[Any]:
        return [(1, 2), Decimal("1.5"), b"bytes", None, Place(city="Wien"), object]

    expected = [[1, 2], "1.5", "bytes", None, {"city": "Wien", "country": "AT"}, "<class 'object'>"]
    assert (await give.call({})).content == expected


async def test_a_plain_function_does_not_hold_up_the_loop() -> None:
    """Two that wait for each other end, because each has a thread."""
    together = threading.Barrier(2, timeout=10)

    @tool
    def meet() -> int:
        return together.wait()

    results = await asyncio.gather(meet.call({}), meet.call({}))
    assert {result.content for result in results} == {0, 1}


@pytest.mark.parametrize(
    "function",
    [lambda *names: names, lambda **names: names, lambda name, /: name],
)
def test_parameters_without_names_are_refused(function: Any) -> None:
    with pytest.raises(AsmError, match="cannot be given by name"):
        Tool(function, name="x")


def test_types_that_json_cannot_carry_are_refused() -> None:
    def wait(event: threading.Event) -> None: ...

    with pytest.raises(AsmError) as raised:
        Tool(wait)
    assert raised.value.code == "validation_error"


def test_an_unknown_access_is_refused() -> None:
    with pytest.raises(AsmError, match="read, edit, execute"):
        tool(access="write")(lambda: None)


async def test_host_tools_are_a_source() -> None:
    """Plain functions become tools that may do anything."""

    def double(number: int) -> int:
        """Twice."""
        return 2 * number

    tools = HostTools(temperature, double)
    assert [(spec.name, spec.access) for spec in await tools.specs()] == [
        ("temperature", "read"), ("double", "execute"),
    ]  # fmt: skip
    assert (await tools.call("double", {"number": 4})).content == 8


async def test_an_installation_names_its_tools() -> None:
    """A list of them, one, or a plain function; imported when they are first asked for."""
    named = NamedTools(["tests.fixtures.host_tools:TOOLS", "tests.fixtures.host_tools:double"])
    assert [spec.name for spec in await named.specs()] == ["add", "erase", "double"]
    assert (await named.call("add", {"a": 1})).content == 2


@pytest.mark.parametrize("name", ["no.such.module:x", "tests.fixtures.host_tools:nothing", "tests.fixtures.host_tools"])
async def test_a_tool_that_cannot_be_had_is_named(name: str) -> None:
    with pytest.raises(AsmError) as raised:
        await NamedTools([name]).specs()
    assert (raised.value.code, name in raised.value.message) == ("validation_error", True)
