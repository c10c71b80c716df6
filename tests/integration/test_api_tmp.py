from tests.integration.test_api_outage import *
import asm_core.stores.sql.store as st
async def test_bh(start_api, world, postgres_proxy):
    st.ANSWER_TIMEOUT_S=2.0
    live = start_api(database_url=through(world.url, postgres_proxy))
    async with httpx2.AsyncClient(base_url=live.base_url, timeout=60) as http:
        session_id = await new_session(http)
        await http.get("/v1/stats")
        postgres_proxy.blackhole()
        for what in ("/v1/sessions/"+session_id, "/v1/runs/run_x", "/readyz"):
            t=time.monotonic()
            try: r = await http.get(what, timeout=45); print(what, r.status_code, r.json()["detail"], time.monotonic()-t)
            except Exception as e: print(what, type(e), time.monotonic()-t)
        postgres_proxy.heal()
        t=time.monotonic()
        r = await http.get("/v1/sessions/"+session_id, timeout=45); print(r.status_code, time.monotonic()-t)
