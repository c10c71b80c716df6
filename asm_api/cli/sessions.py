"""Commands about sessions, over a running API."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from asm_api.cli.common import ApiKey, Json, Limit, Server, SessionId, client, given, print_json, print_table


def open_(
    agent: Annotated[str, typer.Argument(help="Agent id.", metavar="AGENT")],
    provider: Annotated[str | None, typer.Option("--provider", "-p", help="Of runs that name none.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Of runs that name none.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="The system prompt of its runs.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag")] = None,
    at_once: Annotated[int | None, typer.Option("--at-once", min=1, help="Runs at once; by default 1.")] = None,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Make a session for several runs; prints its id."""
    fields = given(provider=provider, model=model, tags=tag, max_concurrent_runs=at_once)
    context = {"context": {"system_prompt": system}} if system is not None else {}
    with client(server, api_key) as api:
        answer = api.create_session(agent, **fields, **context)
    print_json(answer) if json else typer.echo(answer["id"])


def complete(
    session: SessionId,
    cancel_queued: Annotated[bool, typer.Option("--cancel-queued", help="End what waits; else it is refused.")] = False,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """End a session."""
    with client(server, api_key) as api:
        answer = api.complete_session(session, queued="cancel" if cancel_queued else "refuse")
    print_json(answer) if json else typer.echo(f"{session} {answer['status']}")


def pause(session: SessionId, server: Server = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Let no further run of a session begin."""
    with client(server, api_key) as api:
        answer = api.pause_session(session)
    print_json(answer) if json else typer.echo(f"{session} {answer['status']}")


def resume(session: SessionId, server: Server = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Let a paused session go on."""
    with client(server, api_key) as api:
        answer = api.resume_session(session)
    print_json(answer) if json else typer.echo(f"{session} {answer['status']}")


def fork(
    session: SessionId,
    at: Annotated[int | None, typer.Option("--at", min=1, help="Number of the last event to go on from.")] = None,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Make a new session that goes on from another's events; prints its id."""
    with client(server, api_key) as api:
        answer = api.fork_session(session, at=at)
    print_json(answer) if json else typer.echo(answer["id"])


def sessions(
    status: Annotated[str | None, typer.Option("--status")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Agent id.")] = None,
    tag: Annotated[str | None, typer.Option("--tag")] = None,
    limit: Limit = 50,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """List sessions, newest first."""
    with client(server, api_key) as api:
        page = api.list_sessions(status=status, agent_id=agent, tag=tag, limit=limit)
    if json:
        print_json(page)
    else:
        print_table(page["sessions"], ("id", "agent_id", "status", "provider", "tags", "created_at"))


def artifacts(
    session: SessionId,
    key: Annotated[str | None, typer.Argument(help="Write this one's bytes.", metavar="[KEY]")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="By default standard output.")] = None,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """List a session's artifacts (patches, files, recordings), or fetch one."""
    with client(server, api_key) as api:
        if key is not None:
            _save(api.read_artifact(session, key), output)
            return
        found = api.artifacts(session)
    if json:
        print_json(found)
    else:
        print_table(found["artifacts"], ("key", "run_id", "content_type", "byte_size", "created_at"))


COMMANDS = (open_, complete, pause, resume, fork, sessions, artifacts)


def _save(chunks: Iterator[bytes], output: Path | None) -> None:
    if output is None:
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        return
    from asm_api.files import whole_file

    with whole_file(output) as file:
        for chunk in chunks:
            file.write(chunk)
