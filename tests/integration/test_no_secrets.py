"""Invariant 8: whatever users send and providers say, no secret is stored, published or logged."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from asm_api import wiring as api_wiring
from asm_api.wiring import Deps, open_deps
from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.bus.redis import RedisBus
from asm_core.clock import SystemClock, new_id
from asm_core.config import Settings
from asm_core.domain.capability import Capability
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.redaction import REDACTOR
from asm_core.domain.session import DEFAULT_TENANT, Session
from asm_core.logs import configure_logging
from asm_core.manager.submit import RunRequest
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.providers import Providers
from asm_workers import wiring as worker_wiring
from asm_workers.app import build_app, canary_queue
from asm_workers.wiring import Worker, open_worker
from tests.builders import World
from tests.fixtures.api import new_session, problem_in
from tests.fixtures.secrets import PLANTED

GUARD_S = 60
TEXT = "\n".join(planted.text for planted in PLANTED)
PIECES = [(planted.kind, line) for planted in PLANTED for line in planted.secret.splitlines()]
"""What must be found nowhere; a line at a time, as its breaks are written differently everywhere."""
ALL = {planted.kind + str(index): planted.text for index, planted in enumerate(PLANTED)}


class Leaky:
    """A provider that tells everything it knows, in every place there is; `end` says how its run ends."""

    name = "leaky"

    def capabilities(self) -> Sequence[Capability]:
        return ()

    def validate_input(self, value: Mapping[str, Any]) -> None:
        """Takes anything."""

    def validate_options(self, options: ProviderOptions) -> None:
        """Takes them all."""

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        given = execution.run.input or {}
        yield RawEvent(EventType.RUN_STARTED, {"command": TEXT, "model": "m", "tools": [TEXT]})
        for part in _cut(TEXT, given.get("size", 0)):
            yield RawEvent(EventType.MESSAGE_STREAMED, {"content": part, "delta": part})
        yield RawEvent(EventType.MESSAGE_RECEIVED, {"content": TEXT, "role": "assistant"}, {"raw": ALL})
        call = {"tool_call_id": "tc_1", "tool_name": "sh", "tool_input": ALL | {"password": "Tr0ub4dor" + "&3"}}
        yield RawEvent(EventType.TOOL_CALL_STARTED, call)
        yield RawEvent(EventType.TOOL_CALL_COMPLETED, call | {"tool_output": [TEXT, ALL]})
        yield RawEvent("of no type: " + TEXT, {TEXT: TEXT})
        for part in _cut(TEXT, given.get("size", 0)):
            yield RawEvent(EventType.MESSAGE_STREAMED, {"delta": part})
        error = AsmError(ErrorCode.PROVIDER_ERROR, TEXT, details=ALL, provider_error={"stderr": TEXT})
        match given.get("end"):
            case "fail":
                raise error
            case "crash":
                raise RuntimeError(TEXT)
            case "error":
                yield Completion(output={"stderr": TEXT}, data={"note": ALL}, error=error)
            case "silence":
                return
            case _:
                yield Completion(output={"stderr": TEXT}, data={"note": TEXT})

    async def aclose(self) -> None:
        """Holds nothing."""


def _cut(text: str, size: int) -> list[str]:
    """In parts of this size; 0: every secret in two."""
    if size:
        return [text[at : at + size] for at in range(0, len(text), size)]
    halves = [(one.text[: len(one.text) // 2], one.text[len(one.text) // 2 :] + "\n") for one in PLANTED]
    return [half for pair in halves for half in pair]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the processes' own logging writes, from DEBUG on."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging("DEBUG", "json")
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every message that was given to the bus."""
    seen: list[str] = []
    publish = RedisBus.publish

    async def noting(bus: RedisBus, batch: Any) -> None:
        seen.extend(frame.body.decode() for _, frames in batch for frame in frames)
        await publish(bus, batch)

    monkeypatch.setattr(RedisBus, "publish", noting)
    return seen


@pytest.fixture
async def fleet(
    world: World, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Deps, Worker]]:
    """What an API process and a worker process consist of, with one more provider."""
    factories = {"leaky": Leaky, "scripted": ScriptedAdapter}
    for wiring in (api_wiring, worker_wiring):
        monkeypatch.setattr(wiring, "build_providers", lambda settings, store: Providers(factories))
    settings = Settings(database_url=world.url, redis_url=redis_url, redis_prefix=redis_prefix)
    async with open_deps(settings) as deps, _worker(settings) as worker:
        yield deps, worker


@asynccontextmanager
async def _worker(settings: Settings) -> AsyncIterator[Worker]:
    queue = canary_queue("here").name
    leave = asyncio.Event()
    async with open_worker(
        settings, app=build_app(settings), node="here", canary_queue=queue, slots=10, leave=leave
    ) as worker:
        yield worker


async def stored(world: World) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table."""
    tables = await world.sql("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
    assert {"asm_events", "asm_runs", "asm_sessions", "asm_idempotency_keys"} <= {table["name"] for table in tables}
    return {table["name"]: await world.sql(f"SELECT * FROM {table['name']}") for table in tables}


def found_in(text: str) -> list[str]:
    return [kind for kind, piece in PIECES if piece in text]


async def assert_clean(world: World) -> None:
    for table, rows in (await stored(world)).items():
        for row in rows:
            assert found_in(str(row)) == [], table
            assert REDACTOR.value(row) == row, f"{table}: what looks like a secret"


ENDS = {"complete": "completed", "fail": "failed", "crash": "failed", "error": "failed", "silence": "failed"}


@pytest.mark.timeout(2 * GUARD_S)
async def test_nothing_that_a_provider_says_is_kept_with_its_secrets(
    world: World, fleet: tuple[Deps, Worker], published: list[str], logged: io.StringIO
) -> None:
    """spec/02 checks 206, 236, spec/01 §21 (52): every kind of secret, in every place, however the run ends."""
    deps, worker = fleet
    session = await deps.sessions.create(Session.new(id=new_id("ses"), now=SystemClock().now(), agent_id="tester"))
    runs = {}
    for end, size in [*((end, 0) for end in ENDS), ("complete", 4), ("fail", 25)]:
        asked = RunRequest(input={"end": end, "size": size}, provider="leaky")
        submitted = await deps.submitter.submit(session.id, DEFAULT_TENANT, asked)
        runs[submitted.run_id] = end
        async with asyncio.timeout(GUARD_S):
            assert await worker.handle(session.id) == ENDS[end]
    rows = {row["id"]: row for row in (await stored(world))["asm_runs"]}
    assert {run_id: rows[run_id]["status"] for run_id in runs} == {run_id: ENDS[end] for run_id, end in runs.items()}
    await assert_clean(world)
    assert len(published) > len(PLANTED)
    assert [found_in(body) for body in published if found_in(body)] == []
    assert "an execution failed" in logged.getvalue(), "with the trace of the crash"
    assert found_in(logged.getvalue()) == []


async def test_a_streamed_answer_is_complete_without_its_secrets(world: World, fleet: tuple[Deps, Worker]) -> None:
    """All chunks of a run add up to its redacted text, in order, whatever was held back and let go meanwhile."""
    deps, worker = fleet
    session = await deps.sessions.create(Session.new(id=new_id("ses"), now=SystemClock().now(), agent_id="tester"))
    await deps.submitter.submit(session.id, DEFAULT_TENANT, RunRequest(input={"size": 3}, provider="leaky"))
    await worker.handle(session.id)
    rows = await world.sql(
        "SELECT type, data FROM asm_events WHERE session_id = %s ORDER BY sequence_number", session.id
    )
    chunks = [row["data"]["delta"] for row in rows if row["type"] == "message_streamed"]
    assert "".join(chunks) == REDACTOR.text(TEXT) * 2
    [message] = [row["data"]["content"] for row in rows if row["type"] == "message_received"]
    assert message == REDACTOR.text(TEXT)
    assert rows[-1]["type"] == "run_completed"


async def test_nothing_that_a_user_sends_is_kept_with_its_secrets(
    world: World, fleet: tuple[Deps, Worker], published: list[str], logged: io.StringIO
) -> None:
    """Sessions, inputs, metadata, keys; what the script says, does and fails with was redacted before it was queued."""
    deps, worker = fleet
    described = Session.new(
        id=new_id("ses"), now=SystemClock().now(), agent_id=PLANTED[6].secret, context=ALL | {"system_prompt": TEXT},
        metadata={"all": ALL, "correlation_id": PLANTED[6].secret}, tags=list(ALL.values()), model=PLANTED[6].secret,
    )  # fmt: skip
    session = await deps.sessions.create(described)
    tool = {"name": "sh", "input": {"cmd": TEXT}, "output": TEXT}
    failure = {"code": "provider_error", "message": TEXT}
    script = [{"say": TEXT, "chunks": 999}, {"tool": tool}, {"tool": tool | {"fail": True}}, {"fail": failure}]
    asked = RunRequest(input={"script": script}, metadata=ALL, model=PLANTED[6].secret)
    await deps.submitter.submit(session.id, DEFAULT_TENANT, asked, PLANTED[6].secret)
    once = Session.new(id=new_id("ses"), now=SystemClock().now(), agent_id="a", context=ALL)
    await deps.submitter.submit_once(once, RunRequest(input={"prompt": TEXT}), PLANTED[6].secret)
    assert await worker.handle(session.id) == "failed"
    assert await worker.handle(once.id) == "completed"
    await assert_clean(world)
    assert [found_in(body) for body in published if found_in(body)] == []
    assert found_in(logged.getvalue()) == []
    again = await deps.submitter.submit(session.id, DEFAULT_TENANT, asked, PLANTED[6].secret)
    assert again.replayed, "the request is still recognised"


async def test_problems_do_not_repeat_secrets(http: httpx2.AsyncClient) -> None:
    """What is wrong with a request is told without them, to people and to programs."""
    session_id = await new_session(http)
    for planted in PLANTED:
        bad = {"input": {"script": [{"say": [planted.text]}]}}
        problem = problem_in(await http.post(f"/v1/sessions/{session_id}/runs", json=bad), 422, "invalid_input")
        assert "script.0" in problem["detail"]
        assert not any(line in str(problem) for line in planted.secret.splitlines())
    problem = problem_in(await http.get(f"/v1/sessions/{PLANTED[6].secret}"), 404, "session_not_found")
    assert (problem["detail"], problem["details"]) == ("no session [REDACTED]", {"session_id": "[REDACTED]"})
