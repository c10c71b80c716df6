"""Where rendered text goes: a terminal, a file, JSON lines, a function. Those that write own what they opened."""

from __future__ import annotations

import inspect
import io
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.domain.fields import timestamp_text
from asm_core.rendering.ansi import harmless_json, strip_ansi
from asm_core.rendering.text import first_present, payload, short_model, short_reason, truncate
from asm_core.wire import dumps_text

MAX_ERROR = 120
"""Characters of an error's message in a compact line."""


class TTYSink:
    """
    Text as it is, codes and all, visible at once.

    Args:
        stream: standard output when omitted.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    async def open(self) -> None:
        self._stream = self._stream or sys.stdout

    async def write(self, text: str) -> None:
        if text and self._stream:
            self._stream.write(_encodable(text, self._stream))
            self._stream.flush()

    async def write_event(self, _event: Event, text: str) -> None:
        await self.write(text)

    async def flush(self) -> None:
        """Everything is visible already."""

    async def close(self) -> None:
        """The terminal is not ours."""


class FileSink:
    """
    Text without terminal codes, each line in the file as soon as it ends.

    Args:
        path: opened anew, its folders made; closed by the sink.
        io: an open text file instead, which the sink does not close.
        append: keep what stands in `path`.

    Raises:
        AsmError: `validation_error` without either; `storage_error` when `path` cannot be opened.
    """

    def __init__(self, path: str | Path | None = None, *, io: TextIO | None = None, append: bool = False) -> None:
        self._target = _Target(path, io, append)

    @property
    def owns_io(self) -> bool:
        return self._target.is_owner

    async def open(self) -> None:
        self._target.open()

    async def write(self, text: str) -> None:
        self._target.write(strip_ansi(text))

    async def write_event(self, _event: Event, text: str) -> None:
        await self.write(text)

    async def flush(self) -> None:
        self._target.flush()

    async def close(self) -> None:
        self._target.close()


class JSONLSink:
    """
    Events as lines of JSON, whatever the renderer says.

    Args:
        mode: `full`, everything an event holds; `compact`, its kind and sizes under short names.
        path, io, append: as of FileSink.

    Raises:
        AsmError: `validation_error` for another mode, or without path and io; `storage_error` as FileSink.

    Source: spec/05 §7.3.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        mode: Literal["full", "compact"] = "full",
        io: TextIO | None = None,
        append: bool = False,
    ) -> None:
        if mode not in ("full", "compact"):
            raise _invalid("mode", f"mode must be full or compact, not {mode!r}")
        self.mode = mode
        self._line = full_line if mode == "full" else compact_line
        self._target = _Target(path, io, append)

    async def open(self) -> None:
        self._target.open()

    async def write(self, text: str) -> None:
        """Only events are written."""

    async def write_event(self, event: Event, _text: str) -> None:
        self._target.write(f"{harmless_json(dumps_text(self._line(event)))}\n")

    async def flush(self) -> None:
        self._target.flush()

    async def close(self) -> None:
        self._target.close()


class CallbackSink:
    """
    Calls a function with each event and its text.

    Args:
        callback: a coroutine function is awaited (in `arender_stream`).

    Raises:
        AsmError: `validation_error`: it cannot be called with two arguments.
    """

    def __init__(self, callback: Callable[[Event, str], Awaitable[None] | object]) -> None:
        if not takes(callback, 2):
            raise _invalid("callback", "callback must be a function of an event and its text")
        self._callback = callback

    async def open(self) -> None:
        """Nothing to take hold of."""

    async def write(self, text: str) -> None:
        """Only events are told."""

    async def write_event(self, event: Event, text: str) -> None:
        answer = self._callback(event, text)
        if inspect.isawaitable(answer):
            await answer

    async def flush(self) -> None:
        """Nothing is held back."""

    async def close(self) -> None:
        """Nothing to let go."""


class _Target:
    """A text file by its path or already open."""

    def __init__(self, path: str | Path | None, handle: TextIO | None, append: bool) -> None:
        if handle is None and not path:
            raise _invalid("path", "path or io option is required")
        self.is_owner = handle is None
        self._path = Path(path or "")
        self._append = append
        self._handle = handle

    def open(self) -> None:
        if self._handle is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._path.open("a" if self._append else "w", encoding="utf-8", buffering=1)
        except OSError as cause:
            message = f"cannot open {self._path}: {cause.strerror}"
            raise AsmError(ErrorCode.STORAGE_ERROR, message, details={"path": str(self._path)}) from cause

    def write(self, text: str) -> None:
        if text and self._handle:
            self._handle.write(text)
            if not self.is_owner:  # ours is flushed by each line
                self._handle.flush()

    def flush(self) -> None:
        if self._handle is not None:
            self._handle.flush()
            if _is_regular_file(self._handle):
                os.fsync(self._handle.fileno())

    def close(self) -> None:
        if self.is_owner and self._handle is not None:
            handle, self._handle = self._handle, None
            handle.close()


def full_line(event: Event) -> dict[str, Any]:
    """Everything an event holds, without what is empty; enough to write it again."""
    line = {
        "ts": timestamp_text(event.timestamp),
        "type": event.type,
        "data": payload(event),
        "session_id": event.session_id,
        "run_id": event.run_id,
        "seq": event.sequence_number,
        "id": event.id,
        "provider": event.provider,
        "attempt": event.attempt,
        "correlation_id": event.correlation_id,
        "metadata": event.metadata or None,
        "schema_version": event.schema_version,
    }
    return {key: value for key, value in line.items() if value is not None and value != ""}


def compact_line(event: Event) -> dict[str, Any]:
    """When, and the event's kind and sizes under short names."""
    code, fields = _CODES.get(event.type, (str(event.type), _no_fields))
    return {"t": int(event.timestamp.timestamp() * 1_000), "e": {"t": code} | fields(payload(event))}


Fields = Callable[[Mapping[str, Any]], dict[str, Any]]


def _no_fields(_data: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _started(data: Mapping[str, Any]) -> dict[str, Any]:
    return _given(m=short_model(data.get("model")))


def _streamed(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"l": _length(first_present(data.get("delta"), data.get("content"), ""))}


def _tool(data: Mapping[str, Any]) -> dict[str, Any]:
    return _given(n=data.get("tool_name"))


def _tool_ended(data: Mapping[str, Any]) -> dict[str, Any]:
    return _given(n=data.get("tool_name"), l=_length(data.get("tool_output")))


def _usage(data: Mapping[str, Any]) -> dict[str, Any]:
    counts = {"i": data.get("input_tokens"), "o": data.get("output_tokens")}
    cost = data.get("cost_usd")
    return counts | ({"$": cost} if isinstance(cost, int | float) and not isinstance(cost, bool) else {})


def _completed(data: Mapping[str, Any]) -> dict[str, Any]:
    return _given(sr=short_reason(data.get("stop_reason")))


def _failed(data: Mapping[str, Any]) -> dict[str, Any]:
    return _given(x=truncate(data.get("error_message"), MAX_ERROR))


_T = EventType
_CODES: Mapping[str, tuple[str, Fields]] = {
    _T.RUN_STARTED: ("rs", _started),
    _T.MESSAGE_STREAMED: ("ms", _streamed),
    _T.TOOL_CALL_STARTED: ("ts", _tool),
    _T.TOOL_CALL_COMPLETED: ("tc", _tool_ended),
    _T.TOKEN_USAGE_UPDATED: ("tu", _usage),
    _T.MESSAGE_RECEIVED: ("mr", _no_fields),
    _T.RUN_COMPLETED: ("rc", _completed),
    _T.RUN_FAILED: ("rf", _failed),
    _T.ERROR_OCCURRED: ("er", _failed),
    _T.RUN_CANCELLED: ("rx", _no_fields),
}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def _length(value: Any) -> int | None:
    """In bytes, of text or of JSON."""
    if value is None:
        return None
    return len((value if isinstance(value, str) else dumps_text(value)).encode("utf-8", "replace"))


def takes(function: object, count: int) -> bool:
    """Whether it can be called with so many arguments; of what does not say, it is believed."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        return True
    return True


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _is_regular_file(handle: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(handle.fileno()).st_mode)
    except (io.UnsupportedOperation, AttributeError):
        return False


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": field})
