"""
Each provider against its real service, where its key is set; says which were not run.

    ASM_ANTHROPIC_API_KEY=… make live
    make live ARGS="anthropic claude"

Exit code 1 when a provider that was run failed. It costs a few cents.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from asm_core import AsmError, open_manager, open_store
from asm_core.config import VENDOR_VARIABLES, Settings
from asm_core.manager.session_manager import ExecutionResult, SessionManager
from asm_core.providers import build_providers

WORD = "pomegranate"
TIMEOUT_MS = 120_000


async def main(wanted: Sequence[str]) -> int:
    settings = Settings()
    failed = []
    async with open_store("memory://") as store:
        providers = build_providers(settings, store.records)
        for name in VENDOR_VARIABLES:
            if wanted and name not in wanted:
                continue
            if settings.provider_access(name).key is None:
                variable = f"ASM_{name.upper()}_API_KEY"
                print(f"{name}: not run: neither {variable} nor {VENDOR_VARIABLES[name]['api_key']} is set")
                continue
            try:
                async with open_manager(store, providers.get(name)) as manager:
                    print(f"{name}: {await talk(manager)}")
            except AsmError as error:
                failed.append(name)
                print(f"{name}: FAILED: {error}")
        await providers.close()
    return 1 if failed else 0


async def talk(manager: SessionManager) -> str:
    """A turn, and another that goes on from it."""
    session = await manager.open_session("live")
    first = await say(manager, session.id, f"Remember the word {WORD}. Answer with the single word: ready")
    second = await say(manager, session.id, "Which word? Answer with that word alone.", continuation="auto")
    if WORD not in second.output["content"].lower():
        raise AsmError("provider_error", f"it did not go on: {second.output['content']!r}")
    how = second.provider_metadata["continuation"]["how"]
    spent = sum(result.cost_usd or 0 for result in (first, second))
    return f"ok, {how}, {first.token_usage} and {second.token_usage}, {spent:.6f} USD"


async def say(manager: SessionManager, session_id: str, prompt: str, **options: str) -> ExecutionResult:
    run = await manager.start_run(session_id, {"prompt": prompt}, timeout_ms=TIMEOUT_MS, **options)
    return await manager.execute_run(run.id)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(sys.argv[1:])))
