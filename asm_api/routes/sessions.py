"""Sessions and their queues."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from asm_api.auth import Tenant
from asm_api.routes import Filter, Limit, PageCursor, answer
from asm_api.schemas import (
    AuditPage,
    DrainRequest,
    EndQueued,
    EndRequest,
    ForkRequest,
    QueueAnswer,
    SessionAnswer,
    SessionPage,
    SessionRequest,
    Text,
)
from asm_api.wiring import Wired
from asm_core.clock import SystemClock, new_id
from asm_core.domain import ids
from asm_core.domain.session import Session
from asm_core.ports.audit import AuditFilter
from asm_core.ports.store import QueueStatus

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

MAX_ACTIONS = 100
"""Values of one filter."""

Queued = Annotated[EndQueued | None, Query(description="The same as in the body.")]


@router.post("", status_code=201, response_model=SessionAnswer)
async def create_session(body: SessionRequest, deps: Wired, tenant_id: Tenant) -> Response:
    if body.provider is not None:
        deps.providers.get(body.provider)
    session = Session.new(id=new_id(ids.SESSION), now=SystemClock().now(), tenant_id=tenant_id, **body.model_dump())
    return answer((await deps.sessions.create(session)).to_map(), 201)


@router.get("", response_model=SessionPage)
async def list_sessions(
    deps: Wired,
    tenant_id: Tenant,
    status: Filter = None,
    agent_id: Filter = None,
    tag: Filter = None,
    limit: Limit = 100,
    cursor: PageCursor = None,
) -> Response:
    """Newest first."""
    page = await deps.store.list_sessions(
        tenant_id, status=status, agent_id=agent_id, tag=tag, limit=limit, cursor=cursor
    )
    return answer({"sessions": [session.to_map() for session in page.items], "cursor": page.cursor})


@router.get("/{session_id}", response_model=SessionAnswer)
async def get_session(session_id: str, deps: Wired, tenant_id: Tenant) -> Response:
    return answer((await deps.store.get_session(session_id, tenant_id)).to_map())


@router.post("/{session_id}/fork", status_code=201, response_model=SessionAnswer)
async def fork_session(session_id: str, deps: Wired, tenant_id: Tenant, body: ForkRequest | None = None) -> Response:
    """A new session whose log begins with this one's events, by reference; this one goes on undisturbed."""
    given = (body or ForkRequest()).model_dump(exclude_none=True)
    if "provider" in given:
        deps.providers.get(given["provider"])
    return answer((await deps.sessions.fork(session_id, tenant_id, **given)).to_map(), 201)


@router.post("/{session_id}/pause", response_model=SessionAnswer)
async def pause_session(session_id: str, deps: Wired, tenant_id: Tenant) -> Response:
    """No further run begins; what is in flight goes on."""
    return answer((await deps.sessions.pause(session_id, tenant_id)).to_map())


@router.post("/{session_id}/resume", response_model=SessionAnswer)
async def resume_session(session_id: str, deps: Wired, tenant_id: Tenant) -> Response:
    return answer((await deps.sessions.resume(session_id, tenant_id)).to_map())


@router.post("/{session_id}/complete", response_model=SessionAnswer)
async def complete_session(
    session_id: str, deps: Wired, tenant_id: Tenant, body: EndRequest | None = None, queued: Queued = None
) -> Response:
    """Refused while a run is in flight."""
    session = await deps.sessions.complete(session_id, tenant_id, cancel_queued=_cancels(body, queued))
    return answer(session.to_map())


@router.post("/{session_id}/cancel", response_model=SessionAnswer)
async def cancel_session(
    session_id: str, deps: Wired, tenant_id: Tenant, body: EndRequest | None = None, queued: Queued = None
) -> Response:
    """With `queued: cancel`, runs in flight are asked to stop."""
    session = await deps.sessions.cancel(session_id, tenant_id, cancel_queued=_cancels(body, queued))
    return answer(session.to_map())


@router.post("/{session_id}/drain", response_model=QueueAnswer)
async def drain_session(session_id: str, deps: Wired, tenant_id: Tenant, body: DrainRequest | None = None) -> Response:
    """Wait until nothing is queued, in flight or parked. Does not stop new submits; 408 when the time is over."""
    await deps.follower(tenant_id).drain(session_id, timeout_s=(body or DrainRequest()).timeout_s)
    return answer(_queue_map(await deps.store.queue_status(session_id, tenant_id)))


@router.get("/{session_id}/queue", response_model=QueueAnswer)
async def get_queue(session_id: str, deps: Wired, tenant_id: Tenant) -> Response:
    return answer(_queue_map(await deps.store.queue_status(session_id, tenant_id)))


@router.get("/{session_id}/audit", response_model=AuditPage)
async def get_audit_log(
    session_id: str,
    deps: Wired,
    tenant_id: Tenant,
    run_id: Filter = None,
    action: Annotated[list[Text] | None, Query(max_length=MAX_ACTIONS, description="Repeated: any of them.")] = None,
    since: Annotated[datetime | None, Query(description="Exclusive; UTC where it names no zone.")] = None,
    limit: Limit = 100,
    cursor: PageCursor = None,
) -> Response:
    """What was done to the session and its runs, oldest first; of a deleted session too."""
    where = AuditFilter(run_id=run_id, actions=action or (), since=since)
    page = await deps.audit.get_audit_log(session_id, tenant_id, where, limit=limit, cursor=cursor)
    if not page.items:  # a session without any entry: is there one at all?
        await deps.store.get_session(session_id, tenant_id)
    return answer({"entries": [entry.to_map() for entry in page.items], "cursor": page.cursor})


def _cancels(body: EndRequest | None, query: EndQueued | None) -> bool:
    return ((body.queued if body else None) or query) == "cancel"


def _queue_map(status: QueueStatus) -> dict[str, Any]:
    return {
        "session_id": status.session_id,
        "state": status.state,
        "in_flight_count": len(status.in_flight_runs),
        "in_flight_runs": status.in_flight_runs,
        "queued_count": len(status.queued_runs),
        "queued_runs": status.queued_runs,
        "parked_count": len(status.parked_runs),
        "parked_runs": status.parked_runs,
        "max_concurrent_runs": status.max_concurrent_runs,
        "max_queued_runs": status.max_queued_runs,
        "oldest_queued_age_ms": status.oldest_queued_age_ms,
        "limiter_waiting": status.limiter_waiting,
        "last_sequence": status.last_sequence,
    }
