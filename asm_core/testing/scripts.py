"""Runs of provider `scripted` that show what streams of events look like: `{"script": SCRIPTS["tool_use"]}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCRIPTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "simple_message": [
        {"say": "Hello! How can I help you?"},
        {"usage": {"input_tokens": 10, "output_tokens": 20}},
    ],
    "streaming_response": [
        {"say": "The quick brown fox jumps over the lazy dog", "chunks": 9},
        {"usage": {"input_tokens": 12, "output_tokens": 9}},
    ],
    "tool_use": [
        {"say": "Let me look."},
        {"tool": {"name": "read_file", "input": {"path": "README.md"}, "output": "# ASM"}},
        {"say": "It is called ASM."},
        {"usage": {"input_tokens": 50, "output_tokens": 45}},
    ],
    "multi_turn": [
        {"say": "First."},
        {"usage": {"input_tokens": 10, "output_tokens": 2}},
        {"emit": {"type": "turn_completed"}},
        {"say": "Second."},
        {"usage": {"input_tokens": 15, "output_tokens": 2}},
        {"emit": {"type": "turn_completed"}},
    ],
    "error_recovery": [
        {"tool": {"name": "bash", "input": {"command": "make"}, "output": "no rule", "fail": True}},
        {"emit": {"type": "error_occurred", "data": {"error_code": "tool_failed", "error_message": "no rule"}}},
        {"emit": {"type": "error_recovered", "data": {"error_code": "tool_failed"}}},
        {"say": "There is no Makefile here."},
    ],
    "rate_limited": [
        {"fail": {"code": "provider_rate_limited", "message": "slow down", "retry_after_ms": 30_000}},
    ],
    "never_ending": [
        {"say": "One moment."},
        {"sleep_ms": 604_800_000},
    ],
}
"""
Source: spec/01 §19. `rate_limited` fails; `never_ending` ends when it is cancelled or its time is over; all others
complete.
"""
