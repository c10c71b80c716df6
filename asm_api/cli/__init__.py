"""
The `asm` command. One file per group; everything heavy is imported inside the commands, so that help is instant.

Exit codes: 0 ok, 1 the run failed (or the check found something), 2 usage, 3 a service cannot be reached.
"""

from __future__ import annotations

import typer

from asm_api.cli import local, maintenance, query, runs, serve, sessions, transfer

app = typer.Typer(
    name="asm",
    help="Run AI agent sessions on a fleet: submit runs, follow their events, operate the workers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (local, serve, runs, sessions, transfer):
    for command in group.COMMANDS:
        app.command(name=command.__name__.rstrip("_").replace("_", "-"))(command)
for subcommands in (query.app, maintenance.app):
    app.add_typer(subcommands)


def main() -> None:
    app()
