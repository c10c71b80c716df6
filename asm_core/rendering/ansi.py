"""Terminal codes: the few that renderers write, and the removal of all there are."""

from __future__ import annotations

import re
from collections.abc import Callable

RESET = "\x1b[0m"
CLEAR_LINE = "\r\x1b[2K"
"""Back to the line's start, and nothing is left on it."""

SUCCESS, FAILURE, INFO, RUNNING, WAITING, CHANGED, SAID = "✓", "✗", "●", "◐", "⏸", "±", "›"

Colour = Callable[[str, bool], str]


def _colour(code: str) -> Colour:
    def painted(text: str, enabled: bool = True) -> str:
        return f"{code}{text}{RESET}" if enabled and text else text

    return painted


red = _colour("\x1b[0;31m")
green = _colour("\x1b[0;32m")
yellow = _colour("\x1b[0;33m")
blue = _colour("\x1b[0;34m")
magenta = _colour("\x1b[0;35m")
cyan = _colour("\x1b[0;36m")
dim = _colour("\x1b[2m")
bold = _colour("\x1b[1m")


_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, modes
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, DCS and the like, when they have an end
    r"|\x1b[ -/]*[0-Z\\^-~]"  # the short ones
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_ASCII_CONTROL = re.compile("[\x7f-\x9f]")
_LONE_RETURN = re.compile(r"\r(?!\n)")


def strip_ansi(text: str) -> str:
    """Our own text for a place that is no terminal: without codes, and without returns to a line's start."""
    return _LONE_RETURN.sub("", _SEQUENCE.sub("", text))


def harmless(text: str) -> str:
    """
    A stranger's text for a terminal: nothing in it moves a cursor, sets a title or colours what follows. Control
    characters go, of both ranges, but for line ends and tabs; so do surrogates, which no terminal's encoding takes.
    """
    return text if text.isprintable() else _CONTROL.sub("", _SEQUENCE.sub("", text))


def harmless_json(line: str) -> str:
    """The same JSON without control characters: the encoder escapes those of ASCII, but a terminal obeys more."""
    return _NOT_ASCII_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
