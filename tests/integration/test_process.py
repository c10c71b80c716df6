"""Child processes: what they say arrives, what they start ends with them, and nothing of them is left behind."""

from __future__ import annotations

import asyncio
import os
import py_compile
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.process import Child, Chunk, CommandResult, Limits, clean_env, exec_run, launch, program_of
from tests.fixtures.processes import eventually, marked, open_fds, state, tree

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc"),
    pytest.mark.usefixtures("nothing_is_left"),
]


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


# --- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "code"), [("true", 0), ("exit 42", 42), ("kill -9 $$", 137), ("nope-nope", 127)])
async def test_an_exit_code_is_a_result(script: str, code: int) -> None:
    """Whatever it is: 128+n for a signal, and the shell's own 127, which is not ours for a missing command."""
    result = await exec_run(sh(script), cwd="/")
    assert (result.exit_code, result.timed_out) == (code, False)


async def test_arguments_are_passed_literally(tmp_path: Path) -> None:
    result = await exec_run(["printf", "%s|", "$HOME", "a b", "*", ""], cwd=tmp_path)
    assert result.stdout == "$HOME|a b|*||"
    assert (result.command, result.args[0], result.cwd) == ("printf", "%s|", str(tmp_path))
    assert (await exec_run(["pwd"], cwd=tmp_path)).stdout == f"{tmp_path}\n"


async def test_stdout_and_stderr_are_separate() -> None:
    result = await exec_run(sh("echo out; echo err >&2"), cwd="/")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


async def test_a_timeout_keeps_the_output_so_far(mark: str) -> None:
    result = await exec_run(sh("echo early; sleep 600"), cwd="/", timeout_ms=200, env=clean_env({"MARK": mark}))
    assert (result.exit_code, result.timed_out, result.stdout) == (124, True, "early\n")
    assert result.duration_ms >= 200


async def test_a_command_that_ignores_term_is_killed_after_its_grace() -> None:
    script = sh("trap '' TERM; echo deaf; while :; do sleep 1; done")
    result = await exec_run(script, cwd="/", timeout_ms=200, kill_grace_ms=200)
    assert (result.exit_code, result.stdout) == (124, "deaf\n")
    assert 400 <= result.duration_ms < 5_000


async def test_a_command_may_use_its_grace_to_clean_up() -> None:
    script = sh("trap 'echo cleaned; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    result = await exec_run(script, cwd="/", timeout_ms=300)
    assert result.stdout == "up\ncleaned\n"


async def test_a_stopped_command_can_be_terminated() -> None:
    result = await exec_run(sh("kill -STOP $$"), cwd="/", timeout_ms=200, kill_grace_ms=30_000)
    assert result.timed_out
    assert result.duration_ms < 10_000


async def test_silence_ends_a_command_and_output_keeps_it_going() -> None:
    silent = await exec_run(sh("echo a; sleep 600"), cwd="/", idle_timeout_ms=200)
    assert (silent.exit_code, silent.timed_out, silent.stdout) == (124, True, "a\n")
    lively = await exec_run(sh("for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done"), cwd="/", idle_timeout_ms=1_000)
    assert (lively.exit_code, lively.timed_out) == (0, False)


async def test_captured_output_is_bounded_while_the_command_goes_on() -> None:
    seen: list[Chunk] = []
    script = sh("head -c 3000000 /dev/zero | tr '\\0' x; echo short >&2; exit 3")
    result = await exec_run(script, cwd="/", max_output_bytes=1024, on_output=seen.append)
    assert (result.exit_code, result.stdout, result.stdout_bytes) == (3, "x" * 1024, 3_000_000)
    assert (result.stdout_truncated, result.stderr_truncated, result.stderr) == (True, False, "short\n")
    assert sum(len(chunk.text) for chunk in seen if chunk.stream == "stdout") == 3_000_000
    assert "".join(chunk.captured for chunk in seen if chunk.stream == "stdout") == result.stdout


async def test_the_bound_does_not_split_a_character() -> None:
    result = await exec_run(["printf", "aé"], cwd="/", max_output_bytes=2)
    assert (result.stdout, result.stdout_truncated) == ("a", True)
    whole = await exec_run(["printf", "aé"], cwd="/", max_output_bytes=3)
    assert (whole.stdout, whole.stdout_truncated) == ("aé", False)


async def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert (await exec_run(["printf", r"a\377b\303"], cwd="/")).stdout == "a\ufffdb\ufffd"


async def test_errors_of_an_output_callback_do_not_harm_the_command() -> None:
    calls: list[str] = []

    async def fails(chunk: Chunk) -> None:
        calls.append(chunk.text)
        raise ValueError("mine")

    result = await exec_run(sh("echo a; sleep 0.1; echo b"), cwd="/", on_output=fails)
    assert (result.exit_code, result.stdout, "".join(calls)) == (0, "a\nb\n", "a\nb\n")


# --- commands that do not start -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "cwd", "code", "reason"),
    [
        (["no-such-command"], "/", ErrorCode.TOOL_EXECUTION_FAILED, "command_not_found"),
        (["/no/such/command"], "/", ErrorCode.TOOL_EXECUTION_FAILED, "command_not_found"),
        (["/etc/passwd"], "/", ErrorCode.TOOL_EXECUTION_FAILED, "command_not_executable"),
        (["true", "x" * 3_000_000], "/", ErrorCode.TOOL_EXECUTION_FAILED, "command_not_started"),
        (["true"], "/no/such/folder", ErrorCode.VALIDATION_ERROR, None),
        (["true"], "/etc/passwd", ErrorCode.VALIDATION_ERROR, None),
        (["true", "a\0b"], "/", ErrorCode.VALIDATION_ERROR, None),
        ([""], "/", ErrorCode.VALIDATION_ERROR, None),
        ([], "/", ErrorCode.VALIDATION_ERROR, None),
    ],
)
async def test_a_command_that_cannot_start_is_an_error(
    argv: list[str], cwd: str, code: ErrorCode, reason: str | None
) -> None:
    with pytest.raises(AsmError) as raised:
        await exec_run(argv, cwd=cwd)
    assert raised.value.code is code
    assert raised.value.details.get("reason") == reason


async def test_a_relative_command_is_looked_up_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\necho $0 in $PWD\n")
    (tmp_path / "mine").chmod(0o755)
    assert (await exec_run(["./mine"], cwd=tmp_path)).stdout == f"./mine in {tmp_path}\n"
    found = await exec_run(["mine"], cwd="/", env={"PATH": f"/no/such:{tmp_path}"})
    assert found.stdout == f"{tmp_path}/mine in /\n"


# --- environment ----------------------------------------------------------------------------------------------------


async def test_the_environment_is_what_the_allow_list_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of the worker reaches a command unless it is named in full."""
    secrets = ("ASM_DATABASE_URL", "ANTHROPIC_API_KEY", "GITHUB_TOKEN", "CLIENT_SECRET", "db_password")
    for name in (*secrets, "PLAIN", "PLAIN_TOO"):
        monkeypatch.setenv(name, f"value-of-{name}")
    shown = (await exec_run(["env"], cwd="/")).stdout
    assert "value-of" not in shown
    assert f"PATH={os.environ['PATH']}" in shown
    asked = clean_env({"EXTRA": "1"}, inherit=["PLAIN*", "*KEY*", "ASM_*", "GITHUB_TOKEN"])
    shown = (await exec_run(["env"], cwd="/", env=asked)).stdout
    values = {line for line in shown.splitlines() if "value-of" in line or line.startswith("EXTRA")}
    assert values == {
        "EXTRA=1", "PLAIN=value-of-PLAIN", "PLAIN_TOO=value-of-PLAIN_TOO", "GITHUB_TOKEN=value-of-GITHUB_TOKEN"
    }  # fmt: skip


@pytest.mark.parametrize("env", [{}, {"LC_CTYPE": "C"}, {"LANG": "C", "A": "ä"}])
async def test_the_launcher_adds_nothing_to_the_environment(env: dict[str, str]) -> None:
    async with launch(["/usr/bin/env"], cwd="/", env=env) as child:
        async for _ in child:
            pass
    assert dict(line.split("=", 1) for line in child.result().stdout.splitlines()) == env


async def test_a_command_inherits_no_descriptor_but_the_standard_ones() -> None:
    """Above all not the launcher's socket to the worker."""
    result = await exec_run(sh("ls /proc/$$/fd; true"), cwd="/")
    assert result.stdout.split() == ["0", "1", "2"]


async def test_signals_are_as_a_command_expects_them() -> None:
    """Nothing ignored, nothing blocked, whatever the worker does: a closed pipe ends its writer."""
    result = await exec_run(sh("grep -E '^Sig(Ign|Blk)' /proc/self/status"), cwd="/")
    masks = [int(line.split()[1], 16) for line in result.stdout.splitlines()]
    ours = sum(
        1 << number - 1 for number in signal.valid_signals()
    )  # without libc's own two, which make's spawn ignores
    assert [mask & ours for mask in masks] == [0, 0]


# --- streaming ------------------------------------------------------------------------------------------------------


async def test_characters_arrive_whole_and_input_is_delivered() -> None:
    async with launch(sh(r"printf 'a\303'; read x; printf '\251b'; cat"), cwd="/", stdin=True) as child:
        assert (await child.read()) == Chunk("stdout", "a", "a")
        await child.write(b"\n")
        assert (await child.read()) == Chunk("stdout", "éb", "éb")
        sent, heard = "über " * 100_000, ""
        writing = asyncio.create_task(child.write(sent.encode()))
        while len(heard) < len(sent):
            chunk = await child.read()
            assert chunk
            heard += chunk.text
        await writing
        child.close_stdin()
        assert await child.read() is None
        assert (heard, child.exit_code) == (sent, 0)
        with pytest.raises(BrokenPipeError):
            await child.write(b"too late")


async def test_a_slow_reader_holds_the_command_back() -> None:
    """What is not read stays in the pipe; the rest is not even written."""
    async with launch(["head", "-c", "100000000", "/dev/zero"], cwd="/") as child:
        assert await child.read()
        status = Path(f"/proc/{child.pid}/io")
        await eventually(lambda: state(child.pid or 0) == "S")
        assert int(status.read_text().split("wchar: ")[1].split()[0]) < 1_000_000


async def test_a_flood_of_output_leaves_the_loop_to_others() -> None:
    async def consume() -> None:
        async with launch(["yes"], cwd="/") as child:
            async for _ in child:
                pass

    flood = asyncio.create_task(consume())
    for _ in range(50):
        began = time.monotonic()
        await asyncio.sleep(0)
        assert time.monotonic() - began < 0.5
    flood.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flood


async def test_a_command_that_closes_its_outputs_is_waited_for() -> None:
    result = await exec_run(sh("exec >&- 2>&-; sleep 0.3; exit 5"), cwd="/")
    assert (result.exit_code, result.duration_ms >= 300) == (5, True)


# --- the end of everything --------------------------------------------------------------------------------------------


async def up(child: Child) -> None:
    chunk = await child.read()
    assert chunk
    assert chunk.text == "up\n"


async def running_tree(kind: str, mark: str, kill_grace_ms: int) -> asyncio.Task[CommandResult]:
    """A task that waits for a whole tree of processes: launcher, command, child and grandchild."""
    is_up = asyncio.Event()
    task = asyncio.create_task(
        exec_run(
            tree(kind), cwd="/", env=clean_env({"MARK": mark}), timeout_ms=None, kill_grace_ms=kill_grace_ms,
            on_output=lambda _: is_up.set(),
        )
    )  # fmt: skip
    async with asyncio.timeout(20):
        await is_up.wait()
    assert len(marked(mark)) == 4
    return task


@pytest.mark.parametrize("kind", ["plain", "stubborn"])
async def test_cancelling_kills_all_descendants(mark: str, kind: str) -> None:
    """Also one that has left session and group, and one that ignores TERM."""
    running = await running_tree(kind, mark, kill_grace_ms=300)
    running.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 5
    assert marked(mark) == []


async def test_a_second_cancel_shortens_the_grace(mark: str) -> None:
    running = await running_tree("stubborn", mark, kill_grace_ms=600_000)
    running.cancel()
    await eventually(lambda: len(marked(mark)) == 2)  # TERM has been: launcher and the stubborn one
    running.cancel()
    await asyncio.wait([running], timeout=5)
    assert running.cancelled()
    assert marked(mark) == []


async def test_what_a_command_leaves_in_the_background_ends_with_it(mark: str) -> None:
    result = await exec_run(tree("leave", "stubborn"), cwd="/", env=clean_env({"MARK": mark}), kill_grace_ms=200)
    assert (result.exit_code, result.stdout, result.timed_out) == (0, "up\n", False)
    assert marked(mark) == []


async def test_leaving_the_context_ends_a_command_that_is_still_writing(mark: str) -> None:
    async with launch(["yes"], cwd="/", env=clean_env({"MARK": mark})) as child:
        assert await child.read()
    assert marked(mark) == []
    assert child.exit_code is not None


async def test_kill_is_bounded_by_its_grace(mark: str) -> None:
    async with launch(tree("stubborn"), cwd="/", env=clean_env({"MARK": mark})) as child:
        await up(child)
        began = time.monotonic()
        assert await child.kill(grace_s=0.2) == 143
        assert 0.2 <= time.monotonic() - began < 5
        assert await child.read() is None


async def test_a_worker_that_is_killed_takes_its_commands_with_it(mark: str) -> None:
    """SIGKILL gives no chance to clean up; within two seconds no descendant is alive all the same."""
    program = (
        "import asyncio\n"
        "from asm_core.process import clean_env, exec_run\n"
        "async def main():\n"
        f"    run = lambda: exec_run({tree()!r}, cwd='/', env=clean_env({{'MARK': {mark!r}}}))\n"
        "    await asyncio.gather(*(run() for _ in range(3)))\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2]) as worker:
        await eventually(lambda: len(marked(mark)) == 3 * 4, within_s=20)
        worker.kill()
    await eventually(lambda: marked(mark) == [], within_s=2)


async def test_a_launcher_that_is_killed_takes_the_command_and_its_group_with_it(mark: str) -> None:
    async with launch(sh("sleep 600 & echo up; sleep 600"), cwd="/", env=clean_env({"MARK": mark})) as child:
        await up(child)
        launcher = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(launcher, signal.SIGKILL)
        assert await child.read() is None
        assert child.result().exit_code == 137
    await eventually(lambda: marked(mark) == [])


async def test_signals_to_the_launcher_stop_the_command(mark: str) -> None:
    async with launch(tree(), cwd="/", env=clean_env({"MARK": mark})) as child:
        await up(child)
        launcher = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert os.getsid(launcher) == launcher != os.getsid(0)
        assert os.getsid(child.pid or 0) == child.pid
        os.kill(launcher, signal.SIGTERM)
        assert await child.wait() == 143
    assert marked(mark) == []


def test_hundreds_of_commands_run_at_once_in_a_loop_outside_the_main_thread() -> None:
    results: list[CommandResult] = []

    async def main() -> None:
        results.extend(await asyncio.gather(*(exec_run(sh(f"cat; echo {n}"), cwd="/") for n in range(200))))

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(timeout=60)
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(200)]


async def test_many_ends_of_all_kinds_leave_nothing_behind(mark: str) -> None:
    """Descriptors and zombies are compared by the fixture around every test."""
    env, fds = clean_env({"MARK": mark}), len(open_fds())

    async def once(number: int) -> None:
        kind = number % 4
        try:
            async with asyncio.timeout(0.3 if kind == 0 else None):
                await exec_run(
                    [sh("sleep 600"), sh("exit 3"), ["nope"], tree()][kind],
                    cwd="/", env=env, timeout_ms=600_000 if kind == 0 else 300, kill_grace_ms=100,
                )  # fmt: skip
        except (AsmError, TimeoutError):
            return

    await asyncio.gather(*(once(number) for number in range(40)))
    assert marked(mark) == []
    assert len(open_fds()) == fds


async def test_limits_are_plain_values() -> None:
    async with launch(["true"], cwd="/", limits=Limits(timeout_ms=None)) as child:
        assert [chunk async for chunk in child] == []
        assert child.result().exit_code == 0


def test_a_launcher_compiled_from_another_source_is_not_used(tmp_path: Path) -> None:
    """Python leaves it where it may write no bytecode; what it says would not be what is expected."""
    source, compiled = tmp_path / "launcher.py", tmp_path / "launcher.pyc"
    source.write_text("first = 1\n")
    assert program_of(source, compiled) == source
    py_compile.compile(str(source), str(compiled))
    assert program_of(source, compiled) == compiled
    source.write_text("second = 2\n")
    assert program_of(source, compiled) == source


INSPECTED = """
import ctypes, os, sys
from asm_core.process import deny_inspection
if os.geteuid() == 0:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1)       # another user's process is closed; this one shall be as one that was started
def a_child_reads():
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if b"hidden" in open(f"/proc/{os.getppid()}/environ", "rb").read() else 2)
        except PermissionError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
before = a_child_reads()
deny_inspection()
print(before, a_child_reads(), len(os.listdir("/proc/self/fd")) > 2)
"""


def test_a_process_can_close_itself_to_its_own_user() -> None:
    """A command of a run must not read the worker's secrets; the process itself goes on as before."""
    done = subprocess.run(
        [sys.executable, "-c", INSPECTED], env=os.environ | {"SECRET": "hidden"}, capture_output=True, text=True,
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "0 1 True\n", done.stderr


@pytest.mark.parametrize(
    "start",
    [
        "from asm_workers.worker import WorkerProcess; WorkerProcess(settings, slots=1).run()",
        "from asm_api.app import serve; serve(settings, 'no.such.host.invalid', 1)",
    ],
    ids=["worker", "api"],
)
def test_own_processes_close_themselves_first(start: str) -> None:
    """These cannot start, and are closed by then."""
    ends = f"try:\n    {start}\nexcept BaseException: print(ctypes.CDLL(None).prctl(3))"
    opens = "settings = Settings(database_url='postgresql://127.0.0.1:9/x', api_key='a key of the tests')"
    code = f"import ctypes\nfrom asm_core.config import Settings\n{opens}\n{ends}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "0\n", done.stderr
