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
from asm_core.domain.run import Continuation
from asm_core.ports.provider import Execution
from asm_core.process import clean_env

NETWORK = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
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


def session_gone(execution: Execution, cause: AsmError | None = None) -> AsmError | None:
    """
    Why a run that should go on in its provider's own session cannot; None where it may begin anew instead: it has the
    conversation, or there was none before its own attempt that died.
    """
    options = execution.run.options
    began_anew = execution.was_cut and (options is None or options.continuation is Continuation.NONE)
    if execution.transcript is not None or began_anew:
        return None
    details = {"field": "continuation", "reason": "provider_session_gone"} | ({"cause": cause.message} if cause else {})
    message = f"the provider's session {execution.resume} cannot be gone on with: it is not kept, or not whole"
    given = cause.provider_error if cause else None
    return AsmError(ErrorCode.INVALID_OPERATION, message, details=details, provider_error=given)


def agent_env(extra: Mapping[str, str], programs: Sequence[Path] = ()) -> dict[str, str]:
    """
    An agent's whole environment.

    Args:
        extra: set as given.
        programs: folders that come first on its PATH.
    """
    env = clean_env(extra, NETWORK)
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
