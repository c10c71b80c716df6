"""Each example runs offline and asserts what it claims; the list of them is whole."""

from __future__ import annotations

import ast
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
TIMEOUT_S = 60

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def running() -> dict[str, Future[Done]]:
    """All of them, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return {name: pool.submit(_run, name) for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, running: dict[str, Future[Done]]) -> None:
    done = running[name].result()
    assert done.returncode == 0, done.stdout + done.stderr
    if done.stdout.startswith("SKIP: "):
        pytest.skip(done.stdout)
    assert "  ok  " in done.stdout


def test_the_examples_are_listed_with_what_they_show() -> None:
    """A row of the table for each, in the words of its docstring, and no other row."""
    table = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| [")]
    assert sorted(table) == [f"| [{name}.py]({name}.py) | {_shows(name)} |" for name in EXAMPLES]


def _shows(name: str) -> str | None:
    return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))


def _run(name: str) -> Done:
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
