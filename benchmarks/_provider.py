"""A pretended provider in a process of its own, so that what it does costs the measured process nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where ASM is not installed

from tests.fakes import script
from tests.fakes.clis import KEY as KEY
from tests.fakes.server import ProviderServer


@contextmanager
def pretended_provider(pieces: int, delay_s: float, piece: str) -> Iterator[str]:
    """The URL of one that answers everything with so many pieces, one every so often."""
    command = [sys.executable, __file__, str(pieces), str(delay_s), piece]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    pieces, delay_s, piece = sys.argv[1:]
    with ProviderServer() as server:
        server.script.always(script.slow(int(pieces), float(delay_s), piece))
        print(server.url, flush=True)
        sys.stdin.read()  # until the parent is gone


if __name__ == "__main__":
    main()
