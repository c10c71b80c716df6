"""Identifiers: a prefix and 32 lower-case hex digits. Random ones come from `clock.new_id`; event ids are derived."""

from __future__ import annotations

from hashlib import blake2b

SESSION = "ses"
RUN = "run"
EVENT = "evt"
NORMALIZED_EVENT = "nevt"
WORKER = "wrk"
ARTIFACT = "art"


def event_id(run_id: str, fence: int, ordinal: int) -> str:
    """
    The id of the `ordinal`-th event (from 0) that the holder of `fence` emits for a run.

    The same three facts give the same id, so an append repeated after an unknown commit stores nothing twice. The
    first half is the run's own (ids of one run lie together in the index), the second half a digest.

    Source: DESIGN §5 "Exactly once".
    """
    digest = blake2b(f"{run_id}|{fence}|{ordinal}".encode(), digest_size=8).hexdigest()
    return f"{EVENT}_{_index_prefix(run_id)}{digest}"


def _index_prefix(run_id: str) -> str:
    _, _, digits = run_id.rpartition("_")
    if len(digits) == 32 and all(digit in "0123456789abcdef" for digit in digits):
        return digits[:16]
    return blake2b(run_id.encode(), digest_size=8).hexdigest()
