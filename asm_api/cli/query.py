"""`asm query`: questions across the sessions of a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from asm_api.cli.common import DatabaseUrl, Json, SessionId, print_json, print_table
from asm_api.cli.stored import Tenant, opened_store

app = typer.Typer(name="query", help="Ask a database across sessions.", no_args_is_help=True)

Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Rows of a page; by default the setting's.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")]
Providers = Annotated[list[str] | None, typer.Option("--provider", "-p", help="Any of these.")]
Statuses = Annotated[list[str] | None, typer.Option("--status", help="Any of these.")]
Since = Annotated[datetime | None, typer.Option("--since", help="UTC, from then on.")]
Until = Annotated[datetime | None, typer.Option("--until", help="UTC, up to then.")]
InSession = Annotated[str | None, typer.Option("--session", "-s")]
Agent = Annotated[str | None, typer.Option("--agent", help="Agent id.")]


@app.command("sessions")
def query_sessions(
    agent: Agent = None,
    status: Statuses = None,
    provider: Providers = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="All of these.")] = None,
    since: Since = None,
    until: Until = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted ones too.")] = False,
    order: Annotated[str, typer.Option("--order")] = "updated_at_desc",
    limit: Limit = None,
    cursor: Cursor = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Sessions by agent, status, provider of a run, tags and time of creation."""
    with opened_store(database_url) as store:
        from asm_core.ports.query import SessionSearch

        where = SessionSearch(
            agent_id=agent, status=status, provider=provider, tags=tag, include_deleted=deleted, order_by=order,
            created_after=_utc(since), created_before=_utc(until), limit=limit, cursor=cursor,
        )  # fmt: skip
        found = store.queries().search_sessions(tenant, where)
    columns = ("id", "agent_id", "status", "provider", "tags", "updated_at")
    _show("sessions", found, [session.to_map() for session in found.items], columns, json)


@app.command("runs")
def query_runs(
    session: InSession = None,
    status: Statuses = None,
    provider: Providers = None,
    since: Since = None,
    until: Until = None,
    min_tokens: Annotated[int | None, typer.Option("--min-tokens", min=0)] = None,
    order: Annotated[str, typer.Option("--order")] = "started_at_desc",
    limit: Limit = None,
    cursor: Cursor = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Runs by session, status, provider, time of start and tokens."""
    with opened_store(database_url) as store:
        from asm_core.ports.query import RunSearch

        where = RunSearch(
            session_id=session, status=status, provider=provider, min_tokens=min_tokens, order_by=order,
            started_after=_utc(since), started_before=_utc(until), limit=limit, cursor=cursor,
        )  # fmt: skip
        found = store.queries().search_runs(tenant, where)
    columns = ("id", "session_id", "status", "provider", "attempt", "cost_usd", "started_at")
    _show("runs", found, [run.to_map() for run in found.items], columns, json)


@app.command("events")
def query_events(
    session: Annotated[list[str] | None, typer.Option("--session", "-s", help="Any of these.")] = None,
    run: Annotated[list[str] | None, typer.Option("--run", help="Any of these.")] = None,
    type_: Annotated[list[str] | None, typer.Option("--type", help="Any of these.")] = None,
    provider: Providers = None,
    since: Since = None,
    until: Until = None,
    order: Annotated[str, typer.Option("--order")] = "timestamp_desc",
    limit: Limit = None,
    cursor: Cursor = None,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Events of all sessions by type, run, provider and time."""
    with opened_store(database_url) as store:
        from asm_core.ports.query import EventSearch
        from asm_core.wire import loads

        where = EventSearch(
            session_ids=session, run_ids=run, types=type_, providers=provider, order_by=order,
            since=_utc(since), until=_utc(until), limit=limit, cursor=cursor,
        )  # fmt: skip
        found = store.queries().search_events(tenant, where)
    columns = ("session_id", "sequence_number", "type", "run_id", "timestamp", "data")
    _show("events", found, [loads(frame.body) for frame in found.items], columns, json)


@app.command("usage")
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
    with opened_store(database_url) as store:
        usage = store.queries().get_usage_summary(tenant, _usage(session, agent, provider, since, until)).to_map()
    if json:
        print_json(usage)
        return
    total = {"provider": "all", "run_count": usage["run_count"], "input_tokens": usage["total_input_tokens"]}
    total |= {"output_tokens": usage["total_output_tokens"], "total_tokens": usage["total_tokens"]}
    rows = [*_named("provider", usage["by_provider"]), total]
    print_table(rows, ("provider", "run_count", "input_tokens", "output_tokens", "total_tokens"))


@app.command("cost")
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
    with opened_store(database_url) as store:
        cost = store.queries().get_cost_summary(tenant, _usage(session, agent, provider, since, until)).to_map()
    if json:
        print_json(cost)
        return
    print_table([*_named("provider", cost["by_provider"])], ("provider", "run_count", "cost_usd"))
    print_table([*_named("model", cost["by_model"])], ("model", "input_tokens", "output_tokens", "cost_usd"))
    without = f"; {cost['unmapped_runs']} without a price" if cost["unmapped_runs"] else ""
    typer.echo(f"{cost['run_count']} runs, {cost['total_cost_usd']:g} USD{without}")


@app.command("stats")
def query_stats(
    session: SessionId,
    tenant: Tenant = "default",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """One session in numbers."""
    with opened_store(database_url) as store:
        from dataclasses import asdict

        from asm_core.domain.fields import to_jsonable

        stats: dict[str, Any] = to_jsonable(asdict(store.queries().get_session_stats(session, tenant)))
    if json:
        print_json(stats)
    else:
        print_table([{"what": name, "value": value} for name, value in stats.items()], ("what", "value"))


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


def _utc(at: datetime | None) -> datetime | None:
    from datetime import UTC

    return at.replace(tzinfo=UTC) if at is not None else None
