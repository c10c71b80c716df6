"""What the options of the library change, where they are read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from asm_core import options
from asm_core.adapters.scripted import ScriptedAdapter
from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.library import open_manager
from asm_core.ports.provider import Completion, Execution, RawEvent
from asm_core.ports.query import EventSearch, RunSearch, SessionSearch


class Failing(ScriptedAdapter):
    """Fails with three lines of error output."""

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        told = {"stderr": "first\nsecond\nthird"}
        yield Completion(error=AsmError(ErrorCode.PROVIDER_ERROR, "no", provider_error=told))


class Listener(ScriptedAdapter):
    """Remembers what it was given to go on from."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[list[str | None]] = []

    async def execute(self, execution: Execution) -> AsyncGenerator[RawEvent | Completion, None]:
        if execution.transcript is not None:
            self.heard.append([message.content for message in execution.transcript.messages])
        async for item in super().execute(execution):
            yield item


def test_a_page_is_as_long_as_is_set() -> None:
    """spec/02 §9.1: what a request asks for comes first, and nothing goes beyond the most."""
    with options.override(default_session_query_limit=3, default_run_query_limit=4, default_event_query_limit=5):
        assert (SessionSearch().limit, RunSearch().limit, EventSearch().limit) == (3, 4, 5)
        assert EventSearch(limit=6).limit == 6
    with options.override(max_query_limit=20):
        assert (SessionSearch().limit, EventSearch(limit=20).limit) == (20, 20)
        with pytest.raises(AsmError, match="from 1 to 20"):
            EventSearch(limit=21)


@pytest.mark.parametrize(
    ("given", "kept"), [({}, "first\nsecond\nthird"), ({"error_text_max_lines": 2}, "first\nsecond"),
                        ({"error_text_max_bytes": 4}, "firs")],
)  # fmt: skip
async def test_a_providers_error_output_is_cut_as_is_set(given: dict[str, Any], kept: str) -> None:
    """spec/01 §9.3; in the run's row and in its terminal event."""
    with options.override(**given):
        async with open_manager("memory://", Failing()) as manager:
            session = await manager.open_session("tester")
            run = await manager.start_run(session.id, {"prompt": "x"})
            with pytest.raises(AsmError):
                await manager.execute_run(run.id)
            ended = await manager.get_run(run.id)
            [last] = [event for event in await manager.get_session_events(session.id) if event.is_terminal]
    assert ended.error is not None
    for told in (ended.error["provider_error"], last.data["provider_error"]):
        assert (told["stderr"], told["truncated"]) == (kept, True if given else None)


async def test_tokens_of_a_conversation_are_counted_as_is_set() -> None:
    """spec/01 §10: a bound in tokens is one in characters."""
    for chars, expected in ((1, ["fourth"]), (6, ["fourth", "fourth"])):
        adapter = Listener()
        with options.override(chars_per_token=chars):
            async with open_manager("memory://", adapter) as manager:
                session = await manager.open_session("tester")
                for prompt in ("third", "fourth"):
                    run = await manager.start_run(session.id, {"prompt": prompt})
                    await manager.execute_run(run.id)
                bound = {"max_tokens_approx": 6 if chars == 1 else 2}
                run = await manager.start_run(session.id, {"prompt": "x"}, continuation=True, continuation_opts=bound)
                await manager.execute_run(run.id)
        assert adapter.heard == [expected]


def test_a_process_takes_its_limits_from_its_settings() -> None:
    limits = Settings(error_text_max_bytes=5, error_text_max_lines=6, chars_per_token=7, cancel_grace_ms=8).run_limits
    assert (limits.error_text.max_bytes, limits.error_text.max_lines) == (5, 6)
    assert (limits.chars_per_token, limits.cancel_grace_s) == (7, 0.008)
