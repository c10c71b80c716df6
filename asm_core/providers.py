"""Which providers this process offers, by name. Adapters are built once, when first asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from asm_core.agent_process import AgentFolders
from asm_core.clock import SystemClock
from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.pricing import PriceList, parse_price_table
from asm_core.optional import is_installed, missing
from asm_core.ports.provider import ProviderAdapter
from asm_core.ports.store import SessionStore

Factory = Callable[[], ProviderAdapter]

EXTRAS: Mapping[str, str] = {"claude": "claude_agent_sdk", "codex": "openai_codex", "amp": "amp_sdk"}
"""Providers whose SDK comes with the extra of their name, and its package."""


class Providers:
    def __init__(self, factories: Mapping[str, Factory]) -> None:
        self._factories = factories
        self._built: dict[str, ProviderAdapter] = {}

    @property
    def names(self) -> list[str]:
        """Those that can be had here."""
        return [name for name in self._factories if name not in EXTRAS or is_installed(EXTRAS[name])]

    def get(self, name: str) -> ProviderAdapter:
        """
        Raises:
            AsmError: `validation_error`, naming the provider and those there are; `dependency_not_available`, naming
                what to install.
        """
        if name not in self._factories:
            known = ", ".join(self.names)
            message = f"unknown provider {name!r}; this server offers: {known}"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "provider"})
        if name in EXTRAS and not is_installed(EXTRAS[name]):
            raise missing(EXTRAS[name], name, operation=f"the provider {name}")
        if name not in self._built:
            self._built[name] = self._factories[name]()
        return self._built[name]

    async def close(self) -> None:
        for adapter in self._built.values():
            await adapter.aclose()


def build_providers(settings: Settings, store: SessionStore) -> Providers:
    """
    Every provider that the settings allow.

    Args:
        store: what is played by `replay` is read from it.
    """
    factories: dict[str, Factory] = {
        "scripted": lambda: _scripted(settings),
        "replay": lambda: _replay(store),
        "anthropic": lambda: _anthropic(settings),
        "openai": lambda: _openai(settings),
        "claude": lambda: _claude(settings),
        "codex": lambda: _codex(settings),
        "amp": lambda: _amp(settings),
    }
    if settings.shell_enabled:
        factories["shell"] = lambda: _shell(settings)
    return Providers(factories)


def _scripted(settings: Settings) -> ProviderAdapter:
    from asm_core.adapters.scripted import ScriptedAdapter

    return ScriptedAdapter(allow_crash=settings.allow_crash)


def _claude(settings: Settings) -> ProviderAdapter:
    from asm_core.adapters.claude import ClaudeAdapter
    from asm_core.tools import NamedTools

    return ClaudeAdapter(
        AgentFolders(settings.agents_folder),
        settings.provider_access("claude"),
        prices=PriceList(parse_price_table(settings.pricing_table)),
        tools=NamedTools(settings.tools),
    )


def _codex(settings: Settings) -> ProviderAdapter:
    from asm_core.adapters.codex import CodexAdapter

    return CodexAdapter(AgentFolders(settings.agents_folder), settings.provider_access("codex"))


def _amp(settings: Settings) -> ProviderAdapter:
    from asm_core.adapters.amp import CLI_PATH, AmpAdapter

    folders, access = AgentFolders(settings.agents_folder), settings.provider_access("amp")
    return AmpAdapter(folders, access, os.environ.get(CLI_PATH))


def _replay(store: SessionStore) -> ProviderAdapter:
    from asm_core.adapters.replay import ReplayAdapter

    return ReplayAdapter(store, SystemClock())


def _anthropic(settings: Settings) -> ProviderAdapter:
    from asm_core.adapters.anthropic import AnthropicAdapter

    return AnthropicAdapter(**_api(settings, "anthropic"))


def _openai(settings: Settings) -> ProviderAdapter:
    from asm_core.adapters.openai import OpenAIAdapter

    return OpenAIAdapter(api=settings.openai_api, **_api(settings, "openai"))


def _api(settings: Settings, name: str) -> dict[str, Any]:
    """What the adapter of a plain API is given."""
    from asm_core.tools import NamedTools

    access = settings.provider_access(name)
    return {
        "api_key": access.key,
        "base_url": access.base_url,
        "model": access.model,
        "tools": NamedTools(settings.tools),
        "timeout_s": settings.run_limits.idle_timeout_s,
    }


def _shell(settings: Settings) -> ProviderAdapter:
    from asm_core.adapters.shell import ShellAdapter

    return ShellAdapter(
        str(settings.shell_cwd.resolve()),
        timeout_ms=settings.shell_timeout_ms,
        max_output_bytes=settings.max_output_bytes,
        allowed_commands=settings.shell_allowed_commands,
        denied_commands=settings.shell_denied_commands,
    )
