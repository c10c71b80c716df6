"""What a run asks of its provider beside the model: the same words for every provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.permission import PermissionMode, parse_permission_mode


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_bound(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _are_servers(value: Mapping[str, Any]) -> bool:
    return all(
        isinstance(server, Mapping) and any(isinstance(server.get(key), str) for key in ("command", "url"))
        for server in value.values()
    )


def _invalid(name: str, problem: str) -> AsmError:
    field_name = f"provider_options.{name}"
    return AsmError(ErrorCode.VALIDATION_ERROR, f"{field_name} {problem}", details={"field": field_name})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderOptions:
    """
    None and empty mean: not said, the adapter's own setting counts.

    Raises:
        AsmError: `validation_error` naming the field.

    Source: spec/04 §2.9.
    """

    system_prompt: str | None = None
    permission_mode: PermissionMode | None = None
    max_turns: int | None = None
    """Requests to the model in one run."""
    max_tokens: int | None = None
    """Of one answer."""
    reasoning_effort: str | None = None
    """A word of the provider's: `low`, `medium`, `high`, …"""
    allowed_tools: Sequence[str] | None = None
    """When given, no other tool is used."""
    denied_tools: Sequence[str] = ()
    """Never used, whatever else is said."""
    output_schema: Mapping[str, Any] | None = None
    """JSON Schema of the answer; the run's output then has it parsed, as `object`."""
    mcp_servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name: `{command, args?, env?}` or `{url, headers?}`."""
    cwd: str | None = None
    """Folder on the worker in which an agent works."""
    sdk_opts: Mapping[str, Any] = field(default_factory=dict)
    """Passed on to the provider's SDK as they are; what is said above goes before them."""
    record: bool = False
    """Keep what the provider and its SDK say to each other (`asm_core.recording`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "permission_mode", parse_permission_mode(self.permission_mode))
        for name in ("system_prompt", "reasoning_effort", "cwd"):
            self._check(name, _is_text, "must be text")
        for name in ("max_turns", "max_tokens"):
            self._check(name, _is_bound, "must be an integer from 1")
        for name in ("allowed_tools", "denied_tools"):
            self._check(name, _is_names, "must be a list of names")
        for name in ("output_schema", "mcp_servers", "sdk_opts"):
            self._check(name, _is_mapping, "must be a mapping")
        self._check("record", lambda value: isinstance(value, bool), "must be true or false")
        self._check("mcp_servers", _are_servers, "must each name a command or a url")

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> ProviderOptions:
        """Raises `validation_error` naming an unknown field, or one of the wrong kind."""
        known = {option.name for option in fields(cls)}
        if unknown := sorted(value.keys() - known):
            raise _invalid(unknown[0], f"is not known; there are {', '.join(sorted(known))}")
        return cls(**{name: given for name, given in value.items() if given is not None})

    def to_map(self) -> dict[str, Any]:
        """Only what is said."""
        given = {option.name: getattr(self, option.name) for option in fields(self)}
        return {name: value for name, value in given.items() if value not in (None, False, (), {}, [])}

    def over(self, defaults: ProviderOptions) -> ProviderOptions:
        """These, and the defaults where they say nothing; a tool denied by either is denied."""
        denied = dict.fromkeys([*defaults.denied_tools, *self.denied_tools])
        merged = {**defaults.to_map(), **self.to_map(), "denied_tools": tuple(denied)}
        return ProviderOptions(**merged)

    def permits(self, tool_name: str) -> bool:
        """By name; what the permission mode says of it is another question."""
        is_allowed = self.allowed_tools is None or tool_name in self.allowed_tools
        return is_allowed and tool_name not in self.denied_tools

    def _check(self, name: str, holds: Any, problem: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise _invalid(name, problem)


NO_OPTIONS = ProviderOptions()

UNTRUSTED = frozenset({"mcp_servers", "cwd", "sdk_opts", "record"})
"""What lets a submitter act on the worker's machine, or keep what redaction has not seen piece by piece; only trusted
ones may say it."""
UNTRUSTED_MODES = frozenset({PermissionMode.FULL_AUTO, PermissionMode.DANGEROUSLY_SKIP_PERMISSIONS})


def check_trusted(options: ProviderOptions) -> None:
    """Raises AsmError `forbidden`, naming the option that this installation does not let its submitters choose."""
    said = sorted(UNTRUSTED & options.to_map().keys())
    if options.permission_mode in UNTRUSTED_MODES:
        said.append("permission_mode")
    if said:
        message = f"provider_options.{said[0]} is open to trusted submitters only (ASM_TRUSTED_SUBMITTERS)"
        raise AsmError(ErrorCode.FORBIDDEN, message, details={"field": f"provider_options.{said[0]}"})
