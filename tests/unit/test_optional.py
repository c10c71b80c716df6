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
