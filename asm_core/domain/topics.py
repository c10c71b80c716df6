"""
Every name that ASM uses in Redis, with its type and meaning.

| Name | Type | Meaning |
|---|---|---|
| `{p}:session:{sid}` | channel | stored events of a session, one message per commit (`asm_core.bus.frames`) |
| `{p}:ctl:{worker}` | channel | nudges to one worker process: JSON `{"run_id", "kind"}`; the row says it first |
| `{p}:damper:{sid}` | string, PX | the claim in progress for a session (value: who); its expiry proves nothing |
| `{p}:dirty:{sid}` | string, PX | a wakeup came while the damper was taken: look again |

Redis pub/sub ignores database numbers, so the prefix (setting `redis_prefix`) separates installations.
"""

from __future__ import annotations

from asm_core.domain.errors import AsmError, ErrorCode


def session_topic(prefix: str, session_id: str) -> str:
    return _join(prefix, "session", session_id)


def control_topic(prefix: str, worker_id: str) -> str:
    return _join(prefix, "ctl", worker_id)


def damper_key(prefix: str, session_id: str) -> str:
    return _join(prefix, "damper", session_id)


def dirty_key(prefix: str, session_id: str) -> str:
    return _join(prefix, "dirty", session_id)


def _join(prefix: str, *parts: str) -> str:
    if not all(parts):
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"a topic needs an id: {parts!r}")
    return ":".join((prefix, *parts))
