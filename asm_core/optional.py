"""Packages that are extras: imported when they are used, and one error when they are not there."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NoReturn

from asm_core.domain.errors import AsmError, ErrorCode


def require(module: str, extra: str, *, operation: str = "import") -> ModuleType:
    """
    The module, imported now.

    Args:
        module: dotted name, `obstore.store`.
        extra: of agent-session-manager, that brings it.
        operation: what it is needed for.

    Raises:
        AsmError: `dependency_not_available` with details `dependency` (the package), `module`, `operation`.
    """
    try:
        return import_module(module)
    except ImportError as cause:
        raise missing(module, extra, operation=operation) from cause


def is_installed(package: str) -> bool:
    """Without importing it."""
    return find_spec(package) is not None


def missing(module: str, extra: str, *, operation: str) -> AsmError:
    """What `require` raises."""
    package = module.partition(".")[0]
    return AsmError(
        ErrorCode.DEPENDENCY_NOT_AVAILABLE,
        f"{operation} needs the package {package}: pip install 'agent-session-manager[{extra}]'",
        details={"dependency": package, "module": module, "operation": operation},
    )


class Absent:
    """
    Stands in for a name of a package that is not there, so that modules which mention it are imported all the same.
    Calling it, deriving from it and asking it for anything raise what `require` raises.

    Args: as `require`.
    """

    def __init__(self, module: str, extra: str, *, operation: str) -> None:
        self._needed = (module, extra, operation)

    def __call__(self, *_: object, **__: object) -> NoReturn:
        self._refuse()

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        module, extra, operation = self._needed
        require(module, extra, operation=operation)
        raise AssertionError(f"{module} is there after all")
