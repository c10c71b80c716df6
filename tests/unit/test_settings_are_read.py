"""No setting is documented that does nothing: each is read somewhere in the product, by its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import asm_core.config
from asm_core.config import Settings

ROOT = Path(__file__).parents[2]
CONFIG = Path(asm_core.config.__file__)
HOLDERS = ("settings", "chosen")
"""What an object with settings is called, wherever it is read."""
FOR_CALLERS = {"retention"}
"""What programs hand on themselves: `Maintenance` is given its policy by whoever runs it."""
QUERY_LIMITS = {f"default_{kind}_query_limit" for kind in ("session", "run", "event")}
"""`ports/query.py` puts these names together."""
PROVIDERS = {
    f"{name}_{what}"
    for name in ("anthropic", "openai", "claude", "codex", "amp")
    for what in ("base_url", "api_key", "model")
}
"""`provider_access` puts these names together, for the providers' adapters."""
SETS_OTHERS = {"profile"}
"""Read when the settings are made."""


@cache
def read_in_use() -> frozenset[str]:
    """Names read off settings outside of config.py, and what is read in turn by the properties among them."""
    found = (
        {name for path in sources() for name in reads_of(path)} | FOR_CALLERS | QUERY_LIMITS | PROVIDERS | SETS_OTHERS
    )
    own = reads_of_config()
    waiting = list(found)
    while waiting:
        fresh = own.get(waiting.pop(), set()) - found
        found |= fresh
        waiting += fresh
    return frozenset(found)


def sources() -> Iterator[Path]:
    for package in ("asm_core", "asm_workers", "asm_api"):
        yield from (path for path in (ROOT / package).rglob("*.py") if path != CONFIG)


def reads_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name), attr=read):
                if name.lstrip("_") in HOLDERS:
                    yield read
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="options"), attr="get"), args=[ast.Constant(value=read)]
            ):
                yield str(read)
            case ast.keyword(arg="envvar", value=ast.Constant(value=str(variable))):
                yield variable.removeprefix("ASM_").lower()


def reads_of_config() -> dict[str, set[str]]:
    """What each function of config.py reads of itself; those of one name together."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(CONFIG.read_text())):
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, set()).update(
                inner.attr
                for inner in ast.walk(node)
                if isinstance(inner, ast.Attribute) and ast.unparse(inner.value) == "self"
            )
    return found


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_read(name: str) -> None:
    """A setting without a reader is a promise that nobody keeps: read it, or take it out."""
    assert name in read_in_use()


def test_the_look_for_readers_finds_nothing_where_there_is_none() -> None:
    """What this file itself relies on."""
    assert not {"no_such_setting", "model_config"} & read_in_use()
    assert {"redactor", "times", "profile", "shell_cwd", "max_query_limit"} <= read_in_use()
