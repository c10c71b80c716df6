"""What a queue is asked, as plain maps: the same whether SQL functions or Python read them; and the common answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asm_core.domain.errors import LeaseLost
from asm_core.domain.event import Event
from asm_core.domain.fields import to_jsonable
from asm_core.domain.lease import Lease
from asm_core.domain.run import RunOutcome
from asm_core.domain.session import Session
from asm_core.ports.queue import Submission
from asm_core.wire import event_fields


def session_map(session: Session) -> dict[str, Any]:
    return session.to_map() | {"tenant_id": session.tenant_id}


def submission_map(submission: Submission) -> dict[str, Any]:
    return {
        "run_id": submission.run_id,
        "session_id": submission.session_id,
        "tenant_id": submission.tenant_id,
        "input": submission.input,
        "options": submission.options.to_map(),
        "metadata": submission.metadata,
        "idempotency_key": submission.idempotency_key,
        "request_hash": submission.request_hash,
        "new_session": session_map(submission.new_session) if submission.new_session else None,
        "queued": submission.queued,
    }


def append_map(lease: Lease, events: Sequence[Event]) -> dict[str, Any]:
    return {
        "session": lease.session_id,
        "run": lease.run_id,
        "tenant": lease.tenant_id,
        "fence": lease.fence,
        "attempt": events[0].attempt,
        "events": [event_fields(event) for event in events],
    }


def outcome_map(outcome: RunOutcome) -> Mapping[str, Any]:
    """Made plain here: an adapter's own words may hold what is refused elsewhere, and then the run could never end."""
    plain: Mapping[str, Any] = to_jsonable(
        {
            "status": outcome.status,
            "output": outcome.output,
            "error": outcome.error.to_payload() if outcome.error else None,
            "data": outcome.data,
            "provider_metadata": outcome.provider_metadata,
            "turn_count": outcome.turn_count,
            "metadata": outcome.metadata,
        }
    )
    return plain


def numbered(lease: Lease, events: Sequence[Event], numbers: Mapping[str, int]) -> list[Event] | LeaseLost:
    if any(event.id not in numbers for event in events):
        return LeaseLost(lease.run_id)
    return [event.with_sequence(numbers[event.id]) for event in events]
