"""Commands about runs, over a running API."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asm_api.cli.common import (
    FAILED,
    INTERRUPTED,
    USAGE,
    ApiKey,
    How,
    Json,
    Limit,
    Render,
    Server,
    SessionId,
    client,
    fail,
    given,
    print_json,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from asm_api.client import AsmClient

RunId = Annotated[str, typer.Argument(help="Run id.", metavar="RUN")]
Prompt = Annotated[
    str | None, typer.Argument(help="What the agent is asked, or the shell command; `-` reads standard input.")
]
InputFile = Annotated[Path | None, typer.Option("--input", help="A JSON file with the run's whole input.")]
Provider = Annotated[str | None, typer.Option("--provider", "-p", help="scripted, shell, …")]
Model = Annotated[str | None, typer.Option("--model", "-m")]
InSession = Annotated[str | None, typer.Option("--session", "-s", help="Run inside this session instead of a new one.")]
TimeoutMs = Annotated[int | None, typer.Option("--timeout-ms", help="Limit of the run's execution time.")]
Continuation = Annotated[
    str | None, typer.Option("--continuation", help="auto, replay or native: go on from what the session's runs said.")
]
OnLost = Annotated[str, typer.Option("--on-worker-lost", help="fail, retry or resume.")]
Key = Annotated[str | None, typer.Option("--idempotency-key", help="The same key never queues a second run.")]


def run(
    prompt: Prompt = None,
    input_file: InputFile = None,
    provider: Provider = None,
    model: Model = None,
    session: InSession = None,
    continuation: Continuation = None,
    timeout_ms: TimeoutMs = None,
    on_worker_lost: OnLost = "fail",
    render: How = Render.LINES,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Submit a run, follow its events, print its result; exit 1 when it did not complete."""
    from asm_api.cli.events import event_of, show_events

    options = _options(provider, model, continuation, timeout_ms, on_worker_lost)
    with client(server, api_key) as api:
        submitted = _submit(api, session, _input(prompt, input_file), options, None)
        with _run_goes_on(submitted["id"]):
            if not json:
                followed = api.follow(submitted["session_id"], run_id=submitted["id"])
                show_events(map(event_of, _until_terminal(followed)), render)
            row = api.wait(submitted["id"])
        if json:
            print_json(row)
    raise typer.Exit(0 if row["status"] == "completed" else FAILED)


def submit(
    prompt: Prompt = None,
    input_file: InputFile = None,
    provider: Provider = None,
    model: Model = None,
    session: InSession = None,
    continuation: Continuation = None,
    timeout_ms: TimeoutMs = None,
    on_worker_lost: OnLost = "fail",
    idempotency_key: Key = None,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Queue a run and print its id."""
    options = _options(provider, model, continuation, timeout_ms, on_worker_lost)
    with client(server, api_key) as api:
        submitted = _submit(api, session, _input(prompt, input_file), options, idempotency_key)
    print_json(submitted) if json else typer.echo(submitted["id"])


def wait(
    run_id: RunId,
    timeout_s: Annotated[float, typer.Option("--timeout-s", help="Give up waiting after this long.")] = 3600.0,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Wait for a run to end and print its result; exit 1 when it did not complete."""
    with client(server, api_key) as api, _run_goes_on(run_id):
        row = api.wait(run_id, timeout_s=timeout_s)
    if json:
        print_json(row)
    else:
        print_text(_result(row))
    raise typer.Exit(0 if row["status"] == "completed" else FAILED)


def tail(
    session: SessionId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    after: Annotated[int, typer.Option("--after", min=0, help="Begin behind this sequence number.")] = 0,
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run's events.")] = None,
    type_: Annotated[list[str] | None, typer.Option("--type", help="Only these event types.")] = None,
    render: How = Render.LINES,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Print a session's events, by default until nothing is queued or running."""
    from asm_api.cli.events import event_of, show_events

    with client(server, api_key) as api:
        events = api.follow(session, after=after, types=type_ or (), run_id=run_id, until_idle=not follow)
        if json:
            for event in events:
                print_json(event)
        else:
            show_events(map(event_of, events), render)


def show(
    id: Annotated[str, typer.Argument(help="Run or session id.", metavar="RUN|SESSION")],
    tool_output: Annotated[str, typer.Option("--tool-output", help="summary, preview or full.")] = "preview",
    render: How = Render.STUDIO,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Print what was said and done in a run, or in a whole session; without the attempts that were replaced."""
    from asm_api.cli.events import event_of, show_events
    from asm_core.rendering import without_superseded

    with client(server, api_key) as api:
        row, events = _record(api, id)
        if json:
            print_json(row | {"events": events})
            return
        if render is not Render.JSONL:
            typer.echo(f"{row['id']}  {row['status']}  {row['provider'] or ''}".rstrip())
        show_events(without_superseded([*map(event_of, events)]), render, tool_output=tool_output)


def cancel(run_id: RunId, server: Server = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Cancel a run, queued or in flight."""
    with client(server, api_key) as api:
        answer = api.cancel(run_id)
    print_json(answer) if json else typer.echo(_stop_answer(answer))


def interrupt(run_id: RunId, server: Server = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Stop a run that is in flight; the session stays usable."""
    with client(server, api_key) as api:
        answer = api.interrupt(run_id)
    print_json(answer) if json else typer.echo(_stop_answer(answer))


def runs(
    session: InSession = None,
    status: Annotated[str | None, typer.Option("--status")] = None,
    limit: Limit = 50,
    server: Server = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """List runs, newest first."""
    with client(server, api_key) as api:
        page = api.list_runs(session_id=session, status=status, limit=limit)
    if json:
        print_json(page)
    else:
        print_table(page["runs"], ("id", "session_id", "status", "provider", "attempt", "position", "created_at"))


COMMANDS = (run, submit, wait, tail, show, cancel, interrupt, runs)

_PAGE = 1_000
_TERMINAL = ("run_completed", "run_failed", "run_cancelled", "run_timeout")


def _options(
    provider: str | None, model: str | None, continuation: str | None, timeout_ms: int | None, on_worker_lost: str
) -> dict[str, Any]:
    options = {"provider": provider, "model": model, "continuation": continuation, "timeout_ms": timeout_ms}
    return given(on_worker_lost=on_worker_lost, **options)


def _input(prompt: str | None, file: Path | None) -> dict[str, Any]:
    from asm_core.wire import loads

    if (prompt is None) == (file is None):
        fail("give either a prompt or --input FILE", USAGE)
    if file is None:
        return {"prompt": sys.stdin.read() if prompt == "-" else prompt}
    try:
        value = loads(file.read_bytes())
    except (OSError, ValueError) as error:
        fail(f"cannot read {file}: {error}", USAGE)
    if not isinstance(value, dict):
        fail(f"{file} must hold a JSON object", USAGE)
    return value


def _submit(
    api: Any, session: str | None, value: dict[str, Any], options: dict[str, Any], key: str | None
) -> dict[str, Any]:
    if session is None:
        submitted: dict[str, Any] = api.submit_once(value, idempotency_key=key, **options)
    else:
        submitted = api.submit(session, value, idempotency_key=key, **options)
    return submitted


def _until_terminal(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for event in events:
        yield event
        if event["type"] in _TERMINAL:
            return


def _record(api: AsmClient, id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run or a session, and all its events."""
    from asm_core.domain.errors import AsmError, ErrorCode

    try:
        row = api.get_run(id)
    except AsmError as error:
        if error.code is not ErrorCode.RUN_NOT_FOUND:
            raise
        row = api.get_session(id)
        return row, [*_stored(api, id, None)]
    return row, [*_stored(api, row["session_id"], id)]


def _stored(api: AsmClient, session_id: str, run_id: str | None) -> Iterator[dict[str, Any]]:
    after = 0
    while events := api.events(session_id, after=after, run_id=run_id, limit=_PAGE)["events"]:
        yield from events
        after = events[-1]["sequence_number"]


@contextmanager
def _run_goes_on(run_id: str) -> Iterator[None]:
    """An interrupted command has only stopped watching."""
    try:
        yield
    except KeyboardInterrupt:
        fail(f"{run_id} goes on without you; stop it with `asm cancel {run_id}`", INTERRUPTED)


def _stop_answer(answer: dict[str, Any]) -> str:
    asked = " (asked to stop)" if answer["status"] == "running" else ""
    return f"{answer['id']} {answer['status']}{asked}"


def _result(row: dict[str, Any]) -> str:
    content = (row["output"] or {}).get("content") or ""
    if row["status"] == "completed":
        return str(content)
    error = row["error"] or {}
    reason = f": {error['message']} [{error['code']}]" if error else ""
    return f"{row['status']}{reason}" + (f"\n{content}" if content else "")
