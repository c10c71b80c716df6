"""The app as Flower loads it: `celery -A asm_workers.flower:app flower`."""

from __future__ import annotations

from asm_core.config import Settings
from asm_workers.app import build_app

app = build_app(Settings())
