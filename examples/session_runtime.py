"""A session's queue in this process: order, bounds, waiting, cancelling, draining."""

from __future__ import annotations

from _common import MEMORY, claim, main, refusal

from asm_core import EventFilter, RunStatus, ScriptedAdapter, SessionRuntime, open_manager


async def example() -> None:
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        session = await manager.open_session("worker", max_concurrent_runs=1, max_queued_runs=3)
        async with SessionRuntime(manager, session.id) as runtime:
            runs = []
            for number in range(3):
                script = [{"say": f"answer {number}"}, {"sleep_ms": 20}]
                submitted = await runtime.submit_run({"script": script}, metadata={"number": number})
                runs.append(submitted.run_id)
            print("queued:", len((await runtime.status()).queued_runs))
            for run_id in runs:
                run = await runtime.await_run(run_id)
                print(f"  {run.output['content']}")  # type: ignore[index]
            started = await manager.get_session_events(session.id, EventFilter(types=["run_started"]))
            claim("runs start in the order of their submits", [event.run_id for event in started] == runs)

            slow = await runtime.submit_run({"script": [{"sleep_ms": 600_000}]})
            waiting = [await runtime.submit_run({"prompt": f"later {number}"}) for number in range(3)]
            error = await refusal(runtime.submit_run({"prompt": "one too many"}))
            claim("a full queue refuses", error.code == "max_runs_exceeded")
            claim("a queued run is cancelled at once", await runtime.cancel_run(waiting[0].run_id) == "cancelled")
            await runtime.cancel_run(slow.run_id)
            await runtime.drain(timeout_s=10)
            ended = [await manager.get_run(submitted.run_id) for submitted in (slow, *waiting)]
            claim(
                "the others ran",
                [run.status for run in ended] == [RunStatus.CANCELLED] * 2 + [RunStatus.COMPLETED] * 2,
            )


if __name__ == "__main__":
    main(example)
