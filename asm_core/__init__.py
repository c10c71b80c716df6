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
    from asm_core.adapters.amp import AmpAdapter as AmpAdapter
    from asm_core.adapters.anthropic import AnthropicAdapter as AnthropicAdapter
    from asm_core.adapters.claude import ClaudeAdapter as ClaudeAdapter
    from asm_core.adapters.codex import CodexAdapter as CodexAdapter
    from asm_core.adapters.openai import OpenAIAdapter as OpenAIAdapter
    from asm_core.adapters.replay import ReplayAdapter as ReplayAdapter
    from asm_core.adapters.scripted import ScriptedAdapter as ScriptedAdapter
    from asm_core.adapters.shell import ShellAdapter as ShellAdapter
    from asm_core.agent_process import AgentFolders as AgentFolders
    from asm_core.config import ProviderAccess as ProviderAccess
    from asm_core.domain.artifact import Artifact as Artifact
    from asm_core.domain.audit import AuditEntry as AuditEntry
    from asm_core.domain.capability import Capability as Capability
    from asm_core.domain.capability import CapabilityType as CapabilityType
    from asm_core.domain.errors import AsmError as AsmError
    from asm_core.domain.errors import ErrorCode as ErrorCode
    from asm_core.domain.event import Event as Event
    from asm_core.domain.event import EventFrame as EventFrame
    from asm_core.domain.event import EventType as EventType
    from asm_core.domain.event_stream import EventStream as EventStream
    from asm_core.domain.lifecycle import RunStatus as RunStatus
    from asm_core.domain.lifecycle import SessionStatus as SessionStatus
    from asm_core.domain.manifest import Manifest as Manifest
    from asm_core.domain.negotiation import CapabilityResolver as CapabilityResolver
    from asm_core.domain.normalized_event import NormalizedEvent as NormalizedEvent
    from asm_core.domain.permission import PermissionMode as PermissionMode
    from asm_core.domain.pricing import PriceList as PriceList
    from asm_core.domain.provider_error import ProviderError as ProviderError
    from asm_core.domain.provider_options import ProviderOptions as ProviderOptions
    from asm_core.domain.redaction import RedactionOptions as RedactionOptions
    from asm_core.domain.redaction import Redactor as Redactor
    from asm_core.domain.redaction import Replace as Replace
    from asm_core.domain.redaction import redact_map as redact_map
    from asm_core.domain.registry import Registry as Registry
    from asm_core.domain.retention import RetentionPolicy as RetentionPolicy
    from asm_core.domain.run import Run as Run
    from asm_core.domain.session import DEFAULT_TENANT as DEFAULT_TENANT
    from asm_core.domain.session import Session as Session
    from asm_core.domain.tool import ToolAccess as ToolAccess
    from asm_core.domain.tool import ToolResult as ToolResult
    from asm_core.domain.tool import ToolSpec as ToolSpec
    from asm_core.domain.tool import ToolUse as ToolUse
    from asm_core.domain.transcript import Budget as Budget
    from asm_core.domain.transcript import Message as Message
    from asm_core.domain.transcript import Transcript as Transcript
    from asm_core.domain.upcasting import UPCASTERS as UPCASTERS
    from asm_core.library import Store as Store
    from asm_core.library import open_manager as open_manager
    from asm_core.library import open_store as open_store
    from asm_core.library import run_once as run_once
    from asm_core.manager.audit import AuditLogger as AuditLogger
    from asm_core.manager.oneshot import StreamSession as StreamSession
    from asm_core.manager.runtime import SessionRuntime as SessionRuntime
    from asm_core.manager.session_manager import ExecutionResult as ExecutionResult
    from asm_core.manager.session_manager import SessionManager as SessionManager
    from asm_core.manager.session_manager import event_of as event_of
    from asm_core.ports.audit import AuditFilter as AuditFilter
    from asm_core.ports.provider import Completion as Completion
    from asm_core.ports.provider import Execution as Execution
    from asm_core.ports.provider import ProviderAdapter as ProviderAdapter
    from asm_core.ports.provider import RawEvent as RawEvent
    from asm_core.ports.query import EventSearch as EventSearch
    from asm_core.ports.query import RunSearch as RunSearch
    from asm_core.ports.query import SessionSearch as SessionSearch
    from asm_core.ports.query import UsageSearch as UsageSearch
    from asm_core.ports.store import EventFilter as EventFilter
    from asm_core.process import Chunk as Chunk
    from asm_core.process import CommandResult as CommandResult
    from asm_core.process import exec_run as exec_run
    from asm_core.process import exec_stream as exec_stream
    from asm_core.recording import Recording as Recording
    from asm_core.recording import played as played
    from asm_core.recording import recorded as recorded
    from asm_core.stores.artifacts.file import FileArtifactStore as FileArtifactStore
    from asm_core.stores.artifacts.opening import open_artifact_store as open_artifact_store
    from asm_core.stores.artifacts.registering import RegisteringArtifactStore as RegisteringArtifactStore
    from asm_core.stores.artifacts.registry import ArtifactRegistry as ArtifactRegistry
    from asm_core.stores.artifacts.s3 import S3ArtifactStore as S3ArtifactStore
    from asm_core.stores.composite import CompositeSessionStore as CompositeSessionStore
    from asm_core.stores.sql.migrate import migrate as migrate
    from asm_core.tools import HostTools as HostTools
    from asm_core.tools import Tool as Tool
    from asm_core.tools import tool as tool

_HOMES = {
    "AnthropicAdapter": "adapters.anthropic",
    "OpenAIAdapter": "adapters.openai",
    "ClaudeAdapter": "adapters.claude",
    "AmpAdapter": "adapters.amp",
    "CodexAdapter": "adapters.codex",
    "ReplayAdapter": "adapters.replay",
    "ScriptedAdapter": "adapters.scripted",
    "ShellAdapter": "adapters.shell",
    "AgentFolders": "agent_process",
    "ProviderAccess": "config",
    "Artifact": "domain.artifact",
    "AuditEntry": "domain.audit",
    "Capability": "domain.capability",
    "CapabilityType": "domain.capability",
    "AsmError": "domain.errors",
    "ErrorCode": "domain.errors",
    "Event": "domain.event",
    "EventFrame": "domain.event",
    "EventType": "domain.event",
    "EventStream": "domain.event_stream",
    "RunStatus": "domain.lifecycle",
    "SessionStatus": "domain.lifecycle",
    "Manifest": "domain.manifest",
    "CapabilityResolver": "domain.negotiation",
    "NormalizedEvent": "domain.normalized_event",
    "PermissionMode": "domain.permission",
    "PriceList": "domain.pricing",
    "ProviderError": "domain.provider_error",
    "ProviderOptions": "domain.provider_options",
    "RedactionOptions": "domain.redaction",
    "Redactor": "domain.redaction",
    "Replace": "domain.redaction",
    "redact_map": "domain.redaction",
    "Registry": "domain.registry",
    "RetentionPolicy": "domain.retention",
    "Run": "domain.run",
    "DEFAULT_TENANT": "domain.session",
    "Session": "domain.session",
    "ToolAccess": "domain.tool",
    "ToolResult": "domain.tool",
    "ToolSpec": "domain.tool",
    "ToolUse": "domain.tool",
    "Budget": "domain.transcript",
    "Message": "domain.transcript",
    "Transcript": "domain.transcript",
    "UPCASTERS": "domain.upcasting",
    "open_manager": "library",
    "open_store": "library",
    "run_once": "library",
    "Store": "library",
    "AuditLogger": "manager.audit",
    "StreamSession": "manager.oneshot",
    "SessionRuntime": "manager.runtime",
    "event_of": "manager.session_manager",
    "ExecutionResult": "manager.session_manager",
    "SessionManager": "manager.session_manager",
    "AuditFilter": "ports.audit",
    "Completion": "ports.provider",
    "Execution": "ports.provider",
    "ProviderAdapter": "ports.provider",
    "RawEvent": "ports.provider",
    "EventSearch": "ports.query",
    "RunSearch": "ports.query",
    "SessionSearch": "ports.query",
    "UsageSearch": "ports.query",
    "EventFilter": "ports.store",
    "Chunk": "process",
    "CommandResult": "process",
    "exec_run": "process",
    "exec_stream": "process",
    "played": "recording",
    "recorded": "recording",
    "Recording": "recording",
    "FileArtifactStore": "stores.artifacts.file",
    "open_artifact_store": "stores.artifacts.opening",
    "RegisteringArtifactStore": "stores.artifacts.registering",
    "ArtifactRegistry": "stores.artifacts.registry",
    "S3ArtifactStore": "stores.artifacts.s3",
    "CompositeSessionStore": "stores.composite",
    "migrate": "stores.sql.migrate",
    "HostTools": "tools",
    "Tool": "tools",
    "tool": "tools",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
