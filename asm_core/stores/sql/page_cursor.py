"""
Pages by keyset: `WHERE (key, id) < (…) ORDER BY key DESC, id DESC`, which an index serves at any depth, and which
neither repeats nor skips rows that stand still.

A cursor is opaque, and tied to what is listed, to its order and to the filters: with others it would silently begin
somewhere else. It is not signed: it names nothing but a place, and the tenant stands in every statement.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import to_jsonable
from asm_core.wire import dumps, loads, request_hash

VERSION = 1
DIGEST_LENGTH = 16
"""Hex digits; against mistakes, not against attackers."""
MAX_BIGINT = 2**63 - 1

_KEY = "page_key"

Binding = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PageOrder:
    kind: str
    """What is listed: `session`, `run`, `event`."""
    name: str
    key: sa.ColumnElement[Any]
    """Never null."""
    id: sa.ColumnElement[str]
    """Breaks ties, in the same direction."""
    descending: bool
    parse: Callable[[object], Any]
    """A key from its JSON form. Raises ValueError."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One page of rows."""

    rows: Sequence[dict[str, Any]]
    cursor: str | None
    """Behind the last row; None for an empty page."""
    has_more: bool


@dataclass(frozen=True, slots=True)
class Pager:
    """
    One request for a page.

    Args:
        filters: everything that narrows the list, the tenant with it.
        cursor: of the page before.
    """

    order: PageOrder
    limit: int
    filters: Mapping[str, Any]
    cursor: str | None = None

    def apply(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """
        `query` for this page, and one row more, which tells whether there is another.

        Raises:
            AsmError: `validation_error` for a limit below 1, `invalid_cursor`.
        """
        check_limit(self.limit)
        key, tie = self.order.key, self.order.id
        if self.cursor is not None:
            place, here = (
                sa.tuple_(key, tie),
                sa.tuple_(*self._bound(decode_cursor(self.cursor, self._binding, self.order.parse))),
            )
            query = query.where(place < here if self.order.descending else place > here)
        ordered = (key.desc(), tie.desc()) if self.order.descending else (key, tie)
        return query.add_columns(key.label(_KEY)).order_by(*ordered).limit(self.limit + 1)

    def cut(self, rows: Sequence[dict[str, Any]]) -> Cut:
        """The page, given the rows of `apply`."""
        keys = [row.pop(_KEY) for row in rows]
        page = rows[: self.limit]
        cursor = encode_cursor(self._binding, keys[len(page) - 1], page[-1]["id"]) if page else None
        return Cut(page, cursor, len(rows) > self.limit)

    def _bound(self, place: tuple[Any, str]) -> list[sa.ColumnElement[Any]]:
        return [sa.literal(place[0], self.order.key.type), sa.literal(place[1])]

    @property
    def _binding(self) -> Binding:
        return binding_of(self.order.kind, self.order.name, self.filters)


def check_limit(limit: object) -> None:
    """Raises `validation_error` for a page of no rows, and for what is no number."""
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        message = f"limit must be an integer from 1, not {limit!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "limit"})


def binding_of(kind: str, order: str, filters: Mapping[str, Any]) -> Binding:
    """What a cursor is tied to; arguments as those of `PageOrder` and `Pager`."""
    return {"v": VERSION, "k": kind, "o": order, "f": request_hash(filters)[:DIGEST_LENGTH]}


def encode_cursor(binding: Binding, key: Any, record_id: str) -> str:
    """Behind the record with this sort key."""
    return urlsafe_b64encode(dumps({**binding, "s": to_jsonable(key), "i": record_id})).rstrip(b"=").decode()


def decode_cursor(cursor: object, binding: Binding, parse: Callable[[object], Any]) -> tuple[Any, str]:
    """The sort key and id behind which the next page begins. Raises `invalid_cursor`."""
    try:
        if not isinstance(cursor, str):
            raise ValueError("not text")
        payload = loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if {name: payload[name] for name in binding} != binding or not isinstance(payload["i"], str):
            raise ValueError("a cursor of another list, order or filter")
        return parse(payload["s"]), payload["i"]
    except (ValueError, KeyError, TypeError) as cause:
        message = f"not a cursor of this list, order and filter: {str(cursor)[:80]!r}"
        raise AsmError(ErrorCode.INVALID_CURSOR, message, details={"field": "cursor"}) from cause


def parse_integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_BIGINT:
        raise ValueError(f"not a number of this order: {value!r}")
    return value
