"""
ASM as a library: sessions, runs and events of AI agents, over any store, in this process.

    from asm_core import ScriptedAdapter, open_manager

    async with open_manager("sqlite:///agents.db", ScriptedAdapter()) as manager:
        result = await manager.run_once({"prompt": "Hello"})

Blocking code uses `asm_core.sync`. Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asm_core.adapters.scripted import ScriptedAdapter as ScriptedAdapter
    from asm_core.domain.audit import AuditEntry as AuditEntry
    from asm_core.domain.errors import AsmError as AsmError
    from asm_core.domain.errors import ErrorCode as ErrorCode
    from asm_core.domain.event import Event as Event
    from asm_core.domain.event import EventType as EventType
    from asm_core.domain.lifecycle import RunStatus as RunStatus
    from asm_core.domain.lifecycle import SessionStatus as SessionStatus
    from asm_core.domain.run import Run as Run
    from asm_core.domain.session import Session as Session
    from asm_core.domain.upcasting import UPCASTERS as UPCASTERS
    from asm_core.library import open_manager as open_manager
    from asm_core.library import open_store as open_store
    from asm_core.library import run_once as run_once
    from asm_core.manager.audit import AuditLogger as AuditLogger
    from asm_core.manager.oneshot import StreamSession as StreamSession
    from asm_core.manager.runtime import SessionRuntime as SessionRuntime
    from asm_core.manager.session_manager import ExecutionResult as ExecutionResult
    from asm_core.manager.session_manager import SessionManager as SessionManager
    from asm_core.ports.audit import AuditFilter as AuditFilter
    from asm_core.ports.store import EventFilter as EventFilter

_HOMES = {
    "ScriptedAdapter": "adapters.scripted",
    "AuditEntry": "domain.audit",
    "AsmError": "domain.errors",
    "ErrorCode": "domain.errors",
    "Event": "domain.event",
    "EventType": "domain.event",
    "RunStatus": "domain.lifecycle",
    "SessionStatus": "domain.lifecycle",
    "Run": "domain.run",
    "Session": "domain.session",
    "UPCASTERS": "domain.upcasting",
    "open_manager": "library",
    "open_store": "library",
    "run_once": "library",
    "AuditLogger": "manager.audit",
    "StreamSession": "manager.oneshot",
    "SessionRuntime": "manager.runtime",
    "ExecutionResult": "manager.session_manager",
    "SessionManager": "manager.session_manager",
    "AuditFilter": "ports.audit",
    "EventFilter": "ports.store",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
