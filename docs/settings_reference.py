"""Writes docs/reference/settings.md from the settings class; a test holds them together."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic.fields import FieldInfo

from asm_core.config import FAST_PROFILE, LibraryOptions, Settings

TARGET = Path(__file__).parent / "reference" / "settings.md"

HEAD = """# Settings

Environment variables; read once when a process starts. Written by `python docs/settings_reference.py`.

| Variable | Default | Meaning |
|---|---|---|
"""


def reference() -> str:
    own_first = sorted(Settings.model_fields.items(), key=lambda item: item[0] in LibraryOptions.model_fields)
    rows = [_row(name, field) for name, field in own_first]
    fast = ", ".join(f"`ASM_{name.upper()}={value}`" for name, value in FAST_PROFILE.items())
    return HEAD + "\n".join(rows) + f"\n\n`ASM_PROFILE=fast` stands for {fast}.\n"


def _row(name: str, field: FieldInfo) -> str:
    default = field.get_default()
    if isinstance(default, tuple | dict):
        default = json.dumps(default)
    shown = f"`{default}`" if default not in (None, "") else "–"
    return f"| `ASM_{name.upper()}` | {shown} | {field.description or ''} |"


if __name__ == "__main__":
    TARGET.write_text(reference())
