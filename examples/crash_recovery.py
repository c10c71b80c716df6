"""A worker is killed in the middle of two runs: one is done again from its start, the other has failed, once."""

from __future__ import annotations

import os
import signal
from typing import Any

from _common import a_stack, claim, main

from asm_api.client import AsyncAsmClient

SCRIPT = {
    "script": [
        {"say": "Half of the work is done.", "chunks": 5},
        {"usage": {"input_tokens": 100, "output_tokens": 6}},
        {"sleep_ms": 3_000},
        {"say": "Now all of it is.", "chunks": 5},
    ]
}
ENDS = ("run_completed", "run_failed", "run_cancelled", "run_timeout")


async def example() -> None:
    with a_stack("--workers", "1") as stack:
        async with AsyncAsmClient(stack.url) as api:
            # whether a run may be done twice is for who submits it to say; unless he does, it is not
            again = await api.submit_once(SCRIPT, on_worker_lost="retry")
            careful = await api.submit_once(SCRIPT)
            for run in (again, careful):
                await half_done(api, run["session_id"])
            [worker] = stack.described["pids"]["workers"]
            os.kill(worker, signal.SIGKILL)
            print(f"  worker {worker} is killed; `asm dev` starts another one")

            done, failed = await api.wait(again["id"]), await api.wait(careful["id"])
            claim("the first is completed by another worker", (done["status"], done["attempt"]) == ("completed", 2))
            once = "Half of the work is done.Now all of it is."
            claim("what the killed one had said is not repeated", done["output"]["content"] == once)
            claim("tokens are those of both attempts", done["token_usage"]["input_tokens"] == 200)
            claim(
                "the second has failed, and is not tried again", (failed["status"], failed["attempt"]) == ("failed", 1)
            )
            claim("it says why", failed["error"]["details"]["reason"] == "worker_lost")
            claim("what it has used is known", failed["token_usage"]["input_tokens"] == 100)

            events = await events_of(api, done)
            [anew] = [event["data"] for event in events if event["type"] == "error_recovered"]
            claim("its log says which events were replaced", anew["superseded_from"] < anew["superseded_to"])
            for run in (done, failed):
                ends = [event["type"] for event in await events_of(api, run) if event["type"] in ENDS]
                claim(f"a run ends once: {ends}", ends == [f"run_{run['status']}"])

        verify = await stack.asm("verify")
        report, _ = await verify.communicate()
        print(report.decode())
        claim("`asm verify` finds the database sound", verify.returncode == 0)


async def half_done(api: AsyncAsmClient, session_id: str) -> None:
    """Until the usage has been told, which is in the middle."""
    async for _ in api.follow(session_id, types=["token_usage_updated"]):
        return


async def events_of(api: AsyncAsmClient, run: dict[str, Any]) -> list[dict[str, Any]]:
    page = await api.events(run["session_id"], run_id=run["id"])
    return list(page["events"])


if __name__ == "__main__":
    main(example)
