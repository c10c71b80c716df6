"""An MCP server on stdio with one tool, `add`: it gives back its argument and a word of its environment."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        about = {"name": "pretended", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        return {"tools": [{"name": "add", "description": "adds", "inputSchema": SCHEMA}]}
    if method == "tools/call":
        told = f"{params['arguments'].get('a')} {os.environ.get('WORD', '')}"
        return {"content": [{"type": "text", "text": told}], "isError": False}
    return {}


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            result = answer(message["method"], message.get("params") or {})
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
