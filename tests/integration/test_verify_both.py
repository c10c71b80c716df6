"""`verify` on each kind of database, where both are asked the same; and what it says of stored secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.invariants import MAX_SHOWN, SECRETS, Report
from asm_core.domain.redaction import REDACTOR, RedactionOptions, Redactor, SecretSearch
from asm_core.manager.verify import verify
from asm_core.stores.sql import stored_secrets
from asm_core.stores.sql.engine import sqlite_url
from asm_core.stores.sql.verify import inspect_database, verify_database
from tests.builders import HANDED_BACK, NOW, RETRY, an_outcome
from tests.fixtures.secrets import ALNUM, PASSWORD, PLANTED
from tests.fixtures.sql import SqlWorld

TOKEN = "gh" + "p_" + ALNUM[:36]


@pytest.fixture
def world(sql_world: SqlWorld) -> SqlWorld:
    return sql_world


@pytest.fixture
async def broken(broken_world: SqlWorld) -> SqlWorld:
    """May end unsound; on Postgres without the triggers that stand in the way."""
    if broken_world.engine.dialect.name == "postgresql":
        for table in ("asm_events", "asm_runs"):
            await broken_world.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
    return broken_world


async def finished(world: SqlWorld, **fields: Any) -> str:
    """A run that has said something, spent something and ended."""
    lease = await world.running(**fields)
    await world.append(lease, 2)
    for cost in (0.1, 0.2):
        await world.append(lease, kind=EventType.TOKEN_USAGE_UPDATED, data={"input_tokens": 7, "cost_usd": cost})
    await world.queue.finish(lease, an_outcome())
    return lease.run_id


async def names(world: SqlWorld, *ids: str) -> dict[int, int]:
    """Number of an invariant to how often it is violated; every id must be named."""
    report = await world.verify()
    told = "\n".join(report.violations)
    assert [one for one in ids if one not in told] == [], told
    return found(report)


def found(report: Report) -> dict[int, int]:
    return {verdict.number: verdict.count for verdict in report.verdicts if not verdict.is_sound}


async def test_what_happened_in_many_ways_is_sound(world: SqlWorld) -> None:
    """Ends, a cancel in the queue, a hand-back, a second attempt, an import without numbers of its own."""
    await finished(world)
    session_id = await world.session(max_concurrent_runs=2)
    worker_id = await world.worker()
    first = await world.running(session_id=session_id, worker_id=worker_id, options=RETRY)
    await world.append(first)
    await world.queue.finish(first, HANDED_BACK)
    again = await world.claim(session_id, worker_id)
    await world.queue.start(again)
    await world.append(again, attempt=2)
    waiting = await world.submit(session_id)
    await world.queue.request_cancel(waiting.run_id, "default", "cancel")

    report = await world.verify()

    assert report.is_sound, report.violations
    is_file = world.url.startswith("sqlite")
    assert [verdict.number for verdict in report.verdicts] == [1, 2, 3, 4, 5, 6, *([] if is_file else [7]), 8]
    assert [entry["number"] for entry in report.to_map()["left_out"]] == ([7] if is_file else [])
    async with inspect_database(world.url) as inspection:
        assert (await verify(inspection)).to_map() == report.to_map()


async def test_an_empty_database_is_sound(world: SqlWorld) -> None:
    assert (await world.verify()).is_sound


async def test_wrong_numbers_and_counters_are_found(broken: SqlWorld) -> None:
    """Invariant 1."""
    gap, ahead, behind, uncounted, empty = [await broken.session() for _ in range(5)]
    await finished(broken)
    await broken.change("events", {"session_id": gap, "sequence_number": 2}, sequence_number=7)
    await broken.change("session_sequences", {"session_id": gap}, last_sequence=7)
    await broken.change("session_sequences", {"session_id": ahead}, last_sequence=3)
    await broken.change("session_sequences", {"session_id": behind}, last_sequence=1)
    await broken.remove("session_sequences", session_id=uncounted)
    await broken.remove("events", session_id=empty)
    assert await names(broken, gap, ahead, behind, uncounted, empty) == {1: 5}


async def test_wrong_terminal_events_are_found(broken: SqlWorld) -> None:
    """Invariant 2."""
    missing, doubled, wrong = [await finished(broken) for _ in range(3)]
    alive = await broken.running()
    await broken.append(alive)
    await broken.change("events", {"run_id": missing, "type": "run_completed"}, type="turn_completed")
    await broken.change("events", {"run_id": doubled, "sequence_number": 3}, type="run_failed")
    await broken.change("events", {"run_id": wrong, "type": "run_completed"}, type="run_failed")
    await broken.change("events", {"run_id": alive.run_id}, type="run_cancelled")
    assert await names(broken, missing, doubled, wrong, alive.run_id) == {2: 4}


async def test_events_of_an_older_fence_behind_a_takeover_are_found(broken: SqlWorld) -> None:
    """Invariant 3; what carries no fence is left aside."""
    late, decided = await finished(broken), await finished(broken)
    await broken.change("events", {"run_id": late, "sequence_number": 3}, fence=9)
    await broken.change("events", {"run_id": decided, "sequence_number": 4}, fence=None)
    assert (await names(broken, late)).keys() == {3}
    assert decided not in str((await broken.verify()).to_map())


async def test_claims_out_of_order_and_too_many_slots_are_found(broken: SqlWorld) -> None:
    """Invariants 4 and 5."""
    session_id = await broken.session(max_concurrent_runs=2)
    worker_id = await broken.worker()
    leases = [await broken.running(session_id=session_id, worker_id=worker_id) for _ in range(2)]
    await broken.change("runs", {"id": leases[0].run_id}, first_fence=8)
    assert await names(broken, session_id, leases[1].run_id) == {4: 1}
    await broken.change("runs", {"id": leases[0].run_id}, first_fence=1)
    await broken.change("session_runtime", {"session_id": session_id}, max_concurrent_runs=1)
    assert await names(broken, session_id) == {5: 2}, "the leases, and the peak"
    await broken.change("session_runtime", {"session_id": session_id}, max_concurrent_runs=2)
    await broken.remove("run_leases", run_id=leases[0].run_id)
    await broken.change("run_leases", {"run_id": leases[1].run_id}, fence=9)
    assert await names(broken, leases[0].run_id, leases[1].run_id) == {5: 2}


async def test_a_limiter_that_is_overrun_is_found(broken: SqlWorld) -> None:
    """Invariant 5; one that was lowered below its use is not."""
    await broken.queue.set_limiter("narrow", 5)
    leases = [await broken.running() for _ in range(2)]
    await broken.change("run_leases", limiter="narrow")
    await broken.queue.set_limiter("narrow", 1)
    assert await names(broken) == {}
    await broken.change("run_leases", {"run_id": leases[0].run_id}, claimed_at=await broken.peek.now())
    assert await names(broken, "narrow") == {5: 1}


async def test_usage_that_does_not_add_up_is_found(broken: SqlWorld) -> None:
    """Invariant 6, of terminal runs; binary fractions are no violation."""
    tokens, cost, unspent, unheard, fine = [await finished(broken) for _ in range(5)]
    lease = await broken.running()
    await broken.append(lease, kind=EventType.TOKEN_USAGE_UPDATED, data={"input_tokens": 1})
    await broken.change("runs", {"id": tokens}, token_usage={"input_tokens": 15})
    await broken.change("runs", {"id": cost}, cost_usd=0.300001)
    await broken.change("runs", {"id": unspent}, cost_usd=None)
    await broken.change("runs", {"id": unheard}, token_usage={"input_tokens": 14, "output_tokens": 1})
    assert await names(broken, tokens, cost, unspent, unheard) == {6: 4}
    assert fine not in str((await broken.verify()).to_map())


async def test_a_stored_secret_is_found_and_not_repeated(broken: SqlWorld) -> None:
    """Invariant 8: place and kind, in every table, at any depth, in keys and lists; the value nowhere."""
    session_id = await broken.session()
    lease = await broken.running(session_id=session_id)
    [event] = await broken.append(lease, data={"tool_input": {"a": [1, {"deep": f"use {TOKEN} here"}]}})
    await broken.change("sessions", {"id": session_id}, tags=["x", TOKEN], context={"password": PASSWORD})
    await broken.change("runs", {"id": lease.run_id}, metadata={TOKEN: 1}, provider=TOKEN)
    given = {"tenant_id": "default", "scope": session_id, "request_hash": "h", "run_id": lease.run_id}
    await broken.insert("idempotency_keys", session_id=session_id, key=TOKEN, created_at=NOW, **given)

    report = await broken.verify()

    assert found(report) == {SECRETS: 6}
    assert {text.removeprefix(f"({SECRETS}) ") for text in report.violations} == {
        f"asm_events.data of {event.id}: github_pat",
        f"asm_sessions.tags of {session_id}: github_pat",
        f"asm_sessions.context of {session_id}: password",
        f"asm_runs.metadata of {lease.run_id}: github_pat",
        f"asm_runs.provider of {lease.run_id}: github_pat",
        f"asm_idempotency_keys.key of default/{session_id}/[REDACTED]: github_pat",
    }
    assert TOKEN not in str(report.to_map())
    assert PASSWORD not in str(report.to_map())


async def test_secrets_are_left_out_on_request(broken: SqlWorld) -> None:
    session_id = await broken.session()
    await broken.change("sessions", {"id": session_id}, model=TOKEN)
    report = await verify_database(broken.url, secrets=None)
    assert report.is_sound
    assert f"{SECRETS} secrets: left out, not asked for" in report.lines()


async def test_secrets_are_searched_page_by_page(broken: SqlWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are counted, some are shown, and progress is told."""
    monkeypatch.setattr(stored_secrets, "PAGE", 7)
    lease = await broken.running()
    await broken.append(lease, MAX_SHOWN + 5, data={"content": TOKEN})
    said: list[str] = []
    report = await verify_database(broken.url, tell=said.append)
    assert found(report) == {SECRETS: MAX_SHOWN + 5}
    assert len(report.violations) == MAX_SHOWN
    events = [text for text in said if text.endswith("of asm_events")]
    assert events == [f"8 secrets: {rows} rows of asm_events" for rows in (7, 14, 21, 27)]


@pytest.mark.parametrize("replacement", ["[REDACTED]", "categorized", "<gone>"])
def test_what_is_redacted_is_no_secret(replacement: str) -> None:
    """Whatever the installation puts in place of secrets, or used to; what it did not redact is one."""
    redactor = Redactor(RedactionOptions(replacement=replacement))
    search = SecretSearch(redactor.options)
    for planted in PLANTED:
        value = {"text": planted.text, "password": planted.secret, planted.text: [planted.text]}
        assert planted.kind in search.kinds(planted.text)
        assert search.kinds(redactor.value(value)) == []
        assert search.kinds(REDACTOR.value(value)) == []


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Nor is what is no database, or not migrated, called sound."""
    absent, rubbish, empty = tmp_path / "absent.db", tmp_path / "rubbish.db", tmp_path / "empty.db"
    rubbish.write_bytes(b"not a database, but long enough to be looked at as one " * 40)
    empty.touch()
    for path, code in (
        (absent, ErrorCode.STORAGE_CONNECTION_FAILED),
        (tmp_path, ErrorCode.STORAGE_CONNECTION_FAILED),
        (rubbish, ErrorCode.QUERY_ERROR),
        (empty, ErrorCode.MIGRATION_REQUIRED),
    ):
        with pytest.raises(AsmError) as caught:
            await verify_database(sqlite_url(path))
        assert caught.value.code is code, path
    assert not absent.exists()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_a_file_is_only_read(broken: SqlWorld) -> None:
    """One state, whatever is stored meanwhile; and no statement of a check can write."""
    async with inspect_database(broken.url) as inspection:
        assert (await inspection.examine(1)).is_sound
        session_id = await broken.session()
        await broken.change("session_sequences", {"session_id": session_id}, last_sequence=99)
        assert (await inspection.examine(1)).is_sound
        with pytest.raises(sa.exc.OperationalError, match="readonly"):
            await inspection._connection.execute(sa.text("DELETE FROM asm_events"))
    assert found(await broken.verify()) == {1: 1}
