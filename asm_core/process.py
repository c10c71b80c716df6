"""
Child processes: started through `launcher.py`, streamed, bounded, and gone with everything they started.

A child costs its worker three descriptors: a socket to its launcher (requests to stop go out, the pid and the exit code
come in, its end means that no descendant is left) and the read ends of stdout and stderr. The pipes are read only when
the consumer asks for more, so a slow consumer holds the command back and memory stays bounded. No signal handlers, no
child watchers of asyncio, no threads: any event loop in any thread will do.

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
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import MAGIC_NUMBER, cache_from_source
from inspect import isawaitable
from io import FileIO
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, Unpack, cast

from asm_core import launcher
from asm_core.domain.errors import AsmError, ErrorCode

log = logging.getLogger(__name__)

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
"""What a command sees of the worker's environment unless more is named."""
SECRET_NAMES = ("ASM_*", "*KEY*", "*TOKEN*", "*SECRET*", "*PASSW*", "*CREDENTIAL*")
"""Never matched by a pattern of `inherit`; only a full name lets one of these through."""
PR_SET_DUMPABLE = 4
READ_SIZE = 65_536
READS_AFTER_END = 64
"""More than the pipes can hold; what still writes then has escaped, and is not listened to."""
LAUNCH_TIMEOUT_S = 30.0
KILL_MARGIN_S = 10.0
"""Beyond the grace, for everything to be gone after KILL; then it is left to the launcher, which goes on."""
TIMEOUT_EXIT_CODE = 124
KILLED_EXIT_CODE = 137


def program_of(source: Path, compiled: Path) -> Path:
    """
    The compiled module, which saves a fifth of the launcher's start-up time, if it is this source's: the import above
    has written it, but where Python may write none an older one may lie there.
    """
    try:
        with compiled.open("rb") as file:
            header = file.read(16)
        about = source.stat()
    except OSError:
        return source
    numbers = (0, int(about.st_mtime), about.st_size)
    of_source = MAGIC_NUMBER + b"".join((number & 0xFFFFFFFF).to_bytes(4, "little") for number in numbers)
    return compiled if header == of_source else source


_LAUNCHER = str(program_of(Path(launcher.__file__), Path(cache_from_source(launcher.__file__))))


def deny_inspection() -> None:
    """
    From now on no process of the same user, a run's command for one, can read this one's environment and memory (Linux;
    root still can). It leaves no core dumps either. For processes of our own, at their start.
    """
    launcher.prctl(PR_SET_DUMPABLE, 0)


def launcher_argv(control: str, grace_ms: int, lc_ctype: str, cwd: str, command: Sequence[str]) -> list[str]:
    """How `launcher.py` is started; what each argument means stands there."""
    return [sys.executable, "-I", "-S", _LAUNCHER, control, str(grace_ms), lc_ctype, cwd, *command]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    timeout_ms: int | None = 30_000
    """For the whole command, from its start; then it is stopped, and what it wrote so far is kept."""
    idle_timeout_ms: int | None = None
    """Without any output; the consumer's own time does not count."""
    max_output_bytes: int = 1_048_576
    """Captured from each output; what comes after is still streamed."""
    kill_grace_ms: int = 2_000
    """From TERM to KILL."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if (getattr(self, name) or 0) < 0:
                raise AsmError(ErrorCode.VALIDATION_ERROR, f"{name} cannot be negative", details={"field": name})


DEFAULT_LIMITS = Limits()


class LimitOptions(TypedDict, total=False):
    """The fields of `Limits`, as arguments of a call."""

    timeout_ms: int | None
    idle_timeout_ms: int | None
    max_output_bytes: int
    kill_grace_ms: int


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
    """All that the command wrote, captured or not."""


async def exec_run(
    argv: Sequence[str],
    *,
    cwd: str | Path = ".",
    env: Mapping[str, object] | None = None,
    inherit_env: Sequence[str] = (),
    on_output: Callable[[Chunk], object] | None = None,
    **limits: Unpack[LimitOptions],
) -> CommandResult:
    """
    Run a command to its end. Cancelling the caller kills it with all its descendants.

    Args:
        argv: the command and its arguments; no shell.
        env: over what is inherited by `clean_env`.
        inherit_env: more names to inherit; see `clean_env`.
        on_output: called with every chunk, plain or async; the command waits for it. Its errors are logged, not raised.
        limits: see `Limits`.

    Raises:
        AsmError: see `launch`.

    Source: spec/05 §14.
    """
    stream = exec_stream(argv, cwd=cwd, env=env, inherit_env=inherit_env, **limits)
    async with aclosing(stream):
        async for item in stream:
            if isinstance(item, CommandResult):
                return item
            if on_output is not None:
                await _show(on_output, item)
    raise AssertionError("a stream ends with its result")


async def exec_stream(
    argv: Sequence[str],
    *,
    cwd: str | Path = ".",
    env: Mapping[str, object] | None = None,
    inherit_env: Sequence[str] = (),
    **limits: Unpack[LimitOptions],
) -> AsyncGenerator[Chunk | CommandResult, None]:
    """
    A command's output as it comes, then its result. Closing the stream kills the command with all its descendants.

    Args:
        argv, cwd, env, inherit_env, limits: as for `exec_run`.

    Raises:
        AsmError: see `launch`.

    Source: spec/05 §14.
    """
    whole = clean_env({name: str(value) for name, value in (env or {}).items()}, inherit_env)
    async with launch(argv, cwd=cwd, env=whole, limits=Limits(**limits)) as child:
        async for chunk in child:
            yield chunk
    yield child.result()


async def _show(on_output: Callable[[Chunk], object], chunk: Chunk) -> None:
    try:
        answer = on_output(chunk)
        if isawaitable(answer):
            await answer
    except Exception:
        log.warning("an output callback failed", exc_info=True)


@asynccontextmanager
async def launch(
    argv: Sequence[str],
    *,
    cwd: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncGenerator[Child, None]:
    """
    A running command. However the context is left, and however this process dies, the command and all its descendants
    are stopped: TERM, after the grace KILL. Leaving waits for that, bounded.

    Args:
        argv: the command and its arguments; no shell. A name without a slash is looked up on the command's PATH.
        cwd: its working folder.
        env: its whole environment; `clean_env()` when None.
        stdin: a pipe for `Child.write`; otherwise the command reads /dev/null.

    Raises:
        AsmError: `validation_error` (argv, cwd), `tool_execution_failed` with details.reason `command_not_found`,
            `command_not_executable` or `command_not_started`.

    Source: DESIGN §4; spec/05 §14.
    """
    if isinstance(argv, str):
        raise AsmError(ErrorCode.VALIDATION_ERROR, "argv must be a list of words", details={"field": "command"})
    child = _spawn([str(word) for word in argv], str(cwd), clean_env() if env is None else dict(env), stdin, limits)
    try:
        if failure := await child.started():
            raise launch_error(failure, argv[0], str(cwd))
        yield child
    finally:
        await child.close()


def _spawn(argv: list[str], cwd: str, env: dict[str, str], stdin: bool, limits: Limits) -> Child:
    if not argv or not argv[0]:
        raise AsmError(ErrorCode.VALIDATION_ERROR, "a command is required", details={"field": "command"})
    if "" in env:  # the launcher could not pass it on, and would end with 127 as a shell does
        raise AsmError(ErrorCode.VALIDATION_ERROR, "a variable needs a name", details={"field": "env"})
    here, there = socket.socketpair()
    lc_ctype = env.get("LC_CTYPE", "")
    try:
        popen = subprocess.Popen(
            launcher_argv(str(there.fileno()), limits.kill_grace_ms, lc_ctype, cwd, argv),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            pass_fds=(there.fileno(),),
            start_new_session=True,
        )
    except (OSError, ValueError) as cause:
        here.close()
        if isinstance(cause, OSError):
            raise launch_error(f"launcher {cause.errno}", argv[0], cwd) from cause
        raise AsmError(ErrorCode.VALIDATION_ERROR, f"this cannot be passed to a command: {cause}") from cause
    finally:
        there.close()
    return Child(argv, cwd, popen, here, limits)


_REASONS = {errno.ENOENT: "command_not_found", errno.ENOTDIR: "command_not_found"}
_REASONS |= {errno.EACCES: "command_not_executable", errno.ENOEXEC: "command_not_executable"}


def launch_error(failure: str, command: str, cwd: str) -> AsmError:
    """From what was tried, and its errno: `cwd 2`, `exec 13`, `launcher 11`."""
    stage, _, number = failure.partition(" ")
    why = os.strerror(int(number))
    if stage == "cwd":
        return AsmError(ErrorCode.VALIDATION_ERROR, f"cannot run in {cwd!r}: {why}", details={"field": "cwd"})
    reason = _REASONS.get(int(number), "command_not_started") if stage == "exec" else "command_not_started"
    message = f"command not found: {command!r}" if reason == "command_not_found" else f"cannot run {command!r}: {why}"
    return AsmError(ErrorCode.TOOL_EXECUTION_FAILED, message, details={"reason": reason, "command": command})


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
        """What is there now; None when nothing is. At its end the pipe is closed."""
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
        self._room = 0 if self.truncated else self._room - len(encoded)
        if text:
            self._captured.append(text)
        return text


class Child:
    """A command and all it started. One task reads it; `stop` may be called from anywhere in the loop."""

    pid: int | None = None
    exit_code: int | None = None
    """128+n when signal n ended it; None until the command itself has ended."""
    timed_out = False

    def __init__(
        self, argv: list[str], cwd: str, popen: subprocess.Popen[bytes], control: socket.socket, limits: Limits
    ) -> None:
        self.stdout = Output("stdout", cast(FileIO, popen.stdout), limits.max_output_bytes)
        self.stderr = Output("stderr", cast(FileIO, popen.stderr), limits.max_output_bytes)
        self.stdin = cast("FileIO | None", popen.stdin)
        if self.stdin:
            os.set_blocking(self.stdin.fileno(), False)
        self._argv, self._cwd, self._popen, self._control, self._limits = argv, cwd, popen, control, limits
        self._outputs = [self.stdout, self.stderr]
        self._reads_left = READS_AFTER_END
        self._loop = asyncio.get_running_loop()
        self._began = self._ended = self._loop.time()
        self._started: asyncio.Future[str] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._changed = asyncio.Event()
        self._timeout: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._heard = b""
        control.setblocking(False)
        self._loop.add_reader(control, self._hear)

    def __aiter__(self) -> Child:
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self.read()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def read(self) -> Chunk | None:
        """The next piece of output; None when the command and everything it started are gone."""
        while True:
            idle_ms = None if self.timed_out else self._limits.idle_timeout_ms
            try:
                async with asyncio.timeout(None if idle_ms is None else idle_ms / 1000):
                    return await self._read()
            except TimeoutError:
                self._expire()

    async def _read(self) -> Chunk | None:
        while True:
            await asyncio.sleep(0)  # output that never pauses must not take the loop for itself
            was_gone = self._gone.done()  # asked before reading: what was written until then is in the pipes
            if was_gone:
                self._reads_left -= 1
            for output in self._open_outputs() if self._reads_left else ():
                if chunk := output.read():
                    self._outputs.reverse()  # each in its turn
                    return chunk
            if was_gone:
                return None
            await self._readable()

    def _open_outputs(self) -> list[Output]:
        return [output for output in self._outputs if not output.pipe.closed]

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
            BrokenPipeError: the command has closed it or ended, or was launched without one.
        """
        left = memoryview(data)
        while left:
            if self.stdin is None or self.stdin.closed:
                raise BrokenPipeError(errno.EPIPE, "the command has no open stdin")
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
        """The exit code, when the command and everything it started are gone. Output must be read meanwhile."""
        await asyncio.wait([self._gone])
        return KILLED_EXIT_CODE if self.exit_code is None else self.exit_code

    def stop(self, grace_s: float | None = None) -> None:
        """Ask for the end: TERM to the command and all its descendants, KILL after the grace. Does not wait."""
        if self._gone.done():
            return
        grace_s = self._limits.kill_grace_ms / 1000 if grace_s is None else grace_s
        with suppress(OSError):  # the launcher is ending already
            self._control.send(b"%d\n" % (grace_s * 1000))
        limit = self._loop.time() + grace_s + KILL_MARGIN_S
        if self._deadline is None or limit < self._deadline.when():
            _cancel(self._deadline)
            self._deadline = self._loop.call_at(limit, self._give_up)

    async def kill(self, grace_s: float | None = None) -> int:
        """`stop`, and wait for it: at most the grace and KILL_MARGIN_S. What it wrote until then can still be read."""
        self.stop(grace_s)
        return await self.wait()

    def result(self) -> CommandResult:
        """Call it at the end of the output."""
        exit_code = KILLED_EXIT_CODE if self.exit_code is None else self.exit_code
        return CommandResult(
            command=self._argv[0],
            args=(*self._argv[1:],),
            cwd=self._cwd,
            exit_code=TIMEOUT_EXIT_CODE if self.timed_out else exit_code,
            stdout=self.stdout.text,
            stderr=self.stderr.text,
            duration_ms=ceil((self._ended - self._began) * 1000),
            timed_out=self.timed_out,
            stdout_truncated=self.stdout.truncated,
            stderr_truncated=self.stderr.truncated,
            stdout_bytes=self.stdout.total_bytes,
        )

    async def started(self) -> str:
        """Once the command runs: empty, or why it does not, as the launcher puts it."""
        try:
            async with asyncio.timeout(LAUNCH_TIMEOUT_S):
                return await self._started
        except TimeoutError:
            return f"launcher {errno.ETIMEDOUT}"

    async def close(self) -> None:
        """Stop what is left and give everything back; bounded, and not shortened by being cancelled (KILL is)."""
        self.stop()
        self.stdout.pipe.close()
        self.stderr.pipe.close()
        cancelled: asyncio.CancelledError | None = None
        while not self._gone.done():
            try:
                await asyncio.wait([self._gone])
            except asyncio.CancelledError as again:
                cancelled = again
                self.stop(grace_s=0)
        self.close_stdin()
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
        elif word == "forked":
            self.pid = int(rest)
        elif word == "failed":
            self.pid = None
            self._answer(rest)
        else:
            self._began = self._loop.time()
            if self._limits.timeout_ms is not None:
                self._timeout = self._loop.call_later(self._limits.timeout_ms / 1000, self._expire)
            self._answer("")

    def _answer(self, failure: str) -> None:
        if not self._started.done():
            self._started.set_result(failure)

    def _expire(self) -> None:
        self.timed_out = self.timed_out or self.exit_code is None
        self.stop()

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
        if self._gone.done():
            return
        if self.pid and self.exit_code is None:  # the launcher was killed, or something cannot die
            with suppress(OSError):
                os.killpg(self.pid, 9)
        _cancel(self._timeout)
        _cancel(self._deadline)
        self._ended = self._loop.time()
        self._gone.set_result(None)
        self._changed.set()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()
