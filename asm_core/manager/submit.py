"""
Submitting a run: everything that can be known now is checked now, so that a bad request is an error to the caller and
not a failed run. Then one transaction, then a wakeup that may be lost.

What is queued is stored, so it is redacted first: a provider never gets a secret that stood in a run's input. Only the
hash by which a repeated request is recognised is of the request as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from asm_core.clock import new_id
from asm_core.domain import ids
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.provider_options import ProviderOptions, check_trusted
from asm_core.domain.redaction import REDACTOR, Redactor
from asm_core.domain.run import DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS, Continuation, OnWorkerLost, RunOptions
from asm_core.domain.session import Session
from asm_core.domain.transcript import Budget
from asm_core.domain.workspace import WorkspaceOptions, check_trusted_workspace
from asm_core.pipeline.publish import Publisher
from asm_core.ports.provider import ProviderAdapter, can_resume
from asm_core.ports.queue import RunQueue, Submission, Submitted
from asm_core.ports.store import SessionStore
from asm_core.ports.wakeups import Wakeups
from asm_core.recording import RecordingAdapter
from asm_core.wire import dumps, request_hash

DEFAULT_PROVIDER = "scripted"
DEFAULT_REPEATS = 3
"""Attempts of a run that may be repeated after a lost worker."""
MAX_ATTEMPTS = 100
CONTINUATION_OPTS = ("max_messages", "max_chars", "max_tokens_approx")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a caller asks for; None means: not said."""

    input: Mapping[str, Any]
    provider: str | None = None
    model: str | None = None
    timeout_ms: int | None = None
    queue_timeout_ms: int | None = None
    max_attempts: int | None = None
    on_worker_lost: str = OnWorkerLost.FAIL
    continuation: str | bool | None = None
    """`none`, `auto`, `replay` or `native`; true means auto."""
    continuation_opts: Mapping[str, int] = field(default_factory=dict)
    """`max_messages`, `max_chars`, `max_tokens_approx`."""
    provider_options: Mapping[str, Any] = field(default_factory=dict)
    """As of `ProviderOptions`."""
    workspace: Mapping[str, Any] = field(default_factory=dict)
    """As of `WorkspaceOptions`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Submitter:
    """
    Args:
        adapter_of: a provider's adapter by name; raises `validation_error` for an unknown or forbidden one.
        max_input_bytes: size limit of a run's input as JSON.
        redactor: for everything that is stored of a request.
        trusts_submitters: whether they may choose what lets them act on a worker's machine.
    """

    queue: RunQueue
    store: SessionStore
    wakeups: Wakeups
    publisher: Publisher
    adapter_of: Callable[[str], ProviderAdapter]
    max_input_bytes: int
    redactor: Redactor = REDACTOR
    trusts_submitters: bool = True

    async def submit(
        self,
        session_id: str,
        tenant_id: str,
        request: RunRequest,
        idempotency_key: str | None = None,
        *,
        queued: bool = True,
    ) -> Submitted:
        """
        Queue a run in a session.

        Args:
            queued: False: it stays outside the queue until somebody claims this very run.

        Returns:
            Its id and place in the queue; `replayed` when the idempotency key was known: then nothing was queued.

        Raises:
            AsmError: `session_not_found`, `validation_error`, `invalid_input`, `payload_too_large`,
                `max_runs_exceeded`, `already_exists`, `invalid_operation`, `storage_connection_failed`.
        """
        session = await self.store.get_session(session_id, tenant_id)
        return await self._submit(session, request, idempotency_key, queued=queued)

    async def submit_once(self, session: Session, request: RunRequest, idempotency_key: str | None = None) -> Submitted:
        """A one-shot: the session is created with the run and ends with it. Raises as `submit`."""
        return await self._submit(session, request, idempotency_key, one_shot=True)

    async def _submit(
        self, session: Session, request: RunRequest, key: str | None, *, one_shot: bool = False, queued: bool = True
    ) -> Submitted:
        options = self.check(session, request)
        asked = (request, session.agent_id, session.context) if one_shot else (request,)
        submission = Submission(
            run_id=new_id(ids.RUN),
            session_id=session.id,
            tenant_id=session.tenant_id,
            input=self.redactor.value(request.input),
            options=self._storable(options),
            metadata=self.redactor.value(request.metadata),
            idempotency_key=self._storable_key(key),
            request_hash=request_hash(*asked) if key is not None else None,
            new_session=self.redactor.session(session) if one_shot else None,
            queued=queued,
        )
        submitted = await self.queue.submit(submission)
        self.publisher.publish(submitted.events)
        self.wakeups.wake(submitted.wake)
        return submitted

    def _storable(self, options: RunOptions) -> RunOptions:
        said = ProviderOptions.from_map(self.redactor.value(options.provider_options.to_map()))
        workspace = WorkspaceOptions.from_map(self.redactor.value(options.workspace.to_map()))
        model = self.redactor.value(options.model)
        return replace(options, model=model, provider_options=said, workspace=workspace)

    def _storable_key(self, key: str | None) -> str | None:
        """A key that is a secret is kept as its digest: redacted, it could be taken for another."""
        return key if self.redactor.value(key) == key else f"sha256:{request_hash(key)}"

    def check(self, session: Session, request: RunRequest) -> RunOptions:
        """The options in force, or the reason why this run could never succeed."""
        size = len(dumps(request.input))
        if size > self.max_input_bytes:
            message = f"the input has {size} bytes, the limit is {self.max_input_bytes}"
            raise AsmError(ErrorCode.PAYLOAD_TOO_LARGE, message, details={"field": "input"})
        provider = request.provider or session.provider or DEFAULT_PROVIDER
        adapter = self.adapter_of(provider)
        adapter.validate_input(request.input)
        provider_options = ProviderOptions.from_map(request.provider_options)
        workspace = WorkspaceOptions.from_map(request.workspace)
        if not self.trusts_submitters:
            check_trusted(provider_options)
            check_trusted_workspace(workspace)
        if workspace.enabled and not (workspace.path or provider_options.cwd):
            raise _invalid("workspace.path", "is required where provider_options.cwd names no folder")
        adapter.validate_options(provider_options)
        if provider_options.record:
            RecordingAdapter(adapter)
        return RunOptions(
            provider=provider,
            model=request.model or session.model,
            timeout_ms=_within(request.timeout_ms, "timeout_ms", MAX_TIMEOUT_MS) or DEFAULT_TIMEOUT_MS,
            queue_timeout_ms=_within(request.queue_timeout_ms, "queue_timeout_ms", MAX_TIMEOUT_MS),
            max_attempts=_attempts(request),
            on_worker_lost=OnWorkerLost(request.on_worker_lost),
            continuation=_continuation(request.continuation, adapter),
            continuation_opts=_continuation_opts(request.continuation_opts),
            provider_options=provider_options,
            workspace=workspace,
        )


def _within(value: int | None, field_name: str, most: int) -> int | None:
    if value is not None and not 1 <= value <= most:
        raise _invalid(field_name, f"must be from 1 to {most}, not {value}")
    return value


def _attempts(request: RunRequest) -> int:
    """One where a lost worker fails the run; else several, and a caller who wants both contradicts himself."""
    if request.on_worker_lost not in OnWorkerLost._value2member_map_:
        raise _invalid("on_worker_lost", f"must be one of {', '.join(OnWorkerLost)}, not {request.on_worker_lost!r}")
    repeats = request.on_worker_lost != OnWorkerLost.FAIL
    attempts = _within(request.max_attempts, "max_attempts", MAX_ATTEMPTS)
    if repeats and attempts == 1:
        raise _invalid("max_attempts", f"must be at least 2 with on_worker_lost={request.on_worker_lost}, not 1")
    return attempts or (DEFAULT_REPEATS if repeats else 1)


def _continuation(value: str | bool | None, adapter: ProviderAdapter) -> Continuation:
    name = {None: "none", False: "none", True: "auto"}.get(value, value) if not isinstance(value, str) else value
    if name not in Continuation._value2member_map_:
        raise _invalid("continuation", f"must be one of {', '.join(Continuation)}, not {value!r}")
    if name == Continuation.NATIVE and not can_resume(adapter):
        message = f"the provider {adapter.name} cannot resume its own sessions"
        raise AsmError(ErrorCode.INVALID_OPERATION, message, details={"field": "continuation"})
    return Continuation(str(name))


def _continuation_opts(given: Mapping[str, int]) -> Mapping[str, int]:
    """Raises `validation_error` naming a bound that is unknown or no integer from 1."""
    if unknown := given.keys() - CONTINUATION_OPTS:
        raise _invalid("continuation_opts", f"knows {', '.join(CONTINUATION_OPTS)}, not {', '.join(sorted(unknown))}")
    Budget(**given)
    return given


def _invalid(field_name: str, problem: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, f"{field_name} {problem}", details={"field": field_name})
