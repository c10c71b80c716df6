"""
The language in which secrets are described.

A pattern is a sequence of characters and classes, each with a quantifier, and nothing else: no groups, no alternatives,
no look-around. A repeated class has no character in common with what follows it, so it is never in doubt where it ends.
That buys three things: matching is one pass without backtracking, whatever the text; of every text it can be said
whether it may still become a match, which is what lets streamed text through at once; and what was recognised as a
secret stays one whatever comes after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

MAX_HEAD = 256
"""Characters until a secret is recognised; no more of a stream is ever held back."""
FLAGS = re.ASCII | re.DOTALL
"""Of every expression made here."""
_UNIT = re.compile(
    r"(?P<chars>\\[dwsDWSntr]|\\[^0-9A-Za-z]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[\](){}|*+?^$])"
    r"(?:\{(?P<low>\d{1,6})(?P<comma>,(?P<high>\d{0,6}))?\}|(?P<sign>[?*+]))?",
    re.DOTALL,
)
_SIGNS: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
_SAMPLE = [*map(chr, range(128)), "é", "中", "\u2028"]
"""Characters that stand for all: classes are compared on them."""


class Unit(NamedTuple):
    """One character or class of a pattern, and how often it may stand there."""

    chars: str
    low: int
    high: int | None


def units_of(pattern: str) -> list[Unit]:
    """Raises ValueError for what is not in the language of patterns."""
    units, at = [], 0
    while at < len(pattern):
        unit = _UNIT.match(pattern, at)
        if unit is None or _is_bad_class(unit["chars"]):
            allowed = "characters, classes and quantifiers only: no groups, alternatives, anchors or look-around"
            raise ValueError(f"cannot read {pattern[at : at + 20]!r}; {allowed}")
        low, high = _quantity(unit)
        if high is not None and high < max(low, 1):
            raise ValueError(f"the quantifier of {unit[0]!r} allows nothing")
        units.append(Unit(unit["chars"], low, high))
        at = unit.end()
    return units


def _quantity(unit: re.Match[str]) -> tuple[int, int | None]:
    if unit["sign"]:
        return _SIGNS[unit["sign"]]
    if unit["low"] is None:
        return 1, 1
    low = int(unit["low"])
    return low, (low if unit["comma"] is None else int(unit["high"]) if unit["high"] else None)


@cache
def _is_bad_class(chars: str) -> bool:
    try:
        re.compile(chars)
    except re.error:
        return True
    return False


def check(units: Sequence[Unit], any_case: bool) -> None:
    """Raises ValueError where it would be in doubt how far a unit goes, or where the head has no bound."""
    if units and units[-1].low != units[-1].high:
        raise ValueError(f"the last quantifier must be exact or open, not that of {units[-1].chars}")
    members = [_members(unit.chars, any_case) for unit in units]
    for index, unit in enumerate(units):
        if unit.low == unit.high:
            continue
        for follower in range(index + 1, len(units)):
            if members[index] & members[follower]:
                raise ValueError(
                    f"{unit.chars} is repeated and what follows it, {units[follower].chars}, has characters in common"
                    " with it; it would be in doubt where one ends"
                )
            if units[follower].low:
                break
    length = sum(unit.high if unit.high is not None else MAX_HEAD + 1 for unit in units)
    if length > MAX_HEAD:
        raise ValueError(
            f"more than {MAX_HEAD} characters could pass until a match is certain; only the last quantifier may be open"
        )


@cache
def _members(chars: str, any_case: bool) -> frozenset[str]:
    if len(chars) == 1 and chars != ".":
        return frozenset((chars.lower(), chars.upper()) if any_case else chars)
    one = re.compile(chars, FLAGS | (re.IGNORECASE if any_case else 0))
    return frozenset(char for char in _SAMPLE if one.fullmatch(char))


def exact(units: Iterable[Unit]) -> str:
    """The expression that matches the units as a whole."""
    return "".join(f"{unit.chars}{{{unit.low},{unit.high}}}+" for unit in units)


def begun(units: Sequence[Unit]) -> str:
    """The expression that matches a beginning of the units at the end of the text."""
    rest = ""
    for unit in reversed(units):
        rest = f"(?:{unit.chars}{{0,{unit.high}}}+\\Z|{unit.chars}{{{unit.low},{unit.high}}}+{rest})"
    return rest or r"\Z"
