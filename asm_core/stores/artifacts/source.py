"""The caller's chunks, told apart from the store that takes them: what they raise is the caller's own failure."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager

from asm_core.domain.artifact import Chunk


class SourceFailed(Exception):
    """Carries what the chunks raised past everybody who translates the store's errors."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


async def marked(chunks: AsyncIterable[Chunk]) -> AsyncIterator[Chunk]:
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as error:
        raise SourceFailed(error) from error


@contextmanager
def unmarked() -> Iterator[None]:
    """Raises again what was marked, as it was."""
    found: Exception | None = None
    try:
        yield
    except SourceFailed as failed:
        found = failed.error
    if found is not None:
        raise found
