"""`asm export`, `asm import`: a session as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asm_api.cli.common import DatabaseUrl, Json, SessionId, one_line_errors, print_json, progress
from asm_api.cli.stored import Tenant, stored_at


def export(
    session: SessionId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="By default SESSION.jsonl; `-`: standard output.")
    ] = None,
    artifacts: Annotated[bool, typer.Option("--artifacts/--no-artifacts", help="With the bytes of artifacts.")] = True,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
) -> None:
    """Write a session, its runs, events and artifacts to one file that carries its own checksum."""
    target = output or Path(f"{session}.jsonl")
    with one_line_errors(), progress() as tell:
        from asm_api.session_files import export_to

        url = stored_at(database_url)
        size = export_to(target, url, session, tenant, with_artifacts=artifacts, tell=tell)
    if str(target) != "-":
        typer.echo(f"{target}: {size} bytes")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="`-`: standard input.")],
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Read a session from a file that `asm export` wrote; the ids stay, and nothing that is there is replaced."""
    with one_line_errors(), progress() as tell:
        from asm_api.session_files import import_from

        tell(f"importing {file}")
        imported = import_from(file, stored_at(database_url), tenant)
    if json:
        print_json(imported)
    else:
        parts = ", ".join(f"{imported[name]} {name}" for name in ("runs", "events", "artifacts"))
        typer.echo(f"{imported['session_id']}: {parts}")


COMMANDS = (export, import_)
