"""What the API says to requests that are wrong, too large, unauthorised or unlucky."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from asm_api.app import build_server
from asm_api.errors import STATUS
from asm_api.schemas import EventAnswer, QueueAnswer, RunAnswer, SessionAnswer
from asm_api.wiring import Deps, open_deps
from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.sql.engine import open_engine
from asm_core.stores.sql.store import SqlSessionStore
from tests.builders import a_run, a_session, an_event
from tests.fixtures.api import LiveApi, StartApi, new_session, problem_in

NO_SESSION, NO_RUN = "/v1/sessions/ses_none", "/v1/runs/run_none"
INPUT = {"input": {"prompt": "hello"}}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", NO_SESSION),
        ("GET", f"{NO_SESSION}/queue"),
        ("GET", f"{NO_SESSION}/events"),
        ("GET", f"{NO_SESSION}/events?wait_ms=30000"),
        ("GET", f"{NO_SESSION}/events/stream"),
        ("POST", f"{NO_SESSION}/runs"),
        ("POST", f"{NO_SESSION}/pause"),
        ("POST", f"{NO_SESSION}/resume"),
        ("POST", f"{NO_SESSION}/complete"),
        ("POST", f"{NO_SESSION}/cancel"),
        ("POST", f"{NO_SESSION}/drain"),
        ("GET", NO_RUN),
        ("GET", f"{NO_RUN}/wait"),
        ("POST", f"{NO_RUN}/cancel"),
        ("POST", f"{NO_RUN}/interrupt"),
        ("POST", f"{NO_RUN}/pause"),
        ("POST", f"{NO_RUN}/input"),
    ],
)
async def test_unknown_ids_are_not_found(ask: httpx2.AsyncClient, method: str, path: str) -> None:
    """404 at once, naming the id, on every route that takes one."""
    body = {"json": INPUT} if path.endswith("/runs") else {}
    response = await ask.request(method, path, **body)
    kind = "session" if path.startswith(NO_SESSION) else "run"
    problem = problem_in(response, 404, f"{kind}_not_found")
    assert f"{kind[:3]}_none" in problem["detail"]
    assert not problem["retryable"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("DELETE", "/v1/sessions", 405, "invalid_operation"),
        ("POST", f"{NO_RUN}/juggle", 404, "not_found"),
    ],
)
async def test_what_is_no_route_is_a_problem_too(
    ask: httpx2.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    """The framework's own refusals have the form of ours, and name the path."""
    problem = problem_in(await ask.request(method, path), status, code)
    assert path in problem["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.agent_id"),
        ({"agent_id": ""}, "body.agent_id"),
        ({"agent_id": 7}, "body.agent_id"),
        ({"agent_id": "a" * 256}, "body.agent_id"),
        ({"agent_id": "nul\x00"}, "body.agent_id"),
        ({"agent_id": "a", "max_concurrent_runs": 0}, "body.max_concurrent_runs"),
        ({"agent_id": "a", "max_concurrent_runs": "2"}, "body.max_concurrent_runs"),
        ({"agent_id": "a", "max_concurrent_runs": True}, "body.max_concurrent_runs"),
        ({"agent_id": "a", "max_queued_runs": -1}, "body.max_queued_runs"),
        ({"agent_id": "a", "max_queued_runs": 2**31}, "body.max_queued_runs"),
        ({"agent_id": "a", "metadata": []}, "body.metadata"),
        ({"agent_id": "a", "context": {"text": "nul\x00"}}, "body.context"),
        ({"agent_id": "a", "tags": "one"}, "body.tags"),
        ({"agent_id": "a", "tags": ["ok", 5]}, "body.tags.1"),
        ({"agent_id": "a", "policies": []}, "body.policies"),
        ({"agent_id": "a", "status": "active"}, "body.status"),
    ],
)
async def test_wrong_session_bodies_are_refused_by_field(
    ask: httpx2.AsyncClient, body: dict[str, Any], field: str
) -> None:
    """422 with the path of the field, in the text and for programs."""
    problem = problem_in(await ask.post("/v1/sessions", json=body), 422, "validation_error")
    assert problem["details"]["field"] == field
    assert problem["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize("path", ["/v1/runs", "sessions"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.input"),
        ({"input": "hello"}, "body.input"),
        (INPUT | {"timeout_ms": 0}, "body.timeout_ms"),
        (INPUT | {"timeout_ms": 604_800_001}, "body.timeout_ms"),
        (INPUT | {"timeout_ms": 1.5}, "body.timeout_ms"),
        (INPUT | {"queue_timeout_ms": -5}, "body.queue_timeout_ms"),
        (INPUT | {"max_attempts": 0}, "body.max_attempts"),
        (INPUT | {"on_worker_lost": "pray"}, "body.on_worker_lost"),
        (INPUT | {"metadata": {"n": 10**30}}, "body.metadata"),
        (INPUT | {"continuation": "sometimes"}, "body.continuation"),
        (INPUT | {"policy": {}}, "body.policy"),
        (INPUT | {"policies": []}, "body.policies"),
        (INPUT | {"if_busy": "reject"}, "body.if_busy"),
    ],
)
async def test_wrong_run_bodies_are_refused_by_field(
    ask: httpx2.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    """The same on both submit routes; what does not exist yet is refused rather than ignored."""
    if path == "sessions":
        path = f"/v1/sessions/{await new_session(ask)}/runs"
    problem = problem_in(await ask.post(path, json=body), 422, "validation_error")
    assert problem["details"]["field"] == field


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (INPUT | {"provider": "nobody"}, "validation_error", "nobody"),
        ({"input": {}}, "invalid_input", "messages or a prompt"),
        ({"input": {"script": [{"dance": 1}]}}, "invalid_input", "input.script.0"),
        ({"input": {"script": [{"crash": "sigkill"}]}}, "invalid_input", "ASM_ALLOW_CRASH"),
        (INPUT | {"on_worker_lost": "retry", "max_attempts": 1}, "validation_error", "max_attempts"),
    ],
)
async def test_a_run_that_could_never_succeed_is_refused(
    ask: httpx2.AsyncClient, body: dict[str, Any], code: str, words: str
) -> None:
    """What is known at submit is an error to the caller, not a failed run."""
    problem = problem_in(await ask.post("/v1/runs", json=body), 422, code)
    assert words in problem["detail"]


@pytest.mark.parametrize(
    "value",
    [
        '{"s": "\\ud800"}',
        '{"s": "\\u0000"}',
        '{"n": NaN}',
        '{"n": 1e999}',
        '{"n": %s}' % ("9" * 40),
        "[" * 70 + "]" * 70,
    ],
    ids=["surrogate", "nul", "nan", "infinite", "huge", "deep"],
)
async def test_what_no_store_can_hold_is_refused(ask: httpx2.AsyncClient, value: str) -> None:
    """JSON that Postgres cannot keep as it is never gets that far."""
    body = f'{{"input": {{"prompt": "x", "extra": {value}}}}}'
    response = await ask.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
    assert problem_in(response, 422, "validation_error")["details"]["field"] == "body.input"


@pytest.mark.parametrize(
    ("content", "content_type", "words"),
    [
        ("{", "application/json", "not valid JSON"),
        ("", "application/json", "body: is required"),
        ("[]", "application/json", "body: "),
        ('{"agent_id": "a"}', "text/plain", "Content-Type: application/json"),
        (b"{\x80", "application/json", "parsing the body"),
    ],
)
async def test_bodies_that_are_not_json_objects(
    ask: httpx2.AsyncClient, content: str | bytes, content_type: str, words: str
) -> None:
    """A 4xx problem that says what to send."""
    response = await ask.post("/v1/sessions", content=content, headers={"Content-Type": content_type})
    problem = problem_in(response, response.status_code, "validation_error")
    assert response.status_code in (400, 422)
    assert words in problem["detail"]


async def test_a_huge_wrong_value_is_not_sent_back(ask: httpx2.AsyncClient) -> None:
    """Neither values nor field names of the caller blow up the answer."""
    bodies: list[dict[str, Any]] = [
        {"agent_id": ["x" * 100_000]},
        {"agent_id": "a", "y" * 100_000: 1},
        {"agent_id": "a"} | {f"field{number}": "z" * 1_000 for number in range(500)},
    ]
    for body in bodies:
        response = await ask.post("/v1/sessions", json=body)
        problem_in(response, 422, "validation_error")
        assert len(response.content) < 5_000
    script = {"input": {"script": [{"say": 1, "text": "x" * 100_000}]}}
    assert len((await ask.post("/v1/runs", json=script)).content) < 5_000


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/sessions?limit=0", "query.limit"),
        ("/v1/sessions?limit=1001", "query.limit"),
        ("/v1/sessions?limit=ten", "query.limit"),
        ("/v1/runs?limit=1001", "query.limit"),
        ("/v1/sessions/{id}/events?limit=1001", "query.limit"),
        ("/v1/sessions/{id}/events?after=-1", "query.after"),
        ("/v1/sessions/{id}/events?after=9223372036854775808", "query.after"),
        ("/v1/sessions/{id}/events?wait_ms=30001", "query.wait_ms"),
        ("/v1/sessions/{id}/events?since=yesterday", "query.since"),
        ("/v1/sessions/{id}/events/stream?until=bored", "query.until"),
        ("/v1/runs/run_none/wait?timeout_s=301", "query.timeout_s"),
        ("/v1/runs/run_none/wait?timeout_s=nan", "query.timeout_s"),
    ],
)
async def test_parameters_outside_their_limits_are_refused(ask: httpx2.AsyncClient, path: str, field: str) -> None:
    """Never clamped in silence."""
    response = await ask.get(path.format(id=await new_session(ask)))
    assert problem_in(response, 422, "validation_error")["details"]["field"] == field


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/sessions?cursor=rubbish", "invalid_cursor"),
        ("/v1/runs?cursor=%C3%A9", "invalid_cursor"),
        ("/v1/sessions?status=happy", "invalid_status"),
        ("/v1/runs?status=happy", "invalid_status"),
        ("/v1/sessions/{id}/events?type=run_startd", "invalid_event_type"),
        ("/v1/sessions/{id}/events/stream?type=run_started,nonsense", "invalid_event_type"),
        ("/v1/sessions/%00", "validation_error"),
    ],
)
async def test_filters_that_can_never_match_are_refused(ask: httpx2.AsyncClient, path: str, code: str) -> None:
    """A typing error is told, not answered with an empty list."""
    problem_in(await ask.get(path.format(id=await new_session(ask))), 422, code)


@pytest.mark.parametrize("header", ["-1", "abc", "1.5", str(2**63)])
async def test_an_invalid_last_event_id_is_refused(ask: httpx2.AsyncClient, header: str) -> None:
    """Before the stream begins."""
    path = f"/v1/sessions/{await new_session(ask)}/events/stream"
    response = await ask.get(path, headers={"Last-Event-ID": header})
    assert problem_in(response, 422, "validation_error")["details"]["field"].lower() == "header.last-event-id"


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_an_idempotency_key_has_1_to_255_characters(ask: httpx2.AsyncClient, key: str) -> None:
    for path in ("/v1/runs", f"/v1/sessions/{await new_session(ask)}/runs"):
        response = await ask.post(path, json=INPUT, headers={"Idempotency-Key": key})
        assert problem_in(response, 422, "validation_error")["details"]["field"] == "header.idempotency-key"


async def _in_pieces(total: int) -> AsyncIterator[bytes]:
    yield b'{"agent_id": "'
    for _ in range(total // 1_000):
        yield b"x" * 1_000
    yield b'"}'


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/runs", f"{NO_SESSION}/pause", "/v1/nothing"])
async def test_a_body_over_the_limit_is_refused(api: LiveApi, ask: httpx2.AsyncClient, path: str) -> None:
    """By its declared length, on every route, with what the limit is."""
    limit = api.settings.max_body_bytes
    problem = problem_in(await ask.post(path, content=b"x" * (limit + 1)), 413, "payload_too_large")
    assert str(limit) in problem["detail"]


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/runs"])
async def test_a_body_over_the_limit_is_refused_without_a_declared_length(
    api: LiveApi, ask: httpx2.AsyncClient, path: str
) -> None:
    """A chunked body is cut off at the limit."""
    pieces = _in_pieces(api.settings.max_body_bytes + 2_000)
    response = await ask.post(path, content=pieces, headers={"Content-Type": "application/json"})
    problem_in(response, 413, "payload_too_large")


async def test_an_input_over_its_own_limit_is_refused(api: LiveApi, ask: httpx2.AsyncClient) -> None:
    body = {"input": {"prompt": "x" * api.settings.max_input_bytes}}
    problem_in(await ask.post("/v1/runs", json=body), 413, "payload_too_large")


KEY = "s3cret-of-the-tests"


@pytest.fixture
def guarded(start_api: StartApi, database_url: str) -> LiveApi:
    return start_api(database_url=database_url, api_key=KEY)


async def test_with_a_key_set_nothing_but_healthz_is_open(guarded: LiveApi) -> None:
    """Not the documentation, not readiness, not unknown paths; and a wrong key is no key."""
    paths = ["/v1/sessions", "/v1/stats", f"{NO_SESSION}/events/stream", "/readyz", "/docs", "/openapi.json", "/x"]
    attempts: list[dict[str, Any]] = [
        {},
        {"params": {"api_key": KEY}},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"headers": {"Authorization": f"Basic {KEY}"}},
        {"headers": {"Authorization": "Bearer"}},
        {"headers": {"Authorization": "Bearer é".encode("latin-1")}},
        {"headers": {"X-API-Key": KEY}},
    ]
    async with httpx2.AsyncClient(base_url=guarded.base_url) as http:
        assert (await http.get("/healthz")).status_code == 200
        for path in paths:
            for attempt in attempts:
                response = await http.get(path, **attempt)
                problem = problem_in(response, 401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
                assert KEY not in problem["detail"]
        problem_in(await http.post("/v1/runs", content=b"{"), 401, "unauthorized")
        for scheme in ("Bearer", "bearer"):
            assert (await http.get("/v1/stats", headers={"Authorization": f"{scheme} {KEY}"})).status_code == 200


def test_the_server_refuses_strangers_without_a_key() -> None:
    """Beyond loopback a key is needed; the refusal says what to do."""
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", ""):
        with pytest.raises(AsmError) as refused:
            build_server(Settings(), host, 0)
        assert refused.value.code is ErrorCode.UNAUTHORIZED
        assert "ASM_API_KEY" in refused.value.message
        build_server(Settings(api_key="k"), host, 0)  # type: ignore[arg-type]
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"):
        build_server(Settings(), host, 0)
    with pytest.raises(AsmError):
        build_server(Settings(api_key=""), "0.0.0.0", 0)  # type: ignore[arg-type]


class BrokenStore(SqlSessionStore):
    """The real store; one of its methods has a bug."""

    async def stats(self, tenant_id: str) -> Any:
        raise RuntimeError("the password is hunter2")


@asynccontextmanager
async def with_broken_store(settings: Settings) -> AsyncIterator[Deps]:
    store = BrokenStore(open_engine(settings.database_url, application_name="test"))
    async with open_deps(settings) as deps:
        yield replace(deps, store=store)
    await store.close()


async def test_an_unexpected_failure_tells_the_log_and_not_the_client(
    start_api: StartApi, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """500 without internals; the trace is logged; the server goes on."""
    broken = start_api(deps_factory=with_broken_store, database_url=database_url)
    async with httpx2.AsyncClient(base_url=broken.base_url) as http:
        problem = problem_in(await http.get("/v1/stats"), 500, "internal_error")
        assert "hunter2" not in json.dumps(problem)
        assert (await http.get("/v1/sessions")).status_code == 200
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


def _every_code() -> Iterator[ErrorCode]:
    yield from ErrorCode


def test_every_status_fits_its_code() -> None:
    """What may be repeated is never a caller's mistake, and every code has a status."""
    statuses = {code: STATUS.get(code, 500) for code in _every_code()}
    assert statuses[ErrorCode.MIGRATION_REQUIRED] == statuses[ErrorCode.STORAGE_CONNECTION_FAILED] == 503
    assert {code for code, status in statuses.items() if status == 404} == {
        code for code in ErrorCode if code.endswith("not_found") and not code.startswith("tool")
    }


def test_the_documented_answers_are_the_domains_own() -> None:
    """The models in openapi.json name exactly the keys that are sent."""
    assert set(SessionAnswer.model_fields) == set(a_session().to_map())
    assert set(RunAnswer.model_fields) == set(a_run().to_map())
    assert set(EventAnswer.model_fields) == set(an_event().to_map())


async def test_the_documentation_describes_every_route(ask: httpx2.AsyncClient) -> None:
    """openapi.json lists the routes, and every failure as a problem."""
    document = (await ask.get("/openapi.json")).json()
    assert {"/v1/sessions/{session_id}/runs", "/v1/sessions/{session_id}/events/stream", "/readyz"} <= set(
        document["paths"]
    )
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "default" in operation["responses"], path
            assert "422" not in operation["responses"], path
    queue = (await ask.get(f"/v1/sessions/{await new_session(ask)}/queue")).json()
    assert set(QueueAnswer.model_fields) == set(queue)
