"""
A whole installation on one machine, in one process tree: Postgres, Redis, the API, workers, Flower.

The stack looks after its children: one that dies is started again at once, on the same port and data, and `dev.json`
says the new pids. When the stack ends, nothing is left: on TERM the workers hand their runs back; when it is killed the
kernel ends its children, and a worker's death ends whatever it had started.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from asm_api.files import whole_file
from asm_core.devservers import Server, start_postgres, start_redis
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.process import deny_inspection

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 8.0
"""For workers and API together, from TERM to SIGKILL; the servers end after them."""
DRAIN_MS = 3_000
RESTART_PAUSE_S = 1.0
"""Before a child that failed by itself right after its start is started again."""
POLL_S = 0.1
PR_SET_PDEATHSIG = 1


CHOOSABLE = ("ASM_SHELL_ENABLED", "ASM_TRUSTED_SUBMITTERS", "ASM_AGENTS_DIR", "ASM_DRAIN_TIMEOUT_MS")
"""Settings of ours that the environment may set otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevOptions:
    data_dir: Path
    port: int
    workers: int = 2
    concurrency: int = 50
    flower_port: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    """Further ASM_* settings for the children."""
    say: Callable[[str], None] = print
    durable: bool = True


class Child:
    """One of the stack's own processes; its output goes to a file."""

    def __init__(self, name: str, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._environment = environment
        self._not_before = 0.0
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=_die_with_parent(signal.SIGKILL),
            )
        self._started_at = time.monotonic()

    def revive(self) -> bool:
        """Start the process again if it ended; True when it was started. Being killed is never held against it."""
        code = self.process.poll()
        if code is None or time.monotonic() < self._not_before:
            return False
        if code > 0 and time.monotonic() - self._started_at < RESTART_PAUSE_S and not self._not_before:
            self._not_before = time.monotonic() + RESTART_PAUSE_S
            return False
        self._not_before = 0.0
        self.start()
        return True

    def last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


class Stack:
    """Start and use from the main thread: children end with the thread that started them."""

    def __init__(self, options: DevOptions) -> None:
        self._options = options
        self._servers: dict[str, Server] = {}
        self._children: dict[str, Child] = {}
        self.api_url = f"http://127.0.0.1:{options.port}"
        self.database_url = os.environ.get("ASM_DATABASE_URL", "")
        self.redis_url = os.environ.get("ASM_REDIS_URL", "")

    @property
    def flower_url(self) -> str | None:
        port = self._options.flower_port
        return None if port is None else f"http://127.0.0.1:{port}"

    def start(self) -> None:
        """
        Bring everything up and return when the API can serve and all workers are registered.

        Raises:
            AsmError: `dependency_not_available` (no server to be found), `validation_error` (a port is taken),
                `internal_error` (a child did not start; its last words are in the message).
        """
        self._options.data_dir.mkdir(parents=True, exist_ok=True)
        for port in (self._options.port, self._options.flower_port):
            _require_free(port)
        self._start_servers()
        self._migrate()
        self._start_children()
        self._write_description()
        self._until_ready()

    def tick(self) -> None:
        """Look after the children once; call it a few times per second."""
        changed = [name for name, child in self._children.items() if child.revive()]
        for name, server in self._servers.items():
            if server.process.poll() is not None:
                server.restart()
                changed.append(name)
        if changed:
            self._options.say(f"restarted {', '.join(changed)}")
            self._write_description()

    def stop(self) -> None:
        """End everything; nothing is left. Safe to repeat."""
        for child in self._children.values():
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for child in self._children.values():
            _reap(child.process, deadline)
        for server in reversed(self._servers.values()):
            server.stop(timeout_s=3)
        self._children.clear()
        self._servers.clear()

    def _start_servers(self) -> None:
        data, durable = self._options.data_dir, self._options.durable
        if not self.database_url:
            self._servers["postgres"] = postgres = start_postgres(data / "postgres", durable=durable)
            self.database_url = postgres.url
        if not self.redis_url:
            self._servers["redis"] = redis = start_redis(data / "redis", durable=durable)
            self.redis_url = redis.url
        for server in self._servers.values():
            self._options.say(server.describe())

    def _migrate(self) -> None:
        from asm_core.stores.sql.migrate import migrate

        migrate(self.database_url)

    def _start_children(self) -> None:
        options = self._options
        asm = [sys.executable, "-m", "asm_api.cli"]
        self._child("api", [*asm, "api", "--port", str(options.port)])
        for index in range(1, options.workers + 1):
            command = [*asm, "worker", "--concurrency", str(options.concurrency), "--name", f"worker-{index}"]
            self._child(f"worker-{index}", command)
        if options.flower_port is not None:
            flower = [sys.executable, "-m", "celery", "-A", "asm_workers.flower:app", "flower"]
            self._child("flower", [*flower, "--address=127.0.0.1", f"--port={options.flower_port}"])

    def _child(self, name: str, command: list[str]) -> None:
        self._children[name] = Child(name, command, self._options.data_dir / f"{name}.log", self._environment())

    def _environment(self) -> dict[str, str]:
        ours = {
            "ASM_DATABASE_URL": self.database_url,
            "ASM_REDIS_URL": self.redis_url,
            "ASM_SHELL_ENABLED": "1",
            "ASM_TRUSTED_SUBMITTERS": "1",
            "ASM_AGENTS_DIR": str(self._options.data_dir / "agents"),
            "ASM_DRAIN_TIMEOUT_MS": str(DRAIN_MS),
            "FLOWER_UNAUTHENTICATED_API": "true",
        }
        chosen = {name: os.environ[name] for name in CHOOSABLE if name in os.environ}
        return os.environ | ours | chosen | self._options.environment

    def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._is_ready():
            for child in self._children.values():
                if child.process.poll() is not None:
                    raise AsmError(ErrorCode.INTERNAL_ERROR, f"{child.name} did not start:\n{child.last_words()}")
            if time.monotonic() > deadline:
                raise AsmError(ErrorCode.INTERNAL_ERROR, f"not ready within {READY_TIMEOUT_S:g} s")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        try:
            stats = _get_json(f"{self.api_url}/v1/stats")
        except (URLError, OSError, ValueError):
            return False
        return {worker["pid"] for worker in stats["workers"]} >= set(self._worker_pids())

    def _worker_pids(self) -> list[int]:
        return [child.process.pid for name, child in self._children.items() if name.startswith("worker-")]

    def _write_description(self) -> None:
        pids: dict[str, Any] = {name: server.pid for name, server in self._servers.items()}
        pids["api"] = self._children["api"].process.pid
        pids["workers"] = self._worker_pids()
        if "flower" in self._children:
            pids["flower"] = self._children["flower"].process.pid
        description = {
            "api_url": self.api_url,
            "database_url": self.database_url,
            "redis_url": self.redis_url,
            "flower_url": self.flower_url,
            "pids": pids,
        }
        with whole_file(self._options.data_dir / "dev.json") as file:
            file.write(json.dumps(description, indent=2).encode() + b"\n")


def serve_stack(options: DevOptions) -> int:
    """`asm dev`: run a stack until TERM, INT or HUP. Returns the exit code."""
    deny_inspection()
    stop_asked = _stop_flag()
    stack = Stack(options)
    try:
        stack.start()
        options.say(f"ready {stack.api_url}")
        while not stop_asked():
            stack.tick()
            time.sleep(POLL_S)
    finally:
        stack.stop()
    return 0


def _stop_flag() -> Callable[[], bool]:
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: asked.append(received))
    return lambda: bool(asked)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _require_free(port: int | None) -> None:
    if port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as cause:
            message = f"port {port} on 127.0.0.1 is taken; choose another with --port or --flower-port"
            raise AsmError(ErrorCode.VALIDATION_ERROR, message) from cause


def _get_json(url: str) -> Any:
    with urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback address
        return json.loads(answer.read())


def _reap(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """For the child, between fork and exec: be signalled when the thread that started us ends (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, number)
