"""The `asm` command: help, usage, exit codes; a whole `asm dev` as its user sees it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from tests.fixtures.dev import ASM, GONE_WITHIN_S, Dev, asm, eventually, running_dev

HEAVY = (
    "celery",
    "sqlalchemy",
    "fastapi",
    "alembic",
    "psycopg",
    "redis",
    "pydantic",
    "anthropic",
    "openai",
    "rich.live",
)


def test_help_imports_nothing_heavy() -> None:
    """`asm --help` is instant because the heavy packages stay inside the commands."""
    code = f"import sys, asm_api.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("wait", "run_x", "--server", "http://127.0.0.1:9"), 3),
        (("sessions", "--server", "http://127.0.0.1:9"), 3),
        (("tail", "ses_x", "--server", "http://127.0.0.1:9"), 3),
        (("show", "run_x", "--server", "http://127.0.0.1:9"), 3),
        (("tail", "ses_x", "--render", "loud"), 2),
        (("run",), 2),
        (("runs", "--limit", "0"), 2),
        (("no-such-command",), 2),
        (("verify", "--database-url", "postgresql://127.0.0.1:9/x"), 3),
        (("verify", "--database-url", "sqlite:////nowhere/asm.db"), 3),
        (("verify", "--database-url", "mysql://127.0.0.1:9/x"), 2),
        (("migrate", "--database-url", "postgresql://127.0.0.1:9/x"), 3),
    ],
)
def test_errors_are_one_line_with_an_exit_code(arguments: tuple[str, ...], code: int) -> None:
    """A service that cannot be reached is exit 3, wrong usage 2; never a traceback."""
    answer = asm(*arguments)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    if code == 3:
        assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "text", "said"),
    [
        ("ASM_BEAT_INTERVAL_MS", "soon", "ASM_BEAT_INTERVAL_MS"),
        ("ASM_PRICING_TABLE", '{"claude": {"input": 1}}', "claude lacks output"),
        ("ASM_PRICING_TABLE", "{", "pricing_table"),
    ],
)
def test_a_bad_setting_is_named(setting: str, text: str, said: str) -> None:
    """The variable, not a stack of validation errors."""
    answer = asm("migrate", env={setting: text})
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("dev")
    (folder / "something-else").write_text("the folder may be non-empty")
    with running_dev(folder, "--workers", "2", "--concurrency", "10") as running:
        yield running


def test_dev_says_what_it_started_and_where(dev: Dev) -> None:
    """One line per server with version and origin, then the ready line; dev.json names every process."""
    assert dev.said[-1] == f"ready {dev.url}"
    assert any(line.startswith("postgres ") for line in dev.said)
    assert set(dev.description) == {"api_url", "database_url", "redis_url", "flower_url", "pids"}
    assert all(psutil.pid_exists(pid) for pid in dev.pids())
    assert len(dev.description["pids"]["workers"]) == 2


def test_run_follows_a_run_and_reports_its_end(dev: Dev) -> None:
    """`asm run` prints the stream and exits 0; a failed command exits 1 with its reason."""
    good = dev.asm("run", "hello there")
    assert good.returncode == 0, good.stderr
    assert "hello there" in good.stdout and "run_completed" in good.stdout
    bad = dev.asm("run", "-p", "shell", "echo out; exit 4")
    assert bad.returncode == 1
    assert "tool_execution_failed" in bad.stdout


def test_submit_wait_tail_and_lists(dev: Dev) -> None:
    """The commands print what a person reads, and with --json what a program does."""
    submitted = json.loads(dev.asm("submit", "one", "--json").stdout)
    row = json.loads(dev.asm("wait", submitted["id"], "--json").stdout)
    assert row["status"] == "completed" and row["output"]["content"] == "one"
    lines = dev.asm("tail", submitted["session_id"], "--json").stdout.splitlines()
    assert [json.loads(line)["sequence_number"] for line in lines] == list(range(1, len(lines) + 1))
    assert "session_completed" in dev.asm("tail", submitted["session_id"]).stdout
    assert submitted["id"] in [run["id"] for run in json.loads(dev.asm("runs", "--json").stdout)["runs"]]
    assert submitted["session_id"] in dev.asm("sessions").stdout
    assert dev.asm("wait", "run_unknown").returncode == 1


def test_a_conversation_by_commands(dev: Dev) -> None:
    """A session is opened, its second run goes on from the first, and it ends when it is told to."""
    session = dev.asm("open", "companion", "--system", "Be brief.", "--tag", "a", "--tag", "b").stdout.strip()
    row = dev.get(f"/v1/sessions/{session}")
    assert (row["tags"], row["context"]["system_prompt"]) == (["a", "b"], "Be brief.")
    for prompt in ("My dog is called Rex.", "What is my dog called?"):
        said = dev.asm("run", "-s", session, "--continuation", "auto", "--json", prompt)
    carried = json.loads(said.stdout)["provider_metadata"]["continuation"]
    assert carried["messages_replayed"] == 2
    dev.asm("pause", session)
    dev.asm("submit", "-s", session, "later")
    refused = dev.asm("complete", session)
    assert (refused.returncode, "invalid_operation" in refused.stderr) == (1, True)
    ended = dev.asm("complete", session, "--cancel-queued")
    assert (ended.returncode, ended.stdout) == (0, f"{session} completed\n")


def test_events_are_shown_in_the_form_that_is_asked_for(dev: Dev) -> None:
    """Of a run that goes on and of one that is stored; a device that is full is one line and exit 1."""
    assert "r+ scripted >> hello\n" in dev.asm("run", "hello", "--render", "compact").stdout
    session = json.loads(dev.asm("submit", "hello", "--json").stdout)["session_id"]
    shown = {form: dev.asm("tail", session, "--render", form).stdout for form in ("studio", "verbose", "jsonl")}
    assert "● scripted session started\n\n  hello\n" in shown["studio"]
    assert "[run_completed] stop_reason=end_turn" in shown["verbose"]
    numbers = [json.loads(line)["seq"] for line in shown["jsonl"].splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert dev.asm("tail", session, "--render", "passthrough").stdout == ""
    with Path("/dev/full").open("w") as full:
        command = [*ASM, "tail", session, "--server", dev.url]
        refused = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (1, "asm: cannot write: No space left on device\n")


def test_show_prints_what_was_said_and_done(dev: Dev, tmp_path: Path) -> None:
    """Of a run or of a whole session, as text or as JSON; an unknown id is named."""
    tool = {"name": "bash", "input": {"command": "make"}, "output": "done"}
    script = tmp_path / "input.json"
    script.write_text(json.dumps({"script": [{"tool": tool}, {"say": "It is made."}]}))
    run = json.loads(dev.asm("submit", "--input", str(script), "--json").stdout)
    dev.asm("wait", run["id"])
    shown = dev.asm("show", run["id"]).stdout
    assert shown.startswith(f"{run['id']}  completed  scripted\n")
    assert "✓ Ran: make (exit 0, 4 chars)\n    │ done\n\n  It is made.\n" in shown
    assert "session_completed" in dev.asm("show", run["session_id"], "--render", "lines").stdout
    events = json.loads(dev.asm("show", run["id"], "--json").stdout)["events"]
    assert {event["run_id"] for event in events} == {run["id"]}
    assert dev.asm("show", "run_unknown").returncode == 1


def test_cancel_stops_a_run_in_flight(dev: Dev, tmp_path: Path) -> None:
    """`asm run` that is interrupted says that the run goes on; `asm cancel` ends it; `asm wait` then exits 1."""
    script = tmp_path / "input.json"
    script.write_text(json.dumps({"script": [{"say": "I sleep now"}, {"sleep_ms": 600_000}]}))
    command = [*ASM, "run", "--input", str(script), "--server", dev.url]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job would ignore it
    ) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        assert any("I sleep now" in line for line in watching.stdout)
        watching.send_signal(signal.SIGINT)
        hint = watching.stderr.read()
    assert watching.returncode == 130
    run_id = re.search(r"asm cancel (run_\w+)", hint)[1]
    assert dev.get(f"/v1/runs/{run_id}")["status"] == "running"
    assert dev.asm("cancel", run_id).stdout == f"{run_id} running (asked to stop)\n"
    waited = dev.asm("wait", run_id)
    assert waited.returncode == 1 and waited.stdout.startswith("cancelled")


def test_flower_shows_one_task_per_run(dev: Dev) -> None:
    """Through Flower's own HTTP API: uuid is the run id, args name the session, state and runtime are the run's."""
    submitted = json.loads(dev.asm("submit", "for flower", "--json").stdout)
    failed = json.loads(dev.asm("submit", "-p", "shell", "exit 1", "--json").stdout)
    for run in (submitted, failed):
        dev.asm("wait", run["id"])

    def tasks() -> dict[str, Any]:
        with urlopen(f"http://127.0.0.1:{dev.flower_port}/api/tasks", timeout=5) as answer:
            return json.loads(answer.read())

    def shown() -> bool:
        seen = tasks()
        return (
            seen.get(submitted["id"], {}).get("state") == "SUCCESS"
            and seen.get(failed["id"], {}).get("state") == "FAILURE"
        )

    eventually(shown)
    seen = tasks()
    task = seen[submitted["id"]]
    assert task["name"] == "asm.run" and submitted["session_id"] in task["args"] and task["runtime"] > 0
    assert seen[failed["id"]]["exception"] == "tool_execution_failed"
    assert {entry["name"] for entry in seen.values()} == {"asm.run"}


def test_verify_finds_the_database_sound(dev: Dev) -> None:
    """After all of the above the invariants hold."""
    answer = asm("verify", "--database-url", dev.description["database_url"], "--json")
    assert answer.returncode == 0, answer.stdout
    json.loads(answer.stdout)


def test_verify_tells_of_a_file_by_its_exit_code(sqlite_template: Path, tmp_path: Path) -> None:
    """0 sound, 1 violated, 3 not to be asked; secrets are left out on request; no progress without a terminal."""
    path = shutil.copy(sqlite_template, tmp_path / "asm.db")
    token = "gh" + "p_" + "a1B2c3" * 6
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO asm_sessions (id, agent_id, status, created_at, updated_at, model)"
            " VALUES ('ses_1', 'a', 'active', '2025-06-01T12:00:00.000000Z', '2025-06-01T12:00:00.000000Z', ?)",
            [token],
        )
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database " * 100)
    found = asm("verify", "--database-url", f"sqlite:///{path}")
    assert (found.returncode, found.stderr) == (1, "")
    assert "asm_sessions.model of ses_1: github_pat" in found.stdout
    assert token not in found.stdout
    assert asm("verify", "--database-url", f"sqlite:///{path}", "--no-secrets").returncode == 0
    assert asm("verify", "--database-url", f"sqlite:///{broken}").returncode == 3


def test_doctor_finds_everything_in_order(dev: Dev) -> None:
    """Each part with a line; exit 0 when all is well, 1 with remedies when it is not."""
    found = dev.description
    env = {"ASM_DATABASE_URL": found["database_url"], "ASM_REDIS_URL": found["redis_url"]}
    answer = asm("doctor", env=env | {"ASM_ANTHROPIC_API_KEY": "sk-ant-not-to-be-seen", "AMP_CLI_PATH": "/nowhere"})
    assert answer.returncode == 0
    lines = dict(re.findall(r"^ok   (.{18}) (.*)$", answer.stdout, re.MULTILINE))
    told = {part.strip(): says for part, says in lines.items()}
    assert told["anthropic"] == "installed, with a key"
    assert "name it in AMP_CLI_PATH; set ASM_AMP_API_KEY" in told["amp"]
    assert "GiB free" in told["disk"] and "alive" in told["workers"]
    assert "not-to-be-seen" not in answer.stdout
    nothing = asm(
        "doctor", env={"ASM_DATABASE_URL": "postgresql://127.0.0.1:9/x", "ASM_REDIS_URL": "redis://127.0.0.1:9"}
    )
    assert nothing.returncode == 1 and "-> " in nothing.stdout


def test_a_killed_child_is_started_again(dev: Dev) -> None:
    """API, worker, Redis and Postgres killed at once: dev.json names the new ones, runs go on."""
    before = dev.description["pids"]
    killed = [before["api"], before["workers"][0], before["redis"], before["postgres"]]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not set(killed) & set(dev.pids()) and all(psutil.pid_exists(pid) for pid in dev.pids()))
    eventually(dev.answers)
    assert dev.asm("run", "after the crash").returncode == 0


def test_nothing_is_left_after_term(dev: Dev) -> None:
    """TERM ends the whole tree within 15 s."""
    pids = dev.pids()
    family = {child.pid for child in psutil.Process(dev.process.pid).children(recursive=True)}
    dev.process.terminate()
    assert dev.process.wait(GONE_WITHIN_S) == 0
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in {*pids, *family}))


def test_nothing_is_left_after_kill(tmp_path: Path) -> None:
    """Even SIGKILL of `asm dev` leaves no process behind."""
    with running_dev(tmp_path, "--workers", "1") as running:
        family = {child.pid for child in psutil.Process(running.process.pid).children(recursive=True)}
        running.process.kill()
        running.process.wait()
        eventually(lambda: not any(psutil.pid_exists(pid) for pid in family), GONE_WITHIN_S)


def test_a_taken_port_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """Nothing is started; the message says what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = asm("dev", "--port", str(taken.getsockname()[1]), "--data-dir", str(tmp_path / "data"))
    assert answer.returncode == 2
    assert "--port" in answer.stderr
