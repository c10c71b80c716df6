"""Workspaces around runs: what is told, what is kept, what is restored; in the library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.config import RunLimits
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.run import Run
from asm_core.domain.workspace import Snapshot
from asm_core.library import open_manager, open_store
from asm_core.manager.session_manager import ExecutionResult, SessionManager
from asm_core.manager.submit import RunRequest
from asm_core.ports.artifacts import ArtifactStore
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.stores.artifacts.file import FileArtifactStore
from asm_core.workspace.opening import rollback
from tests.builders import eventually
from tests.fixtures.repositories import a_repository, run_git, state_of, tree_of, write

BEFORE, AFTER, DIFF = "workspace_snapshot_taken", "workspace_snapshot_taken", "workspace_diff_computed"
SECRET = "ghp_" + "a1B2" * 9


class Agent(ScriptedAdapter):
    """Works in a folder, then completes, fails or waits to be stopped."""

    name = "agent"

    def __init__(self, work: Callable[[], None], end: str = "completes") -> None:
        super().__init__()
        self.work, self.end, self.was_asked = work, end, asyncio.Event()

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        yield RawEvent(EventType.RUN_STARTED)
        self.work()
        self.was_asked.set()
        if self.end == "waits":
            await asyncio.Event().wait()
        if self.end == "fails":
            raise AsmError(ErrorCode.PROVIDER_QUOTA_EXCEEDED, "the quota is used up")
        yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": "done"})
        yield Completion()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return a_repository(tmp_path / "repository")


def changes(root: Path) -> Callable[[], None]:
    return lambda: write(root, {"tracked.txt": "two\n", "new file.txt": "new\n"})


@asynccontextmanager
async def managed(
    agent: Agent, *, store: str = "memory://", artifacts: ArtifactStore | None = None, **limits: Any
) -> AsyncIterator[SessionManager]:
    async with open_manager(store, agent, artifacts=artifacts, run_limits=RunLimits(**limits)) as manager:
        yield manager


def asked(root: Path, **options: Any) -> dict[str, Any]:
    return {"input": {"prompt": "x"}, "workspace": {"enabled": True, "path": str(root), **options}}


async def executed(manager: SessionManager, root: Path, **options: Any) -> ExecutionResult:
    session = await manager.open_session()
    run = await manager.start_run(session.id, **asked(root, **options))
    return await manager.execute_run(run.id)


async def failed(manager: SessionManager, root: Path, **options: Any) -> tuple[AsmError, Run]:
    with pytest.raises(AsmError) as caught:
        await executed(manager, root, **options)
    return caught.value, await manager.get_run(caught.value.context["run_id"])


async def told(manager: SessionManager, run: Run) -> list[str]:
    events = await manager.get_session_events(run.session_id)
    return [str(event.type) for event in events if event.run_id == run.id]


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
async def test_a_completed_run_tells_what_it_changed(
    kind: str, root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """spec/01 checks 193, 197, 198; spec/05 checks 105, 110: on every store."""
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path / 'asm.db'}"}.get(kind) or str(
        request.getfixturevalue("database_url")
    )
    state = state_of(root)
    async with managed(Agent(changes(root)), store=url) as manager:
        result = await executed(manager, root)
        run = await manager.get_run(result.run_id)
    types = [str(event.type) for event in result.events]
    assert types == [BEFORE, "message_sent", "run_started", "message_received", AFTER, DIFF, "run_completed"]
    assert result.workspace is not None
    diff = result.workspace["diff"]
    assert diff["changed_paths"] == ["new file.txt", "tracked.txt"]
    assert (diff["insertions"], diff["deletions"]) == (2, 1)
    assert "+two" in diff["patch"]
    assert "patch_ref" not in diff
    labels = [event.data["label"] for event in result.events if event.type == BEFORE]
    assert labels == ["before", "after"]
    [computed] = [event.data for event in result.events if event.type == DIFF]
    assert computed == {"files_changed": 2, "insertions": 2, "deletions": 1, "has_patch": True}
    short = run.metadata["workspace"]
    refs = {"before_ref": labels and result.events[0].data["ref"], "after_ref": result.events[4].data["ref"]}
    assert {name: short[name] for name in ("backend", *refs)} == {"backend": "git", **refs}
    assert short["diff"]["changed_paths"] == diff["changed_paths"]
    after = state_of(root)
    assert {name: after[name] for name in ("head", "refs", "index", "stash")} == {
        name: state[name] for name in ("head", "refs", "index", "stash")
    }


async def test_a_folder_without_a_repository_is_seen_by_hashes(tmp_path: Path) -> None:
    """spec/05 §12, in a run: names, no lines, no patch; what is ignored does not count; the digests are not stored."""
    write(tmp_path, {"here/a.txt": "1", "here/gone.txt": "2"})

    def work() -> None:
        write(tmp_path / "here", {"a.txt": "2", "b.txt": "1", "c.tmp": "x", "node_modules/x.js": "x"})
        (tmp_path / "here/gone.txt").unlink()

    async with managed(Agent(work)) as manager:
        result = await executed(manager, tmp_path / "here", ignore={"globs": ["*.tmp"]})
    assert result.workspace is not None
    diff = result.workspace["diff"]
    assert (diff["added"], diff["modified"], diff["deleted"]) == (["b.txt"], ["a.txt"], ["gone.txt"])
    assert (diff["patch"], diff["insertions"]) == (None, 0)
    assert result.workspace["backend"] == "hash"
    assert "file_hashes" not in str(result.workspace)


async def test_a_run_that_does_not_ask_is_not_looked_at(root: Path) -> None:
    """The default; `enabled: false` says the same."""
    async with managed(Agent(changes(root))) as manager:
        result = await executed(manager, root, enabled=False)
    assert result.workspace is None
    assert not {BEFORE, DIFF} & {str(event.type) for event in result.events}


async def test_a_rollback_that_hashes_cannot_do_is_refused_before_the_provider_is_asked(tmp_path: Path) -> None:
    """spec/01 check 194, spec/05 check 106: at submit where hashes are asked for, else when the folder is seen."""
    agent = Agent(lambda: None)
    async with managed(agent) as manager:
        with pytest.raises(AsmError) as caught:
            await executed(manager, tmp_path, strategy="hash", rollback_on_failure=True)
        error, run = await failed(manager, tmp_path, rollback_on_failure=True)
        types = await told(manager, run)
    assert caught.value.code is error.code is ErrorCode.VALIDATION_ERROR
    assert types == ["run_failed"]
    assert not agent.was_asked.is_set()


@pytest.mark.parametrize("path", ["/no/such/folder", "/proc/self/status"])
async def test_a_snapshot_that_cannot_be_taken_fails_the_run_before_the_provider_is_asked(path: str) -> None:
    """The error is typed, and nothing was spent."""
    agent = Agent(lambda: None)
    async with managed(agent) as manager:
        error, run = await failed(manager, Path(path))
        types = await told(manager, run)
    assert (error.code, error.details["field"]) == (ErrorCode.VALIDATION_ERROR, "workspace.path")
    assert types == ["run_failed"]
    assert not agent.was_asked.is_set()


async def test_a_snapshot_that_takes_too_long_fails_the_run(root: Path) -> None:
    """Bounded by `workspace_timeout_s`."""
    agent = Agent(lambda: None)
    async with managed(agent, workspace_timeout_s=0.0) as manager:
        error, _ = await failed(manager, root)
    assert (error.code, error.details["reason"]) == (ErrorCode.STORAGE_ERROR, "workspace_timeout")
    assert not agent.was_asked.is_set()


async def test_a_failed_run_is_rolled_back(root: Path) -> None:
    """spec/01 check 195, spec/05 check 107: the provider's error stays the run's, the folder is what it was."""
    write(root, {"mine.txt": "untracked\n"})
    files, state = tree_of(root), state_of(root)
    async with managed(Agent(changes(root), "fails")) as manager:
        error, run = await failed(manager, root, rollback_on_failure=True)
        types = await told(manager, run)
    assert error.code is ErrorCode.PROVIDER_QUOTA_EXCEEDED
    assert (tree_of(root), state_of(root)) == (files, state)
    assert types == [BEFORE, "message_sent", "run_started", AFTER, DIFF, "run_failed"]
    assert run.output is not None
    report = run.output["workspace"]
    assert report["after_snapshot"]["label"] == "after_failure"
    assert report["diff"]["changed_paths"] == ["new file.txt", "tracked.txt"]
    assert run.metadata["workspace"]["rollback"] == report["rollback"]
    assert report["rollback"]["restored"]
    assert run_git(root, "show", f"{report['rollback']['guard_ref']}:tracked.txt") == "two\n", "it can be undone"


async def test_without_being_asked_for_nothing_is_rolled_back(root: Path) -> None:
    """A failed run leaves what it did."""
    async with managed(Agent(changes(root), "fails")) as manager:
        _, run = await failed(manager, root)
    assert (root / "tracked.txt").read_text() == "two\n"
    assert "rollback" not in run.metadata["workspace"]


async def test_a_rollback_that_is_refused_is_told_beside_the_providers_error(root: Path) -> None:
    """spec/05 check 111; the snapshot stays kept, so that it can be done by hand."""

    def work() -> None:
        write(root, {"tracked.txt": "two\n"})
        run_git(root, "commit", "-qam", "agent's")

    async with managed(Agent(work, "fails")) as manager:
        error, run = await failed(manager, root, rollback_on_failure=True)
    assert error.code is ErrorCode.PROVIDER_QUOTA_EXCEEDED
    told_of = run.metadata["workspace"]["rollback"]
    assert (told_of["restored"], told_of["error"]["details"]["reason"]) == (False, "head_moved")
    assert f"refs/asm/snapshots/{run.id}" in run_git(root, "for-each-ref")
    assert run.output is not None
    await rollback(Snapshot.from_map(run.output["workspace"]["before_snapshot"]), allow_head_move=True)
    assert (root / "tracked.txt").read_text() == "one\n"
    assert run_git(root, "rev-parse", "HEAD").strip() == run.metadata["workspace"]["before_ref"]


@pytest.mark.parametrize("how", ["cancelled", "interrupted", "timed out"])
async def test_a_stopped_run_is_compared_and_rolled_back(how: str, root: Path) -> None:
    """Before its terminal event, which stays the last."""
    files, agent = tree_of(root), Agent(changes(root), "waits")
    async with managed(agent) as manager:
        session = await manager.open_session()
        limit = {"timeout_ms": 3_000} if how == "timed out" else {}
        run = await manager.start_run(session.id, **asked(root, rollback_on_failure=True), **limit)
        executing = asyncio.create_task(manager.execute_run(run.id))
        await agent.was_asked.wait()
        if how == "cancelled":
            await manager.cancel_run(run.id)
        elif how == "interrupted":
            await manager.control.interrupt(run.id, manager.tenant_id)
        await asyncio.gather(executing, return_exceptions=True)
        run = await manager.get_run(run.id)
        types = await told(manager, run)
    assert tree_of(root) == files
    end = "run_timeout" if how == "timed out" else "run_cancelled"
    assert types == [BEFORE, "message_sent", "run_started", AFTER, DIFF, end]
    assert run.metadata["workspace"]["rollback"]["restored"]


async def test_the_first_snapshot_is_stored_and_kept_before_the_provider_is_asked(root: Path) -> None:
    """spec/05 check 112: in the log, and in the repository under the run's name."""
    agent = Agent(lambda: None, "waits")
    async with managed(agent) as manager:
        session = await manager.open_session()
        run = await manager.start_run(session.id, **asked(root))
        executing = asyncio.create_task(manager.execute_run(run.id))
        await agent.was_asked.wait()
        events = await manager.get_session_events(session.id)
        [ref] = [event.data["ref"] for event in events if event.type == BEFORE]
        assert ref == run_git(root, "rev-parse", "HEAD").strip()
        assert f"refs/asm/snapshots/{run.id}" in run_git(root, "for-each-ref")
        await manager.cancel_run(run.id)
        await asyncio.gather(executing, return_exceptions=True)
    assert "refs/asm" not in run_git(root, "for-each-ref")


async def test_a_handed_back_run_keeps_its_first_snapshot(root: Path, tmp_path: Path) -> None:
    """A later attempt compares with what was there before the first one, and goes back to it."""
    files, url = tree_of(root), f"sqlite:///{tmp_path / 'asm.db'}"
    agent = Agent(changes(root), "waits")
    async with open_store(url) as store:
        async with open_manager(store, agent) as manager:
            session = await manager.open_session()
            request = RunRequest(**asked(root, rollback_on_failure=True), provider="agent", on_worker_lost="retry")
            submitted = await manager.submitter.submit(session.id, manager.tenant_id, request)
            manager.worker.adopt(session.id)
            await agent.was_asked.wait()
        assert (root / "tracked.txt").read_text() == "two\n", "it goes on elsewhere: nothing is rolled back"
        again = Agent(lambda: write(root, {"third.txt": "x"}), "fails")
        async with open_manager(store, again) as manager:
            manager.worker.adopt(session.id)

            async def has_failed() -> None:
                assert (await manager.get_run(submitted.run_id)).is_terminal

            await eventually(has_failed)
            run = await manager.get_run(submitted.run_id)
    assert run.attempt == 2
    assert run.metadata["workspace"]["diff"]["changed_paths"] == ["new file.txt", "third.txt", "tracked.txt"]
    assert tree_of(root) == files


async def test_a_patch_becomes_an_artifact_where_those_are_kept(root: Path, tmp_path: Path) -> None:
    """spec/01 check 196, spec/05 check 108: whole, whatever the cap for patches kept with the run; without secrets."""
    store = FileArtifactStore(tmp_path / "artifacts")
    work = lambda: write(root, {"tracked.txt": "two\n", "big.txt": "line\n" * 50_000, "key.txt": f"token {SECRET}\n"})  # noqa: E731
    async with managed(Agent(work), artifacts=store) as manager:
        result = await executed(manager, root, max_patch_bytes=100)
        run = await manager.get_run(result.run_id)
    assert result.workspace is not None
    diff = result.workspace["diff"]
    assert diff["patch"] is None
    patch = await store.get(diff["patch_ref"])
    assert diff["patch_bytes"] == len(patch) > 250_000
    assert b"+two\n" in patch
    assert SECRET.encode() not in patch
    refs = (diff["from_ref"], diff["to_ref"])
    assert diff["patch_ref"].startswith("patch_{}_{}_".format(*refs))
    assert len(diff["patch_ref"].rpartition("_")[2]) == 32
    assert run.metadata["workspace"]["diff"]["patch_ref"] == diff["patch_ref"]


async def test_no_change_no_artifact(root: Path, tmp_path: Path) -> None:
    """spec/01 check 197, spec/05 check 109."""
    store = FileArtifactStore(tmp_path / "artifacts")
    async with managed(Agent(lambda: None), artifacts=store) as manager:
        result = await executed(manager, root)
    assert result.workspace is not None
    assert "patch_ref" not in result.workspace["diff"]
    assert [key async for key in store.list_keys()] == []


async def test_what_fails_behind_the_providers_work_does_not_take_it_away(root: Path, tmp_path: Path) -> None:
    """W-26: the run completes; what went wrong with its folder stands beside its output."""

    def work() -> None:
        (root / ".git").rename(tmp_path / "gone")

    async with managed(Agent(work)) as manager:
        result = await executed(manager, root)
    assert result.output["content"] == "done"
    assert result.workspace is not None
    assert result.workspace["error"]["code"] == ErrorCode.STORAGE_ERROR
    assert str(result.events[-1].type) == "run_completed"
