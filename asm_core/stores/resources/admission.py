"""What an action is given, checked against what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import clean_text
from asm_core.domain.run import is_number
from asm_core.stores.resources.actions import BOUNDS, Action
from asm_core.stores.resources.models import Resource
from asm_core.stores.sql.page_cursor import MAX_BIGINT
from asm_core.stores.sql.tables import Instant


def admitted(model: type[Resource], name: str, attributes: object) -> tuple[Action, Mapping[str, Any]]:
    """
    The action and what it is given.

    Raises:
        AsmError: `validation_error` naming an action that there is not, an attribute that it does not take or lacks,
            or one of a wrong kind.
    """
    action = model.actions.get(name)
    if action is None:
        raise _invalid("action", f"{model.__name__} has no action {name!r}; it has {', '.join(model.actions)}")
    if not isinstance(attributes, Mapping):
        raise _invalid("attributes", f"attributes must be a mapping, not {type(attributes).__name__}")
    targets = model.identities if action.needs is None else ()
    accepted = action.accepts.union(*targets) | (model.extras() if action.takes_extras else frozenset())
    for attribute in attributes:
        if attribute not in accepted:
            raise _invalid(str(attribute), f"{model.__name__} {name} does not take {attribute!r}")
        if attribute in model.stock.c or attribute in BOUNDS:
            _check(model.stock.c.get(attribute), attribute, attributes[attribute])
    choices = [frozenset(columns) for columns in targets] or [action.needs or frozenset()]
    told = {attribute for attribute, value in attributes.items() if value is not None}
    if not any(choice <= told for choice in choices):
        missing = min(choices[0] - told)
        raise _invalid(missing, f"{model.__name__} {name} needs {missing!r}")
    return action, attributes


def _check(column: sa.Column[Any] | None, name: str, value: object) -> None:
    """None is left to the record. The value is not told: it may be a secret."""
    kind = sa.Integer() if column is None else column.type
    fits = (
        isinstance(value, list | tuple) and all(isinstance(tag, str) for tag in value) if name == "tags"
        else isinstance(value, Mapping) if isinstance(kind, sa.JSON)
        else isinstance(value, datetime) and value.tzinfo is not None if isinstance(kind, Instant)
        else isinstance(value, bool) if isinstance(kind, sa.Boolean)
        else is_number(value) and isinstance(value, int) and abs(value) <= MAX_BIGINT if isinstance(kind, sa.Integer)
        else is_number(value) if isinstance(kind, sa.Numeric)
        else isinstance(value, str) and clean_text(value) == value
    )  # fmt: skip
    if value is not None and not fits:
        raise _invalid(name, f"{name} cannot be this {type(value).__name__}")


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": field})
