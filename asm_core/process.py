"""
Child processes: started through `launcher.py`, streamed, bounded, and gone with everything they started.

Each child costs its worker three descriptors: a socket to its launcher (requests to stop go out, the pid and the exit
code come in, its end means that no descendant is left) and the read ends of stdout and stderr. The pipes are read only
when the consumer asks for more, so a slow consumer holds the command back and memory stays bounded. Nothing here uses
signal handlers, asyncio's child watchers or threads: any event loop in any thread will do.

Source: DESIGN §4, §12; spec/05 §14.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import cache_from_source
from inspect import isawaitable
from io import FileIO
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple, cast

from asm_core import launcher
from asm_core.domain.errors import AsmError, ErrorCode

log = logging.getLogger(__name__)

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
"""What a command sees of the worker's environment unless more is named."""
SECRET_NAMES = ("ASM_*", "*KEY*", "*TOKEN*", "*SECRET*", "*PASSW*", "*CREDENTIAL*")
"""Never matched by a pattern of `inherit`; only a full name lets one of these through."""
READ_SIZE = 65_536
READS_AFTER_END = 64
"""More than the pipes can hold; who still writes then has escaped, and is not listened to."""
DEFAULT_TIMEOUT_MS = 30_000
DEFAULT_OUTPUT_BYTES = 1_048_576
DEFAULT_GRACE_MS = 2_000
LAUNCH_TIMEOUT_S = 30.0
KILL_MARGIN_S = 10.0
"""Beyond its grace, for everything to be gone after KILL; then it is left to the launcher, which goes on."""
TIMEOUT_EXIT_CODE = 124
KILLED_EXIT_CODE = 137

_LAUNCHER = Path(launcher.__file__)
_COMPILED = Path(cache_from_source(launcher.__file__))
"""Written by the import above; saves a fifth of the start-up time."""


def clean_env(extra: Mapping[str, str] | None = None, inherit: Sequence[str] = ()) -> dict[str, str]:
    """
    An environment for a command, from an allow-list, so that the worker's secrets do not reach it.

    Args:
        extra: set as given, over everything inherited.
        inherit: more names to take from the worker's environment: full names, or patterns (`LC_*`), which never
            match ASM's own settings or names that look like secrets.
    """
    taken = {name: value for name, value in os.environ.items() if name in INHERITED or _is_named(name, inherit)}
    return taken | dict(extra or {})


def _is_named(name: str, inherit: Sequence[str]) -> bool:
    if name in inherit:
        return True
    is_secret = any(fnmatchcase(name.upper(), pattern) for pattern in SECRET_NAMES)
    return not is_secret and any(fnmatchcase(name, pattern) for pattern in inherit)


StreamName = Literal["stdout", "stderr"]


class Chunk(NamedTuple):
    """A piece of output as it came; characters are never split."""

    stream: StreamName
    text: str
    captured: str
    """The part of it that lies within the bound of captured output."""


class Output:
    """One output of a child: its pipe, and the text captured from it so far."""

    def __init__(self, name: StreamName, pipe: FileIO, max_bytes: int) -> None:
        os.set_blocking(pipe.fileno(), False)
        self.name, self.pipe, self.truncated, self.total_bytes = name, pipe, False, 0
        self._room = max_bytes
        self._captured: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def text(self) -> str:
        return "".join(self._captured)

    def read(self) -> Chunk | None:
        """What is there now; None when nothing is. At the end the pipe is closed."""
        data = self.pipe.read(READ_SIZE)
        if data is None:
            return None
        if not data:
            self.pipe.close()
        self.total_bytes += len(data)
        text = self._decoder.decode(data, final=not data)
        return Chunk(self.name, text, self._capture(text)) if text else None

    def _capture(self, text: str) -> str:
        encoded = text.encode()
        if len(encoded) > self._room:
            self.truncated = True
            text = encoded[: self._room].decode(errors="ignore")
            self._room = 0
        else:
            self._room -= len(encoded)
        if text:
            self._captured.append(text)
        return text


class Child:
    """A running command. One task reads and waits; `stop` may be called from anywhere in its loop."""

    pid: int | None = None
    exit_code: int | None = None
    """128+n when signal n ended it."""

    def __init__(
        self, popen: subprocess.Popen[bytes], control: socket.socket, max_output_bytes: int, grace_s: float
    ) -> None:
        self.stdout = Output("stdout", cast(FileIO, popen.stdout), max_output_bytes)
        self.stderr = Output("stderr", cast(FileIO, popen.stderr), max_output_bytes)
        self.stdin = cast("FileIO | None", popen.stdin)
        if self.stdin:
            os.set_blocking(self.stdin.fileno(), False)
        self._popen, self._control, self._grace_s = popen, control, grace_s
        self._turn = [self.stdout, self.stderr]
        self._reads_left = READS_AFTER_END
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[str] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._changed = asyncio.Event()
        self._heard = b""
        self._deadline: asyncio.TimerHandle | None = None
        control.setblocking(False)
        self._loop.add_reader(control, self._hear)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self._chunks()

    async def _chunks(self) -> AsyncGenerator[Chunk, None]:
        while chunk := await self.read():
            yield chunk

    async def read(self, idle_s: float | None = None) -> Chunk | None:
        """
        The next piece of output; None when the command and everything it started are gone.

        Raises:
            TimeoutError: nothing came for `idle_s` seconds; the command goes on.
        """
        async with asyncio.timeout(idle_s):
            while True:
                await asyncio.sleep(0)  # output that never pauses must not take the loop for itself
                was_gone = self._gone.done()  # asked before reading: what was written until then is in the pipes
                if was_gone:
                    self._reads_left -= 1
                for output in self._open_outputs() if self._reads_left else ():
                    if chunk := output.read():
                        self._turn.reverse()
                        return chunk
                if was_gone:
                    return None
                await self._readable()

    def _open_outputs(self) -> list[Output]:
        return [output for output in self._turn if not output.pipe.closed]

    async def _readable(self) -> None:
        """Until an output has something, or its end, or the command is gone."""
        self._changed.clear()
        fds = [output.pipe.fileno() for output in self._open_outputs()]
        for fd in fds:
            self._loop.add_reader(fd, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            for fd in fds:
                self._loop.remove_reader(fd)

    async def write(self, data: bytes) -> None:
        """
        Write to the command's stdin; returns when the pipe has taken everything.

        Raises:
            BrokenPipeError: the command has closed it or ended.
        """
        if self.stdin is None or self.stdin.closed:
            raise BrokenPipeError(errno.EPIPE, "the command has no stdin")
        left = memoryview(data)
        while left:
            left = left[self.stdin.write(left) or 0 :]
            if left:
                await self._writable(self.stdin.fileno())

    async def _writable(self, fd: int) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(fd, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_writer(fd)

    def close_stdin(self) -> None:
        if self.stdin:
            self.stdin.close()

    async def wait(self) -> int:
        """The exit code, when the command and everything it started are gone."""
        await asyncio.wait([self._gone])
        return KILLED_EXIT_CODE if self.exit_code is None else self.exit_code

    def stop(self, grace_s: float | None = None) -> None:
        """Ask for the end: TERM to the command and all its descendants, KILL after the grace. Does not wait."""
        if self._gone.done():
            return
        grace_s = self._grace_s if grace_s is None else grace_s
        with suppress(OSError):  # the launcher is ending already
            self._control.send(b"%d\n" % (grace_s * 1000))
        limit = self._loop.time() + grace_s + KILL_MARGIN_S
        if self._deadline is None or limit < self._deadline.when():
            if self._deadline:
                self._deadline.cancel()
            self._deadline = self._loop.call_at(limit, self._give_up)

    async def kill(self, grace_s: float | None = None) -> int:
        """`stop`, and wait for it; at most the grace and KILL_MARGIN_S."""
        self.stop(grace_s)
        return await self.wait()

    async def started(self) -> str:
        """Once the command runs: empty, or why it does not, as the launcher puts it."""
        try:
            async with asyncio.timeout(LAUNCH_TIMEOUT_S):
                return await self._started
        except TimeoutError:
            return f"launcher {errno.ETIMEDOUT}"

    async def close(self) -> None:
        """Stop what is left, and give everything back; bounded, also when cancelled meanwhile."""
        self.stop()
        for pipe in (self.stdout.pipe, self.stderr.pipe, self.stdin):
            if pipe:
                pipe.close()
        cancelled: asyncio.CancelledError | None = None
        while not self._gone.done():
            try:
                await asyncio.wait([self._gone])
            except asyncio.CancelledError as again:
                cancelled = again
                self.stop(grace_s=0)
        if cancelled:
            raise cancelled

    def _hear(self) -> None:
        """The launcher speaks; its end is the end of everything below it."""
        try:
            said = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._reap(0.0005)
        *lines, self._heard = (self._heard + said).split(b"\n")
        for line in lines:
            self._take_in(line.decode())

    def _take_in(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "exited":
            self.exit_code = int(rest)
        elif word == "started":
            self.pid = int(rest)
            self._answer("")
        else:
            self._answer(rest)

    def _answer(self, failure: str) -> None:
        if not self._started.done():
            self._started.set_result(failure)

    def _reap(self, pause_s: float) -> None:
        """The launcher has closed its descriptors and is a zombie any moment now."""
        if self._popen.poll() is None:
            self._loop.call_later(pause_s, self._reap, min(pause_s * 2, 0.05))
            return
        self._answer(f"launcher {errno.ECHILD}")
        self._end()

    def _give_up(self) -> None:
        log.error("command %s did not end within %s s after KILL; its launcher goes on", self.pid, KILL_MARGIN_S)
        self._end()

    def _end(self) -> None:
        if self.pid and self.exit_code is None:  # the launcher was killed, or something cannot die
            with suppress(OSError):
                os.killpg(self.pid, 9)
        if self._deadline:
            self._deadline.cancel()
        if not self._gone.done():
            self._gone.set_result(None)
        self._changed.set()


@asynccontextmanager
async def launch(
    argv: Sequence[str],
    *,
    cwd: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: bool = False,
    max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
    kill_grace_ms: int = DEFAULT_GRACE_MS,
) -> AsyncGenerator[Child, None]:
    """
    Run a command for the time of a `async with`. When it is left, however it is left, or when this process dies,
    the command and all its descendants are stopped: TERM, after the grace KILL.

    Args:
        argv: the command and its arguments; no shell. A name without a slash is looked up on the command's PATH.
        cwd: its working folder.
        env: its whole environment; `clean_env()` when None.
        stdin: a pipe for `write`; otherwise the command reads /dev/null.
        max_output_bytes: bound of the captured text of each output; what comes after is still streamed.
        kill_grace_ms: from TERM to KILL.

    Raises:
        AsmError: `validation_error` (argv, cwd), `tool_execution_failed` with details.reason `command_not_found`,
            `command_not_executable` or `command_not_started`.

    Source: DESIGN §4; spec/05 §14.
    """
    environment = clean_env() if env is None else dict(env)
    child = _spawn([*argv], str(cwd), environment, stdin, max_output_bytes, kill_grace_ms)
    try:
        if failure := await child.started():
            raise _launch_error(failure, argv[0], cwd)
        yield child
    finally:
        await child.close()


def _spawn(argv: list[str], cwd: str, env: dict[str, str], stdin: bool, max_output_bytes: int, grace_ms: int) -> Child:
    if not argv or not argv[0]:
        raise AsmError(ErrorCode.VALIDATION_ERROR, "a command is required", details={"field": "command"})
    script = str(_COMPILED if _COMPILED.exists() else _LAUNCHER)
    here, there = socket.socketpair()
    try:
        popen = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                script,
                f"{there.fileno()}",
                f"{grace_ms}",
                env.get("LC_CTYPE", ""),
                cwd,
                *argv,
            ],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            pass_fds=(there.fileno(),),
            start_new_session=True,
        )
    except ValueError as cause:  # NUL in an argument or a name
        here.close()
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"cannot be passed to a command: {cause}") from cause
    except OSError as cause:
        here.close()
        raise _launch_error(f"launcher {cause.errno}", argv[0], cwd) from cause
    finally:
        there.close()
    return Child(popen, here, max_output_bytes, grace_ms / 1000)


_REASONS = {errno.ENOENT: "command_not_found", errno.ENOTDIR: "command_not_found"}
_REASONS |= {errno.EACCES: "command_not_executable", errno.ENOEXEC: "command_not_executable"}


def _launch_error(failure: str, command: str, cwd: str | Path) -> AsmError:
    """From the launcher's words: what it tried, and the errno."""
    stage, _, number = failure.partition(" ")
    why = os.strerror(int(number))
    if stage == "cwd":
        return AsmError(
            ErrorCode.VALIDATION_ERROR, f"cannot run in {str(cwd)!r}: {why}", details={"field": "cwd", "cwd": str(cwd)}
        )
    reason = _REASONS.get(int(number), "command_not_started") if stage == "exec" else "command_not_started"
    message = f"command not found: {command!r}" if reason == "command_not_found" else f"cannot run {command!r}: {why}"
    return AsmError(
        ErrorCode.TOOL_EXECUTION_FAILED, message, details={"reason": reason, "command": command, "errno": int(number)}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What a command came to. A non-zero exit is a result, not an error."""

    command: str
    args: tuple[str, ...]
    cwd: str
    exit_code: int
    """128+n when signal n ended it; 124 on a timeout."""
    stdout: str
    stderr: str
    duration_ms: int
    timed_out: bool
    stdout_truncated: bool
    stderr_truncated: bool
    stdout_bytes: int
    """Everything the command wrote, captured or not."""


async def stream_command(
    argv: Sequence[str],
    *,
    cwd: str | Path,
    env: Mapping[str, str] | None = None,
    timeout_ms: int = DEFAULT_TIMEOUT_MS,
    idle_timeout_ms: int | None = None,
    max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
    kill_grace_ms: int = DEFAULT_GRACE_MS,
) -> AsyncGenerator[Chunk | CommandResult, None]:
    """
    A command's output as it comes, then its result. Closing the generator kills the command; see `launch`.

    Args:
        timeout_ms: for the whole command, from its start; then it is stopped, and what it wrote so far is kept.
        idle_timeout_ms: without any output; the consumer's own time does not count.

    Raises:
        AsmError: see `launch`.
    """
    timed_out = False

    def expire() -> None:
        nonlocal timed_out
        timed_out = timed_out or child.exit_code is None
        child.stop()

    async with launch(argv, cwd=cwd, env=env, max_output_bytes=max_output_bytes, kill_grace_ms=kill_grace_ms) as child:
        began = time.monotonic()
        timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, expire)
        try:
            async for chunk in _until_idle(child, idle_timeout_ms, expire):
                yield chunk
        finally:
            timer.cancel()
        exit_code = await child.wait()
    yield CommandResult(
        command=argv[0],
        args=(*argv[1:],),
        cwd=str(cwd),
        exit_code=TIMEOUT_EXIT_CODE if timed_out else exit_code,
        stdout=child.stdout.text,
        stderr=child.stderr.text,
        duration_ms=ceil((time.monotonic() - began) * 1000),
        timed_out=timed_out,
        stdout_truncated=child.stdout.truncated,
        stderr_truncated=child.stderr.truncated,
        stdout_bytes=child.stdout.total_bytes,
    )


async def _until_idle(child: Child, idle_ms: int | None, expire: Callable[[], None]) -> AsyncGenerator[Chunk, None]:
    """All output; a pause that is too long calls `expire`, and what still comes after it belongs to the output too."""
    idle_s = None if idle_ms is None else idle_ms / 1000
    while True:
        try:
            chunk = await child.read(idle_s)
        except TimeoutError:
            idle_s = None
            expire()
            continue
        if chunk is None:
            return
        yield chunk


async def run_command(
    argv: Sequence[str],
    *,
    cwd: str | Path,
    env: Mapping[str, str] | None = None,
    timeout_ms: int = DEFAULT_TIMEOUT_MS,
    idle_timeout_ms: int | None = None,
    max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
    kill_grace_ms: int = DEFAULT_GRACE_MS,
    on_output: Callable[[Chunk], object] | None = None,
) -> CommandResult:
    """
    Run a command to its end. Cancelling the caller kills it with all its descendants.

    Args:
        on_output: called with every chunk, plain or async; the command waits for it. Its errors are logged, not raised.

    Raises:
        AsmError: see `launch`.

    Source: spec/05 §14.
    """
    stream = stream_command(
        argv,
        cwd=cwd,
        env=env,
        timeout_ms=timeout_ms,
        idle_timeout_ms=idle_timeout_ms,
        max_output_bytes=max_output_bytes,
        kill_grace_ms=kill_grace_ms,
    )
    async with aclosing(stream):
        async for item in stream:
            if isinstance(item, CommandResult):
                return item
            if on_output is not None:
                await _show(on_output, item)
    raise AssertionError("a command's stream ends with its result")


async def _show(on_output: Callable[[Chunk], object], chunk: Chunk) -> None:
    try:
        answer = on_output(chunk)
        if isawaitable(answer):
            await answer
    except Exception:
        log.warning("an output callback failed", exc_info=True)
