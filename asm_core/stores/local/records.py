"""What the queue needs of a place that keeps records: rows by table and key, changed all or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

Row = dict[str, Any]
"""One record by column name, as in `stores/sql/tables.py`: plain JSON values, enums as text, times aware."""

Where = Mapping[str, Any]
"""Conditions that hold together: column to value, to a tuple (any of them), to None (unset) or to PRESENT (set)."""


class _Present:
    def __repr__(self) -> str:
        return "PRESENT"


PRESENT: Final = _Present()


class Transaction(Protocol):
    """
    Reads see the writes before them. Rows given out belong to the caller, rows handed in are copied.

    Table names are those of `TABLES`; a wrong one, or an unknown column, is a mistake of ours and raises KeyError.
    """

    def find(self, table: str, *key: Any) -> Row | None: ...

    def rows(self, table: str, where: Where, *, order_by: str | None = None, limit: int | None = None) -> list[Row]:
        """In ascending order of a column; in no order at all without one."""

    def column(self, table: str, name: str, where: Where) -> list[Any]:
        """One column of the rows, in no order; cheaper than the rows."""

    def insert(self, table: str, row: Row) -> Row:
        """
        The row as it is stored, columns that it left out at their defaults.

        Raises AsmError `validation_error`: its key, or an event's id, is taken.
        """

    def insert_all(self, table: str, rows: Sequence[Row]) -> None:
        """As `insert`, many at once."""

    def update(self, table: str, key: Any, **changes: Any) -> Row:
        """The row with the changes. It must exist; only tables with a key of one column are changed."""

    def delete(self, table: str, where: Where) -> None: ...

    def span(self, run_id: str, *, before_fence: int) -> tuple[int, int] | None:
        """First and last sequence number of what a run stored under older fences."""


class Records(Protocol):
    async def write(self, work: Callable[[Transaction], T]) -> T:
        """
        Run `work` alone among all writers; what it raises undoes what it wrote. It may be run again from the start.

        Raises:
            AsmError: `storage_connection_failed`, `storage_error`, `migration_required`.
        """


@dataclass(frozen=True, slots=True)
class TableRule:
    """What a store must know of a table to keep it."""

    key: tuple[str, ...]
    required: tuple[str, ...]
    """Columns that every insert names, beside the key."""
    defaults: Row = field(default_factory=dict)
    """All other columns."""
    lookups: tuple[tuple[str, ...], ...] = ()
    """Columns by which rows are looked for."""
    is_numbered: bool = False
    """The store gives out the key: 1, 2, 3 …"""

    def complete(self, row: Row) -> Row:
        """The row with every column (without a key that the store gives out). Raises KeyError for a wrong one."""
        needed = {*self.required, *(() if self.is_numbered else self.key)}
        if wrong := (needed - row.keys()) | (row.keys() - needed - self.defaults.keys()):
            raise KeyError(*wrong)
        return {**self.defaults, **row}


def _unset(*names: str) -> Row:
    return dict.fromkeys(names)


_TENANT = {"tenant_id": "default"}

TABLES: Mapping[str, TableRule] = {
    "sessions": TableRule(
        key=("id",),
        required=("agent_id", "status", "created_at", "updated_at"),
        defaults=_TENANT
        | {"metadata": {}, "context": {}, "tags": []}
        | _unset("parent_session_id", "provider", "model", "deleted_at", "forked_at"),
        lookups=(("status",), ("tenant_id",)),
    ),
    "session_sequences": TableRule(
        key=("session_id",), required=(), defaults=_TENANT | {"last_sequence": 0, "updated_at": None, "pruned_count": 0}
    ),
    "session_runtime": TableRule(
        key=("session_id",),
        required=(),
        defaults=_TENANT
        | {"max_concurrent_runs": 1, "max_queued_runs": 100, "submit_seq": 0, "fence_seq": 0}
        | _unset("limiter", "last_served_at", "last_wake_at", "limiter_waiting_since"),
        lookups=(("limiter",),),
    ),
    "inherited_events": TableRule(
        key=("session_id", "first_sequence"),
        required=("last_sequence", "source_session_id"),
        defaults=_TENANT,
        lookups=(("session_id",), ("source_session_id",)),
    ),
    "runs": TableRule(
        key=("id",),
        required=("session_id", "status", "created_at"),
        defaults=_TENANT
        | {"metadata": {}, "token_usage": {}, "provider_metadata": {}, "options": {}}
        | {"turn_count": 0, "attempt": 0, "claims": 0, "owns_session": False}
        | _unset("input", "output", "error", "fence", "started_at", "ended_at", "provider", "cost_usd")
        | _unset("submit_seq", "first_fence", "claimed_at", "queue_deadline_at", "deadline_at")
        | _unset("cancel_requested_at", "cancel_kind", "worker_id", "pruned_usage"),
        lookups=(("session_id", "status"), ("session_id",), ("status",), ("tenant_id",)),
    ),
    "run_leases": TableRule(
        key=("run_id",),
        required=("session_id", "fence", "worker_id", "claimed_at"),
        defaults=_TENANT | _unset("limiter", "started_at"),
        lookups=(("session_id",), ("limiter",), ("worker_id",)),
    ),
    "events": TableRule(
        key=("session_id", "sequence_number"),
        required=("id", "type", "timestamp", "stored_at"),
        defaults=_TENANT
        | {"data": {}, "metadata": {}, "schema_version": 1}
        | _unset("run_id", "fence", "attempt", "provider", "correlation_id"),
        lookups=(("id",), ("run_id", "type"), ("run_id",), ("session_id",)),
    ),
    "idempotency_keys": TableRule(
        key=("tenant_id", "scope", "key"),
        required=("request_hash", "session_id", "run_id", "created_at"),
        lookups=(("session_id",),),
    ),
    "workers": TableRule(
        key=("id",),
        required=("hostname", "pid", "slots", "started_at", "last_seen"),
        defaults={"draining": False, "lost_at": None},
    ),
    "limiters": TableRule(key=("name",), required=("max_parallel_runs", "changed_at")),
    "sweeper": TableRule(key=("id",), required=("last_pass_at",), defaults={"quiet_until": None}),
    "artifacts": TableRule(
        key=("id",),
        required=("key", "byte_size", "checksum_sha256", "storage_backend", "storage_ref", "created_at"),
        defaults=_TENANT | {"metadata": {}} | _unset("session_id", "run_id", "fence", "content_type", "deleted_at"),
        lookups=(("session_id",),),
    ),
    "audit_log": TableRule(
        key=("id",),
        required=("at", "action"),
        defaults=_TENANT | {"data": {}} | _unset("actor", "session_id", "run_id"),
        lookups=(("session_id",),),
        is_numbered=True,
    ),
}
