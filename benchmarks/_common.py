"""
What the benchmarks share: a stack of their own (Postgres with fsync, Redis, as many processes of ASM as asked for), of
which nothing is left behind, and the managers to drive it with.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where ASM is not installed

from asm_api.dev import Child, free_port
from asm_api.wiring import Deps, open_deps
from asm_core.clock import SystemClock, new_id
from asm_core.config import Settings
from asm_core.devservers import start_postgres, start_redis
from asm_core.domain.session import DEFAULT_TENANT, Session
from asm_core.manager.submit import RunRequest
from asm_core.stores.sql.migrate import migrate

TENANT = DEFAULT_TENANT
READY_TIMEOUT_S = 60.0
POLL_S = 0.002


class Stack:
    """Servers that run, and children on demand; start them from the main thread, with which they end."""

    def __init__(self, folder: Path, database_url: str, redis_url: str, chosen: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = Settings(database_url=database_url, redis_url=redis_url, **chosen)
        self.db = psycopg.connect(database_url, autocommit=True)
        given = {"database_url": database_url, "redis_url": redis_url, "log_level": "WARNING", **chosen}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("ASM_")}
        self.environment |= {f"ASM_{name.upper()}": str(value) for name, value in given.items()}
        self.children: list[Child] = []

    def value(self, query: str, *params: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.db.execute(query, params, prepare=False).fetchone()
        return row[0] if row else None

    def start(self, name: str, command: Sequence[str], is_ready: Callable[[psutil.Process], Any]) -> psutil.Process:
        """A child, when it is ready. Raises RuntimeError with its last words if it ended instead."""
        child = Child(name, [sys.executable, *command], self.folder / f"{name}.log", self.environment)
        self.children.append(child)
        process = psutil.Process(child.process.pid)
        until(lambda: child.process.poll() is not None or is_ready(process))
        if child.process.poll() is not None:
            raise RuntimeError(f"{name} ended: {child.last_words()}")
        return process

    def worker(self, name: str = "worker", concurrency: int = 100) -> psutil.Process:
        """A worker process, registered."""
        registered = "SELECT 1 FROM asm_workers WHERE pid = %s AND lost_at IS NULL"
        command = ["-m", "asm_api.cli", "worker", "--concurrency", str(concurrency), "--name", name]
        return self.start(name, command, lambda process: self.value(registered, process.pid))

    def api(self) -> tuple[psutil.Process, int]:
        """An API process that accepts connections, and its port."""
        port = free_port()
        command = ["-m", "asm_api.cli", "api", "--port", str(port)]
        return self.start("api", command, _listens), port

    def stop_children(self) -> None:
        """At once; what they held is of no interest any more."""
        for child in self.children:
            child.process.kill()
            child.process.wait()
        self.children.clear()


def _listens(process: psutil.Process) -> bool:
    return any(connection.status == psutil.CONN_LISTEN for connection in process.net_connections())


@contextmanager
def stack(**chosen: Any) -> Iterator[Stack]:
    """A fresh migrated database and a Redis, with further settings for every process."""
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="asm-bench-")))
        postgres = start_postgres(folder / "postgres", durable=True)
        exits.callback(postgres.discard)
        redis = start_redis(folder / "redis", durable=True)
        exits.callback(redis.discard)
        migrate(postgres.url)
        made = Stack(folder, postgres.url, redis.url, chosen)
        exits.callback(made.db.close)
        exits.callback(made.stop_children)
        yield made


@asynccontextmanager
async def client(settings: Settings) -> AsyncIterator[Deps]:
    """The managers as an API process has them, without HTTP."""
    async with open_deps(settings) as deps:
        yield deps


async def new_session(deps: Deps) -> str:
    session = Session.new(id=new_id("ses"), now=SystemClock().now(), agent_id="bench")
    return (await deps.sessions.create(session)).id


async def submit(deps: Deps, session_id: str, script: Sequence[dict[str, Any]] = (), **fields: Any) -> str:
    """A run of the script, or of another `input`. Its id."""
    request = RunRequest(**{"input": {"script": [*script]}} | fields)
    return (await deps.submitter.submit(session_id, TENANT, request)).run_id


def until(holds: Callable[[], Any], timeout_s: float = READY_TIMEOUT_S, pause_s: float = POLL_S) -> Any:
    """What `holds` answers, as soon as that is true. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not (answer := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(pause_s)
    return answer


async def eventually(holds: Callable[[], Any], timeout_s: float = READY_TIMEOUT_S, pause_s: float = 0.01) -> Any:
    """The same without holding up the loop."""
    async with asyncio.timeout(timeout_s):
        while not (answer := holds()):  # noqa: ASYNC110 - nobody could tell us
            await asyncio.sleep(pause_s)
    return answer
