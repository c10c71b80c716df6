"""Tools of an MCP server: started for the run, used by the model under its name, gone with the run."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from _common import claim, main, model_api, skip, temporary_folder

from asm_core import open_manager

SERVER = """
from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("notes", log_level="ERROR")

@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def find(word: str) -> str:
    "The notes that contain a word."
    return "buy milk" if word == "milk" else "nothing"

server.run()
"""
ANSWERS = (("call", {"mcp__notes__find": {"word": "milk"}}), ("say", "You wanted to buy milk."))


async def example() -> None:
    if find_spec("mcp") is None:
        return skip("pip install 'agent-session-manager[mcp]'")
    with temporary_folder() as folder, model_api("anthropic", *ANSWERS) as adapter:
        (folder / "server.py").write_text(SERVER)
        servers = {"notes": {"command": sys.executable, "args": ["server.py"]}}
        async with open_manager("memory://", adapter) as manager:
            result = await manager.run_once(
                {"prompt": "Look into my notes for the word milk."},
                provider_options={"mcp_servers": servers, "cwd": str(folder)},
            )
        await adapter.aclose()
    [call] = result.output["tool_calls"]
    print(f"  {call['name']} {call['input']} -> {call['output']}")
    claim("the server's tool was called", (call["name"], call["output"]) == ("mcp__notes__find", "buy milk"))
    claim("the model went on with its result", "milk" in result.output["content"])
    return None


if __name__ == "__main__":
    main(example)
