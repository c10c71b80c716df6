"""`exec_run` and `exec_stream` of the library, with an event loop and without: what users of Python call."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asm_core import AsmError, Chunk, CommandResult, ErrorCode, exec_run, exec_stream, sync
from asm_core.process import Limits
from tests.fixtures.processes import eventually, marked, tree

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc"),
    pytest.mark.usefixtures("nothing_is_left"),
]


async def first(stream: AsyncGenerator[Chunk | CommandResult, None]) -> Chunk:
    item = await anext(stream)
    assert isinstance(item, Chunk)
    return item


# --- exec_run ---------------------------------------------------------------------------------------------------------


async def test_a_command_comes_to_a_result(tmp_path: Path) -> None:
    result = await exec_run(["sh", "-c", "echo out; echo err >&2; exit 42"], cwd=tmp_path)
    assert result == CommandResult(
        command="sh", args=("-c", "echo out; echo err >&2; exit 42"), cwd=str(tmp_path), exit_code=42, stdout="out\n",
        stderr="err\n", duration_ms=result.duration_ms, timed_out=False, stdout_truncated=False, stderr_truncated=False,
        stdout_bytes=4,
    )  # fmt: skip
    assert result.duration_ms >= 0


async def test_words_and_variables_may_be_numbers_and_paths(tmp_path: Path) -> None:
    argv: list[Any] = ["sh", "-c", "echo $0 $1 $A $B", tmp_path, 5]
    result = await exec_run(argv, env={"A": 1, "B": tmp_path})
    assert result.stdout == f"{tmp_path} 5 1 {tmp_path}\n"


async def test_the_environment_is_added_to_what_is_inherited_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANTED", "yes")
    monkeypatch.setenv("VENDOR_KEY", "secret")
    result = await exec_run(["env"], env={"EXTRA": "1"}, inherit_env=["WANT*"])
    assert {"EXTRA=1", "WANTED=yes", f"PATH={os.environ['PATH']}"} <= set(result.stdout.splitlines())
    assert "secret" not in result.stdout


async def test_the_bounds_hold_unless_others_are_given() -> None:
    bounds = Limits(timeout_ms=30_000, idle_timeout_ms=None, max_output_bytes=1_048_576, kill_grace_ms=2_000)
    assert Limits() == bounds
    result = await exec_run(["head", "-c", "1048577", "/dev/zero"])
    assert (len(result.stdout), result.stdout_truncated, result.stdout_bytes) == (1_048_576, True, 1_048_577)


async def test_a_command_has_nothing_to_read() -> None:
    assert (await exec_run(["cat"])).exit_code == 0


async def test_an_endless_line_is_cut_and_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        result = await exec_run(["sh", "-c", "yes | tr '\\n' x"], timeout_ms=1_000, max_output_bytes=1_024)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (result.exit_code, result.timed_out, len(result.stdout)) == (124, True, 1_024)
    assert result.stdout_bytes > 4_000_000
    assert peak < 3_000_000


async def test_what_keeps_the_output_open_does_not_keep_the_caller(mark: str) -> None:
    """The shell has ended, its child in another session still holds the pipe."""
    script = "setsid sleep 600 & echo told"
    result = await exec_run(["sh", "-c", script], env={"MARK": mark}, timeout_ms=None, kill_grace_ms=200)
    assert (result.exit_code, result.stdout, result.timed_out) == (0, "told\n", False)
    assert marked(mark) == []


@pytest.mark.parametrize("kind", ["plain", "stubborn"])
async def test_a_timeout_kills_all_descendants_and_keeps_the_output(mark: str, kind: str) -> None:
    result = await exec_run(tree(kind), env={"MARK": mark}, timeout_ms=1_500, kill_grace_ms=200)
    assert (result.exit_code, result.timed_out, result.stdout) == (124, True, "up\n")
    assert marked(mark) == []


@pytest.mark.parametrize(
    ("argv", "options", "code"),
    [
        (["no-such-command"], {}, ErrorCode.TOOL_EXECUTION_FAILED),
        ("echo text", {}, ErrorCode.VALIDATION_ERROR),
        (["true"], {"cwd": ""}, ErrorCode.VALIDATION_ERROR),
        (["true"], {"cwd": "/no/such/folder"}, ErrorCode.VALIDATION_ERROR),
        (["true", "a\0b"], {}, ErrorCode.VALIDATION_ERROR),
        (["true"], {"env": {"A": "\0"}}, ErrorCode.VALIDATION_ERROR),
        (["true"], {"env": {"A=B": "c"}}, ErrorCode.VALIDATION_ERROR),
        (["true"], {"env": {"": "c"}}, ErrorCode.VALIDATION_ERROR),
        (["true"], {"timeout_ms": -1}, ErrorCode.VALIDATION_ERROR),
        (["true"], {"max_output_bytes": -1}, ErrorCode.VALIDATION_ERROR),
    ],
)
async def test_what_cannot_run_is_an_error_in_both_forms(argv: Any, options: Any, code: ErrorCode) -> None:
    with pytest.raises(AsmError) as raised:
        await exec_run(argv, **options)
    assert raised.value.code is code
    with pytest.raises(AsmError) as raised:
        await anext(exec_stream(argv, **options))
    assert raised.value.code is code


# --- exec_stream ------------------------------------------------------------------------------------------------------


async def test_a_stream_tells_the_output_and_then_the_result(tmp_path: Path) -> None:
    """The first piece is there while the command still waits for a file that only its reader makes."""
    script = "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two >&2; exit 3"
    stream = exec_stream(["sh", "-c", script], cwd=tmp_path)
    assert await first(stream) == Chunk("stdout", "one\n", "one\n")
    (tmp_path / "go").touch()
    assert await first(stream) == Chunk("stderr", "two\n", "two\n")
    result = await anext(stream)
    assert isinstance(result, CommandResult)
    assert (result.exit_code, result.stdout, result.stderr) == (3, "one\n", "two\n")
    assert [item async for item in stream] == []


async def test_a_stream_ends_with_its_timeout() -> None:
    *chunks, result = [item async for item in exec_stream(["sh", "-c", "echo up; sleep 600"], timeout_ms=300)]
    assert chunks == [Chunk("stdout", "up\n", "up\n")]
    assert isinstance(result, CommandResult)
    assert (result.exit_code, result.timed_out) == (124, True)


async def test_a_stream_marks_what_is_within_the_bound() -> None:
    *chunks, _ = [item async for item in exec_stream(["head", "-c", "300000", "/dev/zero"], max_output_bytes=1_000)]
    assert sum(len(chunk.text) for chunk in chunks if isinstance(chunk, Chunk)) == 300_000
    assert sum(len(chunk.captured) for chunk in chunks if isinstance(chunk, Chunk)) == 1_000


async def test_closing_a_stream_kills_all_descendants(mark: str) -> None:
    async with aclosing(exec_stream(tree("stubborn"), env={"MARK": mark}, kill_grace_ms=200)) as stream:
        assert (await first(stream)).text == "up\n"
        assert len(marked(mark)) == 4
    assert marked(mark) == []


async def test_a_stream_that_nobody_holds_any_more_is_closed(mark: str) -> None:
    async for _ in exec_stream(tree(), env={"MARK": mark}):
        break
    await eventually(lambda: marked(mark) == [])


async def test_cancelling_the_reader_kills_all_descendants(mark: str) -> None:
    async def read() -> None:
        async for _ in exec_stream(tree(), env={"MARK": mark}):
            pass

    reading = asyncio.create_task(read())
    await eventually(lambda: len(marked(mark)) == 4, within_s=20)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert marked(mark) == []


# --- without an event loop --------------------------------------------------------------------------------------------


def test_the_same_without_an_event_loop() -> None:
    seen: list[Chunk] = []
    result = sync.exec_run(["sh", "-c", "echo out; exit 3"], on_output=seen.append)
    assert (result.exit_code, result.stdout, seen) == (3, "out\n", [Chunk("stdout", "out\n", "out\n")])
    chunk, last = sync.exec_stream(["echo", "a"])
    assert chunk == Chunk("stdout", "a\n", "a\n")
    assert isinstance(last, CommandResult)
    with pytest.raises(AsmError):
        sync.exec_run(["no-such-command"])
    with pytest.raises(AsmError):
        next(sync.exec_stream(["no-such-command"]))


def test_leaving_a_blocking_stream_kills_all_descendants(mark: str) -> None:
    for _ in sync.exec_stream(tree(), env={"MARK": mark}):
        assert len(marked(mark)) == 4
        break
    assert marked(mark) == []


async def test_an_interrupt_from_the_keyboard_kills_all_descendants(mark: str) -> None:
    program = f"from asm_core import sync\nsync.exec_run({tree()!r}, env={{'MARK': {mark!r}}})\n"
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background ignores it
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, preexec_fn=heed) as caller:
        await eventually(lambda: len(marked(mark)) == 4, within_s=20)
        caller.send_signal(signal.SIGINT)
        await eventually(lambda: caller.poll() is not None, within_s=20)
    await eventually(lambda: marked(mark) == [])
