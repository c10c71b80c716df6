"""What the examples share: a place for their data, and a check that says what was claimed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

MEMORY = "memory://"


def claim(what: str, holds: bool) -> None:
    """An example asserts what it shows."""
    if not holds:
        raise SystemExit(f"NOT TRUE: {what}")
    print(f"  ok  {what}")


def main(example: Coroutine[Any, Any, None]) -> None:
    asyncio.run(example)
