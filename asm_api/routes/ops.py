"""What operators and load balancers ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response

from asm_api.auth import Tenant
from asm_api.routes import answer
from asm_api.wiring import Deps, Wired
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.model_prices import price_list, priced_models

router = APIRouter(tags=["operation"])

CHECK_S = 5.0
"""For one needed service to answer a readiness check."""


@router.get("/healthz")
async def healthz() -> Response:
    """This process answers. Says nothing about what it needs."""
    return answer({"status": "ok"})


@router.get("/readyz")
async def readyz(deps: Wired) -> Response:
    """Everything it needs answers; else 503, naming what is missing."""
    problems = await asyncio.gather(*map(_problem, deps.checks.values()))
    missing = {name: problem for name, problem in zip(deps.checks, problems, strict=True) if problem}
    if missing:
        message = "not ready: " + "; ".join(f"{name}: {problem}" for name, problem in missing.items())
        raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, message, details={"missing": list(missing)})
    return answer({"status": "ready"})


@router.get("/v1/providers")
async def list_providers(deps: Wired, tenant_id: Tenant) -> Response:
    """What each provider can do."""
    return answer({"providers": [_provider_map(deps, name) for name in deps.providers.names]})


@router.get("/v1/models")
async def list_models(deps: Wired, tenant_id: Tenant) -> Response:
    """The models whose prices are known, per provider. Others may be named all the same."""
    prices = price_list(deps.settings.pricing_table)
    return answer({"models": {name: priced_models(name, prices) for name in deps.providers.names}})


@router.get("/v1/stats")
async def get_stats(deps: Wired, tenant_id: Tenant) -> Response:
    """Sessions and runs by status, events, and the fleet's live workers with their slots."""
    return answer(asdict(await deps.store.stats(tenant_id)))


async def _problem(check: Callable[[], Awaitable[object]]) -> str | None:
    try:
        async with asyncio.timeout(CHECK_S):
            await check()
    except AsmError as error:
        return error.message
    except TimeoutError:
        return f"no answer within {CHECK_S:g} s"
    return None


def _provider_map(deps: Deps, name: str) -> dict[str, Any]:
    """One that lacks something on this machine is listed with the reason."""
    try:
        capabilities = deps.providers.get(name).capabilities()
    except AsmError as error:
        return {"name": name, "available": False, "reason": error.message, "capabilities": []}
    return {"name": name, "available": True, "capabilities": [capability.to_map() for capability in capabilities]}
