"""Packages that are extras: spec 02 §20, checks 172, 250."""

from __future__ import annotations

import subprocess
import sys

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.optional import require


def test_a_package_that_is_there_is_imported() -> None:
    assert require("json.decoder", "any").JSONDecoder is __import__("json").JSONDecoder


def test_a_package_that_is_not_there_is_named_with_what_installs_it() -> None:
    with pytest.raises(AsmError, match=r"vault-keeper needs .* pip install 'agent-session-manager\[vault\]'") as caught:
        require("no_such_package.inner", "vault", operation="vault-keeper")
    assert caught.value.code is ErrorCode.DEPENDENCY_NOT_AVAILABLE
    assert caught.value.details == {
        "dependency": "no_such_package",
        "module": "no_such_package.inner",
        "operation": "vault-keeper",
    }


def test_every_module_of_artifacts_is_imported_without_the_extra() -> None:
    """Only its use needs the package."""
    script = "import sys, asm_core.stores.artifacts.s3, asm_core.stores.artifacts.file; print('obstore' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


WITHOUT_SQLALCHEMY = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sqlalchemy":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from asm_core.domain.errors import AsmError
from asm_core import resources
from asm_core.resources import Domain, ResourceMaintenance, ResourceQueryAPI, ResourceSessionStore, Session, allocate

def derive():
    class Mine(resources.SessionMixin):
        pass

for use in (
    lambda: Domain(None), lambda: ResourceSessionStore(None), lambda: ResourceQueryAPI(None),
    lambda: ResourceMaintenance(None), lambda: allocate(None, "ses_1"), lambda: ResourceSessionStore.get_session,
    lambda: Session.id, derive,
):
    try:
        use()
    except AsmError as error:
        print(error.code, error.details["dependency"], "agent-session-manager[resources]" in error.message)
"""


def test_resources_are_imported_without_sqlalchemy_and_refuse_to_work() -> None:
    """Check 172: constructors and operations say what is missing; the import does not."""
    command = [sys.executable, "-c", WITHOUT_SQLALCHEMY]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == ["dependency_not_available sqlalchemy True"] * 8


def test_a_name_that_resources_do_not_have_is_no_name() -> None:
    """Nor is one of a module that is there."""
    from asm_core import resources

    with pytest.raises(AttributeError):
        _ = resources.Invented  # type: ignore[attr-defined]
    assert set(resources.__all__) >= {"Session", "Domain", "ResourceSessionStore"}
    assert all(getattr(resources, name) is not None for name in resources.__all__)
