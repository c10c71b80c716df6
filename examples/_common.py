"""What the examples share: a place for their data, and a check that says what was claimed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from asm_core import AsmError, ScriptedAdapter

MEMORY = "memory://"


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


@contextmanager
def pretended_providers() -> Iterator[tuple[Any, Any]]:
    """What the model may answer, and the server of it on loopback: no key is needed, and nothing is called outside."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.fakes import script
    from tests.fakes.server import ProviderServer

    with ProviderServer() as server:
        yield script, server


def is_installed(package: str) -> bool:
    if find_spec(package) is not None:
        return True
    skip(f"{package} is not installed")
    return False
