"""
Codex's app-server for one run: the SDK's blocking client on threads of its own, the process on our leash.

The SDK's client blocks a thread per open stream; on the loop's default executor a few runs would stop every other use
of it. So each server has threads of its own.

Source: spec/06 §7; docs/design/provider-servers.md.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from asm_core.adapters.failures import provider_failure
from asm_core.agent_process import AgentCommand, agent_command
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.provider_error import ProviderErrorKind
from asm_core.optional import require

log = logging.getLogger(__name__)

T = TypeVar("T")
Params = Mapping[str, Any]
Answer = Callable[[str, Params], Awaitable[dict[str, Any]]]
"""What the host answers to a request of the server's: its method and parameters."""

THREADS = 4
"""One waits for notifications; requests and the interrupt may hang; one must be left to close."""
START_S = 30.0
CALL_S = 30.0
"""For a request; the SDK has no limit of its own."""
INTERRUPT_S = 1.0
CLOSE_S = 5.0
READERS_S = 0.2
"""For the client's threads to see the end of what they read; they have, unless something could not be killed."""
LOCK_PAUSE_S = 0.02
SET_UP = "asm-set-up"
"""In a home that some server has set up."""


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """How one is started."""

    program: Path
    home: Path
    """CODEX_HOME."""
    cwd: Path
    env: Mapping[str, str]
    overrides: tuple[str, ...]
    """`key=value`, as `--config` takes them."""


@dataclass(slots=True)
class CodexServer:
    """Every method may fail with the AsmError that stands for the SDK's own exception."""

    _client: Any
    _answer: Answer
    _loop: asyncio.AbstractEventLoop
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "codex"))
    _next: Future[Any] | None = None
    """The notification that is waited for; a waiter that is cancelled leaves it to the next one."""
    _answers: set[Future[dict[str, Any]]] = field(default_factory=set)
    _process: Any = None

    async def start(self) -> None:
        try:
            await _done(self._threads.submit(self._client.start))
        except OSError as cause:
            raise self._failure(cause) from cause
        finally:
            self._process = self._client._proc
        await self._call(self._client.initialize, limit_s=START_S)

    async def start_thread(self, params: Params) -> Any:
        return await self._call(self._client.thread_start, dict(params))

    async def resume_thread(self, thread_id: str, params: Params) -> Any:
        return await self._call(self._client.thread_resume, thread_id, dict(params))

    async def start_turn(self, thread_id: str, prompt: str, params: Params) -> str:
        """The turn's id."""
        started = await self._call(self._client.turn_start, thread_id, prompt, dict(params))
        return str(started.turn.id)

    async def notification(self, turn_id: str) -> tuple[str, Params]:
        """The next one of the turn, however long that takes."""
        self._next = self._next or self._threads.submit(self._client.next_turn_notification, turn_id)
        try:
            got = await asyncio.shield(asyncio.wrap_future(self._next))
        except Exception as cause:
            raise self._failure(cause) from cause
        self._next = None
        payload = got.payload
        if hasattr(payload, "params"):  # one that the SDK does not know
            return got.method, payload.params
        return got.method, payload.model_dump(by_alias=True, mode="json", exclude_none=True)

    async def interrupt(self, thread_id: str, turn_id: str) -> None:
        """Once per turn: a second one is never answered. Bounded; that the turn has ended already is no failure."""
        self._refuse_all()
        with suppress(AsmError):
            await self._call(self._client.turn_interrupt, thread_id, turn_id, limit_s=INTERRUPT_S)

    async def close(self) -> None:
        """Ends the process."""
        self._refuse_all()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._loop.run_in_executor(self._threads, self._client.close)
        except Exception:
            log.warning("Codex could not be closed, and is killed", exc_info=True)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def release(self) -> None:
        """Gives back the pipes, which the SDK leaves open; one that is still read would hold up whoever closes it."""
        readers = [thread for thread in (self._client._reader_thread, self._client._stderr_thread) if thread]
        for reader in readers:
            reader.join(READERS_S)
        if self._process and not any(reader.is_alive() for reader in readers):
            self._process.stdout.close()
            self._process.stderr.close()

    def _refuse_all(self) -> None:
        """What the server still asks is answered with no, so that it hears again."""
        for answer in list(self._answers):  # their own threads take them out
            answer.cancel()

    async def _call(self, request: Callable[..., T], *args: Any, limit_s: float = CALL_S) -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await self._loop.run_in_executor(self._threads, request, *args)
        except TimeoutError as cause:
            what = (ErrorCode.PROVIDER_TIMEOUT, ProviderErrorKind.TIMEOUT)
            raise provider_failure("codex", f"Codex did not answer within {limit_s:g} s", what) from cause
        except Exception as cause:
            raise self._failure(cause) from cause

    def _failure(self, cause: Exception) -> AsmError:
        errors = require("openai_codex.errors", "codex")
        if isinstance(cause, errors.TransportClosedError | OSError):
            message, _, stderr = str(cause).partition(" stderr_tail=")
            what = (ErrorCode.PROVIDER_UNAVAILABLE, ProviderErrorKind.TRANSPORT_EXIT)
            return provider_failure("codex", message, what, stderr=stderr or None)
        if isinstance(cause, errors.ServerBusyError):
            return provider_failure("codex", str(cause), (ErrorCode.PROVIDER_UNAVAILABLE, ProviderErrorKind.OVERLOADED))
        what = (ErrorCode.PROVIDER_ERROR, ProviderErrorKind.PROTOCOL_ERROR)
        return provider_failure("codex", str(cause), what, type=type(cause).__name__)

    def answer(self, method: str, params: Params | None) -> dict[str, Any]:
        """On the client's reader thread, which hears nothing else meanwhile. Whatever goes wrong means no."""
        asked = asyncio.run_coroutine_threadsafe(_as_coroutine(self._answer(method, params or {})), self._loop)
        self._answers.add(asked)
        try:
            return asked.result()
        except BaseException:
            return {"decision": "cancel"} if method.endswith("requestApproval") else {"action": "cancel"}
        finally:
            self._answers.discard(asked)


async def _done(future: Future[T]) -> T:
    """Waits for it whatever happens: what is half started cannot be closed."""
    waited = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waited)
    except asyncio.CancelledError:
        await asyncio.wait({waited})
        raise


async def _as_coroutine(answer: Awaitable[T]) -> T:
    return await answer


@asynccontextmanager
async def app_server(setup: ServerSetup, answer: Answer) -> AsyncGenerator[CodexServer, None]:
    """
    A running one, that has shaken hands. However the context is left, nothing of it is left.

    Raises:
        AsmError: `dependency_not_available`, `provider_unavailable`, `provider_timeout`, `provider_error`.
    """
    sdk = await asyncio.to_thread(require, "openai_codex.client", "codex")  # takes a second, the first time
    server: CodexServer | None = None
    try:
        async with agent_command([str(setup.program)], env=setup.env, folder=setup.home.parent) as guarded:
            config = sdk.CodexConfig(
                codex_bin=str(guarded.path), cwd=str(setup.cwd), config_overrides=setup.overrides, client_name="asm"
            )
            client = sdk.CodexClient(config)
            server = CodexServer(client, answer, asyncio.get_running_loop())
            client._approval_handler = server.answer
            try:
                async with _set_up_alone(setup.home):
                    await _started(server, guarded)
                yield server
            finally:
                await server.close()
    finally:
        if server is not None:
            server.release()


async def _started(server: CodexServer, guarded: AgentCommand) -> None:
    try:
        await server.start()
    except AsmError as error:
        raise guarded.failure or error from error


@asynccontextmanager
async def _set_up_alone(home: Path) -> AsyncGenerator[None, None]:
    """Two servers that start at once in a fresh home fail; there one starts at a time, of whatever process."""
    if (home / SET_UP).exists():
        yield
        return
    with (home / f"{SET_UP}.lock").open("w") as lock:
        try:
            async with asyncio.timeout(START_S):
                while not _is_locked(lock.fileno()):  # noqa: ASYNC110 (of another process)
                    await asyncio.sleep(LOCK_PAUSE_S)
        except TimeoutError as cause:
            what = (ErrorCode.PROVIDER_TIMEOUT, ProviderErrorKind.TIMEOUT)
            raise provider_failure("codex", f"{home} is being set up by another process", what) from cause
        yield
        (home / SET_UP).touch()


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
