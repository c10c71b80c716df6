"""Asynchronous objects for callers without an event loop: the same methods, on a loop in a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing
from functools import partial, update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

BUFFER = 100
"""Items read ahead of a blocking iteration."""

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class Facade(Generic[A]):
    """
    Args:
        inner: what does the work; used on the portal's loop only.
    """

    def __init__(self, inner: A, portal: BlockingPortal) -> None:
        self._inner = inner
        self._portal = portal


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Facade[A], P], T]:
    """
    The same method of the facade: same arguments, same result, same errors.

    Args:
        method: of the inner object's class, or of a protocol that it fulfils.
    """

    def call(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._portal.call(partial(getattr(self._inner, method.__name__), *args, **kwargs))
        return result

    update_wrapper(call, method)
    return call


def iterated(portal: BlockingPortal, source: AsyncGenerator[T, None]) -> Iterator[T]:
    """The generator's items, one after the other. Leaving the iteration ends the generator."""
    send, receive = anyio.create_memory_object_stream[T](BUFFER)

    async def pump() -> None:
        async with send, aclosing(source):
            async for item in source:
                await send.send(item)

    pumping = portal.start_task_soon(pump)
    try:
        while True:
            try:
                yield portal.call(receive.receive)
            except anyio.EndOfStream:
                break
        pumping.result()
    finally:
        pumping.cancel()
        try:
            portal.call(receive.aclose)
        except RuntimeError:  # the portal was closed meanwhile, its loop is gone
            receive.close()
