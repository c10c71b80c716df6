"""What is checked before a run is queued, and what is done once it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventFrame
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.run import DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS, OnWorkerLost
from asm_core.domain.session import Session
from asm_core.manager.submit import MAX_ATTEMPTS, RunRequest, Submitter
from asm_core.pipeline.publish import Publisher
from asm_core.ports.queue import RunQueue, Submission, Submitted
from asm_core.ports.store import SessionStore
from asm_core.ports.wakeups import Wakeups
from asm_core.providers import Providers
from asm_core.wire import request_hash
from tests.builders import a_frame, a_session
from tests.fixtures.secrets import REFERENCE


class Recorder:
    """Queue, store, wakeups and publisher in one: it remembers what came in which order."""

    def __init__(self, session: Session | None = None) -> None:
        self.session = session or a_session()
        self.submissions: list[Submission] = []
        self.then: list[Any] = []

    async def get_session(self, session_id: str, tenant_id: str) -> Session:
        if (session_id, tenant_id) != (self.session.id, self.session.tenant_id):
            raise AsmError(ErrorCode.SESSION_NOT_FOUND)
        return self.session

    async def submit(self, submission: Submission) -> Submitted:
        self.submissions.append(submission)
        return Submitted(
            run_id=submission.run_id, session_id=submission.session_id, status=RunStatus.PENDING, position=1,
            replayed=False, wake=["ses_1"], events=[a_frame(1)],
        )  # fmt: skip

    def wake(self, session_ids: Sequence[str]) -> None:
        self.then.append(("wake", *session_ids))

    def publish(self, frames: Sequence[EventFrame]) -> None:
        self.then.append(("publish", len(frames)))


def a_submitter(recorder: Recorder, max_input_bytes: int = 1_000) -> Submitter:
    providers = Providers({"scripted": ScriptedAdapter})
    return Submitter(
        cast(RunQueue, recorder), cast(SessionStore, recorder), cast(Wakeups, recorder), cast(Publisher, recorder),
        providers.get, max_input_bytes,
    )  # fmt: skip


async def submitted(session: Session | None = None, key: str | None = None, **asked: Any) -> Submission:
    recorder = Recorder(session)
    request = RunRequest(**{"input": {"prompt": "x"}} | asked)
    await a_submitter(recorder).submit(recorder.session.id, "default", request, key)
    [submission] = recorder.submissions
    return submission


async def refused(**asked: Any) -> AsmError:
    recorder = Recorder()
    request = RunRequest(**{"input": {"prompt": "x"}} | asked)
    with pytest.raises(AsmError) as caught:
        await a_submitter(recorder).submit(recorder.session.id, "default", request)
    assert recorder.submissions == [], "a bad request is an error, and not a failed run"
    return caught.value


async def test_what_is_not_said_has_a_default() -> None:
    options = (await submitted()).options
    assert (options.provider, options.model, options.timeout_ms) == ("scripted", None, DEFAULT_TIMEOUT_MS)
    assert (options.max_attempts, options.on_worker_lost) == (1, OnWorkerLost.FAIL)
    assert options.queue_timeout_ms is None


async def test_a_run_follows_its_session_unless_it_says_otherwise() -> None:
    session = a_session(provider="scripted", model="small")
    assert (await submitted(session)).options.model == "small"
    assert (await submitted(session, model="large")).options.model == "large"


@pytest.mark.parametrize("how", ["retry", "resume"])
async def test_a_repeatable_run_has_several_attempts(how: str) -> None:
    """DESIGN §3: 3 with `retry` and `resume`; 1 contradicts them."""
    assert (await submitted(on_worker_lost=how)).options.max_attempts == 3
    assert (await submitted(on_worker_lost=how, max_attempts=2)).options.max_attempts == 2
    error = await refused(on_worker_lost=how, max_attempts=1)
    assert (error.code, error.details) == (ErrorCode.VALIDATION_ERROR, {"field": "max_attempts"})
    assert how in error.message


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": -1}, "timeout_ms"),
        ({"timeout_ms": MAX_TIMEOUT_MS + 1}, "timeout_ms"),
        ({"queue_timeout_ms": 0}, "queue_timeout_ms"),
        ({"queue_timeout_ms": 10**30}, "queue_timeout_ms"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": -3, "on_worker_lost": "retry"}, "max_attempts"),
        ({"max_attempts": 0, "on_worker_lost": "retry"}, "max_attempts"),
        ({"max_attempts": MAX_ATTEMPTS + 1, "on_worker_lost": "retry"}, "max_attempts"),
        ({"on_worker_lost": "panic"}, "on_worker_lost"),
        ({"provider": "nobody"}, "provider"),
    ],
)
async def test_values_out_of_bounds_are_refused_by_name(asked: dict[str, Any], field: str) -> None:
    """Also those that would only fail later, inside the database: a timeout or a count too large for it."""
    error = await refused(**asked)
    assert (error.code, error.details["field"]) == (ErrorCode.VALIDATION_ERROR, field)
    assert str(next(iter(asked.values()))) in error.message, "it names the offending value"


@pytest.mark.parametrize("timeout_ms", [1, MAX_TIMEOUT_MS])
async def test_the_bounds_themselves_are_allowed(timeout_ms: int) -> None:
    options = (await submitted(timeout_ms=timeout_ms, queue_timeout_ms=timeout_ms)).options
    assert (options.timeout_ms, options.queue_timeout_ms) == (timeout_ms, timeout_ms)


async def test_the_size_of_an_input_is_bounded_in_bytes() -> None:
    """FM-11; letters of several bytes count as such."""
    room = 1_000 - len(b'{"prompt":""}')
    await submitted(input={"prompt": "x" * room})
    error = await refused(input={"prompt": "x" * (room + 1)})
    assert error.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert "1001" in error.message
    assert (await refused(input={"prompt": "ä" * (room // 2 + 1)})).code is ErrorCode.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize("value", [{"prompt": "x", "n": 2**70}, {"prompt": "\ud800"}, {"prompt": "x", "deep": [[[]]]}])
async def test_odd_but_harmless_inputs_pass(value: dict[str, Any]) -> None:
    """Measuring them must not fail: they would be a server error to the client."""
    assert (await submitted(input=value)).input == value


async def test_the_provider_has_its_say() -> None:
    error = await refused(input={"script": [{"say": 5}]})
    assert (error.code, error.details["field"]) == (ErrorCode.INVALID_INPUT, "input.script.0")


async def test_an_unknown_session_takes_no_runs() -> None:
    recorder = Recorder()
    for session_id, tenant_id in (("ses_other", "default"), (recorder.session.id, "somebody else")):
        with pytest.raises(AsmError) as caught:
            await a_submitter(recorder).submit(session_id, tenant_id, RunRequest(input={"prompt": "x"}))
        assert caught.value.code is ErrorCode.SESSION_NOT_FOUND


async def test_the_key_of_a_request_goes_with_its_hash() -> None:
    """FM-14: the same request under the same key is the same run; another one is refused by the store."""
    one, again = [await submitted(key="k", timeout_ms=5) for _ in range(2)]
    other = await submitted(key="k", timeout_ms=6)
    assert one.request_hash == again.request_hash != other.request_hash
    assert one.run_id != again.run_id
    assert (await submitted()).request_hash is None


async def test_first_stored_then_told() -> None:
    """Events are published and the session is woken with what the store has answered."""
    recorder = Recorder()
    await a_submitter(recorder).submit(recorder.session.id, "default", RunRequest(input={"prompt": "x"}))
    assert recorder.then == [("publish", 1), ("wake", "ses_1")]


async def test_a_one_shot_brings_its_session() -> None:
    recorder = Recorder()
    session = a_session()
    await a_submitter(recorder).submit_once(session, RunRequest(input={"prompt": "x"}))
    [submission] = recorder.submissions
    assert (submission.new_session, submission.session_id) == (session, session.id)
    assert (await submitted()).new_session is None


SECRET = REFERENCE[6].secret


async def test_what_is_queued_holds_no_secret() -> None:
    """spec/01 §21 (52): the row is what the worker executes, so the provider does not get it either."""
    submission = await submitted(
        input={"prompt": f"use {SECRET}", "env": {"API_KEY": "x"}}, metadata={"note": SECRET}, model=SECRET
    )
    assert submission.input == {"prompt": "use [REDACTED]", "env": {"API_KEY": "[REDACTED]"}}
    assert submission.metadata == {"note": "[REDACTED]"}
    assert submission.options.model == "[REDACTED]"


async def test_a_one_shots_session_holds_no_secret() -> None:
    recorder = Recorder()
    session = a_session(agent_id=SECRET, context={"token": SECRET}, metadata={"a": [SECRET]}, tags=["x", SECRET])
    await a_submitter(recorder).submit_once(session, RunRequest(input={"prompt": "x"}))
    [submission] = recorder.submissions
    assert submission.new_session is not None
    assert SECRET not in str(submission.new_session)
    assert submission.new_session.tags == ["x", "[REDACTED]"]


async def test_a_request_is_recognised_by_what_was_asked() -> None:
    """Two inputs that differ in their secrets only are two requests."""
    first = await submitted(key="k", input={"prompt": SECRET})
    other = await submitted(key="k", input={"prompt": SECRET[::-1]})
    asked = RunRequest(input={"prompt": SECRET})
    assert first.request_hash == request_hash(asked) != other.request_hash


async def test_an_idempotency_key_that_is_a_secret_is_kept_as_its_digest() -> None:
    """It stays the same key, and no other becomes equal to it."""
    first, again, other = [(await submitted(key=key)).idempotency_key for key in (SECRET, SECRET, SECRET + "1")]
    assert first == again != other
    assert SECRET not in str(first)
    assert (await submitted(key="order-4711")).idempotency_key == "order-4711"


async def test_a_workspace_names_its_folder() -> None:
    """Itself, or by the folder in which the agent works; a bad one is an error to the caller."""
    options = (await submitted(workspace={"enabled": True, "path": "/w"})).options
    assert (options.workspace.enabled, options.workspace.path) == (True, "/w")
    assert (await refused(workspace={"enabled": True})).details == {"field": "workspace.path"}
    assert (await refused(workspace={"rollback": True})).details == {"field": "workspace.rollback"}


async def test_only_trusted_submitters_choose_a_workspace() -> None:
    """It lets a submitter read and restore a folder of the worker's machine."""
    recorder = Recorder()
    submitter = replace(a_submitter(recorder), trusts_submitters=False)
    request = RunRequest(input={"prompt": "x"}, workspace={"enabled": True, "path": "/w"})
    with pytest.raises(AsmError) as caught:
        await submitter.submit(recorder.session.id, "default", request)
    assert (caught.value.code, recorder.submissions) == (ErrorCode.FORBIDDEN, [])
