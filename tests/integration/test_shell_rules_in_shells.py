"""What the rules let pass does not run a denied command: real shells are asked, and the command leaves a file."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asm_core.adapters.shell_rules import CommandRules
from asm_core.domain.errors import AsmError

SHELLS = [["bash", "-c"], ["bash", "--posix", "-c"], ["sh", "-c"]]
PROGRAMS = ("ls", "cat", "sort", "env", "xargs", "sh", "bash", "find", "nice", "timeout", "true", "touch")
PIECES = (
    *("denied", "denied", "ls", "echo", "x", "-v", "-c", "-n", "-x", "0", " ", " ", " ", "\t", "\n", "; ", "&", "|"),
    *("&&", "~", "]", "if ", "; then ", "; fi", "denied() "),
    *("(", ")", "((", "))", "{ ", "; }", "$(", "`", "'", '"', "\\", "$", "$x", "${x}", "${", "}", "!", "#", "=", "a["),
    *("'a[$(denied)]'", "'$(denied)'", "x='a[$(denied)]'; ", "x=", "<", ">", ">&", "<<", "<(", "{a[x]}>", "[ ", " ]"),
    *("env ", "xargs ", "sh -c ", "bash ", "eval ", "read ", "test ", "printf ", "unset ", "set ", "export ", "exec "),
    *("PS4=", "RANDOM=", "command ", "time ", "nice ", "timeout 1 ", "find . -exec ", "{}", " \\;", "*"),
)


class Yard:
    """A folder to run in, whose PATH has harmless programs and one that is denied."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.work, self.trace = folder / "bin", folder / "work", folder / "denied-has-run"
        self.bin.mkdir()
        for name in PROGRAMS:
            (self.bin / name).symlink_to(shutil.which(name) or "/bin/false")
        (self.bin / "denied").write_text(f"#!/bin/sh\n{shutil.which('touch')} {self.trace}\n")
        (self.bin / "denied").chmod(0o755)

    def runs_denied(self, argv: list[str]) -> bool:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        self.trace.unlink(missing_ok=True)
        program = shutil.which(argv[0]) or argv[0]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [program, *argv[1:]], cwd=self.work, env={"PATH": str(self.bin), "HOME": str(self.work)},
                stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False,
            )  # fmt: skip
        return self.trace.exists()


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return Yard(tmp_path_factory.mktemp("yard"))


def passes(script: str) -> bool:
    try:
        CommandRules(None, ["denied"]).check_script(script)
    except AsmError:
        return False
    return "denied" in script


def test_the_yard_notices_when_the_denied_command_runs(yard: Yard) -> None:
    """What the other tests rely on."""
    assert yard.runs_denied(["bash", "-c", "x='a[$(denied)]'; ((x))"])
    assert not yard.runs_denied(["bash", "-c", "echo denied"])


@example('x=\'a[$(denied)]\'; echo hi > \'$x\' "$x" $x; [ "$x" = y ]; printf %d "$x"')
@example("set -eux; export A='$(denied)' B; ls || echo 'denied'")
@settings(max_examples=150, suppress_health_check=[*HealthCheck])
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join).filter(passes))
def test_what_passes_does_not_run_the_denied_command(yard: Yard, script: str) -> None:
    """Pieces in any order: most make no sense, which is where a reader of one's own and a shell part ways."""
    for shell in SHELLS:
        assert not yard.runs_denied([*shell, script]), shell
