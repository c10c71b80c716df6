"""
The same with a real SDK: streaming runs of the provider `anthropic` in one worker process, five events per second each,
against a pretended server in a process of its own.

    python benchmarks/provider_concurrency.py [--small] [RUNS]
"""

from __future__ import annotations

import sys

from _common import stack
from _figures import SMALL
from _provider import KEY, pretended_provider
from _streaming import CHUNKS, DELAY_MS, TEXT, Load, measure

from asm_core.manager.submit import RunRequest

RUNS = next((int(word) for word in sys.argv[1:] if word.isdigit()), 20 if SMALL else 200)


def main() -> None:
    request = RunRequest(input={"prompt": "go on"}, provider="anthropic")
    with (
        pretended_provider(CHUNKS, DELAY_MS / 1_000, TEXT) as url,
        stack(anthropic_base_url=url, anthropic_api_key=KEY) as bench,
    ):
        measure("provider_concurrency", bench, Load(RUNS, request))


if __name__ == "__main__":
    main()
