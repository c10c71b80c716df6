"""Claude Code itself, driven by the adapter against a pretended provider. Few tests: each start of it costs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from pydantic import SecretStr

from asm_core.adapters.claude import CONTINUE, ClaudeAdapter
from asm_core.agent_process import AgentFolders
from asm_core.config import ProviderAccess
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.permission import PermissionMode
from asm_core.domain.pricing import PriceList
from asm_core.domain.provider_options import NO_OPTIONS, ProviderOptions
from asm_core.domain.tool import ALLOWED, ToolAccess, ToolResult, ToolSpec, ToolUse, Verdict
from asm_core.domain.transcript import Message, Transcript
from asm_core.ports.provider import Completion, Execution, RawEvent
from tests.builders import a_session, an_execution
from tests.fakes import script as s
from tests.fakes.clis import KEY
from tests.fakes.script import Failure
from tests.fakes.server import ProviderServer
from tests.fixtures.processes import eventually, marked
from tests.fixtures.providers import CliHome

pytest.importorskip("claude_agent_sdk")

ROOT = Path(__file__).parents[2]
MODEL = "claude-haiku-4-5-20251001"
FULL = ProviderOptions(permission_mode=PermissionMode.FULL_AUTO)
MESSAGES = "/v1/messages"


@dataclass
class Told:
    """What one execution gave."""

    events: list[RawEvent] = field(default_factory=list)
    completion: Completion | None = None
    error: AsmError | None = None

    @property
    def kinds(self) -> list[str]:
        return [str(event.type) for event in self.events]

    def data(self, kind: str) -> list[Mapping[str, Any]]:
        return [event.data for event in self.events if event.type == kind]

    @property
    def session_id(self) -> str:
        return str(self.data("run_started")[0]["session_id"])

    @property
    def cost(self) -> float:
        return round(sum(usage["cost_usd"] for usage in self.data("token_usage_updated")), 9)


async def told(adapter: ClaudeAdapter, execution: Execution, into: Told | None = None) -> Told:
    got = into or Told()
    try:
        async for item in adapter.execute(execution):
            if isinstance(item, Completion):
                got.completion = item
            else:
                got.events.append(item)
    except AsmError as error:
        got.error = error
    return got


def ask(prompt: str, options: ProviderOptions = NO_OPTIONS, **more: Any) -> Execution:
    """A run in a session of its own."""
    session = a_session(id=f"ses_{uuid4().hex}")
    return replace(an_execution(prompt=prompt), session=session, options=options, **more)


class Folder:
    """`ProviderFiles` in a folder, which another process can use as well."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def load(self, name: str) -> bytes | None:
        path = self.path / name.replace("/", "%")
        return path.read_bytes() if path.exists() else None

    async def save(self, name: str, data: bytes) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / name.replace("/", "%")).write_bytes(data)


@pytest.fixture
def adapter(providers: ProviderServer, cli_home: CliHome, tmp_path: Path) -> ClaudeAdapter:
    return make(providers, tmp_path / "one")


def make(providers: ProviderServer, root: Path, **more: Any) -> ClaudeAdapter:
    return ClaudeAdapter(AgentFolders(root), ProviderAccess(providers.url, SecretStr(KEY), MODEL), **more)


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_a_text_turn(providers: ProviderServer, adapter: ClaudeAdapter) -> None:
    """In the order that every provider has; the answer is the whole message, the cost what the agent says."""
    providers.script.add(s.text("hel", "lo").with_usage(input=10, output=5, cache_read=3, cache_write=2))
    got = await told(adapter, ask("greet"))
    assert got.kinds == [
        "run_started",
        "message_streamed",
        "message_streamed",
        "message_received",
        "token_usage_updated",
    ]
    [started], [usage] = got.data("run_started"), got.data("token_usage_updated")
    assert started["model"] == MODEL
    assert [data["delta"] for data in got.data("message_streamed")] == ["hel", "lo"]
    assert got.data("message_received") == [{"content": "hello", "role": "assistant"}]
    tokens = {"input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 3, "cache_creation_tokens": 2}
    assert usage == tokens | {"cost_usd": 0.0000378}
    assert got.completion
    assert got.completion.data["stop_reason"] == "end_turn"
    [request] = providers.asked(MESSAGES)
    assert request.headers["x-api-key"] == KEY
    assert len(str(request.body["system"])) > 2_000


async def test_tools_have_their_real_outcomes_and_see_no_secret(
    providers: ProviderServer, adapter: ClaudeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that fails is a failed call; the worker's environment is not the agent's."""
    monkeypatch.setenv("ASM_DATABASE_URL", "value-of-a-secret")
    monkeypatch.setenv("OTHER_TOKEN", "value-of-another")
    calls = [
        s.ToolCall("Bash", {"command": command, "description": "x"}) for command in ("env; pwd", "echo no; exit 3")
    ]
    providers.script.add(s.tools(*calls, say="look"), s.text("done"))
    got = await told(adapter, ask("use tools", FULL))
    assert got.kinds == [
        "run_started", "message_streamed", "message_received", "tool_call_started", "tool_call_started",
        "token_usage_updated", "tool_call_completed", "tool_call_failed",
        "message_streamed", "message_received", "token_usage_updated",
    ]  # fmt: skip
    [shown], [failed] = got.data("tool_call_completed"), got.data("tool_call_failed")
    assert (shown["tool_name"], shown["tool_input"], shown["tool_call_id"]) == ("Bash", calls[0].input, calls[0].id)
    assert "value-of" not in shown["tool_output"]
    assert str(shown["tool_output"]).endswith(str(got.data("run_started")[0]["cwd"]))
    assert failed["tool_output"] == "Exit code 3\nno"
    assert failed["is_error"] is True
    assert got.cost == 0.00007


async def test_an_answer_that_broke_is_the_one_asked_for_again(
    providers: ProviderServer, adapter: ClaudeAdapter
) -> None:
    """What was streamed of the first attempt is no part of the message; a limit reached in between does not end it."""
    providers.script.add(s.stream_error(Failure.OVERLOADED), s.text("whole"), prompt="qbroken")
    providers.script.add(s.max_tokens("part"), s.text("rest"), prompt="qlimited")
    broken, limited = await asyncio.gather(*(told(adapter, ask(word)) for word in ("qbroken", "qlimited")))
    assert [data["content"] for data in broken.data("message_received")] == ["whole"]
    assert [data["content"] for data in limited.data("message_received")] == ["part", "rest"]
    assert broken.completion
    assert limited.completion


FAILURES = {
    Failure.AUTH: (ErrorCode.PROVIDER_AUTHENTICATION_FAILED, "authentication"),
    Failure.RATE_LIMIT: (ErrorCode.PROVIDER_RATE_LIMITED, "rate_limit"),
    Failure.QUOTA: (ErrorCode.PROVIDER_QUOTA_EXCEEDED, "quota"),
    Failure.OVERLOADED: (ErrorCode.PROVIDER_UNAVAILABLE, "overloaded"),
    Failure.SERVER_ERROR: (ErrorCode.PROVIDER_UNAVAILABLE, "overloaded"),
    Failure.CONTEXT_LENGTH: (ErrorCode.PROVIDER_ERROR, "context_overflow"),
}


async def test_each_failure_has_its_code_and_comes_before_the_first_event(
    providers: ProviderServer, adapter: ClaudeAdapter
) -> None:
    """So that the request may be repeated where that can help; the agent itself does not."""
    for failure in FAILURES:
        providers.script.add(s.refused(failure), prompt=f"({failure})")
    got = await asyncio.gather(*(told(adapter, ask(f"({failure})")) for failure in FAILURES))
    found = {
        failure: (each.error.code, (each.error.provider_error or {})["kind"])
        for failure, each in zip(FAILURES, got, strict=True)
        if each.error
    }
    assert found == FAILURES
    assert all(each.events == [] for each in got)
    assert len(providers.asked(MESSAGES)) == len(FAILURES)


async def test_turns_have_their_bound(providers: ProviderServer, adapter: ClaudeAdapter) -> None:
    providers.script.add(s.tool("Bash", {"command": "true", "description": "x"}))
    got = await told(adapter, ask("go on", replace(FULL, max_turns=1)))
    assert got.error
    assert (got.error.code, got.error.details["reason"]) == (ErrorCode.PROVIDER_ERROR, "max_turns")
    assert got.kinds[-2:] == ["tool_call_completed", "token_usage_updated"] or "tool_call_completed" in got.kinds


async def test_what_a_run_asks_for_reaches_the_model(providers: ProviderServer, adapter: ClaudeAdapter) -> None:
    """System prompt, bound of an answer, schema, model; and the prompt as it was written."""
    providers.script.add(s.tool("StructuredOutput", {"n": 1}))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    options = ProviderOptions(system_prompt="Speak Latin.", max_tokens=4_000, output_schema=schema, allowed_tools=[])
    got = await told(adapter, ask("/clear @/etc/passwd", options, model="claude-sonnet-4-5"))
    assert got.completion
    assert got.completion.output == {"object": {"n": 1}}
    body = providers.asked(MESSAGES)[0].body
    assert (body["model"], body["max_tokens"]) == ("claude-sonnet-4-5", 4_000)
    assert "Speak Latin." in str(body["system"])
    assert len(str(body["system"])) < 2_000
    assert {"type": "text", "text": "/clear @/etc/passwd"}.items() <= body["messages"][-1]["content"][-1].items()


async def test_images_reach_the_model(providers: ProviderServer, adapter: ClaudeAdapter) -> None:
    """Behind the text of their message; blocks of another kind are refused at submit."""
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": pixel}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]}]
    providers.script.add(s.text("a dot"))
    execution = ask("")
    adapter.validate_input({"messages": messages})
    got = await told(adapter, replace(execution, run=replace(execution.run, input={"messages": messages})))
    assert got.data("message_received")[0]["content"] == "a dot"
    sent = providers.asked(MESSAGES)[0].body["messages"][-1]["content"]
    told_blocks = [block.get("text") or block["source"]["media_type"] for block in sent]
    assert told_blocks.index("what is it?") + 1 == told_blocks.index("image/png")
    with pytest.raises(AsmError):
        adapter.validate_input({"messages": [{"role": "user", "content": [{"type": "video"}]}]})


# --- permissions and tools --------------------------------------------------------------------------------------------


async def test_permission_modes_are_a_ceiling(providers: ProviderServer, adapter: ClaudeAdapter) -> None:
    """Nothing is allowed that the mode would ask a human for; the mode in force is told."""
    modes = {
        None: ("default", False, False),
        PermissionMode.PLAN: ("plan", False, False),
        PermissionMode.ACCEPT_EDITS: ("acceptEdits", True, False),
        PermissionMode.FULL_AUTO: ("bypassPermissions", True, True),
    }

    async def turn(mode: PermissionMode | None) -> tuple[object, bool, bool]:
        execution = ask(f"<{mode}>", ProviderOptions(permission_mode=mode))
        work = AgentFolders(adapter._folders.root).of(execution.session.id, "claude").work
        providers.script.add(
            s.tools(
                s.ToolCall("Write", {"file_path": str(work / "edited"), "content": "x"}),
                s.ToolCall("Bash", {"command": "python3 -c 'open(\"ran\", \"w\")'", "description": "x"}),
            ),
            s.text("done"),
            prompt=f"<{mode}>",
        )  # fmt: skip
        got = await told(adapter, execution)
        assert len(got.data("tool_call_failed")) == 2 - (work / "edited").exists() - (work / "ran").exists()
        told_mode = got.events[0].metadata["permission_mode"]
        return told_mode, (work / "edited").exists(), (work / "ran").exists()

    found = await asyncio.gather(*(turn(mode) for mode in modes))
    assert dict(zip(modes, found, strict=True)) == modes


class Adder:
    """A host's tools."""

    async def specs(self) -> Sequence[ToolSpec]:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        reading = ToolSpec(name="add_one", description="Adds one.", input_schema=schema, access=ToolAccess.READ)
        return [reading, replace(reading, name="erase", access=ToolAccess.EXECUTE)]

    async def call(self, name: str, input: Mapping[str, Any]) -> ToolResult:
        assert name == "add_one"
        return ToolResult({"sum": input["a"] + 1})


async def test_tools_of_the_host_are_offered_as_the_mode_allows(
    providers: ProviderServer, cli_home: CliHome, tmp_path: Path
) -> None:
    """By their own names; in the default mode only those that read."""
    adapter = make(providers, tmp_path / "one", tools=Adder())
    providers.script.add(s.tool("mcp__asm__add_one", {"a": 1}), s.text("two"))
    got = await told(adapter, ask("add"))
    [call] = got.data("tool_call_completed")
    assert (call["tool_name"], call["tool_input"], call["tool_output"]) == ("add_one", {"a": 1}, '{"sum":2}')
    offered = got.data("run_started")[0]["tools"]
    assert ("add_one" in offered, "erase" in offered) == (True, False)


async def test_a_gate_and_lists_of_tools_narrow_what_the_mode_allows(
    providers: ProviderServer, adapter: ClaudeAdapter
) -> None:
    asked: list[ToolUse] = []

    async def gate(use: ToolUse) -> Verdict:
        asked.append(use)
        return ALLOWED if "good" in str(use.input) else Verdict(False, "not that one")

    bash = [s.ToolCall("Bash", {"command": f"echo {word}", "description": "x"}) for word in ("good", "bad")]
    providers.script.add(s.tools(*bash), s.text("done"), prompt="qgated")
    providers.script.add(s.tool("Bash", {"command": "echo", "description": "x"}), s.text("done"), prompt="qlisted")
    listed = replace(FULL, allowed_tools=["Read", "Write"], denied_tools=["Write"])
    gated, narrowed = await asyncio.gather(
        told(adapter, ask("qgated", FULL, gate=gate)), told(adapter, ask("qlisted", listed))
    )
    assert {(use.name, use.access) for use in asked} == {("Bash", None)}
    assert [data["tool_output"] for data in gated.data("tool_call_completed")] == ["good"]
    assert "not that one" in gated.data("tool_call_failed")[0]["tool_output"]
    assert len(narrowed.data("tool_call_failed")) == 1
    offered = next(request.body["tools"] for request in providers.asked(MESSAGES) if "qlisted" in str(request.body))
    assert [tool["name"] for tool in offered] == ["Read"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"sdk_opts": {"no_such": 1}}, "sdk_opts"),
        ({"sdk_opts": {"env": {"A": "1"}}}, "sdk_opts"),
        ({"mcp_servers": {"asm": {"command": "x"}}}, "mcp_servers"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"max_tokens": 100}, "max_tokens"),
    ],
)
def test_what_the_agent_cannot_do_is_refused_at_submit(options: dict[str, Any], field: str, tmp_path: Path) -> None:
    adapter = ClaudeAdapter(AgentFolders(tmp_path), ProviderAccess())
    adapter.validate_options(ProviderOptions(sdk_opts={"max_budget_usd": 1.0}, max_turns=3))
    with pytest.raises(AsmError) as raised:
        adapter.validate_options(ProviderOptions(**options))
    assert raised.value.code is ErrorCode.VALIDATION_ERROR
    assert raised.value.details["field"] == f"provider_options.{field}"


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_interrupts_the_agent(
    providers: ProviderServer, adapter: ClaudeAdapter, tmp_path: Path
) -> None:
    """The server sees it leave, nothing is left of it, and what was used so far is told; the next run can resume it."""
    providers.script.add(s.endless(), prompt="for ever")
    providers.script.add(s.text("again"), prompt="later")
    files, got = Folder(tmp_path / "files"), Told()
    execution = ask("go on for ever", files=files)
    running = asyncio.create_task(told(adapter, execution, got))
    await eventually(lambda: "message_streamed" in got.kinds, within_s=20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert marked(str(tmp_path)) == []
    assert await providers.asked(MESSAGES)[0].was_left()
    [said, usage] = execution.last_words
    assert str(said.data["content"]).startswith("word ")
    assert usage.data["input_tokens"] == 10
    other = make(providers, tmp_path / "other")
    resumed = await told(other, ask("later", files=files, resume=got.session_id))
    assert resumed.data("message_received") == [{"content": "again", "role": "assistant"}]
    assert "go on for ever" in str(providers.asked(MESSAGES)[-1].body["messages"])


async def test_an_agent_that_is_killed_fails_its_run(
    providers: ProviderServer, adapter: ClaudeAdapter, tmp_path: Path
) -> None:
    """At once, as something that another try may mend; its record is not whole."""
    providers.script.add(s.endless())
    files, got = Folder(tmp_path / "files"), Told()
    running = asyncio.create_task(told(adapter, ask("go on", files=files), got))
    await eventually(lambda: "message_streamed" in got.kinds, within_s=20)
    for pid in marked(str(tmp_path)):
        os.kill(pid, signal.SIGKILL)
    await running
    assert got.error
    assert (got.error.code, (got.error.provider_error or {})["kind"]) == (
        ErrorCode.PROVIDER_UNAVAILABLE,
        "transport_exit",
    )
    refused = await told(adapter, ask("again", files=files, resume=got.session_id))
    assert refused.error
    assert refused.error.code is ErrorCode.INVALID_OPERATION


async def test_without_its_command_line_it_says_so(
    providers: ProviderServer, cli_home: CliHome, tmp_path: Path
) -> None:
    got = await told(make(providers, tmp_path, cli=Path("/no/such/claude")), ask("x"))
    assert got.error
    assert got.error.code is ErrorCode.DEPENDENCY_NOT_AVAILABLE
    assert "/no/such/claude" in got.error.message


# --- going on ---------------------------------------------------------------------------------------------------------


async def test_another_worker_resumes_the_agents_own_session(
    providers: ProviderServer, adapter: ClaudeAdapter, tmp_path: Path
) -> None:
    """With empty folders, by the session's files; each run is told its own cost, though the agent adds them up."""
    providers.script.add(s.text("one"), prompt="first")
    providers.script.add(s.text("two"), prompt="second")
    files = Folder(tmp_path / "files")
    first = await told(adapter, ask("the first prompt", files=files))
    other = make(providers, tmp_path / "other")
    second = await told(other, ask("the second prompt", files=files, resume=first.session_id))
    assert second.session_id == first.session_id
    assert second.data("run_started")[0]["cwd"] != first.data("run_started")[0]["cwd"]
    assert "the first prompt" in str(providers.asked(MESSAGES)[1].body["messages"])
    assert (first.cost, second.cost) == (0.000035, 0.000035)
    assert first.completion
    assert second.completion
    assert round(second.completion.data["total_cost_usd"], 9) == 0.000035


@pytest.mark.parametrize("handle", ["1b4e28ba-2fa1-11d2-883f-0016d3cca427", "../../etc/passwd"])
async def test_a_session_that_is_gone_is_never_begun_in_silence(
    providers: ProviderServer, adapter: ClaudeAdapter, tmp_path: Path, handle: str
) -> None:
    """With a transcript the run goes on from that, in a new session; without one it fails before the agent starts."""
    files = Folder(tmp_path / "files")
    alone = await told(adapter, ask("x", files=files, resume=handle))
    assert alone.error
    assert alone.error.code is ErrorCode.INVALID_OPERATION
    assert providers.requests == []
    providers.script.add(s.text("ok"))
    before = Transcript(session_id="ses_1", messages=(Message(role="user", content="My dog is Rex."),))
    replayed = await told(adapter, ask("Who?", files=files, resume=handle, transcript=before))
    assert replayed.session_id != handle
    assert "My dog is Rex." in str(providers.asked(MESSAGES)[0].body["messages"])


DYING = """
import asyncio, json, sys
from pathlib import Path
from dataclasses import replace
from tests.integration.test_claude_adapter import FULL, Folder, an_execution
from pydantic import SecretStr
from asm_core.adapters.claude import ClaudeAdapter
from asm_core.agent_process import AgentFolders
from asm_core.config import ProviderAccess

url, root, files = sys.argv[1:]

async def main():
    adapter = ClaudeAdapter(AgentFolders(Path(root)), ProviderAccess(url, SecretStr("k"), "claude-haiku-4-5-20251001"))
    execution = replace(an_execution(prompt="the dying prompt"), options=FULL, files=Folder(Path(files)))
    async for item in adapter.execute(execution):
        print(json.dumps([item.type, dict(item.data)]), flush=True)

asyncio.run(main())
"""


async def test_a_worker_that_dies_takes_the_agent_with_it_and_another_goes_on(
    providers: ProviderServer, adapter: ClaudeAdapter, tmp_path: Path
) -> None:
    """Nothing survives SIGKILL, not what a tool has left in a session of its own; the next attempt resumes the dead."""
    daemon = "setsid sleep 600 & setsid sleep 600"
    quick = s.ToolCall("Bash", {"command": "echo the-first-result", "description": "x"})
    providers.script.add(s.tools(quick), s.tool("Bash", {"command": daemon, "description": "x"}), prompt="dying")
    providers.script.add(s.text("finished"), prompt="interrupted")
    arguments = [providers.url, str(tmp_path / "dead"), str(tmp_path / "files")]
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DYING, *arguments, stdout=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert worker.stdout
    told_lines = [json.loads(await worker.stdout.readline())]
    while [kind for kind, _ in told_lines].count("tool_call_started") < 2:
        told_lines.append(json.loads(await worker.stdout.readline()))
    dead = str(tmp_path / "dead")
    await eventually(lambda: sum("sleep" in " ".join(psutil.Process(pid).cmdline()) for pid in marked(dead)) >= 2, 20)
    worker.kill()
    await worker.wait()
    await eventually(lambda: marked(dead) == [])
    handle, files = told_lines[0][1]["session_id"], Folder(tmp_path / "files")
    strict = await told(adapter, ask("x", files=files, resume=handle))
    assert strict.error
    assert strict.error.code is ErrorCode.INVALID_OPERATION
    got = await told(adapter, ask("the dying prompt", files=files, resume=handle, was_cut=True))
    assert (got.session_id, got.data("message_received")[0]["content"]) == (handle, "finished")
    asked = str(providers.asked(MESSAGES)[-1].body["messages"])
    assert all(word in asked for word in ("the dying prompt", "the-first-result", CONTINUE))


async def test_prices_of_ones_own_hold_until_the_agent_tells_its_own(
    providers: ProviderServer, cli_home: CliHome, tmp_path: Path
) -> None:
    """A dear estimate of the first request is taken back by the last."""
    from asm_core.domain.pricing import parse_price_table

    prices = PriceList(parse_price_table({"claude": {"default": {"input": 1.0, "output": 1.0}}}))
    providers.script.add(s.tool("Bash", {"command": "echo", "description": "x"}), s.text("done"))
    got = await told(make(providers, tmp_path, prices=prices), ask("x", FULL))
    assert got.data("token_usage_updated")[0]["cost_usd"] == 15.0
    assert got.cost == 0.00007
