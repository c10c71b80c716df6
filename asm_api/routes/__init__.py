"""The routes: parse, call the manager, answer. This file holds what they share."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Query, Response

from asm_api.schemas import Text
from asm_core.wire import dumps

JSON = "application/json"

Limit = Annotated[int, Query(ge=1, le=1_000)]
PageCursor = Annotated[str | None, Query(max_length=1_000)]
Filter = Annotated[Text | None, Query()]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="The same key with the same body never queues a second run."),
]


def answer(value: Any, status: int = 200) -> Response:
    return Response(dumps(value), status, media_type=JSON)
