"""Events of a session: pages, long polls and the stream."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Response
from starlette.responses import StreamingResponse

from asm_api.auth import Tenant
from asm_api.routes import JSON, Filter, Limit
from asm_api.schemas import MAX_POLL_MS, MAX_SEQUENCE, EventPage
from asm_api.sse import EventStream
from asm_api.wiring import Wired
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventFrame, EventType, valid_type
from asm_core.ports.store import EventFilter

router = APIRouter(prefix="/v1/sessions/{session_id}/events", tags=["events"])

After = Annotated[int, Query(ge=0, le=MAX_SEQUENCE, description="Sequence number behind which to begin.")]
LastEventId = Annotated[int | None, Header(ge=0, le=MAX_SEQUENCE, description="Beats `after`.")]
PollMs = Annotated[int, Query(ge=0, le=MAX_POLL_MS, description="How long to wait when there is no event yet.")]


def event_types(
    type: Annotated[list[str] | None, Query(description="Repeated, or separated by commas.")] = None,
) -> tuple[str, ...]:
    """Raises AsmError `invalid_event_type`: a filter that can never match is a mistake."""
    names = [name.strip() for given in type or () for name in given.split(",") if name.strip()]
    for name in names:
        if not valid_type(name):
            message = f"query.type: unknown event type {name[:80]!r}; one of: {', '.join(EventType)}"
            raise AsmError(ErrorCode.INVALID_EVENT_TYPE, message, details={"field": "query.type"})
    return tuple(names)


Types = Annotated[tuple[str, ...], Depends(event_types)]


@router.get("", response_model=EventPage)
async def list_events(
    session_id: str,
    deps: Wired,
    tenant_id: Tenant,
    types: Types,
    after: After = 0,
    before: Annotated[int | None, Query(ge=0, le=MAX_SEQUENCE)] = None,
    limit: Limit = 100,
    run_id: Filter = None,
    since: Annotated[datetime | None, Query(description="By the emitter's clock; UTC where it names no zone.")] = None,
    wait_ms: PollMs = 0,
) -> Response:
    """In sequence order. With `wait_ms`, an empty page waits for the first event that passes the filter."""
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    where = EventFilter(after=after, before=before, types=types, run_id=run_id, since=since)
    page = await deps.follower(tenant_id).next_events(session_id, where, limit=limit, wait_s=wait_ms / 1000)
    latest = (await deps.store.latest_sequences([session_id])).get(session_id, 0)
    return Response(_page(page, after, latest), media_type=JSON)


@router.get("/stream", response_class=StreamingResponse, responses={200: {"content": {EventStream.media_type: {}}}})
async def stream_events(
    session_id: str,
    deps: Wired,
    tenant_id: Tenant,
    types: Types,
    after: After = 0,
    run_id: Filter = None,
    until: Annotated[Literal["idle"] | None, Query(description="End when nothing is queued or running.")] = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Every event behind the cursor, then each as it is stored. `id:` is the sequence number."""
    await deps.store.get_session(session_id, tenant_id)
    where = EventFilter(after=after if last_event_id is None else last_event_id, types=types, run_id=run_id)
    return EventStream(deps.follower(tenant_id), session_id, where, until_idle=until == "idle")


def _page(frames: list[EventFrame], after: int, latest: int) -> bytes:
    """Stored events are JSON already; they are spliced, not encoded again."""
    next_after = frames[-1].sequence_number if frames else after
    events = b",".join(frame.body for frame in frames)
    return b'{"events":[%s],"next_after":%d,"latest":%d}' % (events, next_after, latest)
