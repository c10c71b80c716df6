"""Who may ask, and on whose behalf."""

from __future__ import annotations

from hmac import compare_digest
from ipaddress import ip_address
from typing import Annotated

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from asm_api.errors import problem_response
from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.session import DEFAULT_TENANT

OPEN_PATHS = frozenset({"/healthz"})


def tenant() -> str:
    """The tenant that a request acts for: one for all, until API keys belong to tenants."""
    return DEFAULT_TENANT


Tenant = Annotated[str, Depends(tenant)]


class ApiKeyGate:
    """Lets nothing but `/healthz` through without the key; stands before routing, so that it covers every path."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS or self._admits(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        message = "this server needs its API key: send `Authorization: Bearer <key>`"
        await problem_response(AsmError(ErrorCode.UNAUTHORIZED, message))(scope, receive, send)

    def _admits(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and compare_digest(key.strip().encode(), self._key)


def check_exposure(settings: Settings, host: str) -> None:
    """
    Refuse to listen where strangers can connect while nobody needs a key.

    Raises:
        AsmError: `unauthorized`, with the remedy.
    """
    if not settings.api_key and not _is_loopback(host):
        message = f"refusing to listen on {host} without an API key; set ASM_API_KEY, or listen on 127.0.0.1"
        raise AsmError(ErrorCode.UNAUTHORIZED, message, details={"host": host})


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
