"""Provider `codex`: the real command line on the pretended server, through the adapter alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pydantic import SecretStr

from asm_core.adapters.codex import CodexAdapter
from asm_core.agent_process import AgentFolders
from asm_core.config import ProviderAccess
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.run import OnWorkerLost, RunOptions
from asm_core.domain.tool import ToolAccess, ToolUse, Verdict
from asm_core.domain.transcript import Transcript
from asm_core.manager.provider_files import RememberedFiles
from asm_core.ports.provider import Execution, ProviderAdapter
from asm_core.testing import ProviderAdapterContract
from tests.builders import an_event
from tests.fakes import script as s
from tests.fakes.clis import KEY
from tests.fakes.script import Failure, Fault, ToolCall
from tests.fakes.server import ProviderServer
from tests.fixtures.agents import AgentWorker, Forgetting, Played
from tests.fixtures.processes import eventually, marked

pytest.importorskip("openai_codex")
pytestmark = pytest.mark.usefixtures("cli_home", "nothing_is_left")

E = ErrorCode
T = EventType
STOPPED_S = 1.0
FREELY = {"permission_mode": "dangerously_skip_permissions"}
"""Needs no sandbox, which some machines do not have."""
MCP_SERVER = Path(__file__).parents[1] / "fakes" / "mcp_echo.py"
PATCH = "*** Begin Patch\n*** Add File: made.txt\n+made\n*** End Patch"


def on_worker(folder: Path, providers: ProviderServer, files: RememberedFiles) -> AgentWorker:
    access = ProviderAccess(base_url=providers.openai_url, api_key=SecretStr(KEY), model="gpt-5.5")
    folders = AgentFolders(folder)
    return AgentWorker(CodexAdapter(folders, access), folders, files)


@pytest.fixture
def files() -> RememberedFiles:
    return RememberedFiles()


@pytest.fixture
def codex(tmp_path: Path, providers: ProviderServer, files: RememberedFiles) -> AgentWorker:
    return on_worker(tmp_path / "agents", providers, files)


async def test_a_text_turn(codex: AgentWorker, providers: ProviderServer) -> None:
    """One request, deltas as they come, the message from its final form, the tokens without the cached ones."""
    providers.script.add(s.text("hel", "lo").with_usage(input=10, output=5, cache_read=3, cache_write=2))
    sdk_opts = {"developer_instructions": "be kind"}
    played = await codex.play("say hello", options={"system_prompt": "be brief", "sdk_opts": sdk_opts})
    assert played.types == ["run_started", "message_received", "token_usage_updated"]
    assert [data["delta"] for data in played.all(T.MESSAGE_STREAMED)] == ["hel", "lo"]
    assert played.one(T.MESSAGE_RECEIVED) == {"content": "hello", "role": "assistant"}
    assert played.one(T.TOKEN_USAGE_UPDATED) == {
        "input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 0,
        "cache_read_tokens": 3, "cache_creation_tokens": 2,
    }  # fmt: skip
    assert (played.end.output["content"], played.end.data["num_turns"]) == ("hello", 1)
    [asked] = providers.requests
    assert (asked.path, asked.headers["authorization"]) == ("/v1/responses", f"Bearer {KEY}")
    assert "be brief" in str(asked.body)
    assert "be kind" in str(asked.body)


async def test_tools(codex: AgentWorker, providers: ProviderServer) -> None:
    """A command that succeeds, one that fails, and a patch, each with what it was given and what it came to."""
    commands = [s.tool("exec_command", {"cmd": command}) for command in ("echo ran", "echo no >&2; exit 3")]
    providers.script.add(*commands, s.tool("apply_patch", PATCH), s.text("done"))
    played = await codex.play("use tools", options=FREELY)
    ends = ["tool_call_completed", "tool_call_failed", "tool_call_completed"]
    assert [name for name in played.types if name.startswith("tool")] == [
        name for end in ends for name in ("tool_call_started", end)
    ]
    [ran, patched], [failed] = played.all(T.TOOL_CALL_COMPLETED), played.all(T.TOOL_CALL_FAILED)
    assert (ran["tool_name"], ran["tool_input"]) == ("bash", {"command": "echo ran", "cwd": str(codex.work)})
    assert (ran["tool_output"]["output"], ran["tool_output"]["exit_code"]) == ("ran\n", 0)
    assert (failed["tool_output"]["exit_code"], failed["is_error"]) == (3, True)
    assert (patched["tool_name"], patched["tool_output"]["status"]) == ("apply_patch", "completed")
    assert (codex.work / "made.txt").read_text() == "made\n"
    assert (played.end.output["content"], played.end.data["num_turns"]) == ("done", 4)
    assert len(played.all(T.TOKEN_USAGE_UPDATED)) == 4


async def test_a_call_that_codex_refuses_is_told_of(codex: AgentWorker, providers: ProviderServer) -> None:
    """Neither an unknown tool nor a broken patch leaves an item; a resumed thread does not even give raw output."""
    providers.script.add(s.tool("no_such", {"a": 1}), s.tool("apply_patch", "junk"), s.text("so be it"))
    first = await codex.play("unknown")
    failed = first.all(T.TOOL_CALL_FAILED)
    assert [(data["tool_name"], data["tool_input"]) for data in failed] == [
        ("no_such", {"a": 1}),
        ("apply_patch", {"patch": "junk"}),
    ]
    providers.script.add(s.tool("no_such", {"a": 2}), s.text("again"))
    second = await codex.play("once more", resume=first.handle, run_id="run_2")
    assert second.one(T.TOOL_CALL_FAILED)["tool_input"] == {"a": 2}
    assert second.one(T.TOOL_CALL_FAILED)["tool_output"] == {"output": "unsupported call: no_such"}


ASKING = {"cmd": "echo x > asked.txt", "sandbox_permissions": "require_escalated", "justification": "please"}


def has_sandbox() -> bool:
    """Codex's needs namespaces of users, which some machines do not allow."""
    tried = which("unshare")
    return tried is None or subprocess.run([tried, "-Ur", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_sandbox(), reason="no namespaces of users")
@pytest.mark.parametrize(
    ("mode", "made"),
    [
        ("default", set()),
        ("plan", set()),
        ("accept_edits", {"made.txt"}),
        ("full_auto", {"made.txt", "written.txt"}),
        ("dangerously_skip_permissions", {"made.txt", "written.txt", "far.txt"}),
    ],
)
async def test_permission_modes(
    codex: AgentWorker, providers: ProviderServer, far_away: Path, mode: str, made: set[str]
) -> None:
    """A command that writes in its folder, one that writes elsewhere, one that asks for more, a patch; all may read."""
    commands = ["echo x > written.txt", f"echo x > {far_away}/far.txt", "ls"]
    calls = [s.tool("exec_command", {"cmd": command}) for command in commands]
    providers.script.add(*calls, s.tool("apply_patch", PATCH), s.tool("exec_command", ASKING), s.text("done"))
    played = await codex.play("do it", options={"permission_mode": mode})
    assert {path.name for folder in (codex.work, far_away) for path in folder.iterdir()} == made
    assert len(played.all(T.TOOL_CALL_STARTED)) == 5
    assert len(played.all(T.TOOL_CALL_COMPLETED)) == len(made) + 1
    assert played.one(T.RUN_STARTED)["permission_mode"] == mode


@pytest.fixture
def far_away() -> Iterator[Path]:
    """Outside the folders for temporary files, which Codex lets commands write to."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


async def test_the_host_is_asked_and_its_reason_told(codex: AgentWorker, providers: ProviderServer) -> None:
    """The gate sees the call as the events tell of it; a refusal's reason stands in the call's output."""
    providers.script.add(s.tool("apply_patch", PATCH), s.text("done"))
    asked: list[ToolUse] = []

    async def gate(use: ToolUse) -> Verdict:
        asked.append(use)
        return Verdict(False, "not today")

    played = await codex.run(replace(codex.execution("patch it"), gate=gate))
    failed = played.one(T.TOOL_CALL_FAILED)
    [use] = asked
    assert (use.id, use.name, use.access, use.input) == (
        failed["tool_call_id"], "apply_patch", ToolAccess.EDIT, failed["tool_input"],
    )  # fmt: skip
    assert failed["tool_output"]["error"] == "not today"


@pytest.mark.parametrize(("mode", "ran"), [("default", False), ("plan", False), ("full_auto", True)])
async def test_tools_of_an_mcp_server(codex: AgentWorker, providers: ProviderServer, mode: str, ran: bool) -> None:
    """Its server gets its environment by the protocol, not by an argument that every process can read."""
    call = s.tools(ToolCall("add", {"a": 1}, namespace="mcp__host"))
    providers.script.add(call, s.text("done"))
    server = {"command": sys.executable, "args": [str(MCP_SERVER)], "env": {"WORD": "secret-word"}}
    played = await codex.play("add", options={"mcp_servers": {"host": server}, "permission_mode": mode})
    [end] = played.all(T.TOOL_CALL_COMPLETED if ran else T.TOOL_CALL_FAILED)
    assert (end["tool_name"], end["tool_input"]) == ("host:add", {"a": 1})
    assert ("secret-word" in str(end["tool_output"])) is ran


@pytest.mark.parametrize(
    ("reply", "code", "kind"),
    [
        (s.refused(Failure.AUTH), E.PROVIDER_AUTHENTICATION_FAILED, "authentication"),
        (s.rate_limited(3), E.PROVIDER_RATE_LIMITED, "rate_limit"),
        (s.refused(Failure.QUOTA), E.PROVIDER_QUOTA_EXCEEDED, "quota"),
        (s.refused(Failure.OVERLOADED), E.PROVIDER_UNAVAILABLE, "overloaded"),
        (s.refused(Failure.SERVER_ERROR), E.PROVIDER_UNAVAILABLE, "overloaded"),
        (s.refused(Failure.NOT_FOUND), E.PROVIDER_ERROR, "invalid_request"),
        (s.too_long(), E.PROVIDER_ERROR, "context_overflow"),
        (s.broken(Fault.ENDED), E.PROVIDER_UNAVAILABLE, "protocol_error"),
        (s.stream_error(Failure.RATE_LIMIT, as_response=True), E.PROVIDER_RATE_LIMITED, "rate_limit"),
    ],
    ids=lambda value: value.value if isinstance(value, E) else None,
)
async def test_failures(codex: AgentWorker, providers: ProviderServer, reply: Any, code: E, kind: str) -> None:
    """One request, one error. What another try may mend is raised before any event, unless something was said."""
    said = isinstance(reply, s.Reply)
    providers.script.add(reply)
    played = await codex.play("fail")
    error = played.error
    assert played.types == ([] if error.retryable and not said else ["run_started", "error_occurred"])
    assert (error.code, (error.provider_error or {})["kind"]) == (code, kind)
    assert len(providers.requests) == 1


async def test_an_interrupt_ends_all_at_once(
    codex: AgentWorker, providers: ProviderServer, files: RememberedFiles
) -> None:
    """In the middle of an answer: within a second the process is gone, the server sees it, and the thread is kept."""
    providers.script.add(s.endless(), prompt="for ever")
    providers.script.add(s.text("again"), prompt="later")
    played = Played()
    running = asyncio.create_task(codex.play("go on for ever", into=played))
    await eventually(lambda: len(played.items) > 2)
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < STOPPED_S
    assert await providers.requests[0].was_left()
    again = await codex.play("later on", resume=played.handle, run_id="run_2")
    assert again.end.output["content"] == "again"
    assert "for ever" in str(providers.requests[-1].body["input"])


async def test_a_command_is_interrupted_with_its_run(codex: AgentWorker, providers: ProviderServer) -> None:
    providers.script.add(s.tool("exec_command", {"cmd": "sleep 600 & sleep 601"}), prompt="sleep")
    played = Played()
    running = asyncio.create_task(codex.play("sleep", into=played, options=FREELY))
    await eventually(lambda: "tool_call_started" in played.types)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not marked(str(codex.work))


async def test_max_turns_is_a_bound_on_requests(codex: AgentWorker, providers: ProviderServer) -> None:
    """The answer that would need one request more is the last; a final answer within the bound is not cut. The last
    tool lasts longer than the stop takes."""
    true, lasting = s.tool("exec_command", {"cmd": "true"}), s.tool("exec_command", {"cmd": "sleep 5"})
    for prompt in ("much", "more"):
        providers.script.add(true, *[lasting] * 4, prompt=prompt)
    providers.script.add(true, s.text("done"), prompt="enough")
    enough = await codex.play("enough", options={"max_turns": 2})
    assert enough.end.output["content"] == "done"
    much = await codex.play("much", options={"max_turns": 2}, run_id="run_2")
    assert (much.error.code, much.error.details["reason"]) == (E.PROVIDER_ERROR, "max_turns")
    assert len(much.all(T.TOOL_CALL_STARTED)) == len(much.all(T.TOOL_CALL_COMPLETED) + much.all(T.TOOL_CALL_FAILED))
    more = await codex.play("more", options={"max_turns": 2}, resume=enough.handle, run_id="run_3")
    assert more.error.details["reason"] == "max_turns"
    asked = [str(request.body["input"][-1]) for request in providers.requests]
    assert len(asked) == 6


async def test_an_answer_by_a_schema(codex: AgentWorker, providers: ProviderServer) -> None:
    """Parsed in the output; schema and effort reach the model."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    providers.script.add(s.text('{"a": 1}'))
    played = await codex.play("count", options={"output_schema": schema, "reasoning_effort": "low"})
    assert played.end.output["object"] == {"a": 1}
    [asked] = providers.requests
    assert (asked.body["text"]["format"]["schema"], asked.body["reasoning"]["effort"]) == (schema, "low")


# Going on


async def test_another_worker_goes_on(
    codex: AgentWorker, providers: ProviderServer, files: RememberedFiles, tmp_path: Path
) -> None:
    """With an empty home of its own and the same files; and then the first one again, which has an older rollout."""
    other = on_worker(tmp_path / "elsewhere", providers, files)
    providers.script.add(*[s.text(f"answer {number}") for number in (1, 2, 3)])
    first = await codex.play("question 1")
    for number, worker in ((2, other), (3, codex)):
        played = await worker.play(f"question {number}", resume=first.handle, run_id=f"run_{number}")
        assert played.handle == first.handle
        asked = str(providers.requests[-1].body["input"])
        assert [word in asked for word in ("question 1", "answer 1", f"question {number}")] == [True] * 3
    assert "answer 2" in asked


async def test_a_thread_that_is_gone(codex: AgentWorker, providers: ProviderServer) -> None:
    """Without anything beside it the run fails, by a typed error; a transcript beside it is told instead."""
    nowhere = "01a1fee9-7e31-7e23-bab0-535e75ac4190"
    error = (await codex.play("go on", resume=nowhere)).error
    assert (error.code, error.details["reason"]) == (E.INVALID_OPERATION, "provider_session_gone")
    said = Transcript.from_events(
        [an_event(T.MESSAGE_SENT, sequence_number=1, data={"role": "user", "content": "apple"})]
    )
    providers.script.add(s.text("by transcript"))
    played = await codex.play("go on", resume=nowhere, transcript=said)
    assert (played.end.output["content"], played.handle != nowhere) == ("by transcript", True)
    assert "apple" in str(providers.requests[-1].body["input"])


async def test_a_thread_that_was_not_kept_whole_is_gone(codex: AgentWorker, providers: ProviderServer) -> None:
    """A run that could not keep what was said left its mark: nobody takes the older part for the whole."""
    providers.script.add(s.text("one"), s.text("two"))
    first = await codex.play("question 1")
    execution = codex.execution("question 2", resume=first.handle, run_id="run_2")
    second = await codex.run(replace(execution, files=Forgetting(codex.files, times=1)))
    assert second.end.output["content"] == "two"
    third = await codex.play("question 3", resume=first.handle, run_id="run_3")
    assert third.error.details["reason"] == "provider_session_gone"


async def test_a_cut_run_goes_on_where_it_was(
    codex: AgentWorker, providers: ProviderServer, files: RememberedFiles, tmp_path: Path
) -> None:
    """The attempt that died had the input and had run a tool: another worker has both, and is not told again."""
    providers.script.add(s.tool("exec_command", {"cmd": "echo ran"}), s.endless(), prompt="much to do")
    providers.script.add(s.text("finished"), prompt="cut off")
    played, resumable = Played(), RunOptions(provider="codex", on_worker_lost=OnWorkerLost.RESUME)
    died = replace(codex.execution("much to do"), files=Forgetting(codex.files, times=4))
    died = replace(died, run=replace(died.run, options=resumable))
    running = asyncio.create_task(codex.run(died, played))
    await eventually(lambda: "tool_call_completed" in played.types and played.all(T.MESSAGE_STREAMED) != [])
    running.cancel()
    await asyncio.wait({running})
    other = on_worker(tmp_path / "elsewhere", providers, files)
    again = await other.play("much to do", resume=played.handle, was_cut=True)
    assert again.end.output["content"] == "finished"
    asked = str(providers.requests[-1].body["input"])
    assert (asked.count("much to do"), "ran" in asked) == (1, True)


async def test_runs_that_start_at_once_in_a_fresh_home(codex: AgentWorker, providers: ProviderServer) -> None:
    """Codex fails when two of its servers set up one home; the first does so alone."""
    providers.script.always(s.text("hello"))
    played = await asyncio.gather(*(codex.play("say hello", run_id=f"run_{number}") for number in range(4)))
    assert [one.end.output["content"] for one in played] == ["hello"] * 4


# What is refused, and what is hidden


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"allowed_tools": ["bash"]}, E.CAPABILITY_NOT_SUPPORTED, "allowed_tools"),
        ({"denied_tools": ["bash"]}, E.CAPABILITY_NOT_SUPPORTED, "denied_tools"),
        ({"max_tokens": 10}, E.CAPABILITY_NOT_SUPPORTED, "max_tokens"),
        ({"sdk_opts": {"approval_policy": "never"}}, E.VALIDATION_ERROR, "sdk_opts.approval_policy"),
    ],
)
def test_what_codex_has_no_equal_of_is_refused(
    codex: AgentWorker, options: dict[str, Any], code: E, field: str
) -> None:
    """A bound is never ignored in silence, and what the adapter decides is not open."""
    with pytest.raises(AsmError) as caught:
        codex.adapter.validate_options(ProviderOptions(**options))
    assert (caught.value.code, caught.value.details["field"]) == (code, f"provider_options.{field}")


async def test_commands_do_not_see_the_key(
    codex: AgentWorker, providers: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor anything else of the worker's environment."""
    monkeypatch.setenv("ASM_DATABASE_URL", "worker-secret")
    providers.script.add(s.tool("exec_command", {"cmd": "env; cat /proc/$PPID/environ"}), s.text("done"))
    played = await codex.play("look", options=FREELY)
    shown = str(played.all(T.TOOL_CALL_COMPLETED) + played.all(T.TOOL_CALL_FAILED))
    assert "HOME=" in shown
    assert "worker-secret" not in shown
    assert KEY not in shown.partition("CODEX_HOME")[0]


async def test_without_a_key_or_a_folder_nothing_starts(codex: AgentWorker, tmp_path: Path) -> None:
    keyless = CodexAdapter(codex.folders, ProviderAccess())
    with pytest.raises(AsmError) as caught:
        await anext(keyless.execute(codex.execution("hello")))
    assert caught.value.code is E.PROVIDER_AUTHENTICATION_FAILED
    error = (await codex.play("hello", options={"cwd": str(tmp_path / "nowhere")})).error
    assert (error.code, error.details["field"]) == (E.VALIDATION_ERROR, "provider_options.cwd")


class TestContract(ProviderAdapterContract):
    """What every adapter promises."""

    @pytest.fixture
    def adapter(self, codex: AgentWorker) -> ProviderAdapter:
        return codex.adapter

    @pytest.fixture
    def execution(self, codex: AgentWorker, providers: ProviderServer) -> Execution:
        providers.script.always(s.text("hel", "lo"))
        return codex.execution("say hello")

    @pytest.fixture
    def long_execution(self, codex: AgentWorker, providers: ProviderServer) -> Execution:
        providers.script.always(s.endless())
        return codex.execution("go on for ever")

    @pytest.fixture
    def failing_execution(self, codex: AgentWorker, providers: ProviderServer) -> Execution:
        providers.script.always(s.refused(Failure.AUTH))
        return codex.execution("fail")
