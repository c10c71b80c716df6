"""`asm query` and `asm maintenance` on a database of their own, as an operator runs them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from asm_core import ScriptedAdapter, sync
from asm_core.library import open_store
from asm_core.stores.artifacts.file import FileArtifactStore
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.sql.tables import sessions
from tests.fixtures.dev import asm, asm_here

USAGE = {"usage": {"input_tokens": 10, "output_tokens": 5}}
SAID = 4


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three sessions of one run each, and one of another tenant."""
    url = f"sqlite:///{tmp_path_factory.mktemp('data') / 'asm.db'}"
    with sync.open_store(url) as store:
        for tenant, how_many in (("default", 3), ("other", 1)):
            with store.open_manager(ScriptedAdapter(), tenant_id=tenant) as manager:
                for number in range(how_many):
                    manager.run_once({"script": [{"say": f"number {number} [x]", "chunks": SAID}, USAGE]})
    return url


def ask(database: str, *arguments: str) -> Any:
    answer = asm_here(*arguments, "--database-url", database, "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def maintained(url: str, env: dict[str, str]) -> Any:
    answer = asm_here("maintenance", "run", "--database-url", url, "--json", env=env)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_pages_of_sessions_follow_each_other(database: str) -> None:
    """Three sessions in pages of two, newest change first; the other tenant's is not among them."""
    first = ask(database, "query", "sessions", "--limit", "2")
    rest = ask(database, "query", "sessions", "--limit", "2", "--cursor", first["cursor"])
    ids = [session["id"] for session in first["sessions"] + rest["sessions"]]
    assert len(set(ids)) == 3
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert len(ask(database, "query", "sessions", "--tenant", "other")["sessions"]) == 1


def test_runs_and_events_by_what_they_are(database: str) -> None:
    """Filters reach the query: a status that occurs, one that does not; one run's streamed text."""
    runs = ask(database, "query", "runs", "--status", "completed", "--status", "failed")["runs"]
    assert len(runs) == 3
    assert ask(database, "query", "runs", "--status", "failed")["runs"] == []
    assert ask(database, "query", "runs", "--since", "2999-01-01")["runs"] == []
    events = ask(database, "query", "events", "--run", runs[0]["id"], "--type", "message_streamed")["events"]
    assert {event["run_id"] for event in events} == {runs[0]["id"]}
    assert len(events) == SAID


def test_sums(database: str) -> None:
    """Tokens, cost and one session in numbers."""
    assert ask(database, "query", "usage")["total_tokens"] == 45
    assert ask(database, "query", "cost")["unmapped_runs"] == 3
    session = ask(database, "query", "sessions", "--limit", "1")["sessions"][0]["id"]
    stats = ask(database, "query", "stats", session)
    assert (stats["run_count"], stats["token_totals"]["total_tokens"]) == (1, 15)


def test_for_people(database: str) -> None:
    """A table, with text as it is, and on stderr how to go on."""
    answer = asm_here("query", "events", "--type", "message_received", "--limit", "2", "--database-url", database)
    assert "number 2 [x]" in answer.stdout
    assert "more: --cursor " in answer.stderr
    assert asm_here("maintenance", "health", "--database-url", database).stdout == "sound\n"


def test_retention_from_the_command_line(tmp_path: Path) -> None:
    """Events are pruned down to what is kept; a policy is applied and tells what it did."""
    url = f"sqlite:///{tmp_path / 'asm.db'}"
    with sync.open_manager(url, ScriptedAdapter()) as manager:
        session = manager.run_once({"script": [{"say": "a long story", "chunks": 30}]}).session_id
    before = ask(url, "query", "stats", session)["event_count"]
    assert ask(url, "maintenance", "prune", session, "--keep", "12") == {"events_pruned": before - 12}
    assert ask(url, "query", "stats", session)["event_count"] == 12
    report = ask(url, "maintenance", "run", "--max-events", "10")
    assert (report["events_pruned"], report["errors"]) == (2, [])


async def test_retention_starts_from_the_settings(tmp_path: Path) -> None:
    """What was deleted two days ago goes for good when the settings say one day, with the bytes of its artifacts."""
    url, folder = f"sqlite:///{tmp_path / 'asm.db'}", tmp_path / "artifacts"
    with sync.open_manager(url, ScriptedAdapter()) as manager:
        session = manager.run_once({"script": [{"say": "hello"}]}).session_id
    async with open_store(url) as store:
        assert store.engine is not None
        blobs, registry = FileArtifactStore(folder), ArtifactRegistry(store.engine)
        await RegisteringArtifactStore(blobs, registry, "default", session_id=session).put("key", b"bytes")
        two_days_ago = datetime.now(UTC) - timedelta(days=2)
        async with store.engine.begin() as connection:
            await connection.execute(sa.update(sessions).values(deleted_at=two_days_ago))
    artifacts = {"ASM_ARTIFACTS_URL": folder.as_uri()}
    assert maintained(url, artifacts)["sessions_hard_deleted"] == 0
    report = maintained(url, artifacts | {"ASM_RETENTION_HARD_DELETE_AFTER_DAYS": "1"})
    assert (report["sessions_hard_deleted"], report["errors"]) == (1, [])
    assert [path for path in folder.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("query", "runs", "--status", "odd"), 2, "status is unknown: 'odd'"),
        (("query", "runs", "--cursor", "nonsense"), 2, "cursor"),
        (("query", "events", "--order", "random"), 2, "order_by"),
        (("query", "stats", "ses_nope"), 1, "no session ses_nope"),
        (("maintenance", "run", "--completed-days", "soon"), 2, "--completed-days must be an integer"),
        (("maintenance", "run", "--completed-days", "0"), 2, "--completed-days must be an integer from 1"),
        (("maintenance", "run", "--max-events", "none"), 2, "`infinity`, not 'none'"),
    ],
)
def test_what_is_wrong_is_named(database: str, arguments: tuple[str, ...], code: int, said: str) -> None:
    answer = asm_here(*arguments, "--database-url", database)
    assert answer.returncode == code, answer.stderr
    assert said in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("url", ["sqlite:////nowhere/asm.db", "postgresql://127.0.0.1:9/x"])
def test_a_database_that_is_not_there(url: str, tmp_path: Path) -> None:
    """Exit 3 in one line, and no file is made."""
    answer = asm("query", "runs", "--database-url", url)
    assert answer.returncode == 3, answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert not Path("/nowhere").exists()
