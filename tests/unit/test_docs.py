"""Generated pages are what their generators write today; the map of the code is true."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "examples" / "README.md"]
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")


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


def prose(page: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that is in it."""
    for target, anchor in LINK.findall(prose(page)):
        if "://" in target:
            continue
        leads_to = (page.parent / target).resolve() if target else page
        assert leads_to.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(leads_to), f"{target} has no heading #{anchor}"


def test_every_how_to_is_on_the_map() -> None:
    """docs/README.md names each page of docs/howto."""
    named = set(re.findall(r"howto/[\w-]+\.md", (ROOT / "docs" / "README.md").read_text()))
    assert named == {f"howto/{page.name}" for page in ROOT.glob("docs/howto/*.md")}


def test_the_guides_are_all_accounted_for() -> None:
    """docs/guides.md: a row for each of the 38, with a page or with what it waits for."""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "docs" / "guides.md").read_text(), re.MULTILINE)
    assert len({guide for guide, _ in rows} - {"Guide"}) == len(rows) - 1 == 38
    assert [guide for guide, here in rows[1:] if not LINK.search(here) and "waits for" not in here] == []
