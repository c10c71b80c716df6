"""
The message on a session's channel: one header line, then one line per event.

The header names number, type, run and schema version of each event, so that a process which only passes events on
never parses their bodies. A header without events says: something was stored, read it from the store.
"""

from __future__ import annotations

from collections.abc import Sequence

from asm_core.domain.event import EventFrame
from asm_core.wire import dumps, loads

VERSION = 2
MAX_MESSAGE_BYTES = 262_144
"""Larger batches travel as a bare notice; followers read the store."""


def pack(frames: Sequence[EventFrame]) -> bytes:
    if sum(len(frame.body) for frame in frames) > MAX_MESSAGE_BYTES:
        frames = ()
    header = {"v": VERSION, "e": [_facts(frame) for frame in frames]}
    return b"\n".join([dumps(header), *(frame.body for frame in frames)])


def unpack(session_id: str, message: bytes) -> list[EventFrame]:
    """Frames in order; empty, like a bare notice, for what this process cannot read."""
    try:
        header, *bodies = message.split(b"\n")
        facts = loads(header)
        known = facts["e"] if facts["v"] == VERSION else ()
        return [
            EventFrame(
                session_id=session_id,
                sequence_number=number,
                type=kind,
                run_id=run_id,
                body=body,
                schema_version=version,
            )
            for (number, kind, run_id, version), body in zip(known, bodies, strict=True)
        ]
    except (ValueError, KeyError, TypeError):
        return []


def _facts(frame: EventFrame) -> tuple[int, str, str | None, int]:
    return frame.sequence_number, frame.type, frame.run_id, frame.schema_version
