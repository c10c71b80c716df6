"""Work that must not die in silence."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from asm_core.background import EXIT_BROKEN, background

BROKEN = """
import asyncio
from asm_core.background import background, end_process_on_defect

async def writer():
    await asyncio.sleep(0)
    raise KeyError("what nobody foresaw")

async def main():
    async with background(writer()):
        await asyncio.sleep(60)

end_process_on_defect()
asyncio.run(main())
"""


async def test_it_ends_with_its_block() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
            raise RuntimeError("while closing: harmless")

    async with background(work(), asyncio.sleep(0)):
        await asyncio.sleep(0.01)
    assert ended.is_set()


async def test_the_blocks_own_error_passes() -> None:
    with pytest.raises(LookupError):
        async with background(asyncio.sleep(60)):
            raise LookupError


async def test_a_defect_in_a_library_does_not_end_its_host(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise KeyError("what nobody foresaw")

    async with background(work()):
        await asyncio.sleep(0.01)
    assert "background work failed" in caplog.text


def test_a_defect_ends_the_process_and_is_named() -> None:
    """A worker whose writer is dead would take runs and store nothing."""
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=30)
    assert done.returncode == EXIT_BROKEN
    assert "background work failed (writer)" in done.stderr
    assert "KeyError: 'what nobody foresaw'" in done.stderr
