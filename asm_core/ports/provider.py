"""A provider adapter: turns one run into a stream of events and one completion."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from asm_core.domain.capability import Capability
from asm_core.domain.errors import AsmError
from asm_core.domain.provider_options import NO_OPTIONS, ProviderOptions
from asm_core.domain.run import Run
from asm_core.domain.session import Session
from asm_core.domain.tool import ALLOWED, ToolResult, ToolSpec, ToolUse, Verdict
from asm_core.domain.transcript import Transcript


@dataclass(frozen=True, slots=True)
class RawEvent:
    """What an adapter emits: the canonical type name and payload of spec/04 §2.3; identity and number come later."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    timestamp: datetime | None = None
    """When the provider says it happened; None: now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """
    The last thing an execution yields.

    It becomes the run's one terminal event in the finish transaction; adapters never emit terminal events themselves.
    """

    output: Mapping[str, Any] = field(default_factory=dict)
    """Merged over what the run's events add up to (`content`, `tool_calls`)."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """For the terminal event: `stop_reason`, `exit_code`, `duration_ms`, …"""
    error: AsmError | None = None
    """Set when the run failed although there is output to keep (a command that exits non-zero)."""


class ProviderFiles(Protocol):
    """
    What a provider keeps of its own session, for another worker to resume it; one place per session and provider.

    Raises (every method): AsmError `storage_error`, `storage_connection_failed`.
    """

    async def load(self, name: str) -> bytes | None: ...

    async def save(self, name: str, data: bytes) -> None: ...


class ToolSource(Protocol):
    """Tools that run in this process, or that it reaches."""

    async def specs(self) -> Sequence[ToolSpec]: ...

    async def call(self, name: str, input: Mapping[str, Any]) -> ToolResult:
        """What the tool answers; its failure is a result too. Raises nothing but cancellation."""


Gate = Callable[[ToolUse], Awaitable[Verdict]]


async def allow_all(_use: ToolUse) -> Verdict:
    return ALLOWED


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One attempt at one run."""

    run: Run
    session: Session
    attempt: int
    """From 1."""
    model: str | None = None
    options: ProviderOptions = NO_OPTIONS
    """The run's, over what its session says."""
    transcript: Transcript | None = None
    """What was said before in the session, for a run that goes on from it; the run's own input is not in it."""
    resume: str | None = None
    """The provider's own session that the run resumes. With a transcript beside it, an adapter that finds the session
    gone goes on from that; without one the run fails."""
    was_cut: bool = False
    """`resume` is the session of a dead attempt of this very run, which was given the run's input already."""
    files: ProviderFiles | None = None
    """Where the provider's own session is kept between runs, which may be executed on different machines."""
    gate: Gate = allow_all
    """Asked before each use of a tool."""
    last_words: list[RawEvent] = field(default_factory=list)
    """Where an adapter that is stopped, or fails, puts what it has still to tell (the tokens used so far): it can yield
    no more. Stored behind everything that it has yielded."""


NATIVE_RESUME = "native_resume"
"""Name of the capability to resume one's own sessions."""


def can_resume(adapter: ProviderAdapter) -> bool:
    return any(capability.name == NATIVE_RESUME and capability.enabled for capability in adapter.capabilities())


class ProviderAdapter(Protocol):
    """
    Configuration and clients of one provider; serves many executions at once, each isolated from the others.

    Source: spec/04 §1, §2.
    """

    @property
    def name(self) -> str:
        """The provider's stable name: `claude`, `shell`, `scripted`, …"""

    def capabilities(self) -> Sequence[Capability]: ...

    def validate_input(self, value: Mapping[str, Any]) -> None:
        """
        Checks at submit what can be known then; does no I/O.

        Raises:
            AsmError: `invalid_input`, `validation_error`, `policy_violation`.
        """

    def validate_options(self, options: ProviderOptions) -> None:
        """
        Checks at submit whether the provider can do what is asked for: a bound is never ignored in silence.

        Raises:
            AsmError: `capability_not_supported`, `validation_error`, naming the option.
        """

    def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        """
        The run's events in order, then exactly one `Completion`.

        Closing the generator, or cancelling the task that consumes it, stops the provider and releases connections
        and child processes within a bounded time.

        Raises:
            AsmError: the run failed; the code says how and whether a repetition may help.
        """

    async def aclose(self) -> None:
        """Releases what the adapter itself holds."""


@runtime_checkable
class Recordable(Protocol):
    """An adapter whose provider has a server, and that can be pointed to another one."""

    @property
    def server(self) -> str:
        """Its base URL."""

    def at(self, server: str) -> ProviderAdapter:
        """The same adapter, asking that server; closed by whoever asked for it."""
