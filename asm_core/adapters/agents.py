"""What the adapters of agents that are programs have in common: what they refuse at submit, and their environment."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from asm_core.agent_process import AgentFolder, AgentFolders
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.messages import check_messages, input_messages
from asm_core.domain.provider_options import ProviderOptions
from asm_core.ports.provider import Execution
from asm_core.process import clean_env

PROXIES = tuple(name for word in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for name in (word, word.lower()))
"""The way out of the worker's network is the agent's too."""


def check_prompt(value: Mapping[str, Any]) -> None:
    """Raises AsmError `invalid_input`: an agent has to be told something."""
    check_messages(value)
    if not input_messages(value):
        raise AsmError(ErrorCode.INVALID_INPUT, "input needs messages or a prompt", details={"field": "input"})


def check_options(provider: str, options: ProviderOptions, lacks: Collection[str]) -> None:
    """
    Args:
        lacks: options that the provider has no equal of. To ignore one in silence would be to promise it.

    Raises:
        AsmError: `capability_not_supported`, naming the option.
    """
    for name in sorted(lacks & options.to_map().keys()):
        raise not_supported(provider, name)


def not_supported(provider: str, name: str, what: str = "") -> AsmError:
    field = f"provider_options.{name}"
    message = f"the provider {provider} cannot do {field}{what}"
    return AsmError(ErrorCode.CAPABILITY_NOT_SUPPORTED, message, details={"field": field})


def check_names(options: ProviderOptions, known: Collection[str]) -> None:
    """Raises AsmError `validation_error`, naming a key of `sdk_opts` that is not open."""
    if unknown := sorted(options.sdk_opts.keys() - set(known)):
        field = f"provider_options.sdk_opts.{unknown[0]}"
        message = f"{field} is not open; there are {', '.join(sorted(known))}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": field})


def agent_env(extra: Mapping[str, str], programs: Sequence[Path] = ()) -> dict[str, str]:
    """
    An agent's whole environment.

    Args:
        extra: set as given.
        programs: folders that come first on its PATH.
    """
    env = clean_env(extra, PROXIES)
    return env | {"PATH": os.pathsep.join([*map(str, programs), env.get("PATH", os.defpath)])}


def agent_folder(folders: AgentFolders, execution: Execution, provider: str) -> tuple[AgentFolder, Path]:
    """
    Where the agent lives, and where it works.

    Raises:
        AsmError: `validation_error`: the folder that the run asks for is not there. `internal_error`: none can be made.
    """
    try:
        folder = folders.of(execution.session.id, provider)
    except OSError as cause:
        raise AsmError.wrap(ErrorCode.INTERNAL_ERROR, cause, f"no folder for the agent: {cause}") from cause
    work = Path(execution.options.cwd) if execution.options.cwd else folder.work
    if not work.is_dir():
        details = {"field": "provider_options.cwd"}
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"there is no folder {work} on the worker", details=details)
    return folder, work
