"""
Codex's threads between runs: the rollout file in which Codex keeps one, carried from home to home.

A thread is kept under its id: a line of JSON about it, and the rollout behind that. A run keeps it first when something
comes of its turn, as a part, and again as a whole at the end. So a thread whose last run could not keep it is not
mistaken for the whole conversation, and two runs that go on with one thread at once are told apart.

Source: spec/06 §7; DESIGN §10 (native resume fails closed).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asm_core.domain.errors import AsmError, LeaseLost
from asm_core.ports.provider import ProviderFiles

log = logging.getLogger(__name__)

ROLLOUTS = "sessions"
"""Below a home; the place of a rollout in there is part of what Codex knows of it."""


@dataclass(frozen=True, slots=True)
class Kept:
    is_whole: bool
    """Up to the end of a turn; otherwise a part of the last one is missing."""
    run_id: str | None
    """Of the run that kept it; None for one that was found in the home."""
    is_empty: bool
    """Codex had written nothing yet."""


class CodexThreads:
    """
    Args:
        home: CODEX_HOME.
        files: where they are kept; without it, in the home alone.
        run_id: of the run that asks.
    """

    def __init__(self, home: Path, files: ProviderFiles | None, run_id: str) -> None:
        self._home, self._files, self._run_id = home, files, run_id

    async def restore(self, thread_id: str) -> Kept | None:
        """What is kept of a thread, laid where Codex looks for it; None where nothing is. Raises as the files."""
        if self._files is None:
            found = any((self._home / ROLLOUTS).glob(f"**/rollout-*-{thread_id}.jsonl"))
            return Kept(is_whole=True, run_id=None, is_empty=False) if found else None
        data = await self._files.load(_name(thread_id))
        if data is None:
            return None
        head, _, rollout = data.partition(b"\n")
        told = json.loads(head)
        if rollout:
            await asyncio.to_thread(self._lay, told["path"], rollout)
        return Kept(told["is_whole"], told["run_id"], is_empty=not rollout)

    def _lay(self, place: str, rollout: bytes) -> None:
        path = (self._home / place).resolve()
        if not path.is_relative_to((self._home / ROLLOUTS).resolve()):
            raise ValueError(f"no place for a rollout: {place!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_bytes(rollout)
        path.with_suffix(".new").replace(path)

    async def keep(self, thread_id: str, path: Path, *, is_whole: bool) -> None:
        """
        Args:
            path: of its rollout. Whole lines of it are kept: Codex may be writing one.

        Raises: as the files.
        """
        if self._files is None:
            return
        rollout = await asyncio.to_thread(_whole_lines, path)
        place = path.relative_to(self._home)
        head = json.dumps({"path": str(place), "run_id": self._run_id, "is_whole": is_whole})
        await self._files.save(_name(thread_id), head.encode() + b"\n" + rollout)

    async def keep_if_possible(self, thread_id: str, path: Path, *, is_whole: bool) -> None:
        """Where that fails the part stays, and nobody takes it for the whole."""
        try:
            await self.keep(thread_id, path, is_whole=is_whole)
        except (AsmError, LeaseLost, OSError) as error:
            log.warning("the Codex thread %s could not be kept: %s", thread_id, error)


def _name(thread_id: str) -> str:
    return f"thread-{thread_id}"


def _whole_lines(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # Codex makes it with the first turn
        return b""
    return data[: data.rfind(b"\n") + 1]


def items_since(path: Path, offset: int) -> list[Mapping[str, Any]]:
    """What of the model's own output a rollout has behind an offset, for a thread whose server does not tell of it."""
    lines = _whole_lines(path)[offset:].splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry["payload"] for entry in entries if entry.get("type") == "response_item"]
