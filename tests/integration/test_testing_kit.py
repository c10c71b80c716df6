"""
The testing kit, from outside: in a folder of its own, by a pytest of its own, with nothing of this repository's tests.

The good store, adapter and tests are those that the guides show, so this proves the guides, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = ("testing", "custom-stores", "custom-adapters")

BROKEN = """
import pytest

from asm_core.testing import ProviderAdapterContract, SessionStoreContract, build_execution
from asm_core.ports.provider import Completion, RawEvent
from test_custom_adapters import EchoAdapter
from test_custom_stores import CountingStore
from asm_core import open_store


class Forgetful(CountingStore):
    async def append_events(self, events, tenant_id):
        return (await super().append_events(events, tenant_id))[:1]


class TestForgetful(SessionStoreContract):
    @pytest.fixture
    async def store(self):
        async with open_store("memory://") as opened:
            yield Forgetful(opened.records)


class Bossy(EchoAdapter):
    def capabilities(self):
        return [*super().capabilities(), *super().capabilities()]

    def validate_input(self, value):
        value["prompt"].strip()

    async def execute(self, execution):
        yield RawEvent("run_started")
        yield RawEvent("message_received", {"text": "Hello"})
        yield RawEvent("run_completed", {"stop_reason": "end_turn"})
        yield Completion()
        yield Completion()


class TestBossy(ProviderAdapterContract):
    @pytest.fixture
    def adapter(self):
        return Bossy()

    @pytest.fixture
    def execution(self):
        return build_execution()

    long_execution = failing_execution = execution
"""


def pytest_in(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=line", "-W", "error", "-p", "no:valkey", *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's folder: each guide's code, as it is printed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    (folder / "conftest.py").write_text('pytest_plugins = ["asm_core.testing.fixtures"]\n')
    for guide in GUIDES:
        printed = (ROOT / "docs" / "howto" / f"{guide}.md").read_text()
        code = "\n".join(re.findall(r"```python\n(.*?)```", printed, re.DOTALL))
        (folder / f"test_{guide.replace('-', '_')}.py").write_text(code)
    return folder


def test_a_store_and_an_adapter_from_outside_pass(project: Path) -> None:
    """Every contract and every test of the guides holds."""
    done = pytest_in(project, *(f"test_{guide.replace('-', '_')}.py" for guide in GUIDES))
    assert done.returncode == 0, done.stdout
    [passed] = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) > 80


def test_what_breaks_its_promises_is_found_out(project: Path) -> None:
    """Each promise by the test that is named after it."""
    (project / "test_broken.py").write_text(BROKEN)
    done = pytest_in(project, "test_broken.py")
    failed = set(re.findall(r"^FAILED test_broken.py::(\w+::\w+)", done.stdout, re.MULTILINE))
    assert failed >= {
        "TestForgetful::test_a_known_id_comes_back_as_it_was_first_stored",
        "TestForgetful::test_a_batch_over_two_sessions_keeps_its_order",
        "TestForgetful::test_numbers_have_no_gap_and_no_double_whoever_appends",
        "TestBossy::test_capabilities_are_unique",
        "TestBossy::test_odd_inputs_are_refused_with_a_code_or_taken",
        "TestBossy::test_the_last_item_is_the_only_completion",
        "TestBossy::test_types_are_known_and_the_adapters_own",
        "TestBossy::test_payloads_have_their_shape",
        "TestBossy::test_a_failure_is_an_asm_error",
        "TestBossy::test_cancelling_its_consumer_ends_it_promptly",
    }, done.stdout
    assert not failed & {"TestForgetful::test_a_run_reads_back_as_it_was_saved", "TestBossy::test_it_has_one_name"}


def test_only_the_contracts_and_fixtures_need_pytest(tmp_path: Path) -> None:
    """Without it the rest imports, and they say what is missing."""
    for package in ("pytest", "pytest_asyncio"):
        (tmp_path / f"{package}.py").write_text("raise ImportError(__name__)")
    code = (
        "from asm_core import AsmError, testing\n"
        "for name in testing.__all__:\n"
        "    try:\n"
        "        getattr(testing, name)\n"
        "    except AsmError as error:\n"
        "        print(name, error.code, error.details['dependency'])\n"
        "try:\n"
        "    import asm_core.testing.fixtures\n"
        "except AsmError as error:\n"
        "    print('fixtures', error.code, error.details['dependency'])\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    contracts = ("ArtifactStore", "Maintenance", "ProviderAdapter", "QueryAPI", "SessionStore")
    expected = [f"{name}Contract dependency_not_available pytest" for name in contracts]
    assert done.stdout.splitlines() == [*expected, "fixtures dependency_not_available pytest_asyncio"], done.stderr
