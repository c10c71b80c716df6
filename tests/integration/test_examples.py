"""Each example runs offline, asserts what it claims and leaves nothing behind; the lists of them are whole."""

from __future__ import annotations

import ast
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from tests.fixtures.dev import eventually

FOLDER = Path(__file__).parents[2] / "examples"
RUN_ALL = "run_all"
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py") if path.stem != RUN_ALL)
ENDED = re.compile(r"^(ok|SKIP|FAIL) +(\w+) +[\d.]+ s(?:  (.*))?$", re.MULTILINE)
REFERENCE_FILES = 46
MISSING = ("approvals", "policy", "routing", "the workflow bridge")
"""Features that examples of the reference still wait for here."""

pytestmark = pytest.mark.timeout(600)  # the first test waits for all of them


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """For what they make for a time; another user's Postgres may enter, too."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def report(place: Path) -> str:
    """Of all of them, as a user gets it."""
    return run_all(FOLDER, env={"TMPDIR": str(place)}).stdout


def run_all(folder: Path, *names: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / f"{RUN_ALL}.py"), *names]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (env or {}))


@pytest.mark.parametrize("name", NAMES)
def test_example(name: str, report: str) -> None:
    states = {found[2]: found for found in ENDED.finditer(report)}
    assert name in states, report
    if states[name][1] == "SKIP":
        pytest.skip(states[name][3])
    assert states[name][1] == "ok", report


def test_nothing_is_left_behind(place: Path, report: str) -> None:
    """No process, and no folder of theirs."""
    assert report
    assert [*place.glob("asm-example*")] == []
    assert [process for process in psutil.process_iter() if str(place) in _temporary_folder_of(process)] == []


def _temporary_folder_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("TMPDIR", "")
    except psutil.Error:  # gone meanwhile, or of another user
        return ""


def test_artifacts_go_to_the_s3_that_the_environment_names(tmp_path: Path) -> None:
    """With a bucket that is there as long as it is needed."""
    from moto import server as moto
    from moto.s3.models import s3_backends

    buckets = s3_backends["123456789012"]["aws"].buckets  # of all servers in this process
    before = [*buckets]
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        command = [sys.executable, str(FOLDER / "s3_artifact_store.py")]
        env = os.environ | {"MINIO_ENDPOINT": f"http://{host}:{port}"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert (done.returncode, f"S3 at http://{host}:{port}" in done.stdout) == (0, True), done.stdout + done.stderr
        assert [*buckets] == before
    finally:
        server.stop()


# Each is a program that can be asked what it is, and a module that can be imported


@pytest.mark.parametrize("name", NAMES)
def test_importing_does_nothing_and_help_says_what_it_shows(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("COLUMNS", "1000")
    example = runpy.run_path(str(FOLDER / f"{name}.py"), run_name=name)
    assert capsys.readouterr() == ("", "")

    def ends_with(option: str) -> Any:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", option])
        with pytest.raises(SystemExit) as ended:
            example["main"](example["example"])
        return ended.value.code

    assert ends_with("--help") == 0
    assert shows(name) in capsys.readouterr().out
    assert ends_with("--nonsense") == 2
    assert capsys.readouterr().err.startswith(f"usage: {name}.py")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_starts_only_as_a_program(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 150
    assert text.endswith('\n\nif __name__ == "__main__":\n    main(example)\n')


# All at once

PROGRAMS = {
    "holds": 'print("  ok  it holds")',
    "skips": 'print("SKIP: nothing to do it with")',
    "fails": 'print("  ok  so far"); raise SystemExit("NOT TRUE: it holds")',
    "breaks": 'print("  ok  so far"); 1 / 0',
    "claims_nothing": 'print("hello")',
    "lasts": """
import time
from pathlib import Path
try:
    Path(__file__).with_name("begun").touch()
    print("  ok  so far", flush=True)
    time.sleep(600)
finally:
    print("tidied up")
    Path(__file__).with_name("tidied").touch()
""",
}


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A folder of examples with every kind of end, and little time for each."""
    code = (FOLDER / f"{RUN_ALL}.py").read_text()
    assert "\nTIMEOUT_S, GRACE_S = 90.0, " in code
    (tmp_path / f"{RUN_ALL}.py").write_text(code.replace("TIMEOUT_S, GRACE_S = 90.0, ", "TIMEOUT_S, GRACE_S = 2.0, "))
    for name, program in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(program)
    return tmp_path


def test_all_at_once_says_how_each_ended(others: Path) -> None:
    """Its exit code tells programs; what a failed one said is told to people."""
    done = run_all(others, *PROGRAMS)
    states = {name: state for state, name, _ in ENDED.findall(done.stdout)}
    failed = dict.fromkeys(("fails", "breaks", "claims_nothing", "lasts"), "FAIL")
    assert states == {"holds": "ok", "skips": "SKIP"} | failed
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "1 ok, 1 skipped, 4 failed")
    for said in ("NOT TRUE: it holds", "ZeroDivisionError", "hello", "tidied up", "it did not end within 2 s"):
        assert said in done.stdout
    assert run_all(others, "holds", "skips").returncode == 0


def test_an_unknown_name_is_refused_before_anything_runs(others: Path) -> None:
    unknown = run_all(others, "holds", "nope")
    assert (unknown.returncode, unknown.stdout, "no such example: nope" in unknown.stderr) == (2, "", True)


def test_an_interrupt_lets_examples_tidy_up(others: Path) -> None:
    command = [sys.executable, str(others / f"{RUN_ALL}.py"), "lasts"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as at a terminal
    )  # fmt: skip
    eventually((others / "begun").exists)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, ("", ""))
    assert (others / "tidied").exists()


# The lists


def test_the_examples_are_listed_with_what_they_show() -> None:
    """A row of the tables for each, in the words of its docstring, and no other row."""
    listed = [line for line in readme() if line.startswith("| [")]
    assert sorted(listed) == [f"| [{name}.py]({name}.py) | {shows(name)} |" for name in NAMES]


def test_each_file_of_the_reference_has_its_counterpart_or_waits_for_a_feature() -> None:
    """By what stands beside it: files that are there, or a feature that is not."""
    rows = [line.strip("| ").split(" | ") for line in readme() if line.startswith("| `")]
    assert len({file for file, _ in rows}) == len(rows) == REFERENCE_FILES
    for file, counterpart in rows:
        ours = re.findall(r"\[([\w.]+)\]\(\1\)", counterpart)
        waits = counterpart.removeprefix("waits for ") in MISSING
        assert waits or (ours and all((FOLDER / name).is_file() for name in ours)), file


def readme() -> Sequence[str]:
    return (FOLDER / "README.md").read_text().splitlines()


def shows(name: str) -> str:
    return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
