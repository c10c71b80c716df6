"""Writes docs/reference/cli.md from the commands; a test holds them together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from asm_api.cli import app

TARGET = Path(__file__).parent / "reference" / "cli.md"

HEAD = """# The `asm` command

Exit codes: 0 ok, 1 the run failed or the check found something, 2 usage, 3 a service cannot be reached, 130 interrupted.
`asm --install-completion` completes commands and options in your shell. Written by `python docs/cli_reference.py`.
"""


def reference() -> str:
    return HEAD + "".join(_sections("asm", typer.main.get_command(app)))


def _sections(name: str, command: Any) -> Iterator[str]:
    for word, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from _sections(f"{name} {word}", inner)
        else:
            yield _section(f"{name} {word}", inner)


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([name, *(p.metavar or p.name.upper() for p in arguments)])
    rows = [f"| `{', '.join([*p.opts, *p.secondary_opts])}` | {_default(p)} | {p.help or ''} |" for p in options]
    table = ["", "| Option | Default | Meaning |", "|---|---|---|", *rows] if rows else []
    return "\n".join(["", f"## `{usage}`", "", command.help, *table]) + "\n"


def _default(option: Any) -> str:
    default = getattr(option.default, "value", option.default)
    by_default = f"`{default}`" if default not in (None, False, ()) else "–"
    return f"{by_default}, or `{option.envvar}`" if option.envvar else by_default


if __name__ == "__main__":
    TARGET.write_text(reference())
