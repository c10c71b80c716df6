"""Codex in a session: a patch that the permission mode lets through, and a second run in Codex's own thread."""

from __future__ import annotations

from _common import MEMORY, claim, is_installed, main, pretended_providers, temporary_folder
from pydantic import SecretStr

from asm_core import AgentFolders, CodexAdapter, ProviderAccess, open_manager

PATCH = "*** Begin Patch\n*** Add File: hello.txt\n+hello\n*** End Patch"


async def example() -> None:
    if not is_installed("openai_codex"):
        return
    with temporary_folder() as folder, pretended_providers() as (script, server):
        folders = AgentFolders(folder)
        # with a key of OpenAI: ProviderAccess(api_key=SecretStr(os.environ["OPENAI_API_KEY"]))
        access = ProviderAccess(base_url=server.openai_url, api_key=SecretStr("none is needed"), model="gpt-5.5")
        async with open_manager(MEMORY, CodexAdapter(folders, access)) as manager:
            session = await manager.open_session("coder")
            server.script.add(script.tool("apply_patch", PATCH), script.text("It says hello."))
            edits = {"permission_mode": "accept_edits"}
            run = await manager.start_run(session.id, {"prompt": "Make a file that greets."}, provider_options=edits)
            first = await manager.execute_run(run.id)
            print(first.output["content"])
            made = folders.of(session.id, "codex").work / "hello.txt"
            claim("the patch was applied in the session's folder", made.read_text() == "hello\n")
            [call] = first.output["tool_calls"]
            claim("the call is told with what it came to", call["output"]["status"] == "completed")

            server.script.add(script.tool("apply_patch", PATCH.replace("hello", "again")), script.text("I may not."))
            run = await manager.start_run(session.id, {"prompt": "Another one."}, continuation="native")
            second = await manager.execute_run(run.id)
            claim("without that mode it is refused", not made.with_name("again.txt").exists())
            claim("the model is told so", "rejected" in str(server.requests[-1].body["input"]))
            same = first.provider_metadata["provider_session_id"] == second.provider_metadata["provider_session_id"]
            claim("the second run went on in the same thread", same)
            claim("which Codex knows by itself", "Make a file that greets." in str(server.requests[-1].body["input"]))


if __name__ == "__main__":
    main(example)
