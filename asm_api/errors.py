"""Errors on their way out: every failure leaves as `application/problem+json`, with its status from one table."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asm_core.domain.errors import CODES, AsmError, ErrorCode
from asm_core.domain.fields import to_jsonable
from asm_core.domain.redaction import REDACTOR, Redactor
from asm_core.wire import dumps

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
RETRY_AFTER_S = 1
"""What a client is told to wait when the error does not say."""
MAX_DETAIL, MAX_NAME, MAX_PROBLEMS = 1_000, 100, 10
"""Characters of a message and of a field's name, fields listed: a caller's text is never sent back whole."""

_E = ErrorCode

STATUS: Mapping[ErrorCode, int] = {
    _E.VALIDATION_ERROR: 422,
    _E.INVALID_INPUT: 422,
    _E.MISSING_REQUIRED_FIELD: 422,
    _E.INVALID_FORMAT: 422,
    _E.INVALID_STATUS: 422,
    _E.INVALID_EVENT_TYPE: 422,
    _E.INVALID_CAPABILITY_TYPE: 422,
    _E.MISSING_REQUIRED_CAPABILITY: 422,
    _E.INVALID_CURSOR: 422,
    _E.POLICY_VIOLATION: 422,
    _E.UNAUTHORIZED: 401,
    _E.FORBIDDEN: 403,
    _E.NOT_FOUND: 404,
    _E.SESSION_NOT_FOUND: 404,
    _E.RUN_NOT_FOUND: 404,
    _E.CAPABILITY_NOT_FOUND: 404,
    _E.TIMEOUT: 408,
    _E.ALREADY_EXISTS: 409,
    _E.INVALID_OPERATION: 409,
    _E.INVALID_TRANSITION: 409,
    _E.PAYLOAD_TOO_LARGE: 413,
    _E.MAX_RUNS_EXCEEDED: 429,
    _E.MAX_SESSIONS_EXCEEDED: 429,
    _E.RATE_LIMITED: 429,
    _E.CAPABILITY_NOT_SUPPORTED: 501,
    _E.STREAM_CLOSED: 503,
    _E.STORAGE_CONNECTION_FAILED: 503,
    _E.MIGRATION_REQUIRED: 503,
}
"""Anything else is 500."""

_CODE_OF_STATUS: Mapping[int, ErrorCode] = {
    400: _E.VALIDATION_ERROR,
    404: _E.NOT_FOUND,
    405: _E.INVALID_OPERATION,
    413: _E.PAYLOAD_TOO_LARGE,
}
"""For the framework's own refusals."""

_OUR_WORDS = {"extra_forbidden": "unknown field", "missing": "is required"}


def problem_of(error: AsmError, status: int | None = None, redactor: Redactor = REDACTOR) -> dict[str, Any]:
    """The body of a problem response, also sent inside WebSocket error frames. Secrets are not repeated."""
    error = redactor.error(error)
    details = {name: value for name, value in error.details.items() if name != "again"}
    problem: dict[str, Any] = to_jsonable(
        {
            "type": f"urn:asm:error:{error.code}",
            "title": CODES[error.code].default_message,
            "status": status or STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR),
            "code": error.code,
            "detail": _clipped(error.message, MAX_DETAIL),
            "retryable": error.retryable,
            "details": details,
        }
    )
    return problem


def problem_response(
    error: AsmError,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    redactor: Redactor = REDACTOR,
) -> Response:
    problem = problem_of(error, status, redactor)
    headers = dict(headers or {})
    if problem["status"] in (429, 503):
        headers["Retry-After"] = str(error.details.get("retry_after_s", RETRY_AFTER_S))
    if problem["status"] == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(dumps(problem), problem["status"], headers, PROBLEM)


def invalid_request(problems: Sequence[Mapping[str, Any]]) -> AsmError:
    """
    One error for what pydantic found wrong, naming each field.

    Args:
        problems: pydantic's `errors()`: `loc`, `type`, `msg`.
    """
    found = [{"field": _name_of(problem["loc"]), "problem": _words_of(problem)} for problem in problems[:MAX_PROBLEMS]]
    message = "; ".join(f"{entry['field']}: {entry['problem']}" for entry in found)
    return AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": found[0]["field"], "errors": found})


def install_error_handlers(app: FastAPI, redactor: Redactor = REDACTOR) -> None:
    """Turn every exception that leaves a route into a problem."""
    app.add_middleware(UnexpectedErrors)

    @app.exception_handler(AsmError)
    async def of_asm(_: HTTPConnection, error: AsmError) -> Response:
        return problem_response(error, redactor=redactor)

    @app.exception_handler(WebSocketRequestValidationError)
    @app.exception_handler(RequestValidationError)
    async def of_validation(
        _: HTTPConnection, error: RequestValidationError | WebSocketRequestValidationError
    ) -> Response:
        return problem_response(invalid_request(error.errors()), redactor=redactor)

    @app.exception_handler(HTTPException)
    async def of_framework(connection: HTTPConnection, error: HTTPException) -> Response:
        code = _CODE_OF_STATUS.get(error.status_code, ErrorCode.UNKNOWN_ERROR)
        method = connection.scope.get("method", "GET")
        message = f"{method} {_clipped(connection.url.path, MAX_NAME)}: {error.detail}"
        return problem_response(AsmError(code, message), error.status_code, error.headers, redactor)


class UnexpectedErrors:
    """Answers 500 to what nobody foresaw and logs it with its trace; the connection stays usable."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception:
            if scope["type"] != "http" or has_begun:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            await problem_response(unexpected())(scope, receive, send)


def unexpected() -> AsmError:
    """What a client is told about a failure that is ours."""
    return AsmError(ErrorCode.INTERNAL_ERROR, "the request failed; the server's log says why")


def _name_of(path: Sequence[object]) -> str:
    return ".".join(_clipped(str(part), MAX_NAME) for part in path)


def _words_of(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "json_invalid":
        return f"not valid JSON: {problem['ctx']['error']}"
    if isinstance(problem.get("input"), bytes):
        return "must be a JSON object, sent with Content-Type: application/json"
    return _clipped(_OUR_WORDS.get(problem["type"]) or problem["msg"], MAX_DETAIL)


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
