"""Provider `amp`: its SDK with the stand-in for its command line on the pretended server, through the adapter alone."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from asm_core.adapters.amp import AmpAdapter
from asm_core.agent_process import AgentFolders
from asm_core.config import ProviderAccess
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.provider_options import ProviderOptions
from asm_core.domain.transcript import Transcript
from asm_core.manager.provider_files import RememberedFiles
from asm_core.ports.provider import Execution, ProviderAdapter
from asm_core.testing import ProviderAdapterContract
from tests.builders import an_event
from tests.fakes import script as s
from tests.fakes.clis import AMP_STAND_IN, KEY
from tests.fakes.script import Failure, Fault
from tests.fakes.server import ProviderServer, Recorded
from tests.fixtures.agents import AgentWorker
from tests.fixtures.processes import eventually, marked

pytest.importorskip("amp_sdk")
pytestmark = pytest.mark.usefixtures("cli_home", "nothing_is_left")

E = ErrorCode
T = EventType
STOPPED_S = 1.0
FREELY = {"permission_mode": "full_auto"}


def on_worker(folder: Path, providers: ProviderServer, cli: str = str(AMP_STAND_IN)) -> AgentWorker:
    access = ProviderAccess(base_url=providers.url, api_key=SecretStr(KEY))
    folders = AgentFolders(folder)
    return AgentWorker(AmpAdapter(folders, access, cli, cut_short_s=0.3), folders, RememberedFiles())


@pytest.fixture
def amp(tmp_path: Path, providers: ProviderServer) -> AgentWorker:
    return on_worker(tmp_path / "agents", providers)


def models(providers: ProviderServer) -> list[Recorded]:
    """The requests to the model."""
    return [request for request in providers.requests if request.path.endswith("/v1/messages")]


async def test_a_text_turn(amp: AgentWorker, providers: ProviderServer) -> None:
    """Whole messages; a system prompt comes first; the environment's own settings of the SDK stay as they were."""
    providers.script.add(s.text("hel", "lo").with_usage(input=10, output=5, cache_read=3, cache_write=2))
    before = dict(os.environ)
    played = await amp.play("say hello", options={"system_prompt": "be brief"})
    assert played.types == ["run_started", "message_received", "token_usage_updated"]
    assert played.one(T.MESSAGE_RECEIVED) == {"content": "hello", "role": "assistant"}
    assert played.one(T.TOKEN_USAGE_UPDATED) == {
        "input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 3, "cache_creation_tokens": 2,
    }  # fmt: skip
    assert (played.end.data["num_turns"], played.end.data["stop_reason"]) == (1, "end_turn")
    [asked] = models(providers)
    assert asked.body["messages"][0]["content"][0]["text"] == "be brief\n\nsay hello"
    assert dict(os.environ) == before


async def test_tools(amp: AgentWorker, providers: ProviderServer) -> None:
    """A command's exit code is no error to Amp; what a rule rejects is one."""
    providers.script.add(s.tool("Bash", {"cmd": "pwd; exit 3"}, say="look"), s.text("done"), prompt="first")
    providers.script.add(s.tool("Bash", {"cmd": "true"}), s.text("so be it"), prompt="second")
    ran = await amp.play("the first", options=FREELY)
    call = ran.one(T.TOOL_CALL_COMPLETED)
    assert (call["tool_name"], call["tool_input"]) == ("Bash", {"cmd": "pwd; exit 3"})
    assert call["tool_output"] == {"output": f"{amp.work}\n", "exitCode": 3}
    rejected = await amp.play("the second", options=FREELY | {"denied_tools": ["Bash"]})
    call = rejected.one(T.TOOL_CALL_FAILED)
    assert (call["is_error"], "rejected" in call["tool_output"]) == (True, True)


TELLTALE = """#!/usr/bin/env python3
import json, pathlib, sys
def content(option):
    return json.loads(pathlib.Path(sys.argv[sys.argv.index(option) + 1]).read_text())
told = json.dumps({"argv": sys.argv[1:], "settings": content("--settings-file"), "mcp": content("--mcp-config")})
print(json.dumps({"type": "result", "subtype": "success", "is_error": False, "result": told, "session_id": "T-1",
                  "duration_ms": 1, "num_turns": 1}))
"""


async def test_what_the_command_line_is_told(amp: AgentWorker, providers: ProviderServer, tmp_path: Path) -> None:
    """Rules count only where not all is allowed; what a server of tools gets is no argument that anybody can read."""
    cli = tmp_path / "telltale"
    cli.write_text(TELLTALE)
    cli.chmod(0o700)
    server = {"host": {"command": "serve", "env": {"WORD": "secret-word"}}}
    asked = {
        "allowed_tools": ["Read", "Bash"],
        "denied_tools": ["Bash"],
        "mcp_servers": server,
        "reasoning_effort": "low",
    }
    played = await on_worker(tmp_path / "agents", providers, str(cli)).play("hello", options=FREELY | asked)
    told = json.loads(played.one(T.MESSAGE_RECEIVED)["content"])
    rules = [{"tool": "Bash", "action": "reject"}, {"tool": "*", "action": "allow"}]
    assert told["settings"] == {
        "amp.dangerouslyAllowAll": False, "amp.permissions": rules, "amp.tools.enable": ["Read", "Bash"],
    }  # fmt: skip
    assert (told["mcp"], "secret-word" in str(told["argv"])) == (server, False)
    assert [told["argv"][told["argv"].index(name) + 1] for name in ("--mode", "--effort")] == ["smart", "low"]
    assert "--dangerously-allow-all" not in told["argv"]


async def test_another_worker_goes_on(amp: AgentWorker, providers: ProviderServer, tmp_path: Path) -> None:
    """The thread is at Amp's server."""
    providers.script.add(s.text("one"), s.text("two"))
    first = await amp.play("question 1")
    second = await on_worker(tmp_path / "elsewhere", providers).play("question 2", resume=first.handle)
    assert (second.handle, second.one(T.MESSAGE_RECEIVED)["content"]) == (first.handle, "two")
    assert "question 1" in str(models(providers)[-1].body["messages"])


async def test_a_thread_that_is_gone(amp: AgentWorker, providers: ProviderServer) -> None:
    """Without anything beside it the run fails, by a typed error; a transcript beside it is told instead."""
    nowhere = "T-00000000-0000-0000-0000-000000000000"
    error = (await amp.play("go on", resume=nowhere)).error
    assert (error.code, error.details["reason"]) == (E.INVALID_OPERATION, "provider_session_gone")
    asked = {"role": "user", "content": "apple"}
    said = Transcript.from_events([an_event(T.MESSAGE_SENT, sequence_number=1, data=asked)])
    providers.script.add(s.text("by transcript"))
    played = await amp.play("go on", resume=nowhere, transcript=said)
    assert (played.one(T.MESSAGE_RECEIVED)["content"], played.handle != nowhere) == ("by transcript", True)
    assert "apple" in str(models(providers)[-1].body["messages"])


@pytest.mark.parametrize(
    ("reply", "code", "kind"),
    [
        (s.refused(Failure.AUTH), E.PROVIDER_AUTHENTICATION_FAILED, "authentication"),
        (s.rate_limited(3), E.PROVIDER_RATE_LIMITED, "rate_limit"),
        (s.refused(Failure.OVERLOADED), E.PROVIDER_UNAVAILABLE, "overloaded"),
        (s.refused(Failure.INVALID), E.PROVIDER_ERROR, "invalid_request"),
        (s.broken(Fault.ENDED), E.PROVIDER_ERROR, "unknown"),
        (s.max_tokens("cut"), E.PROVIDER_ERROR, "protocol_error"),
    ],
)
async def test_failures(amp: AgentWorker, providers: ProviderServer, reply: Any, code: E, kind: str) -> None:
    """What another try may mend is raised before any event, the rest is told; after a cut answer it hangs no longer."""
    providers.script.add(reply)
    played = await amp.play("fail")
    error = played.error
    if not error.retryable:
        assert (played.types[0], played.types[-1]) == ("run_started", "error_occurred")
    else:
        assert played.types == []
    assert (error.code, (error.provider_error or {})["kind"]) == (code, kind)


async def test_an_interrupt_ends_all_at_once(amp: AgentWorker, providers: ProviderServer) -> None:
    """Before any message: within a second the process is gone, and the server sees it."""
    providers.script.add(s.endless())
    running = asyncio.create_task(amp.play("go on for ever"))
    await eventually(lambda: any(request.body.get("stream") for request in models(providers)))
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < STOPPED_S
    [streamed] = [request for request in models(providers) if request.body.get("stream")]
    assert await streamed.was_left()
    assert not marked(str(amp.folders.root))


async def test_a_reader_that_leaves_ends_the_process(amp: AgentWorker, providers: ProviderServer) -> None:
    """In the middle of a tool: nothing of it is left."""
    providers.script.add(s.tool("Bash", {"cmd": "sleep 600"}))
    items = amp.adapter.execute(amp.execution("sleep", options=FREELY))
    while (await anext(items)).type != T.TOOL_CALL_STARTED:  # type: ignore[union-attr]
        pass
    await items.aclose()
    assert not marked(str(amp.folders.root))


async def test_max_turns_is_a_bound_on_requests(amp: AgentWorker, providers: ProviderServer) -> None:
    """The answer that would need one request more is the last; its tool lasts longer than the stop takes."""
    providers.script.add(s.tool("Bash", {"cmd": "true"}), *[s.tool("Bash", {"cmd": "sleep 5"})] * 4)
    played = await amp.play("much", options=FREELY | {"max_turns": 2})
    assert (played.error.code, played.error.details["reason"]) == (E.PROVIDER_ERROR, "max_turns")
    assert len(models(providers)) == 2


async def test_runs_at_once_have_their_own_command_lines(
    amp: AgentWorker, providers: ProviderServer, tmp_path: Path
) -> None:
    """The SDK looks for it in the process's environment, which they share."""
    providers.script.always(s.text("hello"))
    workers = [amp, on_worker(tmp_path / "elsewhere", providers)] * 2
    played = await asyncio.gather(*(worker.play("say hello") for worker in workers))
    assert [one.one(T.RUN_STARTED)["cwd"] for one in played] == [str(worker.work) for worker in workers]


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"permission_mode": "plan"}, E.CAPABILITY_NOT_SUPPORTED, "permission_mode"),
        ({"permission_mode": "accept_edits"}, E.CAPABILITY_NOT_SUPPORTED, "permission_mode"),
        ({"max_tokens": 10}, E.CAPABILITY_NOT_SUPPORTED, "max_tokens"),
        ({"output_schema": {"type": "object"}}, E.CAPABILITY_NOT_SUPPORTED, "output_schema"),
        ({"reasoning_effort": "weird"}, E.CAPABILITY_NOT_SUPPORTED, "reasoning_effort"),
        ({"sdk_opts": {"dangerously_allow_all": True}}, E.VALIDATION_ERROR, "sdk_opts.dangerously_allow_all"),
    ],
)
def test_what_amp_has_no_equal_of_is_refused(amp: AgentWorker, options: dict[str, Any], code: E, field: str) -> None:
    """A bound is never ignored in silence, and what the adapter decides is not open."""
    with pytest.raises(AsmError) as caught:
        amp.adapter.validate_options(ProviderOptions(**options))
    assert (caught.value.code, caught.value.details["field"]) == (code, f"provider_options.{field}")


async def test_commands_see_nothing_of_the_worker(
    amp: AgentWorker, providers: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its environment nor its own settings for Amp."""
    monkeypatch.setenv("ASM_DATABASE_URL", "worker-secret")
    monkeypatch.setenv("AMP_SETTINGS_FILE", "/nowhere/settings.json")
    providers.script.add(s.tool("Bash", {"cmd": "env"}), s.text("done"))
    shown = str((await amp.play("look", options=FREELY)).one(T.TOOL_CALL_COMPLETED))
    assert ("HOME=" in shown, "worker-secret" in shown, "SETTINGS_FILE" in shown) == (True, False, False)


async def test_without_a_command_line_or_a_key_nothing_starts(amp: AgentWorker, providers: ProviderServer) -> None:
    absent = on_worker(amp.folders.root, providers, cli="/nowhere/amp")
    error = (await absent.play("hello")).error
    assert error.code is E.DEPENDENCY_NOT_AVAILABLE
    assert (error.provider_error or {})["kind"] == "cli_not_found"
    keyless = AmpAdapter(amp.folders, ProviderAccess(), str(AMP_STAND_IN))
    with pytest.raises(AsmError) as caught:
        await anext(keyless.execute(amp.execution("hello")))
    assert caught.value.code is E.PROVIDER_AUTHENTICATION_FAILED


class TestContract(ProviderAdapterContract):
    """What every adapter promises."""

    @pytest.fixture
    def adapter(self, amp: AgentWorker) -> ProviderAdapter:
        return amp.adapter

    @pytest.fixture
    def execution(self, amp: AgentWorker, providers: ProviderServer) -> Execution:
        providers.script.always(s.text("hello"))
        return amp.execution("say hello")

    @pytest.fixture
    def long_execution(self, amp: AgentWorker, providers: ProviderServer) -> Execution:
        providers.script.always(s.tool("Bash", {"cmd": "sleep 600"}))
        return amp.execution("sleep")

    @pytest.fixture
    def failing_execution(self, amp: AgentWorker, providers: ProviderServer) -> Execution:
        providers.script.always(s.refused(Failure.AUTH))
        return amp.execution("fail")
