"""Amp in a session: a tool that a rule rejects, a thread that goes on, and modes that Amp has no equal of."""

from __future__ import annotations

import os

from _common import MEMORY, STAND_IN, claim, is_installed, main, pretended_providers, refusal, temporary_folder
from pydantic import SecretStr

from asm_core import AgentFolders, AmpAdapter, ProviderAccess, open_manager


async def example() -> None:
    if not is_installed("amp_sdk"):
        return
    with temporary_folder() as folder, pretended_providers() as (script, server):
        access = ProviderAccess(base_url=server.url, api_key=SecretStr("none is needed"))
        adapter = AmpAdapter(AgentFolders(folder), access, os.environ.get("AMP_CLI_PATH", str(STAND_IN)))
        async with open_manager(MEMORY, adapter) as manager:
            session = await manager.open_session("coder")
            server.script.add(script.tool("Bash", {"cmd": "rm -r ."}), script.text("Then not."))
            rules = {"permission_mode": "full_auto", "denied_tools": ["Bash"]}
            run = await manager.start_run(session.id, {"prompt": "Tidy up."}, provider_options=rules)
            first = await manager.execute_run(run.id)
            print(first.output["content"])
            kinds = [event.type for event in first.events]
            claim("what is denied does not run, and is told", "tool_call_failed" in kinds)

            server.script.add(script.text("Nothing was tidied up."))
            run = await manager.start_run(session.id, {"prompt": "What happened?"}, continuation="native")
            second = await manager.execute_run(run.id)
            same = first.provider_metadata["provider_session_id"] == second.provider_metadata["provider_session_id"]
            claim("the second run went on in the thread that Amp's server keeps", same)

            plan = {"permission_mode": "plan"}
            error = await refusal(manager.start_run(session.id, {"prompt": "Plan it."}, provider_options=plan))
            claim("a mode that Amp does not have is refused before it runs", error.code == "capability_not_supported")


if __name__ == "__main__":
    main(example)
