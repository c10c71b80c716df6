"""
A session as one file: out of one database with the bytes of its artifacts, and into another.

JSON Lines, each value under its kind: `{"asm_session": 1}`, then the session, its runs, events and artifacts, then the
artifacts' bytes in pieces, and an `{"end": …}` that holds the SHA-256 of all before it. A file is read through before
anything is written, so one that is cut, changed or not a session's changes nothing.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import sha256
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asm_core.clock import new_id
from asm_core.domain import ids
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.domain.lifecycle import TERMINAL_RUNS
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.ports.artifacts import ArtifactStore
from asm_core.ports.query import QueryAPI
from asm_core.stores import refusals
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.sql import writes
from asm_core.stores.sql.dialect import dialect_of
from asm_core.stores.sql.rows import bounds_row, event_rows, run_row, session_row
from asm_core.stores.sql.tables import events, runs, session_sequences, sessions
from asm_core.stores.sql.transactions import writing
from asm_core.wire import dumps, loads

VERSION = 1
PIECE = 1024 * 1024
"""Bytes of an artifact in one line."""
BATCH = 1_000
"""Events per statement."""
ARTIFACT_FIELDS = ("id", "key", "run_id", "checksum_sha256", "content_type", "metadata")


@dataclass(slots=True)
class Contents:
    """What a file holds, but for its events and bytes, which are read again when they are written."""

    session: Session
    runs: dict[str, Run] = field(default_factory=dict)
    artifacts: list[Mapping[str, Any]] = field(default_factory=list)
    events: int = 0
    last_sequence: int = 0
    spent: dict[str, dict[str, Decimal]] = field(default_factory=dict)
    """Run to what its events say of usage and cost."""


async def export_session(
    queries: QueryAPI, artifacts: ArtifactStore | None, session_id: str, tenant_id: str
) -> AsyncIterator[bytes]:
    """
    The file, in pieces of whole lines.

    Args:
        artifacts: the tenant's, by key; None: without artifacts.

    Raises:
        AsmError: `session_not_found` at the first step; `storage_error` for bytes that are lost or have changed
            meanwhile.
    """
    digest = sha256()
    async for piece in _pieces(queries, artifacts, session_id, tenant_id):
        digest.update(piece)
        yield piece
    yield _line("end", {"sha256": digest.hexdigest()})


async def _pieces(
    queries: QueryAPI, artifacts: ArtifactStore | None, session_id: str, tenant_id: str
) -> AsyncIterator[bytes]:
    yield _line("asm_session", VERSION)
    registered: list[Mapping[str, Any]] = []
    async for lines in queries.stream_export(session_id, tenant_id, include_artifacts=artifacts is not None):
        if lines.startswith(b'{"artifact"'):
            registered.extend(loads(line)["artifact"] for line in lines.splitlines())
        yield lines
    for row in registered:
        assert artifacts is not None, "artifacts are only asked for with their store"
        digest = sha256()
        async with aclosing(artifacts.open_read(row["key"])) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
                for start in range(0, len(chunk), PIECE):
                    data = b64encode(chunk[start : start + PIECE]).decode()
                    yield _line("bytes", {"artifact": row["id"], "base64": data})
        if digest.hexdigest() != row["checksum_sha256"]:
            message = f"artifact {row['key']!r} was replaced meanwhile; export the session again"
            raise AsmError(ErrorCode.STORAGE_ERROR, message, details={"key": row["key"]})


async def import_session(engine: AsyncEngine, blobs: ArtifactStore, file: Path, tenant_id: str) -> Contents:
    """
    Write what `export_session` has told, with the same ids, numbers and times; all of it or nothing. The log of a fork
    becomes one of its own: inherited events get new ids.

    Args:
        blobs: the installation's store of artifacts' bytes.

    Returns:
        What was imported.

    Raises:
        AsmError: `validation_error` (no such file, not whole, a run in it has not ended), `already_exists` (an id or an
            artifact's key), and those of the stores.
    """
    contents = _contents(file)
    contents.session = replace(contents.session, tenant_id=tenant_id, forked_at=None)
    registry = ArtifactRegistry(engine)
    async with writing(engine) as connection:
        await _require_new(connection, contents.session.id)
    put = await _put_all(registry, blobs, contents, file)
    try:
        async with writing(engine) as connection:
            await _write(connection, contents, file, tenant_id)
    except BaseException:
        await _remove(registry, put, tenant_id)
        raise
    return contents


async def _write(connection: AsyncConnection, contents: Contents, file: Path, tenant_id: str) -> None:
    dialect, session = dialect_of(connection.engine), contents.session
    await _require_new(connection, session.id)
    await writes.save_session(connection, dialect, session_row(session), bounds_row(session))
    for run in contents.runs.values():
        pruned = _unaccounted(run, contents.spent.get(run.id, {})) or None
        row = run_row(replace(run, tenant_id=tenant_id)) | {"pruned_usage": pruned}
        if not await writes.replace(connection, dialect, runs, "id", row, sa.false()):
            raise refusals.id_taken("run", run.id)
    told = _events(file, session.id)
    while batch := list(islice(told, BATCH)):
        known = sa.select(events.c.id).where(events.c.id.in_([event.id for event in batch])).limit(1)
        if (taken := await connection.scalar(known)) is not None:
            raise refusals.id_taken("event", taken)
        rows = event_rows(batch, tenant_id)
        numbers = [{"sequence_number": event.sequence_number} for event in batch]
        await connection.execute(sa.insert(events), [row | number for row, number in zip(rows, numbers, strict=True)])
    counter = sa.update(session_sequences).where(session_sequences.c.session_id == session.id)
    pruned_count = contents.last_sequence - contents.events
    await connection.execute(counter.values(last_sequence=contents.last_sequence, pruned_count=pruned_count))


async def _require_new(connection: AsyncConnection, session_id: str) -> None:
    if await connection.scalar(sa.select(sa.exists().where(sessions.c.id == session_id))):
        raise refusals.id_taken("session", session_id)


async def _put_all(registry: ArtifactRegistry, blobs: ArtifactStore, contents: Contents, file: Path) -> list[str]:
    """The artifacts' keys; when one of them cannot be put, none is."""
    tenant_id, put = contents.session.tenant_id, list[str]()
    groups = groupby((value for kind, value in _values(file) if kind == "bytes"), key=itemgetter("artifact"))
    following = next(groups, None)
    try:
        for row in contents.artifacts:
            key = row["key"]
            pieces: Iterator[Mapping[str, Any]] = iter(())
            if following and following[0] == row["id"]:
                pieces, following = following[1], None
            if await registry.get_by_key(key, tenant_id) is not None:
                raise refusals.id_taken("artifact", key)
            store = RegisteringArtifactStore(
                blobs, registry, tenant_id, session_id=contents.session.id, run_id=row["run_id"]
            )
            put.append(key)
            described = {"content_type": row["content_type"], "metadata": row["metadata"]}
            info = await store.put_stream(key, _decoded(pieces), **described)
            if info.checksum_sha256 != row["checksum_sha256"]:
                raise _invalid(file, f"the bytes of artifact {key!r} are not where they belong")
            following = following or next(groups, None)
    except BaseException:
        await _remove(registry, put, tenant_id)
        raise
    return put


async def _remove(registry: ArtifactRegistry, keys: Sequence[str], tenant_id: str) -> None:
    for key in keys:
        await registry.delete(key, tenant_id)


async def _decoded(pieces: Iterator[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield b64decode(piece["base64"])


def _contents(file: Path) -> Contents:
    """Read it through. Raises AsmError `validation_error`."""
    try:
        contents = _gathered(file)
    except OSError as cause:
        raise _invalid(file, cause.strerror or str(cause)) from cause
    except (ValueError, TypeError, KeyError, AttributeError) as cause:
        raise _invalid(file, "it is no export of a session") from cause
    if contents is None:
        raise _invalid(file, "it holds no session")
    return contents


def _gathered(file: Path) -> Contents | None:
    contents: Contents | None = None
    for kind, value in _checked(file):
        match kind:
            case "session":
                contents = Contents(Session.from_map(value))
            case "run" if contents:
                _add_run(contents, Run.from_map(value))
            case "event" if contents:
                _add_event(contents, Event.from_map(value))
            case "artifact" if contents:
                contents.artifacts.append({name: value[name] for name in ARTIFACT_FIELDS})
            case "bytes" if contents:
                b64decode(value["base64"], validate=True)
            case _:
                raise _invalid(file, f"{kind!r} stands where it does not belong")
    return contents


def _add_run(contents: Contents, run: Run) -> None:
    if run.status not in TERMINAL_RUNS:
        message = f"run {run.id} is {run.status}; export the session again when its runs have ended"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"run_id": run.id})
    if run.session_id != contents.session.id:
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"run {run.id} is of another session", details={"run_id": run.id})
    contents.runs[run.id] = run


def _add_event(contents: Contents, event: Event) -> None:
    number = event.sequence_number
    if number is None or number <= contents.last_sequence:
        message = f"event {event.id} has the number {number} behind {contents.last_sequence}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "sequence_number"})
    contents.events += 1
    contents.last_sequence = number
    if event.type is EventType.TOKEN_USAGE_UPDATED and event.run_id:
        spent = contents.spent.setdefault(event.run_id, {})
        for name, value in event.data.items():
            if _is_spent(name, value):
                spent[name] = spent.get(name, Decimal()) + Decimal(str(value))


def _unaccounted(run: Run, spent: Mapping[str, Decimal]) -> dict[str, Any]:
    """What the run used that no event tells any more: those events were pruned."""
    used = dict(run.token_usage) | ({"cost_usd": run.cost_usd} if run.cost_usd is not None else {})
    rest = {name: Decimal(str(value)) - spent.get(name, Decimal()) for name, value in used.items()}
    return {
        name: float(value) if name == "cost_usd" else int(value)
        for name, value in rest.items()
        if value or name not in spent
    }


def _is_spent(name: str, value: object) -> bool:
    return (name.endswith("_tokens") or name == "cost_usd") and isinstance(value, int | float)


def _events(file: Path, session_id: str) -> Iterator[Event]:
    for kind, value in _values(file):
        if kind == "event":
            event = Event.from_map(value)
            is_own = event.session_id == session_id
            yield event if is_own else replace(event, id=new_id(ids.EVENT), session_id=session_id)


def _values(file: Path) -> Iterator[tuple[str, Any]]:
    """Each line's kind and value. Contract: the file is whole."""
    with file.open("rb") as lines:
        for line in lines:
            yield from loads(line).items()


def _checked(file: Path) -> Iterator[tuple[str, Any]]:
    """Each value between the head and the end; the end agrees with all before it."""
    digest, kind, value = sha256(), "", None
    with file.open("rb") as lines:
        for number, line in enumerate(lines):
            if kind == "end":
                raise _invalid(file, "it goes on behind its end")
            [(kind, value)] = loads(line).items()
            if number == 0 and (kind, value) != ("asm_session", VERSION):
                raise _invalid(file, f"it does not begin as an export of version {VERSION}")
            if kind != "end":
                digest.update(line)
            if number and kind != "end":
                yield kind, value
    if kind != "end" or value != {"sha256": digest.hexdigest()}:
        raise _invalid(file, "it is not whole: its checksum does not agree with its content")


def _line(kind: str, value: object) -> bytes:
    return b'{"%s":%s}\n' % (kind.encode(), dumps(value))


def _invalid(file: Path, problem: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, f"cannot import {file}: {problem}", details={"field": "file"})
