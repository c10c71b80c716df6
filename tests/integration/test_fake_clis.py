"""The pretended providers, driven by the agents' own SDKs with their command lines. Few tests: each start costs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.builders import eventually
from tests.fakes import script as s
from tests.fakes.clis import AMP_STAND_IN, KEY, codex_overrides
from tests.fakes.script import Failure, Fault
from tests.fakes.server import ProviderServer, Recorded
from tests.fixtures.providers import CliHome

WITHIN_S = 20.0
"""Guards against hanging."""
RAN = "the-tool-ran"


def results_in(request: Recorded) -> str:
    """The last message of a request, in which a tool's result goes back."""
    body = request.body
    return str((body.get("messages") or body["input"])[-1])


# Claude Code


@dataclass
class ClaudeTurn:
    """What one prompt gave."""

    texts: list[str] = field(default_factory=list)
    """The deltas as they came."""
    result: Any = None


@pytest.fixture
def claude(cli_home: CliHome) -> Callable[..., Any]:
    """One prompt in a process of its own; interrupted at the first delta if asked."""
    sdk = pytest.importorskip("claude_agent_sdk")

    async def turn(prompt: str, interrupt: bool = False, **more: Any) -> ClaudeTurn:
        options = sdk.ClaudeAgentOptions(
            cwd=cli_home.cwd, model="claude-haiku-4-5-20251001", setting_sources=[], strict_mcp_config=True,
            include_partial_messages=True, permission_mode="bypassPermissions", **more,
        )  # fmt: skip
        turn = ClaudeTurn()
        async with sdk.ClaudeSDKClient(options) as client:
            await client.query(prompt)
            async for message in client.receive_response():
                delta = message.event.get("delta", {}) if isinstance(message, sdk.StreamEvent) else {}
                if "text" in delta:
                    turn.texts.append(delta["text"])
                    if interrupt:
                        interrupt = False
                        await client.interrupt()
                turn.result = message
        return turn

    return turn


async def test_claude_code_streams_and_resumes(providers: ProviderServer, claude: Callable[..., Any]) -> None:
    """A text turn makes one request to the Messages API; a new process goes on by the session's id."""
    providers.script.add(s.text("hel", "lo"), prompt="first")
    providers.script.add(s.text("again"), prompt="second")
    first = await claude("the first prompt")
    assert first.texts == ["hel", "lo"]
    assert (first.result.subtype, first.result.result) == ("success", "hello")
    second = await claude("the second prompt", resume=first.result.session_id)
    assert (second.result.result, second.result.session_id) == ("again", first.result.session_id)
    asked = providers.asked("/v1/messages")
    assert len(asked) == len(providers.requests) == 2
    assert asked[0].headers["x-api-key"] == KEY
    assert "the first prompt" in str(asked[1].body["messages"])


async def test_claude_code_runs_a_tool(providers: ProviderServer, claude: Callable[..., Any]) -> None:
    """The command line runs its own tool and sends the result in the next request."""
    call = s.tool("Bash", {"command": f"echo {RAN}", "description": "say so"})
    providers.script.add(call, s.text("done"))
    turn = await claude("use a tool")
    assert (turn.result.subtype, turn.result.result, turn.result.num_turns) == ("success", "done", 2)
    assert RAN in results_in(providers.asked("/v1/messages")[1])


async def test_claude_code_is_interrupted(providers: ProviderServer, claude: Callable[..., Any]) -> None:
    """An interrupt ends an endless answer, and the server sees the connection close."""
    providers.script.add(s.endless())
    turn = await claude("go on for ever", interrupt=True)
    assert (turn.result.subtype, turn.result.terminal_reason) == ("error_during_execution", "aborted_streaming")
    assert await providers.asked("/v1/messages")[0].was_left()


async def test_claude_code_tells_a_refused_key(providers: ProviderServer, claude: Callable[..., Any]) -> None:
    """A 401 is a result with an error and not an exception."""
    providers.script.always(s.refused(Failure.AUTH))
    result = (await claude("whatever")).result
    assert (result.subtype, result.is_error, result.api_error_status) == ("success", True, 401)


# Codex


@pytest.fixture
def codex(providers: ProviderServer, cli_home: CliHome) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """Starts an app-server for the time of a block."""
    sdk = pytest.importorskip("openai_codex")
    config = sdk.CodexConfig(cwd=str(cli_home.cwd), config_overrides=codex_overrides(providers))

    @asynccontextmanager
    async def app_server() -> AsyncIterator[Any]:
        async with sdk.AsyncCodex(config) as client:
            child = client._client._sync._proc
            yield client
        child.stdout.close()  # which the SDK leaves open
        child.stderr.close()

    return app_server


async def codex_thread(client: Any, cwd: Path) -> Any:
    import openai_codex as sdk

    return await client.thread_start(
        cwd=str(cwd), approval_mode=sdk.ApprovalMode.deny_all, sandbox=sdk.Sandbox.full_access
    )


async def codex_turn(thread: Any, prompt: str, interrupt: bool = False) -> tuple[str, Any]:
    """The deltas of one turn, and how it was completed."""
    handle = await thread.turn(prompt)
    text = ""
    async for event in handle.stream():
        if event.method == "item/agentMessage/delta":
            if interrupt and not text:
                await handle.interrupt()
            text += event.payload.delta
        if event.method == "turn/completed":
            turn = event.payload.turn
    return text, turn


async def test_codex_streams_runs_tools_and_resumes(
    providers: ProviderServer, codex: Callable[..., Any], cli_home: CliHome
) -> None:
    """Text, a command and a patch in one thread; another process goes on with it by its id."""
    providers.script.add(s.text("hel", "lo"), prompt="first")
    providers.script.add(s.tool("exec_command", {"cmd": f"echo {RAN}"}), s.text("done"), prompt="command")
    patch = "*** Begin Patch\n*** Add File: made.txt\n+made\n*** End Patch"
    providers.script.add(s.tool("apply_patch", patch), s.text("patched"), prompt="patch")
    providers.script.add(s.text("again"), prompt="later")
    async with codex() as client:
        thread = await codex_thread(client, cli_home.cwd)
        texts = [await codex_turn(thread, prompt) for prompt in ("the first", "a command", "a patch")]
    assert [(text, turn.status.value) for text, turn in texts] == [
        ("hello", "completed"),
        ("done", "completed"),
        ("patched", "completed"),
    ]
    assert RAN in results_in(providers.requests[2])
    assert (cli_home.cwd / "made.txt").read_text() == "made\n"
    async with codex() as client:
        resumed = await client.thread_resume(thread.id)
        assert (await codex_turn(resumed, "later on"))[0] == "again"
    assert "the first" in str(providers.requests[-1].body["input"])
    assert {request.path for request in providers.requests} == {"/v1/responses"}
    assert {request.headers["authorization"] for request in providers.requests} == {f"Bearer {KEY}"}


async def test_codex_is_interrupted_and_tells_failures(
    providers: ProviderServer, codex: Callable[..., Any], cli_home: CliHome
) -> None:
    """An interrupt ends an endless answer; a 401 and a response that failed are ends of turns, each with its word."""
    providers.script.add(s.endless(), prompt="for ever")
    providers.script.add(s.refused(Failure.AUTH), prompt="no key")
    providers.script.add(s.stream_error(Failure.OVERLOADED, as_response=True), prompt="too many")
    async with codex() as client:
        thread = await codex_thread(client, cli_home.cwd)
        _, turn = await codex_turn(thread, "go on for ever", interrupt=True)
        assert turn.status.value == "interrupted"
        assert await providers.requests[0].was_left()
        failed = [(await codex_turn(thread, prompt))[1] for prompt in ("no key", "too many")]
    assert [turn.status.value for turn in failed] == ["failed", "failed"]
    told = [turn.error.codex_error_info.model_dump(mode="json") for turn in failed]
    assert told == [{"http_connection_failed": {"http_status_code": 401}}, "serverOverloaded"]


# Amp: the stand-in, and the real command line of May 2026 where somebody named one

AMP_CLIS = [AMP_STAND_IN, *([Path(os.environ["AMP_CLI_PATH"])] if "AMP_CLI_PATH" in os.environ else [])]


@pytest.fixture(params=AMP_CLIS, ids=lambda path: path.stem)
def amp(request: pytest.FixtureRequest, cli_home: CliHome, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The messages of one prompt."""
    sdk = pytest.importorskip("amp_sdk")
    monkeypatch.setenv("AMP_CLI_PATH", str(request.param))

    def turn(prompt: str, **more: Any) -> Any:
        return sdk.execute(prompt, sdk.AmpOptions(cwd=str(cli_home.cwd), mode="smart", **more))

    return turn


async def test_amp_runs_tools_and_resumes(providers: ProviderServer, amp: Callable[..., Any]) -> None:
    """A tool turn in whole messages; another process goes on with the thread by its id."""
    providers.script.add(s.tool("Bash", {"cmd": f"echo {RAN}; exit 3"}, say="look"), s.text("done"), prompt="first")
    providers.script.add(s.text("again"), prompt="second")
    first = [message async for message in amp("the first prompt", dangerously_allow_all=True)]
    assert [message.type for message in first] == ["system", "user", "assistant", "user", "assistant", "result"]
    [result] = first[3].message.content
    assert (RAN in result.content, '"exitCode"' in result.content, result.is_error) == (True, True, False)
    assert (first[-1].result, first[-1].num_turns) == ("done", 2)
    second = [message async for message in amp("the second prompt", continue_thread=first[0].session_id)]
    assert (second[-1].result, second[-1].session_id) == ("again", first[0].session_id)
    models = [request for request in providers.requests if request.path.endswith("/v1/messages")]
    assert "the first prompt" in str(models[-1].body["messages"])


async def test_amp_rejects_tools_and_tells_a_refused_key(providers: ProviderServer, amp: Callable[..., Any]) -> None:
    """A rule makes the tool's result an error; a 401 is an error result and not an exception."""
    import amp_sdk as sdk

    providers.script.add(s.tool("Bash", {"cmd": "true"}), s.text("so be it"), prompt="forbidden")
    providers.script.add(s.refused(Failure.AUTH), prompt="no key")
    rule = sdk.create_permission("Bash", "reject")
    rejected = [message async for message in amp("forbidden tool", permissions=[rule])]
    [result] = rejected[3].message.content
    assert (result.is_error, "rejected by user" in result.content) == (True, True)
    refused = [message async for message in amp("no key")]
    assert (refused[-1].is_error, refused[-1].error) == (True, "Unauthorized Check your access token.")


@pytest.mark.parametrize("reply", [s.broken(Fault.CUT), s.broken(Fault.ENDED), s.stream_error(Failure.SERVER_ERROR)])
async def test_amp_tells_a_broken_stream_twice(
    providers: ProviderServer, amp: Callable[..., Any], reply: s.Reply
) -> None:
    """An error result, and then an exception for the process that failed."""
    import amp_sdk as sdk

    providers.script.add(reply, prompt="broken")
    messages = []
    with pytest.raises(sdk.ProcessError) as raised:
        async for message in amp("broken stream"):
            messages.append(message)
    assert (messages[-1].type, messages[-1].is_error, raised.value.exit_code) == ("result", True, 1)


@pytest.mark.parametrize("reply", [s.max_tokens("cut"), s.refusal()], ids=["max_tokens", "refusal"])
async def test_amp_hangs_after_an_answer_cut_short(
    providers: ProviderServer, amp: Callable[..., Any], reply: s.Reply
) -> None:
    """The text arrives without a reason to stop, and no result follows."""
    providers.script.add(reply, prompt="short")
    turn = amp("short answer")
    messages = [await anext(turn) for _ in range(3)]
    assert (messages[-1].type, messages[-1].message.stop_reason) == ("assistant", None)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(turn), 0.2)
    await turn.aclose()


async def test_amp_is_cancelled(providers: ProviderServer, amp: Callable[..., Any]) -> None:
    """Cancelling the task ends the process, and the server sees the connection close."""
    providers.script.add(s.endless(), prompt="for ever")

    async def run() -> list[Any]:
        return [message async for message in amp("go on for ever")]

    async def streaming() -> None:
        assert any(request.body.get("stream") for request in providers.requests)

    task = asyncio.create_task(run())
    await eventually(streaming, WITHIN_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [streamed] = [request for request in providers.requests if request.body.get("stream")]
    assert await streamed.was_left()
