"""How the providers' command lines are kept on loopback; docs/design/provider-servers.md gives the reasons."""

from __future__ import annotations

import os
from pathlib import Path

from tests.fakes.server import OutwardProxy, ProviderServer

KEY = "not-a-real-key"
CODEX_KEY_NAME = "CODEX_FAKE_KEY"
AMP_STAND_IN = Path(__file__).with_name("amp_cli.py")
KEPT = ("PATH", "LANG", "LC_", "ASM_", "PYTEST", "PYTHON")
"""Beginnings of what an environment may keep of the developer's own."""


def clean_environment(home: Path, outward: OutwardProxy) -> dict[str, str]:
    """No login, no key and no proxy of the developer's; whoever wants to leave loopback is refused and noted."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), outward.url)
    loopback = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return kept | proxies | loopback | {"HOME": str(home)}


def claude_environment(server: ProviderServer, home: Path) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_API_KEY": KEY,
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "IS_SANDBOX": "1",
    }


def codex_environment(home: Path) -> dict[str, str]:
    """Makes Codex's own folder, which must exist."""
    folder = home / ".codex"
    folder.mkdir(exist_ok=True)
    return {"CODEX_HOME": str(folder), CODEX_KEY_NAME: KEY}


def codex_overrides(server: ProviderServer) -> tuple[str, ...]:
    """For `CodexConfig.config_overrides`: a provider of our own, and nothing that calls out."""
    provider = "model_providers.fake"
    return (
        'model_provider="fake"', 'model="gpt-5.5"',
        f'{provider}.name="fake"', f'{provider}.base_url="{server.openai_url}"',
        f'{provider}.env_key="{CODEX_KEY_NAME}"', f'{provider}.wire_api="responses"',
        f"{provider}.request_max_retries=0", f"{provider}.stream_max_retries=0",
        "analytics.enabled=false", "features.plugins=false",
    )  # fmt: skip


def amp_environment(server: ProviderServer, cli: Path = AMP_STAND_IN) -> dict[str, str]:
    return {"AMP_URL": server.url, "AMP_API_KEY": KEY, "AMP_SKIP_UPDATE_CHECK": "1", "AMP_CLI_PATH": str(cli)}
