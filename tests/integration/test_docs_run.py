"""
What the documentation shows works, as it is printed there: the blocks of each page are executed in their order, against
one stack for all pages. CONTRIBUTING.md has the rules; `NOT_RUN` counts the exceptions.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.fakes import script
from tests.fakes.server import ProviderServer
from tests.fixtures.dev import Dev, asm, eventually, running_dev
from tests.fixtures.pages import PAGES, ROOT, Block, blocks_of, check, commands_of, reading, shape_of
from tests.integration.test_testing_kit import GUIDES

NOT_RUN: Mapping[str, int] = {
    "README.md": 2,  # make: the demo and all tests; the stack itself
    "CONTRIBUTING.md": 1,  # make
    "docs/design/provider-servers.md": 1,  # the tests' own fixtures
    "docs/howto/deploy.md": 1,  # processes that stay
    "docs/howto/follow.md": 1,  # a browser's
    "docs/howto/web-backends.md": 1,  # Django
    "docs/tutorial.md": 2,  # installing; the stack itself
}
"""By page, the blocks that are marked as `not run`; each says why."""

PROGRAMS = ("curl", "git")
"""Whose absence skips the pages that use them."""
IN_TESTS = {f"docs/howto/{guide}.md" for guide in GUIDES}
"""Their Python is a module of tests: `test_testing_kit.py` runs it."""

BLOCKS = {page: blocks_of(page, (ROOT / page).read_text()) for page in PAGES}
RUN = {
    page: [block for block in blocks if block.is_run and not (page in IN_TESTS and block.language == "python")]
    for page, blocks in BLOCKS.items()
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a reader's shell and the stack have in common; the models' APIs are pretended."""
    bytecode = str(tmp_path_factory.mktemp("bytecode"))
    with ProviderServer() as server:
        server.script.always(script.text("Because of ", "Rayleigh scattering."))
        yield {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_API_KEY": "none is needed",
            "OPENAI_BASE_URL": server.openai_url,
            "OPENAI_API_KEY": "none is needed",
            "GIT_AUTHOR_NAME": "reader", "GIT_AUTHOR_EMAIL": "reader@localhost",
            "GIT_COMMITTER_NAME": "reader", "GIT_COMMITTER_EMAIL": "reader@localhost",
            "NO_COLOR": "1", "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode,
        }  # fmt: skip


@pytest.fixture(scope="module")
def dev(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        with running_dev(tmp_path_factory.mktemp("dev"), "--workers", "2") as running:
            yield running
            report = asm("verify", "--database-url", running.description["database_url"])
            assert report.returncode == 0, report.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]])
def test_a_page_works(page: str, dev: Dev, environment: dict[str, str], tmp_path: Path) -> None:
    """Every block that is not marked otherwise, in a folder with the stack's `.asm` and the environment in `.venv`."""
    for program in PROGRAMS:
        if not shutil.which(program) and any(re.search(rf"\b{program} ", block.code) for block in RUN[page]):
            pytest.skip(f"this machine has no {program}")
    (tmp_path / ".asm").symlink_to(dev.folder)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    described = dev.description
    stack = {
        "ASM_SERVER": dev.url,
        "ASM_DATABASE_URL": described["database_url"],
        "ASM_REDIS_URL": described["redis_url"],
    }
    with reading(tmp_path, os.environ | environment | stack, f"127.0.0.1:{dev.port}") as reader:
        for block in RUN[page]:
            reader.execute(block)
    eventually(dev.answers)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_says_what_it_is(page: str) -> None:
    """It has a language, and is correct in it as far as that can be seen without running it."""
    for block in BLOCKS[page]:
        check(block)


def test_what_is_not_run_is_counted() -> None:
    """Whoever adds such a block adds it here, too."""
    marked = {page: sum(bool(block.note) for block in blocks) for page, blocks in BLOCKS.items()}
    assert {page: count for page, count in marked.items() if count} == NOT_RUN


def test_the_tests_on_pages_are_run() -> None:
    """A page whose Python is a module of tests is one of those that `test_testing_kit.py` runs."""
    tests = {page for page in PAGES for block in BLOCKS[page] if re.search(r"^(async )?def test_", block.code, re.M)}
    assert tests <= IN_TESTS


def test_commands_that_are_not_run_exist() -> None:
    """Every target of `make` and every command of `asm` that a page names."""
    code = "\n".join(block.code for blocks in BLOCKS.values() for block in blocks if block.language == "bash")
    makefile = (ROOT / "Makefile").read_text()
    assert {name for name in re.findall(r"^make (\w+)", code, re.M) if f"\n{name}:" not in makefile} == set()
    known = re.findall(r"^## `asm ([\w-]+)", (ROOT / "docs/reference/cli.md").read_text(), re.M)
    assert {*re.findall(r"^(?:\.venv/bin/)?asm ([a-z]+)", code, re.M)} <= {*known}


@pytest.mark.parametrize(
    "text",
    ["```\nx\n```", "```ruby\nx\n```", "```json\n{\n```", "```python\nif\n```", "```bash\nif\n```", "```js\nx\n```",
     "```bash because\nls\n```", "```text not run: it is text\nx\n```",
     "```console\nHello\n```", "```text\nx\n", "~~~text\nx\n~~~"],
)  # fmt: skip
def test_a_wrong_block_is_found(text: str) -> None:
    """No language, an unknown one, a mistake, a note that is no reason, no command, another fence."""
    with pytest.raises((AssertionError, ValueError, SyntaxError)):
        for block in blocks_of("page.md", f"{text}\n"):
            check(block)


def test_a_page_that_lies_is_found(tmp_path: Path) -> None:
    """A command that fails, other output than shown, an exception: each is told with its place."""
    lies = {"bash": "false\n", "console": "$ echo one\ntwo\n", "python": "assert 1 == 2\n"}
    for language, code in lies.items():
        told = pytest.raises(pytest.fail.Exception, match=r"page\.md:7")
        with reading(tmp_path, os.environ, "127.0.0.1:1") as reader, told:
            reader.execute(Block("page.md", 7, language, "", code))


def test_what_varies_may_vary() -> None:
    """Ids, times, ports; and what is left out in between."""
    [(command, expected)] = commands_of("$ asm dev\nready http://127.0.0.1:8420\n…\nses_0a1b2c3d4e5f done in 3 s\n")
    assert command == "asm dev"
    assert shape_of("ready http://127.0.0.1:17\nand\nmore\nses_99999999aaaa done in 0.5 s", expected)
    assert not shape_of("ready http://127.0.0.1:17\nses_99999999aaaa failed in 0.5 s", expected)
