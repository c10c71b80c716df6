"""Workspaces of runs that workers execute."""

from __future__ import annotations

from pathlib import Path

from asm_core.domain.lifecycle import RunStatus
from tests.fixtures.faults import eventually
from tests.fixtures.fleet import Fleet
from tests.fixtures.repositories import a_repository, run_git, state_of, tree_of

SNAPSHOT, DIFF = "workspace_snapshot_taken", "workspace_diff_computed"


async def test_a_workers_run_is_compared_rolled_back_and_taken_over(fleet: Fleet, tmp_path: Path) -> None:
    """
    A command's changes are told, its patch becomes an artifact of the run, and a failing one leaves nothing behind. Of
    a run whose worker is killed the next attempt restores what was there before the first.
    """
    root, started = a_repository(tmp_path / "repository"), tmp_path / "started"
    [victim] = await fleet.start(1, ASM_ARTIFACTS_URL=(tmp_path / "artifacts").as_uri(), ASM_TRUSTED_SUBMITTERS=1)
    session = await fleet.session()
    fleet.follow(session)
    workspace = {"enabled": True, "path": str(root), "rollback_on_failure": True}

    async def submit(script: str, **options: object) -> str:
        given = {"prompt": f"cd {root} && {script}"}
        return await fleet.submit(session, provider="shell", input=given, workspace=workspace, **options)

    kept = await submit("echo two > tracked.txt; echo 'it is' > 'new file'")
    run = await fleet.ended(kept)
    assert (run.status, run.error) == (RunStatus.COMPLETED, None)
    diff = run.metadata["workspace"]["diff"]
    assert diff["changed_paths"] == ["new file", "tracked.txt"]
    [row] = await fleet.sql("SELECT key, byte_size FROM asm_artifacts WHERE run_id = %s", kept)
    assert row == {"key": diff["patch_ref"], "byte_size": diff["patch_bytes"]}
    types = [event["type"] for event in await fleet.events_of(kept)]
    assert (types[0], types[-3:]) == (SNAPSHOT, [SNAPSHOT, DIFF, "run_completed"])

    run_git(root, "add", "tracked.txt")
    files, state = tree_of(root), state_of(root)
    failing = await submit("rm -r src; echo three > tracked.txt; git add -A; exit 3")
    run = await fleet.ended(failing)
    assert run.status is RunStatus.FAILED
    assert run.metadata["workspace"]["diff"]["files_changed"] == 2
    assert (tree_of(root), state_of(root)) == (files, state)

    script = f"test -e {started} && exit 3; touch {started}; echo lost > tracked.txt; echo lost > lost; sleep 600"
    lost = await submit(script, on_worker_lost="retry")
    await fleet.emitted(lost, "tool_call_started")

    def has_begun() -> None:
        assert (root / "lost").exists()

    await eventually(has_begun, 10.0)
    victim.kill()
    await fleet.add_workers(1)
    run = await fleet.ended(lost, 30.0)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 2)
    assert run.metadata["workspace"]["diff"]["changed_paths"] == ["lost", "tracked.txt"]
    assert tree_of(root) == files
    assert "refs/asm" not in run_git(root, "for-each-ref")
    await fleet.ends_well()
