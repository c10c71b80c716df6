"""Claude Code's own records: kept whole, or not gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from asm_core.adapters import claude_session
from asm_core.adapters.claude_session import ClaudeSession
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.wire import dumps, loads

ID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"


class Kept:
    """`ProviderFiles` in memory; refuses while told to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.refuses = False

    async def load(self, name: str) -> bytes | None:
        return self.files.get(name)

    async def save(self, name: str, data: bytes) -> None:
        if self.refuses:
            raise AsmError(ErrorCode.STORAGE_CONNECTION_FAILED, "away")
        self.files[name] = data
        self.writes.append(name)


def write(folder: Path, text: str, name: str = f"{ID}.jsonl") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


async def test_a_whole_record_is_restored_with_what_belongs_to_it(tmp_path: Path) -> None:
    """Only whole lines; with what the session has cost."""
    kept = Kept()
    write(tmp_path / "here", '{"a":1}\n{"half')
    write(tmp_path / "here", '{"b":1}\n', f"{ID}/subagents/agent-1.jsonl")
    write(tmp_path / "here", "another's", "2b4e28ba-2fa1-41d2-883f-0016d3cca427.jsonl")
    await ClaudeSession(tmp_path / "here", kept).save(ID, is_whole=True, cost_usd=0.5)
    restored = await ClaudeSession(tmp_path / "there", kept).restore(ID, was_cut=False)
    assert restored
    assert restored.cost_usd == 0.5
    found = {path.relative_to(tmp_path / "there").as_posix(): path for path in (tmp_path / "there").rglob("*.jsonl")}
    assert found.keys() == {f"{ID}.jsonl", f"{ID}/subagents/agent-1.jsonl"}
    assert found[f"{ID}.jsonl"].read_text() == '{"a":1}\n'


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude_session, "PAUSE", 0)


async def test_only_what_has_changed_is_kept_again(tmp_path: Path) -> None:
    kept = Kept()
    record = ClaudeSession(tmp_path, kept)
    write(tmp_path, "1\n")
    await record.save(ID, is_whole=False)
    await record.save(ID, is_whole=False)
    assert kept.writes == [f"{ID}.json", f"{ID}.jsonl"]
    await record.save(ID, is_whole=True)
    assert kept.writes[2:] == [f"{ID}.json"]


async def test_a_record_of_a_run_that_died_serves_its_next_attempt_only(tmp_path: Path) -> None:
    """And what the session has cost is not known then."""
    kept = Kept()
    write(tmp_path, "1\n")
    await ClaudeSession(tmp_path, kept).save(ID, is_whole=True, cost_usd=0.5)
    write(tmp_path, "1\n22\n")
    await ClaudeSession(tmp_path, kept).save(ID, is_whole=False)
    assert await ClaudeSession(tmp_path, kept).restore(ID, was_cut=False) is None
    cut = await ClaudeSession(tmp_path, kept).restore(ID, was_cut=True)
    assert cut
    assert cut.cost_usd is None


async def test_a_record_that_could_not_be_kept_does_not_count_as_whole(tmp_path: Path) -> None:
    """Though the run had begun to keep it; once the store is back it is kept again."""
    kept = Kept()
    record = ClaudeSession(tmp_path, kept)
    write(tmp_path, "1\n")
    await record.save(ID, is_whole=False)
    write(tmp_path, "1\n22\n")
    kept.refuses = True
    with pytest.raises(AsmError):
        await record.save(ID, is_whole=True)
    kept.refuses = False
    assert await ClaudeSession(tmp_path, kept).restore(ID, was_cut=False) is None
    await record.save(ID, is_whole=True)
    assert kept.files[f"{ID}.jsonl"] == b"1\n22\n"
    assert await ClaudeSession(tmp_path, kept).restore(ID, was_cut=False)


async def test_what_is_missing_or_leads_elsewhere_is_not_restored(tmp_path: Path) -> None:
    kept = Kept()
    record = ClaudeSession(tmp_path / "records", kept)
    assert await record.restore(ID, was_cut=True) is None
    assert await record.restore("../../etc/passwd", was_cut=True) is None
    noted = {"files": [f"{ID}.jsonl", "../outside"], "is_whole": True, "cost_usd": None}
    kept.files = {f"{ID}.json": dumps(noted)}
    assert await record.restore(ID, was_cut=False) is None
    kept.files |= {f"{ID}.jsonl": b"1\n", "../outside": b"x"}
    await record.restore(ID, was_cut=False)
    assert not (tmp_path / "outside").exists()
    assert loads(kept.files[f"{ID}.json"]) == noted


async def test_without_files_the_disk_is_all_there_is(tmp_path: Path) -> None:
    record = ClaudeSession(tmp_path, None)
    assert await record.restore(ID, was_cut=False) is None
    write(tmp_path, "1\n")
    await record.save(ID, is_whole=True)
    assert await record.restore(ID, was_cut=False)


async def test_a_run_is_not_held_up_by_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes soon behind a saving waits for a later one, at the latest for the end."""
    monkeypatch.setattr(claude_session, "PAUSE", 1e9)
    kept = Kept()
    record = ClaudeSession(tmp_path, kept)
    for text in ("1\n", "1\n22\n"):
        write(tmp_path, text)
        await record.save(ID, is_whole=False)
    assert kept.files[f"{ID}.jsonl"] == b"1\n"
    await record.save(ID, is_whole=True)
    assert kept.files[f"{ID}.jsonl"] == b"1\n22\n"
