#!/usr/bin/env python3
"""
A stand-in for Amp's command line, which may not be shipped: the part of its `--execute --stream-json` that its SDK
uses, with the messages that the command line of May 2026 was seen to write. Standard library only, so that it starts
in an instant.

It asks `AMP_URL` for the model's answers and keeps threads there, as the original does; the one tool is `Bash`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

MODEL = "claude-opus-4-7"
TOLD = {401: "Unauthorized Check your access token.", 529: "Model Provider Overloaded Try again in a few seconds."}
"""Its own words for some statuses; of the others the body is told."""


def main() -> None:
    options = _options()
    thread_id = options.thread or f"T-{uuid.uuid4()}"
    run = Run(thread_id, _rejected_tools(options.settings_file))
    history = _call("getThread", {"thread": thread_id})["thread"]["data"]["messages"] if options.thread else []
    _turns(run, history, sys.stdin.read().strip())


def _options() -> argparse.Namespace:
    """What the SDK passes and matters here; the rest is ignored."""
    words = argparse.ArgumentParser()
    words.add_argument("--settings-file")
    options, rest = words.parse_known_args()
    options.thread = rest[2] if rest[:2] == ["threads", "continue"] else None
    return options


def _rejected_tools(settings_file: str | None) -> set[str]:
    settings = json.loads(Path(settings_file).read_text()) if settings_file else {}
    return {rule["tool"] for rule in settings.get("amp.permissions", []) if rule["action"] == "reject"}


class Run:
    """What is written to stdout."""

    def __init__(self, thread_id: str, rejected: set[str]) -> None:
        self.thread_id = thread_id
        self.rejected = rejected
        self.turns = 0
        self._began = time.monotonic()

    def init(self) -> None:
        about = {"cwd": str(Path.cwd()), "tools": ["Bash"], "mcp_servers": [], "agent_mode": "smart"}
        self._say({"type": "system", "subtype": "init"} | about)

    def user(self, content: list[Any]) -> None:
        self._say({"type": "user", "message": {"role": "user", "content": content}, "parent_tool_use_id": None})

    def assistant(self, content: list[Any], stop_reason: str | None, usage: dict[str, Any]) -> None:
        self.turns += 1
        said = {"type": "message", "role": "assistant", "content": content, "stop_reason": stop_reason, "usage": usage}
        self._say({"type": "assistant", "message": said, "parent_tool_use_id": None})

    def success(self, result: str) -> None:
        self._end({"subtype": "success", "is_error": False, "result": result})

    def error(self, error: str) -> None:
        self._end({"subtype": "error_during_execution", "is_error": True, "error": error})

    def _end(self, outcome: dict[str, Any]) -> None:
        took = {"duration_ms": int((time.monotonic() - self._began) * 1000), "num_turns": self.turns}
        self._say({"type": "result"} | outcome | took)

    def _say(self, message: dict[str, Any]) -> None:
        print(json.dumps(message | {"session_id": self.thread_id}), flush=True)


def _turns(run: Run, messages: list[Any], prompt: str) -> None:
    content = [{"type": "text", "text": prompt}]
    run.init()
    run.user(content)
    messages.append({"role": "user", "content": content})
    try:
        while (results := _turn(run, messages)) is not None:
            run.user(results)
            messages.append({"role": "user", "content": results})
    except urllib.error.HTTPError as error:
        run.error(TOLD.get(error.code) or f"{error.code} {error.read().decode()}")
    except (OSError, ValueError, HTTPException) as error:
        run.error(str(error))
        sys.exit("Error: Unexpected error inside Amp CLI.")
    else:
        _call("uploadThread", {"thread": {"id": run.thread_id, "messages": messages}})
        run.success("".join(block.get("text", "") for block in messages[-1]["content"]))


def _turn(run: Run, messages: list[Any]) -> list[Any] | None:
    """Ask the model once; the results of the tools that it wants, if it wants any."""
    body = {"model": MODEL, "max_tokens": 32000, "stream": True, "messages": messages}
    with _post("/api/provider/anthropic/v1/messages", body) as answer:
        content, stop_reason, usage = _answer(answer)
    if stop_reason not in ("end_turn", "tool_use"):
        run.assistant(content, None, usage)
        signal.pause()  # after an answer that was cut short or declined the original, too, waits for ever
    run.assistant(content, stop_reason, usage)
    messages.append({"role": "assistant", "content": content})
    calls = [block for block in content if block["type"] == "tool_use"]
    return [_result(call, run.rejected) for call in calls] or None


def _answer(stream: HTTPResponse) -> tuple[list[Any], str, dict[str, Any]]:
    """The message that a stream carries: its blocks, its stop reason and its usage."""
    blocks: list[dict[str, Any]] = []
    usage: dict[str, Any] = {}
    for line in stream:
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line[6:])
        match event["type"]:
            case "message_start":
                usage = event["message"]["usage"]
            case "content_block_start":
                blocks.append(event["content_block"] | {"json": ""})
            case "content_block_delta":
                _extend(blocks[-1], event["delta"])
            case "message_delta":
                usage |= event["usage"]
                return [_whole(block) for block in blocks], event["delta"]["stop_reason"], usage
            case "error":
                raise ValueError(event["error"]["message"])
    raise ValueError("the stream ended early")


def _extend(block: dict[str, Any], delta: dict[str, Any]) -> None:
    block["text"] = block.get("text", "") + delta.get("text", "")
    block["json"] += delta.get("partial_json", "")


def _whole(block: dict[str, Any]) -> dict[str, Any]:
    if block["type"] == "tool_use":
        return {"type": "tool_use", "id": block["id"], "name": block["name"], "input": json.loads(block["json"])}
    return {"type": "text", "text": block["text"]}


def _result(call: dict[str, Any], rejected: set[str]) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": call["id"]}
    if call["name"] in rejected:
        reason = f"Tool execution rejected by user: Rejected by user permissions rule 0: reject {call['name']}"
        return result | {"content": reason, "is_error": True}
    ran = subprocess.run(["bash", "-c", call["input"]["cmd"]], capture_output=True, text=True, check=False)
    told = {"output": ran.stdout + ran.stderr} | ({"exitCode": ran.returncode} if ran.returncode else {})
    return result | {"content": json.dumps(told), "is_error": False}


def _call(method: str, params: dict[str, Any]) -> Any:
    with _post(f"/api/internal?{method}", {"method": method, "params": params}) as answer:
        return json.load(answer)["result"]


def _post(path: str, body: dict[str, Any]) -> HTTPResponse:
    headers = {"content-type": "application/json", "x-api-key": os.environ["AMP_API_KEY"]}
    request = urllib.request.Request(os.environ["AMP_URL"] + path, json.dumps(body).encode(), headers)
    answer: HTTPResponse = urllib.request.urlopen(request)
    return answer


if __name__ == "__main__":
    main()
