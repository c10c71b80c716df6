"""What the README shows works, as it is printed there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.dev import running_dev

README = (Path(__file__).parents[2] / "README.md").read_text()
CALL = "\nimport asyncio\nprint(asyncio.run(answer('Hello', 'message-0')))\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_examples_run(tmp_path: Path) -> None:
    """Each block is executed against a running stack and prints the answer."""
    examples = blocks("python")
    assert len(examples) == 2
    with running_dev(tmp_path, "--workers", "1") as dev:
        for example in examples:
            code = example.replace("http://127.0.0.1:8420", dev.url)
            if "async def answer" in code:
                code += CALL
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip().endswith("Hello")


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_the_commands_exist(target: str) -> None:
    """Every `make` line of the README names a target."""
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
