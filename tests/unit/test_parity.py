"""docs/parity*.md are true: each check of the checklists stands there once, and every test that is named exists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "parity.md"
PAGES = sorted(INDEX.parent.glob("parity*.md"))
EXAMPLES = "Spec 05 §17"
"""Its numbers are checks and, up to 46, files of §17.2; one test runs them all."""
FILES_OF_EXAMPLES = 46
CHECKLISTS: dict[str, Iterable[int]] = {
    "Spec 01": range(1, 244),
    "Spec 01 §21": range(1, 61),
    "Spec 02": range(1, 254),
    "Spec 02 §23": range(1, 31),
    "Spec 05": range(1, 145),
    "Spec 05 §16": [*range(1, 16), *range(20, 41)],
    EXAMPLES: range(145, 152),
}
"""The head of a table's first column, and the numbers that stand under it."""
REASONS = ("by construction", "comes with", "different", "dropped", "not built")
"""What a row says that names no test."""
SOURCES = ("asm_api", "asm_core", "asm_workers", "benchmarks", "examples", "tests")


class Row(NamedTuple):
    head: str
    """Of the first column."""
    cells: Sequence[str]


def rows_of(page: str) -> Iterator[Row]:
    """Those of every table, without their heads and rules."""
    head = None
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            head = None
        elif head is None:
            head = cells[0]
        elif set(line) - set("|-"):
            yield Row(head, cells)


def numbers_in(cell: str) -> list[int]:
    """`1, 3–5` and `W3` as numbers; nothing else may stand there."""
    assert re.fullmatch(r"W?\d+(–\d+)?(, W?\d+(–\d+)?)*", cell), f"no numbers: {cell!r}"
    bounds = re.findall(r"(\d+)(?:–(\d+))?", cell)
    return [number for first, last in bounds for number in range(int(first), int(last or first) + 1)]


def unknown_in(cell: str, prose: str = "") -> list[str]:
    """
    The files and tests named that do not exist.

    Args:
        cell: a test without a file is of the one named before it, or of one that the prose names.
        prose: of the page; "`x` is `test_y.py`" declares a short name.
    """
    short = dict(re.findall(r"`(\w+)` is\s+`([\w/]+\.py)`", prose))
    unknown, last, others = [], "", re.findall(r"`([\w/]+\.py)`", prose)
    for named in re.findall(r"`([^`]+)`", cell):
        file, test = parts_of(named)
        if not file and not test:
            continue
        last = short.get(file, file) or last
        places = [last] if file else [last, *others]
        if not any(not test or test in declared_in(path) for place in places for path in files_named(place)):
            unknown.append(named)
    return unknown


def parts_of(named: str) -> tuple[str, str]:
    """File and test; both empty where it is the name of something else."""
    if re.fullmatch(r"test_\w+", named):
        return "", named
    file, _, test = named.partition("::")
    return (file, test) if re.fullmatch(r"[\w/]+\.py", file) or test.startswith("test_") else ("", "")


def prose_of(page: str) -> str:
    return "\n".join(line for line in page.splitlines() if not line.startswith("|"))


@cache
def files_named(name: str) -> Sequence[Path]:
    return [path for path in source_files() if f"/{path}".endswith(f"/{name}")]


@cache
def source_files() -> Sequence[Path]:
    return [path.relative_to(ROOT) for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]


@cache
def declared_in(path: Path) -> frozenset[str]:
    """Only what stands in `tests/` and in the contracts is a test."""
    if not path.is_relative_to("tests") and not path.is_relative_to("asm_core/testing"):
        return frozenset()
    return frozenset(re.findall(r"def (test_\w+)\(", (ROOT / path).read_text()))


@cache
def checklist_rows() -> Sequence[Row]:
    return [row for page in PAGES for row in rows_of(page.read_text()) if row.head in CHECKLISTS]


@pytest.mark.parametrize("head", CHECKLISTS)
def test_each_number_of_a_checklist_stands_there_once(head: str) -> None:
    """Ranges expanded, over all pages."""
    told = sorted(number for row in checklist_rows() if row.head == head for number in numbers_in(row.cells[0]))
    if head == EXAMPLES:
        told = [number for number in told if number > FILES_OF_EXAMPLES]
    assert told == [*CHECKLISTS[head]]


def test_each_row_names_a_test_or_says_why_there_is_none() -> None:
    for row in checklist_rows():
        if row.head == EXAMPLES:
            continue
        reason = row.cells[-1]
        assert "test_" in reason or reason.startswith(REASONS) or "contracts/" in reason, row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_all_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    """Whoever renames a test renames it here."""
    text = page.read_text()
    prose = prose_of(text)
    assert unknown_in(prose) == []
    assert [name for row in rows_of(text) for cell in row.cells for name in unknown_in(cell, prose)] == []


def test_the_index_lists_every_page() -> None:
    linked = {INDEX.parent / name for name in re.findall(r"\]\((parity-\w+\.md)\)", INDEX.read_text())}
    assert linked == {*PAGES} - {INDEX}


def test_the_look_for_names_finds_what_is_wrong() -> None:
    """What the tests above rely on."""
    here = "test_the_look_for_names_finds_what_is_wrong"
    assert unknown_in(f"`test_parity.py::{here}`, `{here}`; `unit/test_parity.py`, `bus/hub.py`, `save_*`, 'x'") == []
    wrong = [f"{here}_not", f"test_domain.py::{here}", "test_nothing.py", f"hub.py::{here}", f"X::{here}"]
    assert unknown_in("`test_parity.py` " + " ".join(f"`{name}`" for name in wrong)) == wrong
    prose = "`me` is `unit/test_parity.py`"
    assert unknown_in(f"`{here}`, `me::{here}`, `{here}_not`, `you::{here}`", prose) == [f"{here}_not", f"you::{here}"]
    assert numbers_in("1, 3–5, W7") == [1, 3, 4, 5, 7]
    with pytest.raises(AssertionError):
        numbers_in("§13")
    assert [*rows_of("| Spec 01 | a |\n|---|---|\n| 1 | b |\n\n| Other | a |\n|---|---|\n| 2 | c |")] == [
        Row("Spec 01", ["1", "b"]),
        Row("Other", ["2", "c"]),
    ]
