"""Sessions in SQLite and artifacts in a folder, in one hand: each answers for itself."""

from __future__ import annotations

from _common import claim, main, refusal, temporary_folder

from asm_core import (
    DEFAULT_TENANT,
    CompositeSessionStore,
    FileArtifactStore,
    RunStatus,
    ScriptedAdapter,
    open_manager,
    open_store,
)

PATCH = b"--- a/notes.txt\n+++ b/notes.txt\n@@ -1 +1 @@\n-draft\n+done\n"


async def example() -> None:
    with temporary_folder() as folder:
        async with open_store(f"sqlite:///{folder / 'agents.db'}") as opened:
            store = CompositeSessionStore(opened.records, FileArtifactStore(folder / "artifacts"))
            async with open_manager(opened, ScriptedAdapter()) as manager:
                result = await manager.run_once({"prompt": "Finish the notes"})
            key = f"{result.session_id}/{result.run_id}/workspace.patch"
            await store.artifacts.put(key, PATCH, content_type="text/x-diff", metadata={"run_id": result.run_id})

            run = await store.sessions.get_run(result.run_id, DEFAULT_TENANT)
            claim("the run is where sessions are", run.status is RunStatus.COMPLETED)
            claim("the patch is where artifacts are", await store.artifacts.get(key) == PATCH)
            about = await store.artifacts.head(key)
            claim("and says whose it is", about is not None and about.metadata == {"run_id": run.id})

            missing = await refusal(store.artifacts.get("no/such/key"))
            absent = await refusal(store.sessions.get_session("ses_none", DEFAULT_TENANT))
            claim("each says what it lacks", (missing.code, absent.code) == ("not_found", "session_not_found"))

            await store.sessions.delete_session(result.session_id, DEFAULT_TENANT)
            gone = await refusal(store.sessions.get_run(result.run_id, DEFAULT_TENANT))
            claim("a deleted session takes its runs along", gone.code == "run_not_found")
            claim("and leaves its artifacts", await store.artifacts.get(key) == PATCH)
            await store.artifacts.delete(key)
            claim("until they are deleted themselves", await store.artifacts.head(key) is None)


if __name__ == "__main__":
    main(example)
