"""What Amp's command line of May 2026 asks its own server beside the model: who the user is, and the threads."""

from __future__ import annotations

from typing import Any

from tests.fakes.dialect import Json

USER = {"id": "user_1", "username": "tester", "email": "tester@example.invalid", "features": [], "team": None}
FREE_TIER = {"canUseAmpFree": False, "isDailyGrantEnabled": False, "features": []}


class AmpServer:
    """`POST /api/internal?<method>`; a thread is kept as it was uploaded, so that it can be continued."""

    def __init__(self) -> None:
        self.threads: dict[str, Any] = {}

    def answer(self, body: Json) -> Json:
        method, params = body["method"], body.get("params") or {}
        match method:
            case "getUserInfo":
                return _ok(USER)
            case "getUserFreeTierStatus":
                return _ok(FREE_TIER)
            case "loadPlugins":
                return _ok([])
            case "uploadThread":
                thread = params["thread"]
                self.threads[thread["id"]] = thread
                return _ok({})
            case "getThread":
                return self._thread(params)
            case _:
                return _ok({})

    def _thread(self, params: Json) -> Json:
        found = self.threads.get(params.get("thread") or params.get("threadID") or "")
        if found is None:
            return {"ok": False, "error": {"code": "thread-not-found", "message": "no such thread"}}
        return _ok({"thread": {"data": found}})


def is_title_request(body: Json) -> bool:
    """Amp asks a small model for a title beside every first turn; no script should have to know."""
    return [tool.get("name") for tool in body.get("tools") or []] == ["set_title"]


def _ok(result: Any) -> Json:
    return {"ok": True, "result": result}
