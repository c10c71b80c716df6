"""Writes docs/reference/http.md from the routes; a test holds them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asm_api.app import create_app
from asm_core.config import Settings

TARGET = Path(__file__).parent / "reference" / "http.md"

NO_BOUND = 2**62
"""What a database holds is no bound to tell."""

HEAD = """# HTTP

JSON both ways. Failures are `application/problem+json`: `code`, `detail`, `retryable`, `details`; with `ASM_API_KEY` set,
every route under `/v1` asks for `Authorization: Bearer …`. A running API serves this as `/docs` and `/openapi.json`, with the
shape of every answer. `WS /v1/sessions/{session_id}/ws` is the event stream as a WebSocket, two-way.
Written by `python docs/http_reference.py`.
"""


def reference() -> str:
    api = create_app(Settings()).openapi()
    schemas = api["components"]["schemas"]
    routes = [(path, method, route) for path, methods in api["paths"].items() for method, route in methods.items()]
    return HEAD + "".join(_route(method.upper(), path, route, schemas) for path, method, route in routes)


def _route(method: str, path: str, route: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    success = next(code for code in route["responses"] if code.startswith("2"))
    rows = [*_parameters(route, schemas), *_body(route, schemas)]
    table = ["", "| Field | In | Type | Default | Meaning |", "|---|---|---|---|---|", *rows] if rows else []
    told = " ".join(f"{route.get('description', '')} Answers {success}.".split())
    return "\n".join(["", f"## `{method} {path}`", "", told, *table]) + "\n"


def _parameters(route: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    for parameter in route.get("parameters", ()):
        field = parameter["schema"] | {"description": parameter.get("description", "")}
        yield _row(parameter["name"], parameter["in"], field, parameter.get("required", False), schemas)


def _body(route: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
    for reference in _references(content.get("schema", {})):
        schema = schemas[reference]
        for name, field in schema.get("properties", {}).items():
            yield _row(name, "body", field, name in schema.get("required", ()), schemas)


def _references(schema: Mapping[str, Any]) -> Iterator[str]:
    for part in (schema, *schema.get("anyOf", ())):
        if "$ref" in part:
            yield part["$ref"].rsplit("/", 1)[1]


def _row(name: str, place: str, field: Mapping[str, Any], is_required: bool, schemas: Mapping[str, Any]) -> str:
    default = f"`{field['default']}`" if field.get("default") not in (None, "", [], {}) else "–"
    told = " ".join(field.get("description", "").split())
    kind = _kind(field, schemas).replace("|", r"\|")
    return f"| `{name}` | {place} | {kind} | {'required' if is_required else default} | {told} |"


def _kind(field: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(part, schemas) for part in field["anyOf"] if part.get("type") != "null")
    if "$ref" in field:
        return _kind(schemas[field["$ref"].rsplit("/", 1)[1]], schemas)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_kind(field['items'], schemas)}"
    kind = str(field.get("type", "any"))
    if "minimum" in field:
        kind += f" from {field['minimum']:.0f}"
    if field.get("maximum", NO_BOUND) < NO_BOUND:
        kind += f" to {field['maximum']:.0f}"
    return kind


if __name__ == "__main__":
    TARGET.write_text(reference())
