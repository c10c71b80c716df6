"""
A run's workspace: a snapshot before its provider is asked, another when it is done, what lies between, and the way
back when it failed.

Nothing is asked of a provider without the first snapshot: if it cannot be taken, the run has failed. What goes wrong
behind the provider's work does not take that away: it stands in the run's output, beside it. The first snapshot is kept
in the repository under the run's name until the run is done, so that a later attempt, on the same machine, compares
with it and goes back to it, not to what a dead attempt left.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from asm_core.domain.errors import AsmError, ErrorCode, LeaseLost
from asm_core.domain.event import EventType
from asm_core.domain.lease import Lease
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.redaction import Redactor
from asm_core.domain.run import RunOutcome
from asm_core.domain.workspace import Diff, Snapshot, WorkspaceOptions
from asm_core.manager.signals import RunSignals, StopCause
from asm_core.ports.artifacts import ArtifactStore
from asm_core.ports.provider import RawEvent
from asm_core.ports.workspace import OpenWorkspace, Workspace

log = logging.getLogger(__name__)

PATCH_TYPE = "text/x-diff"
Tell = Callable[[RawEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshots:
    """
    Args:
        artifacts_of: the store that patches go to, in the name of a lease's holder; None: they stay with their runs.
        timeout_s: for what comes before a provider's work, and for what comes after it.
    """

    open: OpenWorkspace
    artifacts_of: Callable[[Lease], ArtifactStore] | None
    redactor: Redactor
    timeout_s: float

    @asynccontextmanager
    async def around(
        self, options: WorkspaceOptions, folder: str | None, lease: Lease, signals: RunSignals
    ) -> AsyncIterator[RunWorkspace | None]:
        """
        Args:
            folder: where the agent works, for options that name no path.

        Returns:
            None for a run that did not ask for it.
        """
        if not options.enabled:
            yield None
            return
        async with AsyncExitStack() as stack:
            yield RunWorkspace(self, options, options.path or folder or "", lease, signals, stack)


class RunWorkspace:
    """Around one attempt."""

    def __init__(
        self,
        snapshots: Snapshots,
        options: WorkspaceOptions,
        path: str,
        lease: Lease,
        signals: RunSignals,
        stack: AsyncExitStack,
    ) -> None:
        self._snapshots, self._options, self._path = snapshots, options, path
        self._lease, self._signals, self._stack = lease, signals, stack
        self._workspace: Workspace
        self._before: Snapshot | None = None

    async def begin(self, tell: Tell) -> None:
        """
        Take the first snapshot, or find that of an attempt before.

        Raises:
            AsmError: see `Workspace`; nothing may be asked of the provider then.
        """
        opening = self._snapshots.open(self._options, self._path, self._lease.run_id)
        self._workspace = await self._stack.enter_async_context(opening)
        async with self._bounded():
            before = await self._workspace.earlier() or await self._workspace.snapshot("before")
            await self._workspace.keep(before)
        await tell(_taken(before))
        self._before = before

    async def concluded(self, outcome: RunOutcome, tell: Tell) -> RunOutcome:
        """
        The outcome, with what became of the folder. A run that is handed back goes on with it elsewhere.

        Raises:
            LeaseLost: the run, and with it the folder, belongs to another worker.
        """
        if self._before is None or outcome.status is RunStatus.PENDING:
            return outcome
        failed = outcome.status is not RunStatus.COMPLETED
        report: dict[str, Any] = {"backend": self._workspace.backend, "before_snapshot": self._before.told()}
        report |= await self._caught(self._compared(self._before, tell, failed=failed))
        if failed and self._options.rollback_on_failure:
            report["rollback"] = {"restored": False, **await self._caught(self._rolled_back(self._before))}
        if report.get("rollback", {"restored": True})["restored"]:
            await self._caught(self._let_go())
        return replace(
            outcome,
            output={**(outcome.output or {}), "workspace": report},
            metadata={**outcome.metadata, "workspace": _in_short(report)},
        )

    async def _caught(self, work: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
        """What the work answers, within its time; an error is an answer, too."""
        try:
            async with self._bounded():
                return await work
        except AsmError as error:
            log.warning("the workspace of run %s: %s", self._lease.run_id, error)
            return {"error": error.to_payload()}

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        timeout_s = self._snapshots.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as cause:
            message = f"the workspace {self._path} took longer than {timeout_s:g} s"
            raise AsmError(ErrorCode.STORAGE_ERROR, message, details={"reason": "workspace_timeout"}) from cause
        except OSError as cause:
            raise AsmError(ErrorCode.STORAGE_ERROR, f"the workspace {self._path}: {cause}") from cause

    async def _compared(self, before: Snapshot, tell: Tell, *, failed: bool) -> Mapping[str, Any]:
        after = await self._workspace.snapshot("after_failure" if failed else "after")
        await tell(_taken(after))
        diff = await self._diff(before, after)
        await tell(_computed(diff))
        return {"after_snapshot": after.told(), "diff": diff.to_map() | _of_patch(diff)}

    async def _diff(self, before: Snapshot, after: Snapshot) -> Diff:
        """The patch becomes an artifact where those are kept."""
        options, artifacts_of = self._options, self._snapshots.artifacts_of
        embeds = options.capture_patch and artifacts_of is None
        diff = await self._workspace.diff(before, after, capture_patch=embeds, max_patch_bytes=options.max_patch_bytes)
        if artifacts_of is None or not options.capture_patch or not diff.files_changed:
            return diff
        key = f"patch_{before.ref}_{after.ref}_{uuid4().hex}"
        async with aclosing(self._patch(before, after)) as chunks:
            first = await anext(chunks, None)
            if first is None:
                return diff
            info = await artifacts_of(self._lease).put_stream(key, _with(first, chunks), content_type=PATCH_TYPE)
        kept = {"patch_ref": key, "patch_bytes": info.byte_size, "patch_truncated": False}
        return replace(diff, metadata={**diff.metadata, **kept})

    async def _patch(self, before: Snapshot, after: Snapshot) -> AsyncGenerator[bytes, None]:
        """Redacted as everything that is stored; where there is no secret, the same bytes."""
        stream, decoder = self._snapshots.redactor.stream(), codecs.getincrementaldecoder("utf-8")("surrogateescape")
        async with aclosing(self._workspace.read_patch(before, after)) as chunks:
            async for chunk in chunks:
                text = decoder.decode(chunk)
                shown = stream.feed(text) if self._snapshots.redactor.is_on else text
                if shown:
                    yield shown.encode(errors="surrogateescape")
        if rest := stream.feed(decoder.decode(b"", final=True)) + stream.flush():
            yield rest.encode(errors="surrogateescape")

    async def _rolled_back(self, before: Snapshot) -> Mapping[str, Any]:
        if self._signals.cause is StopCause.LEASE_LOST:
            raise LeaseLost(self._lease.run_id)
        done = await self._workspace.rollback(before)
        return {"restored": True, "guard_ref": done.guard.ref}

    async def _let_go(self) -> Mapping[str, Any]:
        await self._workspace.let_go()
        return {}


async def _with(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    async for chunk in rest:
        yield chunk


def _taken(snapshot: Snapshot) -> RawEvent:
    data = {"label": snapshot.label, "backend": snapshot.backend, "ref": snapshot.ref}
    return RawEvent(EventType.WORKSPACE_SNAPSHOT_TAKEN, data)


def _computed(diff: Diff) -> RawEvent:
    lines = {"insertions": diff.insertions, "deletions": diff.deletions}
    has_patch = diff.patch is not None or "patch_ref" in diff.metadata
    data = {"files_changed": diff.files_changed, **lines, "has_patch": has_patch}
    return RawEvent(EventType.WORKSPACE_DIFF_COMPUTED, data)


def _of_patch(diff: Diff) -> dict[str, Any]:
    return {name: diff.metadata[name] for name in ("patch_ref", "patch_bytes") if name in diff.metadata}


def _in_short(report: Mapping[str, Any]) -> dict[str, Any]:
    """For the run's metadata: the references and the numbers; the patch itself stands in the output."""
    short = {"backend": report["backend"], "before_ref": report["before_snapshot"]["ref"]}
    if "diff" in report:
        names = ("files_changed", "insertions", "deletions", "changed_paths", "patch_ref", "patch_bytes")
        diff = report["diff"]
        short["after_ref"] = report["after_snapshot"]["ref"]
        short["diff"] = {name: diff[name] for name in names if name in diff}
    return short | {name: report[name] for name in ("rollback", "error") if name in report}
