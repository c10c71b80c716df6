"""What the commands share: options, one-line errors with the right exit code, tables and JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from asm_api.client import AsmClient


class Render(StrEnum):
    """How events are shown."""

    LINES = "lines"
    COMPACT = "compact"
    VERBOSE = "verbose"
    STUDIO = "studio"
    PASSTHROUGH = "passthrough"
    JSONL = "jsonl"


FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
How = Annotated[Render, typer.Option("--render", help="How events are shown; passthrough shows nothing.")]
Server = Annotated[str | None, typer.Option("--server", envvar="ASM_SERVER", help="The API's address.")]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="ASM_API_KEY", help="Bearer token.", show_default=False)
]
SessionId = Annotated[str, typer.Argument(help="Session id.", metavar="SESSION")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000)]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", envvar="ASM_DATABASE_URL", help="postgresql://…, sqlite:///…")
]

WHOLE = ("id", "session_id", "status", "key")
"""Columns that are never broken, so that an id can be copied."""
PIPE_WIDTH = 240

ERASE_LINE = "\x1b[K"

DEFAULT_SERVER = "http://127.0.0.1:8420"


def given(**fields: object) -> dict[str, Any]:
    """Those that were said; the server has the defaults of the others."""
    return {name: value for name, value in fields.items() if value is not None}


def fail(message: str, code: int) -> NoReturn:
    """One line to stderr, then the exit code."""
    typer.echo(f"asm: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors of ASM as one line and an exit code, never a traceback."""
    from asm_core.domain.errors import AsmError, ErrorCode, category

    try:
        yield
    except AsmError as error:
        unreachable = error.code in (ErrorCode.STORAGE_CONNECTION_FAILED, ErrorCode.MIGRATION_REQUIRED)
        if unreachable or error.details.get("reason") == "server_unreachable":
            fail(error.message, UNREACHABLE)
        is_usage = category(error.code) in ("validation", "state", "access")
        fail(f"{error.message} [{error.code}]", USAGE if is_usage else FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Takes what a long work is at; on a terminal it stands in one line of stderr, which is gone at the end."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    try:
        yield lambda text: typer.echo(f"\r{ERASE_LINE}{text}", nl=False, err=True)
    finally:
        typer.echo(f"\r{ERASE_LINE}", nl=False, err=True)


@contextmanager
def client(server: str | None, api_key: str | None) -> Iterator[AsmClient]:
    """The API's client; its errors as one line."""
    from asm_api.client import AsmClient

    with one_line_errors(), AsmClient(server or DEFAULT_SERVER, api_key=api_key) as opened:
        yield opened


def print_json(value: object) -> None:
    from asm_core.rendering.ansi import harmless_json
    from asm_core.wire import dumps_text

    sys.stdout.buffer.write(f"{harmless_json(dumps_text(value))}\n".encode())
    sys.stdout.flush()


def print_text(text: str) -> None:
    """What a model or a tool said: as it is for a program, without control characters for a terminal."""
    from asm_core.rendering.ansi import harmless

    typer.echo(harmless(text) if sys.stdout.isatty() else text)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from asm_core.rendering.ansi import harmless

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), no_wrap=column in WHOLE, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(harmless(cell(row.get(column)))) for column in columns))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case list() | tuple():
            return ", ".join(map(str, value))
        case float():
            return f"{value:g}"
        case _:
            return str(value)
