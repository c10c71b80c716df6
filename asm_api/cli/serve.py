"""Commands that are processes of an installation: the API, a worker, migrations."""

from __future__ import annotations

from typing import Annotated

import typer

from asm_api.cli.common import USAGE, DatabaseUrl, fail, one_line_errors


def api(
    host: Annotated[str, typer.Option("--host", help="Beyond loopback only with ASM_API_KEY set.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8420,
) -> None:
    """Serve the HTTP API."""
    with one_line_errors():
        from asm_api.app import serve

        settings = _settings()
        serve(settings, host=host, port=port)


def worker(
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=5000, help="Runs at once.")] = 100,
    name: Annotated[str | None, typer.Option("--name", help="Shown in Flower; unique on its host.")] = None,
) -> None:
    """Execute runs."""
    with one_line_errors():
        from asm_workers.worker import WorkerProcess

        settings = _settings()
        code = WorkerProcess(settings, slots=concurrency, name=name).run()
    raise typer.Exit(code)


def migrate(
    database_url: DatabaseUrl = None,
    to: Annotated[str, typer.Option("--to", help="A revision; `head` is the newest.")] = "head",
) -> None:
    """Bring the database to the schema of this version."""
    with one_line_errors():
        from asm_core.stores.sql.migrate import migrate as apply

        settings = _settings(database_url)
        typer.echo(f"schema {apply(settings.database_url, to)}")


COMMANDS = (api, worker, migrate)


def _settings(database_url: str | None = None):  # type: ignore[no-untyped-def]
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from asm_core.config import Settings
    from asm_core.logs import configure_logging

    try:
        settings = Settings(database_url=database_url) if database_url else Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "ASM_" + "_".join(str(part) for part in first["loc"]).upper() if first["loc"] else "settings"
        fail(f"{where}: {first['msg']}", USAGE)
    except SettingsError as error:  # not the JSON that a setting wants
        fail(str(error), USAGE)
    configure_logging(settings.log_level, settings.log_format, settings.redactor)
    return settings
