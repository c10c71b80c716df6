"""
What redaction costs: one provider event through the pure part of the event path with redaction on and off, in turns, so
that what else the machine does strikes both. Chunks as models stream them, and tool outputs of 10 kB: prose, program
text, and text with a secret on every tenth line.

    python benchmarks/redaction.py [--small]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from _common import SystemClock
from _figures import SMALL, digits, ratio, report, spread

from asm_core.domain.event import EventType
from asm_core.domain.redaction import OFF, REDACTOR, Redactor
from asm_core.pipeline import ingest, ingest_end
from asm_core.pipeline.context import RunContext
from asm_core.ports.provider import RawEvent

ROUNDS = 2 if SMALL else 30
CHUNK, OUTPUT = 20, 10_000
CHUNKS, OUTPUTS = (50, 2) if SMALL else (2_000, 40)
PROSE = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
PROGRAM = Path(__file__).read_text()
SECRET = f"using gh{'p_'}{'a1B2' * 9} as the access token, password={'x' * 12}\n"


def _of_length(text: str, length: int) -> str:
    return (text * (length // len(text) + 1))[:length]


def chunks(text: str) -> list[RawEvent]:
    parts = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
    return [RawEvent(EventType.MESSAGE_STREAMED, {"content": part, "delta": part}) for part in parts]


def outputs(text: str) -> list[RawEvent]:
    call = {"tool_call_id": "tc_0123456789abcdef", "tool_name": "bash", "tool_input": {"command": "make test"}}
    return [RawEvent(EventType.TOOL_CALL_COMPLETED, call | {"tool_output": text})] * OUTPUTS


def seconds(raws: Sequence[RawEvent], redactor: Redactor) -> float:
    ctx = RunContext("ses_1", "run_1", 1, 1, "bench", SystemClock(), redactor=redactor)
    began = time.perf_counter()
    for raw in raws:
        ingest(raw, ctx)
    ingest_end(ctx)
    return time.perf_counter() - began


def measure(raws: Sequence[RawEvent], characters: int) -> dict[str, object]:
    pairs = [(seconds(raws, REDACTOR), seconds(raws, OFF)) for _ in range(ROUNDS + 1)][1:]
    on, off = zip(*pairs, strict=True)
    cost = sorted(with_it - without for with_it, without in pairs)[len(pairs) // 2] / len(raws)
    return {
        "on_us": spread(on, 1e6 / len(raws)),
        "off_us": spread(off, 1e6 / len(raws)),
        "on_to_off": ratio(on, off),
        "redaction_us": digits(cost * 1e6),
        "redaction_us_per_kb": digits(cost * 1e6 / characters * 1_000),
    }


def main() -> None:
    texts = {"prose": PROSE, "program": PROGRAM, "secrets": PROSE * 9 + SECRET}
    report(
        "redaction",
        characters={"chunk": CHUNK, "output": OUTPUT},
        rounds=ROUNDS,
        chunk={name: measure(chunks(_of_length(text, CHUNK * CHUNKS)), CHUNK) for name, text in texts.items()},
        output={name: measure(outputs(_of_length(text, OUTPUT)), OUTPUT) for name, text in texts.items()},
    )


if __name__ == "__main__":
    main()
