"""
Commands that work on a database itself, without a server: questions across sessions, retention, sessions as files.

They need the rights of an operator: a tenant is named, not proved.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asm_api.cli.common import (
    FAILED,
    UNREACHABLE,
    DatabaseUrl,
    Json,
    fail,
    one_line_errors,
    print_json,
    print_table,
    progress,
)  # fmt: skip

if TYPE_CHECKING:
    from asm_core.sync import Store

query = typer.Typer(name="query", help="Ask a database across sessions.", no_args_is_help=True)
maintenance = typer.Typer(name="maintenance", help="Keep a database small and whole.", no_args_is_help=True)
GROUPS = (query, maintenance)

Tenant = Annotated[str, typer.Option("--tenant", envvar="ASM_TENANT", help="Whose records.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="Rows of a page.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")]
Providers = Annotated[list[str] | None, typer.Option("--provider", "-p", help="Any of these.")]
Statuses = Annotated[list[str] | None, typer.Option("--status", help="Any of these.")]
Since = Annotated[datetime | None, typer.Option("--since", help="UTC, from then on.")]
Until = Annotated[datetime | None, typer.Option("--until", help="UTC, up to then.")]
InSession = Annotated[str | None, typer.Option("--session", "-s")]
Agent = Annotated[str | None, typer.Option("--agent", help="Agent id.")]


@query.command("sessions")
def query_sessions(
    agent: Agent = None,
    status: Statuses = None,
    provider: Providers = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="All of these.")] = None,
    since: Since = None,
    until: Until = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted ones too.")] = False,
    order: Annotated[str, typer.Option("--order")] = "updated_at_desc",
    limit: Limit = 50,
    cursor: Cursor = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Sessions by agent, status, provider of a run, tags and time of creation."""
    with _opened(database_url) as store:
        from asm_core.ports.query import SessionSearch

        where = SessionSearch(
            agent_id=agent, status=status, provider=provider, tags=tag, include_deleted=deleted, order_by=order,
            created_after=_utc(since), created_before=_utc(until), limit=limit, cursor=cursor,
        )  # fmt: skip
        found = store.queries().search_sessions(tenant, where)
    columns = ("id", "agent_id", "status", "provider", "tags", "updated_at")
    _show("sessions", found, [session.to_map() for session in found.items], columns, json)


@query.command("runs")
def query_runs(
    session: InSession = None,
    status: Statuses = None,
    provider: Providers = None,
    since: Since = None,
    until: Until = None,
    min_tokens: Annotated[int | None, typer.Option("--min-tokens", min=0)] = None,
    order: Annotated[str, typer.Option("--order")] = "started_at_desc",
    limit: Limit = 50,
    cursor: Cursor = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Runs by session, status, provider, time of start and tokens."""
    with _opened(database_url) as store:
        from asm_core.ports.query import RunSearch

        where = RunSearch(
            session_id=session, status=status, provider=provider, min_tokens=min_tokens, order_by=order,
            started_after=_utc(since), started_before=_utc(until), limit=limit, cursor=cursor,
        )  # fmt: skip
        found = store.queries().search_runs(tenant, where)
    columns = ("id", "session_id", "status", "provider", "attempt", "cost_usd", "started_at")
    _show("runs", found, [run.to_map() for run in found.items], columns, json)


@query.command("events")
def query_events(
    session: Annotated[list[str] | None, typer.Option("--session", "-s", help="Any of these.")] = None,
    run: Annotated[list[str] | None, typer.Option("--run", help="Any of these.")] = None,
    type_: Annotated[list[str] | None, typer.Option("--type", help="Any of these.")] = None,
    provider: Providers = None,
    since: Since = None,
    until: Until = None,
    order: Annotated[str, typer.Option("--order")] = "timestamp_desc",
    limit: Limit = 50,
    cursor: Cursor = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Events of all sessions by type, run, provider and time."""
    with _opened(database_url) as store:
        from asm_core.ports.query import EventSearch
        from asm_core.wire import loads

        where = EventSearch(
            session_ids=session, run_ids=run, types=type_, providers=provider, order_by=order,
            since=_utc(since), until=_utc(until), limit=limit, cursor=cursor,
        )  # fmt: skip
        found = store.queries().search_events(tenant, where)
    columns = ("session_id", "sequence_number", "type", "run_id", "timestamp", "data")
    _show("events", found, [loads(frame.body) for frame in found.items], columns, json)


@query.command("usage")
def query_usage(
    session: InSession = None,
    agent: Agent = None,
    provider: Providers = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Tokens and runs, in all and by provider."""
    with _opened(database_url) as store:
        usage = store.queries().get_usage_summary(tenant, _usage(session, agent, provider, since, until)).to_map()
    if json:
        print_json(usage)
        return
    total = {"provider": "all", "run_count": usage["run_count"], "input_tokens": usage["total_input_tokens"]}
    total |= {"output_tokens": usage["total_output_tokens"], "total_tokens": usage["total_tokens"]}
    rows = [*_named("provider", usage["by_provider"]), total]
    print_table(rows, ("provider", "run_count", "input_tokens", "output_tokens", "total_tokens"))


@query.command("cost")
def query_cost(
    session: InSession = None,
    agent: Agent = None,
    provider: Providers = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """What runs cost in US dollars, by provider and by model."""
    with _opened(database_url) as store:
        cost = store.queries().get_cost_summary(tenant, _usage(session, agent, provider, since, until)).to_map()
    if json:
        print_json(cost)
        return
    print_table([*_named("provider", cost["by_provider"])], ("provider", "run_count", "cost_usd"))
    print_table([*_named("model", cost["by_model"])], ("model", "input_tokens", "output_tokens", "cost_usd"))
    without = f"; {cost['unmapped_runs']} without a price" if cost["unmapped_runs"] else ""
    typer.echo(f"{cost['run_count']} runs, {cost['total_cost_usd']:g} USD{without}")


@query.command("stats")
def query_stats(
    session: Annotated[str, typer.Argument(metavar="SESSION")],
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """One session in numbers."""
    with _opened(database_url) as store:
        from dataclasses import asdict

        from asm_core.domain.fields import to_jsonable

        stats: dict[str, Any] = to_jsonable(asdict(store.queries().get_session_stats(session, tenant)))
    if json:
        print_json(stats)
    else:
        print_table([{"what": name, "value": value} for name, value in stats.items()], ("what", "value"))


@maintenance.command("run")
def maintenance_run(
    completed_days: Annotated[
        str, typer.Option(help="Soft-delete ended sessions this long after their last change; `infinity`: never.")
    ] = "90",
    session_days: Annotated[str, typer.Option(help="The same for any session, since its creation.")] = "infinity",
    delete_days: Annotated[str, typer.Option(help="Delete for good this long after the soft delete.")] = "30",
    max_events: Annotated[str, typer.Option(help="Keep so many events per session.")] = "infinity",
    exempt_tag: Annotated[list[str] | None, typer.Option(help="Leave sessions with this tag alone.")] = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Apply a retention policy once; exit 1 when a step of it could not be done."""
    with _opened(database_url) as store, progress() as tell:
        from asm_core.domain.retention import RetentionPolicy

        policy = RetentionPolicy(
            max_completed_session_age_days=_bound("--completed-days", completed_days),
            max_session_age_days=_bound("--session-days", session_days),
            hard_delete_after_days=_bound("--delete-days", delete_days),
            max_events_per_session=_bound("--max-events", max_events),
            exempt_tags=tuple(exempt_tag) if exempt_tag else ("pinned",),
        )
        tell("applying the policy")
        report = store.maintenance().execute(policy, tenant)
    if json:
        print_json(report.to_map())
    elif report.already_running:
        typer.echo("another maintenance is at it; nothing was done")
    else:
        for name, value in report.to_map().items():
            typer.echo(f"{name.replace('_', ' '):<28} {value}") if name not in ("errors", "already_running") else None
        for error in report.errors:
            typer.echo(f"asm: {error}", err=True)
    raise typer.Exit(FAILED if report.errors or report.already_running else 0)


@maintenance.command("health")
def maintenance_health(tenant: Tenant = "default", database_url: DatabaseUrl = None, json: Json = False) -> None:
    """What does not fit together in the records; exit 1 when something does not. Changes nothing."""
    with _opened(database_url) as store, progress() as tell:
        tell("looking at the records")
        issues = store.maintenance().health_check(tenant)
    if json:
        print_json({"issues": issues})
    else:
        for line in issues or ["sound"]:
            typer.echo(line)
    raise typer.Exit(FAILED if issues else 0)


@maintenance.command("prune")
def maintenance_prune(
    session: Annotated[str, typer.Argument(metavar="SESSION")],
    keep: Annotated[int, typer.Option("--keep", min=1, help="Events to keep.")],
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Delete a session's oldest events that tell the least."""
    with _opened(database_url) as store:
        from asm_core.domain.retention import RetentionPolicy

        pruned = store.maintenance().prune_session_events(session, tenant, RetentionPolicy(max_events_per_session=keep))
    print_json({"events_pruned": pruned}) if json else typer.echo(f"{pruned} events deleted")


def export(
    session: Annotated[str, typer.Argument(metavar="SESSION")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="By default SESSION.jsonl; `-`: standard output.")
    ] = None,
    artifacts: Annotated[bool, typer.Option("--artifacts/--no-artifacts", help="With the bytes of artifacts.")] = True,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
) -> None:
    """Write a session, its runs, events and artifacts to one file that carries its own checksum."""
    with _files(database_url) as (files, url), progress() as tell:
        target = output or Path(f"{session}.jsonl")
        size = files.export_to(target, url, session, tenant, with_artifacts=artifacts, tell=tell)
    if str(target) != "-":
        typer.echo(f"{target}: {size} bytes")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Read a session from a file that `asm export` wrote; the ids stay, and nothing that is there is replaced."""
    with _files(database_url) as (files, url), progress() as tell:
        tell(f"importing {file}")
        imported = files.import_from(file, url, tenant)
    if json:
        print_json(imported)
    else:
        parts = ", ".join(f"{imported[name]} {name}" for name in ("runs", "events", "artifacts"))
        typer.echo(f"{imported['session_id']}: {parts}")


COMMANDS = (export, import_)


@contextmanager
def _opened(database_url: str | None) -> Iterator[Store]:
    """The store, by the option or by the settings; a file that is not there is not made."""
    with one_line_errors():
        from asm_core.sync import open_store

        with open_store(_url(database_url)) as store:
            yield store


@contextmanager
def _files(database_url: str | None) -> Iterator[tuple[ModuleType, str]]:
    """What sessions as files need, and the database's URL."""
    with one_line_errors():
        from asm_api import session_files

        yield session_files, _url(database_url)


def _url(database_url: str | None) -> str:
    from asm_core.config import Settings

    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # the error says it, in one line
    url = database_url or Settings().database_url
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).is_file():
        fail(f"no database at {path}", UNREACHABLE)
    return url


def _usage(
    session: str | None,
    agent: str | None,
    provider: Sequence[str] | None,
    since: datetime | None,
    until: datetime | None,
) -> Any:
    from asm_core.ports.query import UsageSearch

    return UsageSearch(session_id=session, agent_id=agent, provider=provider, since=_utc(since), until=_utc(until))


def _show(name: str, found: Any, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], json: bool) -> None:
    if json:
        print_json({name: rows, "cursor": found.cursor, "has_more": found.has_more})
        return
    print_table(rows, columns)
    if found.has_more:
        typer.echo(f"more: --cursor {found.cursor}", err=True)


def _named(name: str, groups: Mapping[str, Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return ({name: key, **group} for key, group in sorted(groups.items()))


def _bound(option: str, text: str) -> int | None:
    from asm_core.domain.errors import AsmError, ErrorCode
    from asm_core.domain.retention import parse_bound

    value = parse_bound(text)
    if value is None:
        return None
    try:
        return int(text)
    except ValueError:
        message = f"{option} must be an integer from 1 or `infinity`, not {text!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": option}) from None


def _utc(at: datetime | None) -> datetime | None:
    from datetime import UTC

    return at.replace(tzinfo=UTC) if at is not None else None
