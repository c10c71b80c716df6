"""What the examples share: a place for their data, and a check that says what was claimed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from asm_core import AsmError, ScriptedAdapter

MEMORY = "memory://"

TOOL_USE: dict[str, Any] = {
    "script": [
        {"say": "Let me look.", "chunks": 2, "delay_ms": 20},
        {"tool": {"name": "Read", "input": {"path": "README.md"}, "output": "# ASM\nruns agents"}, "delay_ms": 200},
        {"tool": {"name": "bash", "input": {"command": "make test"}, "output": "2 passed"}, "delay_ms": 200},
        {"say": "It runs agents.", "chunks": 2, "delay_ms": 20},
        {"usage": {"input_tokens": 50, "output_tokens": 45}},
    ]
}
"""A run's input: it talks, uses two tools, and talks again."""


class Acting(ScriptedAdapter):
    """Plays scripts in the name of another provider."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Removed in the end."""
    with TemporaryDirectory(prefix="asm-example-") as folder:
        yield Path(folder)


def claim(what: str, holds: bool) -> None:
    """An example asserts what it shows."""
    if not holds:
        raise SystemExit(f"NOT TRUE: {what}")
    print(f"  ok  {what}")


def main(example: Coroutine[Any, Any, None]) -> None:
    asyncio.run(example)


async def refusal(call: Awaitable[object]) -> AsmError:
    """What a call fails with that must fail."""
    try:
        await call
    except AsmError as error:
        return error
    raise SystemExit("NOT TRUE: this is refused")


def skip(why: str) -> None:
    """This machine lacks what the example needs."""
    print(f"SKIP: {why}")
