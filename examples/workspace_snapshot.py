"""What a run changed in a folder, as numbers, names and a patch; and a failed run that leaves nothing behind."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

from _common import MEMORY, claim, main, refusal, temporary_folder

from asm_core import AsmError, Completion, ErrorCode, Execution, RawEvent, ScriptedAdapter, SessionManager, open_manager


class WritingAgent(ScriptedAdapter):
    """Changes files in its folder, then completes or fails."""

    name = "writing"

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        yield RawEvent("run_started")
        (self.root / "README.md").write_text("# Rewritten\n")
        (self.root / "notes with blanks.md").write_text("new\n")
        if execution.run.input == {"prompt": "fail"}:
            (self.root / "half done.tmp").write_text("x")
            raise AsmError(ErrorCode.PROVIDER_ERROR, "the provider broke down")
        yield Completion(output={"content": "done"})


def git(root: Path, *args: str) -> str:
    identity = ["-c", "user.name=example", "-c", "user.email=example@localhost"]
    return subprocess.run(["git", *identity, *args], cwd=root, check=True, capture_output=True, text=True).stdout


def a_repository(root: Path) -> None:
    git(root, "init", "-q")
    (root / "README.md").write_text("# Before\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    (root / "mine.txt").write_text("not committed\n")


async def example() -> None:
    with temporary_folder() as root:
        a_repository(root)
        async with open_manager(MEMORY, WritingAgent(root)) as manager:
            await failing(manager, root)
            await completing(manager, root)


async def failing(manager: SessionManager, root: Path) -> None:
    head, status = git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain")
    workspace = {"enabled": True, "path": str(root), "rollback_on_failure": True}
    error = await refusal(manager.run_once({"prompt": "fail"}, workspace=workspace))
    claim("the caller hears the provider's error", error.code == ErrorCode.PROVIDER_ERROR)
    run = await manager.get_run(error.context["run_id"])
    changed = run.metadata["workspace"]["diff"]["changed_paths"]
    print(f"  it had changed {changed}")
    claim("what it had done is told", changed == ["README.md", "half done.tmp", "notes with blanks.md"])
    claim("files are restored", (root / "README.md").read_text() == "# Before\n")
    claim("new ones are gone", not (root / "half done.tmp").exists())
    claim("mine are still there, and not committed", git(root, "status", "--porcelain") == status == "?? mine.txt\n")
    claim("the branch has not moved", git(root, "rev-parse", "HEAD") == head)


async def completing(manager: SessionManager, root: Path) -> None:
    result = await manager.run_once({"prompt": "write"}, workspace={"enabled": True, "path": str(root)})
    diff = (result.workspace or {})["diff"]
    print(f"  {diff['files_changed']} files, +{diff['insertions']} -{diff['deletions']}")
    claim("a tracked and an untracked file", diff["changed_paths"] == ["README.md", "notes with blanks.md"])
    claim("the patch says how", "-# Before\n+# Rewritten\n" in diff["patch"])
    types = [str(event.type) for event in result.events if str(event.type).startswith("workspace_")]
    claim(
        "two snapshots and one diff are told", types == ["workspace_snapshot_taken"] * 2 + ["workspace_diff_computed"]
    )
    claim("the run's end is told last", str(result.events[-1].type) == "run_completed")


if __name__ == "__main__":
    main(example)
