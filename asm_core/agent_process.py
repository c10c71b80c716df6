"""
Command lines that a vendor's SDK starts by itself, guarded as our own commands are, and the folders they live in.

An SDK spawns its command line with an environment that it makes of the worker's own, and knows nothing of
`launcher.py`. So it gets the path of a small script instead, which starts the command through the launcher: with
exactly the environment that the worker wants it to have, under a subreaper, tied to the worker by a socket. However the
worker ends, whatever the SDK does to its child, and when the context is left, the command and all its descendants are
stopped.

Source: DESIGN §4, §12; docs/design/provider-servers.md.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.launcher import LONGEST_ADDRESS
from asm_core.process import KILL_MARGIN_S, launch_error, launcher_argv

PRIVATE = 0o700
WRITE = ("/bin/sh", "-c", 'umask 077 && cat > "$0" && chmod 700 "$0"')
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class AgentCommand:
    """A command as an SDK may start it, also more than once; alive until `close`."""

    failure: AsmError | None = None
    """Why the command did not start, where it was tried; the SDK knows only that its child ended."""

    def __init__(self, path: Path, command: Sequence[str], env: Mapping[str, str], grace_s: float) -> None:
        self.path = path
        self._command = command
        self._environment = _as_block(env)
        self._grace_s = grace_s
        self._launchers: dict[StreamWriter, asyncio.Event] = {}
        """Connected ones, each with its end: nothing below it is left."""
        self._is_closing = False

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One launcher, from its start to its end."""
        ended = asyncio.Event()
        try:
            if not self._is_closing:
                self._launchers[writer] = ended
                writer.write(self._environment)
                await self._hear(reader)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self._launchers.pop(writer, None)
            ended.set()

    async def _hear(self, reader: StreamReader) -> None:
        """What the launcher says, until it closes its end."""
        running: int | None = None
        with suppress(OSError):
            while line := await reader.readline():
                word, _, rest = line.decode().strip().partition(" ")
                if word == "failed":
                    self.failure = launch_error(rest, self._command[0], ".")
                if word != "started":
                    running = int(rest) if word == "forked" else None
        if running is not None:  # the launcher was killed
            with suppress(OSError):
                os.killpg(running, signal.SIGKILL)

    def stop(self, grace_s: float | None = None) -> None:
        """Ask for the end of all: TERM, KILL after the grace. Does not wait."""
        self._is_closing = True
        grace_ms = (self._grace_s if grace_s is None else grace_s) * 1000
        for writer in self._launchers:
            writer.write(b"%d\n" % grace_ms)

    async def close(self) -> None:
        """Stop all and wait for it, bounded; being cancelled shortens the grace only."""
        self.stop()
        limit = asyncio.get_running_loop().time() + self._grace_s + KILL_MARGIN_S
        cancelled: asyncio.CancelledError | None = None
        while self._launchers:
            try:
                async with asyncio.timeout_at(limit):
                    await next(iter(self._launchers.values())).wait()
            except TimeoutError:
                break  # something cannot die; its launcher goes on
            except asyncio.CancelledError as again:
                cancelled = again
                self.stop(grace_s=0)
        if cancelled:
            raise cancelled


@asynccontextmanager
async def agent_command(
    command: Sequence[str], *, env: Mapping[str, str], folder: Path, grace_s: float = 2.0
) -> AsyncGenerator[AgentCommand, None]:
    """
    An executable that stands for a command.

    Started with further arguments it is the command with these: it has its stdin, stdout and stderr and its starter's
    working folder, and ends with its exit code. Leaving the context stops what was started and waits for that.

    Args:
        command: the program and the arguments that always come first.
        env: its whole environment (`process.clean_env`), whatever that of its starter is. It is never on disk.
        folder: an existing one in which programs may be executed; the script gets a private folder below it.
        grace_s: from TERM to KILL.

    Raises:
        AsmError: `validation_error`: the environment cannot be passed on.

    Source: DESIGN §4, §12.
    """
    with TemporaryDirectory(prefix="command-", dir=folder, ignore_cleanup_errors=True) as made:
        control = Path(made, "control")
        path = await _write_script(Path(made, "command"), control, command, grace_s)
        guarded = AgentCommand(path, command, env, grace_s)
        with _listening(control) as listener:
            server = await asyncio.start_unix_server(guarded.serve, sock=listener)
            try:
                yield guarded
            finally:
                server.close()
                await guarded.close()


async def _write_script(path: Path, control: Path, command: Sequence[str], grace_s: float) -> Path:
    """
    By a process of its own: what this one has open, a child that another thread forks holds until it executes
    something, and a file that anybody has open for writing cannot be executed.
    """
    argv = launcher_argv(str(control), int(grace_s * 1000), "", ".", command)
    script = f'#!/bin/sh\nexec env -i {shlex.join(argv)} "$@"\n'
    write = partial(subprocess.run, [*WRITE, path], input=script, capture_output=True, text=True)
    done = await asyncio.to_thread(write)
    if done.returncode:
        raise OSError(f"cannot write {path}: {done.stderr.strip()}")
    return path


def _listening(path: Path) -> socket.socket:
    """Bound by way of its folder's descriptor where the path is longer than a socket's may be."""
    listener = socket.socket(socket.AF_UNIX)
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        listener.bind(str(path))
    else:
        fd = os.open(path.parent, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{fd}/{path.name}")
        os.close(fd)
    return listener


def _as_block(env: Mapping[str, str]) -> bytes:
    """As `launcher.take_environment` reads it."""
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise AsmError(ErrorCode.VALIDATION_ERROR, f"an environment cannot hold {name!r}", details={"field": "env"})
    return b"\0".join(os.fsencode(f"{name}={value}") for name, value in env.items()) + b"\0\0"


@dataclass(frozen=True, slots=True)
class AgentFolder:
    """Where one agent of one session lives."""

    home: Path
    """The agent's alone: its HOME, its settings, its own records."""
    work: Path
    """Where it works; the same for all agents of the session."""


@dataclass(frozen=True, slots=True)
class AgentFolders:
    """
    Folders per session below one root, for nobody but this user; whatever a session is called, it stays below.

    Args:
        root: `Settings.agents_folder`.
    """

    root: Path

    def of(self, session_id: str, provider: str) -> AgentFolder:
        """Made where it is missing. Raises OSError."""
        session = self.root / _safe(session_id)
        folder = AgentFolder(home=session / _safe(provider), work=session / "work")
        self.root.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.root, session, folder.home, folder.work):
            path.mkdir(PRIVATE, exist_ok=True)
        return folder


def _safe(name: str) -> str:
    """A name for a file: the name itself where it is harmless, else its digest."""
    if SAFE_NAME.fullmatch(name) and name != "work":
        return name
    return f"x-{blake2b(name.encode(errors='surrogateescape'), digest_size=16).hexdigest()}"
