"""The database that a command works on itself, without a server. A tenant is named here, not proved: for operators."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asm_api.cli.common import UNREACHABLE, fail, one_line_errors

if TYPE_CHECKING:
    from asm_core.sync import Store

Tenant = Annotated[str, typer.Option("--tenant", envvar="ASM_TENANT", help="Whose records.")]


def stored_at(database_url: str | None) -> str:
    """The database's URL, by the option or by the settings; a file that is not there is not made."""
    from asm_core.config import Settings

    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # the error says it, in one line
    url = database_url or Settings().database_url
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).is_file():
        fail(f"no database at {path}", UNREACHABLE)
    return url


@contextmanager
def opened_store(database_url: str | None) -> Iterator[Store]:
    """The store; errors as one line."""
    with one_line_errors():
        from asm_core.sync import open_store

        with open_store(stored_at(database_url)) as store:
            yield store
