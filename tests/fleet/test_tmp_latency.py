import time, pytest, asyncio
SOME_WORK = {"say": "a b c d", "chunks": 4, "delay_ms": 10}
@pytest.mark.parametrize("n", [1, 5])
async def test_latency(fleet, n):
    t=time.monotonic()
    await fleet.start(2, slots=8)
    print("\nstart", time.monotonic()-t); t=time.monotonic()
    sessions = [await fleet.session(max_concurrent_runs=slots) for slots in (1, 1, 2, 3)]
    for _ in range(10):
        for session in sessions:
            await fleet.submit(session, SOME_WORK)
            if n>1: fleet.deps.submitter.wakeups.wake([session] * (n-1))
    print("submitted", time.monotonic()-t); 
    await fleet.ends_well()
    print("ended", time.monotonic()-t)
    rows = await fleet.sql("select session_id, submit_seq, extract(epoch from created_at-min(created_at) over ()) c, extract(epoch from claimed_at-min(created_at) over ()) cl, extract(epoch from ended_at-min(created_at) over ()) e from asm_runs order by session_id, submit_seq")
    for r in rows: print(r["session_id"][-6:], r["submit_seq"], *(f"{float(r[k]):.2f}" for k in ("c","cl","e")))
