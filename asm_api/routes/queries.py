"""Questions across sessions: events, usage, cost."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from asm_api.auth import Tenant
from asm_api.routes import JSON, Filter, Limit, PageCursor, answer
from asm_api.routes.events import Types
from asm_api.schemas import EventSearchPage, Text, UsageAnswer
from asm_api.wiring import Wired
from asm_core.domain.event import EventFrame
from asm_core.ports.query import EventSearch, Found, UsageSearch
from asm_core.wire import dumps

router = APIRouter(prefix="/v1", tags=["queries"])

MAX_NAMES = 100
"""Values of one filter."""

Names = Annotated[list[Text] | None, Query(max_length=MAX_NAMES, description="Repeated: any of them.")]
Instant = Annotated[datetime | None, Query(description="Inclusive; UTC where it names no zone.")]
EventOrder = Literal["sequence_asc", "timestamp_asc", "timestamp_desc"]


@router.get("/events", response_model=EventSearchPage)
async def search_events(
    deps: Wired,
    tenant_id: Tenant,
    types: Types,
    session_id: Names = None,
    run_id: Names = None,
    provider: Names = None,
    correlation_id: Filter = None,
    since: Instant = None,
    until: Instant = None,
    order_by: Annotated[EventOrder, Query(description="Across sessions prefer a time.")] = "sequence_asc",
    limit: Limit | None = None,
    cursor: PageCursor = None,
) -> Response:
    """Of all sessions. The cursor of a page belongs to its filters and order."""
    where = EventSearch(
        session_ids=session_id,
        run_ids=run_id,
        types=types,
        providers=provider,
        correlation_id=correlation_id,
        since=since,
        until=until,
        order_by=order_by,
        limit=limit,
        cursor=cursor,
    )
    return Response(_page(await deps.query.search_events(tenant_id, where)), media_type=JSON)


@router.get("/usage", response_model=UsageAnswer)
async def get_usage(
    deps: Wired,
    tenant_id: Tenant,
    session_id: Filter = None,
    agent_id: Filter = None,
    provider: Names = None,
    since: Instant = None,
    until: Instant = None,
) -> Response:
    """Tokens and cost of the runs that began in a time; one that has not started counts from its submit."""
    where = UsageSearch(session_id=session_id, agent_id=agent_id, provider=provider, since=since, until=until)
    usage = await deps.query.get_usage_summary(tenant_id, where)
    cost = await deps.query.get_cost_summary(tenant_id, where)
    return answer({"usage": usage.to_map(), "cost": cost.to_map()})


def _page(found: Found[EventFrame]) -> bytes:
    """Stored events are JSON already; they are spliced, not encoded again."""
    events = b",".join(frame.body for frame in found.items)
    return b'{"events":[%s],"cursor":%s,"has_more":%s}' % (events, dumps(found.cursor), dumps(found.has_more))
