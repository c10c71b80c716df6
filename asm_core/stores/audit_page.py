"""Pages of a session's audit log by keyset, the same over every store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asm_core.domain.audit import AuditEntry
from asm_core.domain.fields import clean_text, parse_datetime, to_jsonable
from asm_core.domain.session import require_text
from asm_core.ports.audit import AuditFilter
from asm_core.ports.store import Page
from asm_core.stores.sql.page_cursor import (
    Binding,
    binding_of,
    check_limit,
    decode_cursor,
    encode_cursor,
    parse_integer,
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPager:
    """One request for a page, as `AuditLog.get_audit_log` takes it."""

    session_id: str
    tenant_id: str
    where: AuditFilter
    limit: int
    cursor: str | None

    def after(self) -> int:
        """The id behind which the page begins. Raises AsmError `validation_error` (limit), `invalid_cursor`."""
        check_limit(self.limit)
        return 0 if self.cursor is None else decode_cursor(self.cursor, self._binding, parse_integer)[0]

    def cut(self, rows: Sequence[Row]) -> Page[AuditEntry]:
        """The page, given its rows and one more where there is one."""
        page = rows[: self.limit]
        following = encode_cursor(self._binding, page[-1]["id"], self.session_id) if len(rows) > self.limit else None
        return Page([entry_of(row) for row in page], following)

    @property
    def _binding(self) -> Binding:
        asked = {"session_id": self.session_id, "tenant_id": self.tenant_id} | asdict(self.where)
        return binding_of("audit", "id_asc", asked)


def entry_of(row: Row) -> AuditEntry:
    return AuditEntry(**{**row, "at": parse_datetime(row["at"])})


def entry_row(entry: AuditEntry) -> dict[str, Any]:
    """Without id and time: those are the store's. Raises AsmError `validation_error`: no action."""
    require_text("audit entry", "action", entry.action)
    names = ("tenant_id", "action", "session_id", "run_id", "actor")
    texts = {name: getattr(entry, name) for name in names}
    clean = {name: None if text is None else clean_text(text) for name, text in texts.items()}
    return clean | {"data": to_jsonable(entry.data)}
