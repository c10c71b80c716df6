"""Commands that need no running server: a whole stack for one machine, and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asm_api.cli.common import FAILED, UNREACHABLE, DatabaseUrl, Json, fail, one_line_errors, print_json, progress


def demo() -> None:
    """See it work: a stack, some sessions, a killed worker, the invariants. Leaves nothing behind."""
    with one_line_errors():
        from asm_api.demo import run_demo

        code = run_demo(_say)
    raise typer.Exit(code)


def dev(
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8420,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Databases, logs and dev.json.")] = Path(".asm"),
    workers: Annotated[int, typer.Option("--workers", "-w", min=0, max=64)] = 2,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=5000, help="Runs per worker.")] = 50,
    flower_port: Annotated[int | None, typer.Option("--flower-port", min=1, max=65535)] = None,
) -> None:
    """Run everything on this machine until interrupted: Postgres, Redis, API, workers, Flower."""
    with one_line_errors():
        from asm_api.dev import DevOptions, serve_stack

        options = DevOptions(
            data_dir=data_dir.resolve(),
            port=port,
            workers=workers,
            concurrency=concurrency,
            flower_port=flower_port,
            say=_say,
        )
        code = serve_stack(options)
    raise typer.Exit(code)


Secrets = Annotated[
    bool,
    typer.Option("--secrets/--no-secrets", help="Look for secrets in every row: about a minute per million events."),
]


def verify(database_url: DatabaseUrl = None, json: Json = False, secrets: Secrets = True) -> None:
    """Check the invariants on a database; exit 1 when one is violated, 3 when it cannot be asked."""
    with one_line_errors(), progress() as tell:
        import asyncio

        from asm_core.config import Settings
        from asm_core.domain.errors import AsmError, ErrorCode
        from asm_core.domain.redaction import SecretSearch
        from asm_core.stores.sql.verify import verify_database

        settings = Settings()
        search = SecretSearch(settings.redactor.options) if secrets else None
        url = database_url or settings.database_url
        try:
            report = asyncio.run(verify_database(url, secrets=search, tell=tell))
        except AsmError as error:
            if error.code is ErrorCode.QUERY_ERROR:  # nothing is known, which is not the same as unsound
                fail(error.message, UNREACHABLE)
            raise
    if json:
        print_json(report.to_map())
    else:
        for line in report.lines():
            typer.echo(line)
    raise typer.Exit(0 if report.is_sound else FAILED)


def doctor(json: Json = False) -> None:
    """Check this installation's parts, each with a remedy; exit 1 when something is wrong."""
    with one_line_errors():
        from asm_api.doctor import examine

        findings = examine()
    if json:
        print_json({"findings": [finding.to_map() for finding in findings]})
    else:
        for finding in findings:
            typer.echo(finding.line())
    raise typer.Exit(0 if all(finding.ok for finding in findings) else FAILED)


COMMANDS = (demo, dev, verify, doctor)


def _say(line: str) -> None:
    """Flushed at once: programs wait for the ready line."""
    print(line, flush=True)
