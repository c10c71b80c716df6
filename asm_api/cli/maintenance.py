"""`asm maintenance`: keep a database small and whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asm_api.cli.common import FAILED, DatabaseUrl, Json, SessionId, print_json, progress
from asm_api.cli.stored import Tenant, opened_store

if TYPE_CHECKING:
    from asm_core.ports.query import MaintenanceReport

app = typer.Typer(name="maintenance", help="Keep a database small and whole.", no_args_is_help=True)


@app.command("run")
def run(
    completed_days: Annotated[
        str | None,
        typer.Option(help="Soft-delete ended sessions this long after their last change; `infinity`: never."),
    ] = None,
    session_days: Annotated[str | None, typer.Option(help="The same for any session, since its creation.")] = None,
    delete_days: Annotated[str | None, typer.Option(help="Delete for good this long after the soft delete.")] = None,
    max_events: Annotated[str | None, typer.Option(help="Keep so many events per session.")] = None,
    exempt_tag: Annotated[list[str] | None, typer.Option(help="Leave sessions with this tag alone.")] = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """
    Apply the retention policy of the settings (`ASM_RETENTION_*`), changed by these options.

    Exit 1 when a step of it could not be done.
    """
    with opened_store(database_url) as store, progress() as tell:
        from asm_core.config import Settings
        from asm_core.stores.artifacts.opening import open_artifact_store

        settings = Settings()
        bounds = (
            ("max_completed_session_age_days", "--completed-days", completed_days),
            ("max_session_age_days", "--session-days", session_days),
            ("hard_delete_after_days", "--delete-days", delete_days),
            ("max_events_per_session", "--max-events", max_events),
        )
        changed: dict[str, Any] = {field: _bound(option, text) for field, option, text in bounds if text is not None}
        if exempt_tag:
            changed["exempt_tags"] = tuple(exempt_tag)
        policy = replace(settings.retention, **changed)
        tell("applying the policy")
        artifacts = open_artifact_store(settings.artifacts_location)
        report = store.maintenance(artifacts=artifacts).execute(policy, tenant)
    if json:
        print_json(report.to_map())
    else:
        _show(report)
    raise typer.Exit(FAILED if report.errors or report.already_running else 0)


@app.command("health")
def health(tenant: Tenant = "default", database_url: DatabaseUrl = None, json: Json = False) -> None:
    """What does not fit together in the records; exit 1 when something does not. Changes nothing."""
    with opened_store(database_url) as store, progress() as tell:
        tell("looking at the records")
        issues = store.maintenance().health_check(tenant)
    if json:
        print_json({"issues": issues})
    else:
        for line in issues or ["sound"]:
            typer.echo(line)
    raise typer.Exit(FAILED if issues else 0)


@app.command("prune")
def prune(
    session: SessionId,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Events to keep.")],
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Delete a session's oldest events that tell the least."""
    with opened_store(database_url) as store:
        from asm_core.domain.retention import RetentionPolicy

        pruned = store.maintenance().prune_session_events(session, tenant, RetentionPolicy(max_events_per_session=keep))
    print_json({"events_pruned": pruned}) if json else typer.echo(f"{pruned} events deleted")


def _show(report: MaintenanceReport) -> None:
    if report.already_running:
        typer.echo("another maintenance is at it; nothing was done")
        return
    for name in ("sessions_soft_deleted", "sessions_hard_deleted", "events_pruned", "artifacts_cleaned"):
        typer.echo(f"{name.replace('_', ' '):<22} {getattr(report, name)}")
    for error in report.errors:
        typer.echo(f"asm: {error}", err=True)


def _bound(option: str, text: str) -> int | None:
    from asm_core.domain.errors import AsmError, ErrorCode
    from asm_core.domain.retention import parse_bound

    if parse_bound(text) is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        message = f"{option} must be an integer from 1 or `infinity`, not {text!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": option})
    return int(text)
