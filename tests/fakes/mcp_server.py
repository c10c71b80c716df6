"""A server of tools, by the protocol's own SDK: on stdin and stdout, or with a port on HTTP."""

from __future__ import annotations

import os
import sys

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("calculator", log_level="ERROR")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    """Always."""
    raise ValueError("out of order")


@server.tool(name="its.environment", annotations=ToolAnnotations(read_only_hint=True))
def environment() -> str:
    """Names, and the process."""
    return f"{os.getpid()} {' '.join(sorted(os.environ))}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def die() -> str:
    """The server ends in the middle of a call."""
    os._exit(3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
