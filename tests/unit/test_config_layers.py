"""Three layers of a library option: this context's overrides, the environment, the defaults."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asm_core import options
from asm_core.config import Settings
from asm_core.domain.errors import AsmError
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import SessionStatus

DEFAULTS: dict[str, Any] = {
    "audit_logging_enabled": True,
    "redaction_enabled": True,
    "redaction_patterns": "default",
    "redaction_replacement": "[REDACTED]",
    "redaction_deep_scan": True,
    "redaction_scan_metadata": True,
    "max_query_limit": 1_000,
    "default_session_query_limit": 50,
    "default_run_query_limit": 50,
    "default_event_query_limit": 100,
    "retention_max_completed_age_days": 90,
    "retention_hard_delete_after_days": 30,
    "retention_batch_size": 100,
    "retention_exempt_statuses": (SessionStatus.ACTIVE, SessionStatus.PAUSED),
    "retention_exempt_tags": ("pinned",),
    "retention_prune_event_types_first": (EventType.MESSAGE_STREAMED, EventType.TOKEN_USAGE_UPDATED),
    "chars_per_token": 4,
    "error_text_max_bytes": 16_384,
    "error_text_max_lines": 200,
    "pricing_table": {},
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in DEFAULTS:
        monkeypatch.delenv(f"ASM_{key.upper()}", raising=False)


def refusal(call: Any, *arguments: Any, **named: Any) -> AsmError:
    with pytest.raises(AsmError) as caught, call(*arguments, **named):
        pass
    assert caught.value.code == "validation_error"
    return caught.value


def test_every_default() -> None:
    """spec/01 check 226, of the keys that are taken in (docs/parity-pricing.md names the others)."""
    assert options.valid_keys() == sorted(DEFAULTS)
    assert {key: options.default(key) for key in options.valid_keys()} == DEFAULTS
    assert {key: options.get(key) for key in options.valid_keys()} == DEFAULTS


def test_a_setting_beats_the_default_and_an_override_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """spec/01 check 227; a setting is read when asked for, and an override ends with its block."""
    monkeypatch.setenv("ASM_CHARS_PER_TOKEN", "3")
    assert options.get("chars_per_token") == 3
    with options.override(chars_per_token=2):
        assert options.get("chars_per_token") == 2
        assert options.get("max_query_limit") == 1_000, "the others stay"
    assert options.get("chars_per_token") == 3
    monkeypatch.delenv("ASM_CHARS_PER_TOKEN")
    assert options.get("chars_per_token") == 4


def test_the_default_is_told_whatever_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """spec/01 check 228."""
    monkeypatch.setenv("ASM_CHARS_PER_TOKEN", "3")
    with options.override(chars_per_token=2):
        assert options.default("chars_per_token") == 4


def test_an_override_may_be_nothing() -> None:
    """None and False are values, not the absence of one."""
    with options.override(retention_hard_delete_after_days=None, redaction_enabled=False):
        assert options.get("retention_hard_delete_after_days") is None
        assert options.get("redaction_enabled") is False


def test_the_environment_can_say_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_RETENTION_HARD_DELETE_AFTER_DAYS", "none")
    assert options.get("retention_hard_delete_after_days") is None


def test_overrides_nest() -> None:
    with options.override(chars_per_token=3, max_query_limit=10):
        with options.override(chars_per_token=2):
            assert (options.get("chars_per_token"), options.get("max_query_limit")) == (2, 10)
        assert (options.get("chars_per_token"), options.get("max_query_limit")) == (3, 10)


def test_an_override_ends_with_its_block_however_that_ends() -> None:
    with pytest.raises(RuntimeError), options.override(chars_per_token=3):
        raise RuntimeError
    assert options.get("chars_per_token") == 4


async def test_an_override_holds_for_this_task_and_those_it_starts() -> None:
    """spec/01 §13: invisible to others, at the same time and in the same process."""
    overridden, asked = asyncio.Event(), asyncio.Event()

    async def other() -> int:
        await overridden.wait()
        value = options.get("chars_per_token")
        asked.set()
        return value

    async def inherited() -> int:
        return options.get("chars_per_token")

    outside = asyncio.create_task(other())
    with options.override(chars_per_token=2):
        overridden.set()
        await asked.wait()
        assert await asyncio.create_task(inherited()) == 2
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(options.get, "chars_per_token").result() == 4
    assert await outside == 4


@pytest.mark.parametrize("key", ["chars_per_tokn", "", "database_url", "api_key"])
def test_an_unknown_key_is_refused_by_name(key: str) -> None:
    """The rest of the settings belongs to a process, not to a call."""
    for call in (options.get, options.default, lambda key: options.override(**{key: 1})):
        error = refusal(call, key)
        assert repr(key) in error.message
        assert "chars_per_token" in error.message, "what there is instead"
        assert error.details == {"field": key}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("chars_per_token", 0),
        ("chars_per_token", "many"),
        ("default_event_query_limit", -1),
        ("retention_exempt_statuses", ["sleeping"]),
        ("redaction_patterns", {"instead": []}),
        ("pricing_table", {"claude": {"input": 1}}),
        ("pricing_table", []),
    ],
)
def test_a_value_that_is_not_valid_is_refused_and_changes_nothing(key: str, value: object) -> None:
    error = refusal(options.override, **{key: value})
    assert error.details == {"field": key}
    assert key in error.message
    assert options.get(key) == DEFAULTS[key]


@pytest.mark.parametrize(
    ("variable", "text", "named"),
    [
        ("ASM_CHARS_PER_TOKEN", "0", "chars_per_token"),
        ("ASM_PRICING_TABLE", '{"claude": {"input": 1}}', "claude lacks output"),
        ("ASM_PRICING_TABLE", "{", "pricing_table"),
    ],
)
def test_a_setting_that_is_not_valid_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, named: str
) -> None:
    monkeypatch.setenv(variable, text)
    assert named in refusal(options.get, "max_query_limit").message


def test_an_error_about_several_settings_does_not_repeat_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold secrets."""
    monkeypatch.setenv("ASM_BEAT_INTERVAL_MS", "9000")
    monkeypatch.setenv("ASM_API_KEY", "hunter2")
    message = refusal(options.get, "max_query_limit").message
    assert "lease_ttl_ms" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("patterns", "read"),
    [
        ("default", "default"),
        ('["a{9}", ["mine", "b{9}"]]', ("a{9}", ("mine", "b{9}"))),
        ('{"replace": ["a{9}"]}', {"replace": ("a{9}",)}),
    ],
)
def test_patterns_of_secrets_have_three_forms(monkeypatch: pytest.MonkeyPatch, patterns: str, read: object) -> None:
    monkeypatch.setenv("ASM_REDACTION_PATTERNS", patterns)
    assert options.get("redaction_patterns") == read


def test_the_settings_of_a_process_hold_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """One value source: what the rim reads and what the library falls back to."""
    monkeypatch.setenv("ASM_DEFAULT_RUN_QUERY_LIMIT", "7")
    assert Settings().default_run_query_limit == options.get("default_run_query_limit") == 7
