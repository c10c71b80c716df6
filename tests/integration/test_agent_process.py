"""Commands that a vendor's SDK starts by itself: with our environment, on our leash. `spawn` plays the SDK."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import psutil
import pytest

from asm_core.agent_process import AgentCommand, AgentFolders, agent_command
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.process import clean_env
from tests.fixtures.processes import eventually, marked, tree

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc"),
    pytest.mark.usefixtures("nothing_is_left"),
]

ROOT = Path(__file__).parents[2]
WHOLE_TREE = 3
"""The command, its child, and a grandchild that has left its session. What is above them has no environment to mark."""


async def spawn(guarded: AgentCommand, *arguments: str, cwd: Path | None = None) -> Process:
    """As SDKs do it: with the worker's environment, and more."""
    env = os.environ | {"ADDED_BY_THE_SDK": "1"}
    return await asyncio.create_subprocess_exec(
        guarded.path, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, cwd=cwd
    )


async def is_up(child: Process) -> None:
    assert child.stdout
    assert await child.stdout.readline() == b"up\n"


async def test_the_command_has_its_streams_its_arguments_its_folder_and_its_exit_code(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    script = 'read line; echo "$line $0 $1"; pwd; echo err >&2; exit 7'
    async with agent_command(["/bin/sh", "-c", script], env={}, folder=tmp_path) as guarded:
        child = await spawn(guarded, "a b", "$c", cwd=work)
        out, err = await child.communicate(b"said\n")
        assert (out.decode(), err.decode(), child.returncode) == (f"said a b $c\n{work}\n", "err\n", 7)
    assert [entry.name for entry in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("env", [{}, {"LC_CTYPE": "C", "KEY": "with = and\nlines", "Ä": "ö", "EMPTY": ""}])
async def test_the_environment_is_exactly_the_given_one(env: dict[str, str], tmp_path: Path) -> None:
    async with agent_command(["/usr/bin/env", "-0"], env=env, folder=tmp_path) as guarded:
        out, _ = await (await spawn(guarded)).communicate()
        shown = dict(entry.split("=", 1) for entry in out.decode().split("\0")[:-1])
        assert shown == env
        assert "with =" not in guarded.path.read_text()


async def test_no_secret_of_the_worker_reaches_the_command_or_its_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    """The SDK hands on all that the worker has; neither the command nor what is above it in its tree gets to see it."""
    monkeypatch.setenv("ASM_DATABASE_URL", "value-of-a-secret")
    env = clean_env({"MARK": mark})
    async with agent_command(tree(), env=env, folder=tmp_path) as guarded:
        child = await spawn(guarded)
        await is_up(child)
        [command, *_] = marked(mark)
        launcher = Path(f"/proc/{child.pid}/environ").read_bytes()
        assert b"value-of-a-secret" not in launcher + Path(f"/proc/{command}/environ").read_bytes()
        assert (launcher, Path(f"/proc/{child.pid}/fd").exists()) == (b"", True)


async def test_leaving_the_context_in_the_middle_ends_everything(tmp_path: Path, mark: str) -> None:
    """Also what left its session; the SDK's child has ended then, and ignoring TERM costs a grace."""
    async with agent_command(tree("stubborn"), env=clean_env({"MARK": mark}), folder=tmp_path, grace_s=0.2) as guarded:
        child = await spawn(guarded)
        await is_up(child)
        assert len(marked(mark)) == WHOLE_TREE
    assert marked(mark) == []
    assert await child.wait() == 143


async def test_a_cancelled_context_ends_everything_at_once(tmp_path: Path, mark: str) -> None:
    """A second cancel leaves no time for cleaning up; what was started is gone all the same."""
    leaving = asyncio.Event()

    async def run() -> None:
        command = agent_command(tree("stubborn"), env=clean_env({"MARK": mark}), folder=tmp_path, grace_s=600)
        async with command as guarded:
            await is_up(await spawn(guarded))
            leaving.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    await leaving.wait()
    running.cancel()
    await eventually(lambda: len(marked(mark)) == 1)  # TERM has been
    running.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await running
    assert marked(mark) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_sdk_that_kills_its_child_kills_everything(tmp_path: Path, mark: str, number: int) -> None:
    """It knows one process only, and may give it no chance."""
    async with agent_command(tree("stubborn"), env=clean_env({"MARK": mark}), folder=tmp_path, grace_s=0.2) as guarded:
        child = await spawn(guarded)
        await is_up(child)
        child.send_signal(number)
        assert await child.wait() == -number
        await eventually(lambda: marked(mark) == [])


async def test_a_worker_that_is_killed_takes_its_agents_with_it(tmp_path: Path, mark: str) -> None:
    """SIGKILL gives no chance to clean up; within two seconds no descendant is alive all the same."""
    program = (
        "import asyncio\n"
        "from pathlib import Path\n"
        "from asm_core.agent_process import agent_command\n"
        "async def main():\n"
        f"    env, folder = {clean_env({'MARK': mark})!r}, Path({str(tmp_path)!r})\n"
        f"    async with agent_command({tree()!r}, env=env, folder=folder) as guarded:\n"
        "        children = [await asyncio.create_subprocess_exec(guarded.path) for _ in range(2)]\n"
        "        await asyncio.gather(*(child.wait() for child in children))\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as worker:
        await eventually(lambda: len(marked(mark)) == 2 * WHOLE_TREE, within_s=20)
        below = psutil.Process(worker.pid).children(recursive=True)
        assert len(below) == 2 * (WHOLE_TREE + 2)
        worker.kill()
    await eventually(lambda: not any(process.is_running() for process in below), within_s=2)


async def test_a_supervisor_that_is_killed_takes_the_command_and_its_group_with_it(tmp_path: Path, mark: str) -> None:
    script = ["/bin/sh", "-c", "sleep 600 & echo up; sleep 600"]
    async with agent_command(script, env=clean_env({"MARK": mark}), folder=tmp_path) as guarded:
        child = await spawn(guarded)
        await is_up(child)
        [supervisor] = psutil.Process(child.pid).children()
        supervisor.kill()
        assert await child.wait() == 137
        await eventually(lambda: marked(mark) == [])


async def test_whenever_its_supervisor_is_killed_a_command_is_gone(tmp_path: Path, mark: str) -> None:
    """Also before it has said that it started: what leaves the command's child alive would hold the streams open."""
    script = ["/bin/sh", "-c", "sleep 600 & echo up; sleep 600"]
    async with agent_command(script, env=clean_env({"MARK": mark}), folder=tmp_path) as guarded, asyncio.timeout(60):
        for delay_ms in range(0, 45, 3):
            child = await spawn(guarded)
            await eventually(lambda child=child: psutil.Process(child.pid).children() != [])  # type: ignore[misc]
            [supervisor] = psutil.Process(child.pid).children()
            await asyncio.sleep(delay_ms / 1000)
            supervisor.kill()
            assert await child.wait() == 137
        await eventually(lambda: marked(mark) == [])


async def test_a_command_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The SDK sees an exit only."""
    async with agent_command(["/no/such/agent"], env={}, folder=tmp_path) as guarded:
        assert guarded.failure is None
        assert await (await spawn(guarded)).wait() == 127
        await eventually(lambda: guarded.failure is not None)
    assert guarded.failure
    assert guarded.failure.details == {"reason": "command_not_found", "command": "/no/such/agent"}


async def test_what_is_started_after_the_context_does_not_run(tmp_path: Path) -> None:
    async with agent_command(["/bin/echo", "ran"], env={}, folder=tmp_path) as guarded:
        kept = tmp_path / "kept"
        kept.write_text(guarded.path.read_text())
        kept.chmod(0o700)
    done = await asyncio.create_subprocess_exec(kept, stdout=PIPE, stderr=PIPE)
    assert await done.communicate() == (b"", b"")
    assert done.returncode == 127


@pytest.mark.parametrize("env", [{"A=B": "1"}, {"": "1"}, {"A": "\0"}])
async def test_an_environment_that_cannot_be_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(AsmError) as raised:
        async with agent_command(["true"], env=env, folder=tmp_path):
            pass
    assert raised.value.code is ErrorCode.VALIDATION_ERROR
    assert [*tmp_path.iterdir()] == []


async def test_a_folder_may_have_any_length(tmp_path: Path) -> None:
    """A socket's path may not."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with agent_command(["/bin/echo", "ran"], env={}, folder=deep) as guarded:
        assert await (await spawn(guarded)).communicate() == (b"ran\n", b"")
        assert guarded.path.parent.stat().st_mode & 0o777 == 0o700


# --- folders ----------------------------------------------------------------------------------------------------------


def test_agents_of_a_session_share_its_folder_and_have_homes_of_their_own(tmp_path: Path) -> None:
    """For nobody but this user; asked again, they are the same."""
    folders = AgentFolders(tmp_path / "state" / "agents")
    claude, codex = folders.of("ses_1", "claude"), folders.of("ses_1", "codex")
    assert claude.work == codex.work != folders.of("ses_2", "claude").work
    assert claude.home != codex.home
    assert folders.of("ses_1", "claude") == claude
    for path in (folders.root, claude.home, claude.work, claude.home.parent):
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["../../etc", "..", ".", "/etc", "", "a/b", "work", "x" * 300, "ä", "a\0b"])
def test_whatever_a_session_is_called_its_folders_stay_below_the_root(name: str, tmp_path: Path) -> None:
    folders = AgentFolders(tmp_path)
    one, other = folders.of(name, name), folders.of(f"{name}!", "claude")
    assert one.home.resolve().is_relative_to(tmp_path)
    assert one.home.parent.parent == tmp_path
    assert len({one.home, one.work, other.home, other.work}) == 4


FORKING = """
import asyncio, subprocess, sys, threading, time
from functools import partial
from pathlib import Path
from asm_core.agent_process import agent_command

def fork(over):
    while not over.is_set():
        subprocess.run(["/bin/true"], preexec_fn=partial(time.sleep, 0.02), check=True)

async def main():
    for _ in range(30):
        async with agent_command(["/bin/true"], env={}, folder=Path(sys.argv[1])) as guarded:
            child = await asyncio.create_subprocess_exec(guarded.path)
            assert await child.wait() == 0

over = threading.Event()
threads = [threading.Thread(target=fork, args=[over]) for _ in range(6)]
for thread in threads:
    thread.start()
try:
    asyncio.run(main())
finally:
    over.set()
"""


def test_a_command_starts_while_other_threads_fork(tmp_path: Path) -> None:
    """
    Their children hold what this process has open, until they execute something: no file open for writing may be. In
    a small process, which forks quickly.
    """
    done = subprocess.run([sys.executable, "-c", FORKING, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
