"""Generated pages are what their generators write today; the map of the code is true."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["settings_reference", "providers_reference", "cli_reference", "http_reference"])
def test_a_generated_page_is_current(name: str) -> None:
    """docs/reference/… says what the code says; renew it with docs/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.TARGET.read_text() == generator.reference()


def test_the_map_of_the_code_is_true() -> None:
    """docs/design/architecture.md: every module that it names is there, and it names every room of the core."""
    text = (ROOT / "docs" / "design" / "architecture.md").read_text()
    packages = ("asm_api", "asm_core", "asm_workers")
    there = [f"/{path.relative_to(ROOT)}" for name in packages for path in (ROOT / name).rglob("*")]
    named = re.findall(r"[\w/]+\.(?:py|sql)", text)
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in there)] == []
    core = ROOT / "asm_core"
    rooms = [*core.glob("*/__init__.py"), *(core / "stores").glob("*/__init__.py")]
    assert [room for room in rooms if f"`{room.parent.relative_to(core)}/`" not in text] == [
        core / "stores/__init__.py"
    ]
