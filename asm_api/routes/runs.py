"""Runs: submit, look, wait, stop."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from asm_api.auth import Tenant
from asm_api.routes import Filter, IdempotencyKey, Limit, PageCursor, answer
from asm_api.schemas import MAX_WAIT_S, ControlAnswer, OneShotRequest, RunAnswer, RunPage, SubmitAnswer, SubmitRequest
from asm_api.wiring import Wired
from asm_core.clock import SystemClock, new_id
from asm_core.domain import ids
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.session import Session
from asm_core.ports.queue import CancelRequest, Submitted

router = APIRouter(prefix="/v1", tags=["runs"])

TimeoutS = Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)]


@router.post("/sessions/{session_id}/runs", status_code=202, response_model=SubmitAnswer)
async def submit_run(
    session_id: str, body: SubmitRequest, deps: Wired, tenant_id: Tenant, idempotency_key: IdempotencyKey = None
) -> Response:
    """Queue a run."""
    submitted = await deps.submitter.submit(session_id, tenant_id, body.run_request(), idempotency_key)
    return answer(submitted_map(submitted), 202)


@router.post("/runs", status_code=202, response_model=SubmitAnswer)
async def submit_one_shot(
    body: OneShotRequest, deps: Wired, tenant_id: Tenant, idempotency_key: IdempotencyKey = None
) -> Response:
    """Queue a run with a session of its own, which ends with it."""
    session = Session.new(
        id=new_id(ids.SESSION),
        now=SystemClock().now(),
        tenant_id=tenant_id,
        agent_id=body.agent_id,
        context=body.context,
    )
    submitted = await deps.submitter.submit_once(session, body.run_request(), idempotency_key)
    return answer(submitted_map(submitted), 202)


@router.get("/runs", response_model=RunPage)
async def list_runs(
    deps: Wired,
    tenant_id: Tenant,
    session_id: Filter = None,
    status: Filter = None,
    provider: Filter = None,
    limit: Limit = 100,
    cursor: PageCursor = None,
) -> Response:
    """Newest first."""
    page = await deps.store.list_runs(
        tenant_id, session_id=session_id, status=status, provider=provider, limit=limit, cursor=cursor
    )
    return answer({"runs": [run.to_map() for run in page.items], "cursor": page.cursor})


@router.get("/runs/{run_id}", response_model=RunAnswer)
async def get_run(run_id: str, deps: Wired, tenant_id: Tenant) -> Response:
    return answer((await deps.store.get_run(run_id, tenant_id)).to_map())


@router.get("/runs/{run_id}/wait", response_model=RunAnswer, responses={202: {"model": RunAnswer}})
async def wait_for_run(run_id: str, deps: Wired, tenant_id: Tenant, timeout_s: TimeoutS = 30.0) -> Response:
    """200 with the run once it is terminal; 202 with the run as it stands when the time is over."""
    run = await deps.follower(tenant_id).await_run(run_id, timeout_s=timeout_s)
    return answer(run.to_map(), 200 if run.is_terminal else 202)


@router.post("/runs/{run_id}/cancel", status_code=202, response_model=ControlAnswer)
async def cancel_run(run_id: str, deps: Wired, tenant_id: Tenant) -> Response:
    """A queued run ends at once, one in flight soon; one that has ended stays as it is."""
    return answer(control_map(await deps.control.cancel(run_id, tenant_id)), 202)


@router.post("/runs/{run_id}/interrupt", status_code=202, response_model=ControlAnswer)
async def interrupt_run(run_id: str, deps: Wired, tenant_id: Tenant) -> Response:
    """Stop a run in flight; it ends `cancelled` with reason `interrupted`."""
    return answer(control_map(await deps.control.interrupt(run_id, tenant_id)), 202)


@router.post("/runs/{run_id}/pause", status_code=202, response_model=ControlAnswer)
@router.post("/runs/{run_id}/resume", status_code=202, response_model=ControlAnswer)
@router.post("/runs/{run_id}/input", status_code=202, response_model=ControlAnswer)
async def steer_run(run_id: str, request: Request, deps: Wired, tenant_id: Tenant) -> Response:
    """501: no provider offers these yet."""
    run = await deps.store.get_run(run_id, tenant_id)
    operation = request.url.path.rpartition("/")[2]
    raise AsmError(
        ErrorCode.CAPABILITY_NOT_SUPPORTED,
        f"the provider {run.provider} cannot {operation} a run",
        details={"run_id": run_id, "provider": run.provider, "operation": operation},
    )


def submitted_map(submitted: Submitted) -> dict[str, Any]:
    return {
        "id": submitted.run_id,
        "session_id": submitted.session_id,
        "status": submitted.status,
        "position": submitted.position,
        "replayed": submitted.replayed,
    }


def control_map(request: CancelRequest) -> dict[str, Any]:
    return {"id": request.run_id, "session_id": request.session_id, "status": request.status}
