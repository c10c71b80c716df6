"""
Claude Code's own record of a conversation: on the worker's disk while a run uses it, between runs with the session's
files, so that any worker can go on from it.

A record is a transcript, named by the provider session's id, and what belongs to it in a folder of that name. Where
they lie on the disk depends on the working folder; with the session's files, on the id alone. Beside them stands
whether the record is whole: a run that died in the middle, or could not save its last words, leaves one that is not,
and only the next attempt at that very run goes on from it.

Source: spec/06 §6; spec/04 §2.7.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from asm_core.ports.provider import ProviderFiles
from asm_core.wire import dumps, loads

LINES = ".jsonl"
PAUSE = 9
"""Between two savings, in the time that the first took: a record may grow large, and is saved whole."""
Stamp = tuple[int, int]
"""Size and time of a file as it was saved last."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A record that is in its place on this worker's disk."""

    cost_usd: float | None
    """What the provider's session has cost so far; None: nobody knows."""


class ClaudeSession:
    """
    Args:
        folder: where the command line keeps the records of the run's working folder.
        files: None: nothing is kept but on this disk.
    """

    def __init__(self, folder: Path, files: ProviderFiles | None) -> None:
        self._folder = folder
        self._files = files
        self._saved: dict[str, Stamp] = {}
        self._save_after = 0.0
        self._noted: dict[str, Any] | None = None

    async def restore(self, session_id: str, *, was_cut: bool) -> Restored | None:
        """
        Put a record in its place.

        Args:
            was_cut: whether a record that is not whole will do.

        Returns:
            None: there is none that a run could go on from.

        Raises:
            AsmError: `storage_error`, `storage_connection_failed`.
        """
        if not _is_id(session_id):
            return None
        if self._files is None:
            return Restored(None) if (self._folder / f"{session_id}{LINES}").is_file() else None
        noted = loads(await self._files.load(f"{session_id}.json") or b"{}")
        if not noted or not (noted["is_whole"] or was_cut):
            return None
        for name in noted["files"]:
            data = await self._files.load(name)
            if data is None:
                return None
            await asyncio.to_thread(_write, self._folder, name, data)
        return Restored(noted["cost_usd"] if noted["is_whole"] else None)

    async def save(self, session_id: str, *, is_whole: bool, cost_usd: float | None = None) -> None:
        """
        Keep what has changed. While the run goes on, this takes a tenth of its time at most: called too soon behind
        the last time, it does nothing.

        Args:
            is_whole: whether the run has come to its end.

        Raises:
            AsmError: `storage_error`, `storage_connection_failed`; what is kept does not count as whole then.
            LeaseLost: the run belongs to another worker.
        """
        began = time.monotonic()
        if self._files is None or (began < self._save_after and not is_whole):
            return
        changed = await asyncio.to_thread(self._changed, session_id)
        noted = {"files": sorted({*self._saved, *(name for name, _, _ in changed)})}
        await self._note(session_id, noted | {"is_whole": False, "cost_usd": None})
        for name, stamp, data in changed:
            await self._files.save(name, data)
            self._saved[name] = stamp
        if is_whole:
            await self._note(session_id, noted | {"is_whole": True, "cost_usd": cost_usd})
        now = time.monotonic()
        self._save_after = now + PAUSE * (now - began)

    async def _note(self, session_id: str, noted: dict[str, Any]) -> None:
        if self._files is not None and noted != self._noted:
            await self._files.save(f"{session_id}.json", dumps(noted))
            self._noted = noted

    def _changed(self, session_id: str) -> list[tuple[str, Stamp, bytes]]:
        changed = []
        for path in self._paths(session_id):
            name, stat = path.relative_to(self._folder).as_posix(), path.stat()
            stamp = (stat.st_size, stat.st_mtime_ns)
            if self._saved.get(name) != stamp:
                changed.append((name, stamp, _whole_lines(path)))
        return changed

    def _paths(self, session_id: str) -> Iterator[Path]:
        transcript = self._folder / f"{session_id}{LINES}"
        if transcript.is_file():
            yield transcript
        yield from (path for path in sorted((self._folder / session_id).rglob("*")) if path.is_file())


def _whole_lines(path: Path) -> bytes:
    """The command line may be writing."""
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1] if path.suffix == LINES else data


def _write(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
