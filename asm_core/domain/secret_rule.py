"""
How one kind of secret is found.

Each rule has an anchor (a literal beginning, cheap to look for), a head (up to where there is no doubt any more, at
most `MAX_HEAD` characters) and a tail (what goes on belonging to it, without limit and without memory). What is found
at a place depends on nothing before it, so that a text may be looked at in parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import ClassVar, NamedTuple, Protocol

from asm_core.domain.secret_pattern import FLAGS, Unit, begun, check, exact, units_of

MIN_LENGTH = 4
"""Of what a pattern may match."""
MAX_UNDECIDED = 64
"""Backslashes that wait for the quote they may belong to; more are not waited with."""


class Tail(Protocol):
    """How a secret goes on behind its head."""

    is_uniform: ClassVar[bool]
    """Whether it ends in the same place wherever inside of it one begins to look."""

    def end(self, text: str, at: int) -> tuple[int, bool]:
        """
        How far a secret goes of which everything before `at` is known.

        Returns:
            Where it ends, and whether more text could move that end. If so, what lies behind it is undecided.
        """


@dataclass(frozen=True)
class Run:
    """As many of these characters as follow each other; single `joiner`s only between two of them."""

    chars: str
    joiner: str = ""
    is_uniform: ClassVar[bool] = True

    @cached_property
    def _all(self) -> re.Pattern[str]:
        joined = f"(?:{re.escape(self.joiner)}{self.chars}++)*+" if self.joiner else ""
        return re.compile(f"(?:{self.chars})*+{joined}", FLAGS)

    def end(self, text: str, at: int) -> tuple[int, bool]:
        found = self._all.match(text, at)
        assert found is not None, "may be empty"
        left = len(text) - found.end()
        return found.end(), left == 0 or (left == 1 and text[-1] == self.joiner)


@dataclass(frozen=True)
class Nothing:
    """The head is all there is."""

    is_uniform: ClassVar[bool] = True

    def end(self, text: str, at: int) -> tuple[int, bool]:
        return at, False


@dataclass(frozen=True)
class Quoted:
    """
    Up to the quote that closes, or the end of the line.

    Text may be JSON inside of JSON: a quote that was opened behind `n` backslashes is closed behind as many, fewer mean
    that the text around it has ended, and more that the quote belongs to the value.
    """

    opened: str
    """Backslashes and the quote."""
    with_closing: bool
    """Whether the closing quote counts as part of it."""
    is_uniform: ClassVar[bool] = False

    def end(self, text: str, at: int) -> tuple[int, bool]:
        depth = len(self.opened) - 1
        for stop in re.compile(f"[{self.opened[-1]}\r\n]").finditer(text, at):
            if stop[0] in "\r\n":
                return stop.start(), False
            slashes = _slashes_before(text, stop.start(), at)
            if slashes % (2 * depth + 2) == depth:
                return (stop.end() if self.with_closing else stop.start() - depth), False
            if slashes < depth:
                return stop.start() - slashes, False
        undecided = _slashes_before(text, len(text), at)
        return len(text) - (undecided if undecided <= MAX_UNDECIDED else 0), True


def _slashes_before(text: str, end: int, start: int) -> int:
    at = end
    while at > start and text[at - 1] == "\\":
        at -= 1
    return end - at


@dataclass(frozen=True)
class Armour:
    """The body of a key file, up to its END line; where that is missing, up to what cannot be part of one."""

    is_uniform: ClassVar[bool] = True
    _end_line: ClassVar[list[Unit]] = units_of("-{5}END[A-Z0-9 ]{0,60}-{5}")
    _foreign: ClassVar[re.Pattern[str]] = re.compile(r"[\"'`{}<>]")
    _ended: ClassVar[re.Pattern[str]] = re.compile(exact(_end_line))
    _ending: ClassVar[re.Pattern[str]] = re.compile(begun(_end_line))
    _line_length: ClassVar[int] = 80

    def end(self, text: str, at: int) -> tuple[int, bool]:
        foreign = self._foreign.search(text, at)
        limit = foreign.start() if foreign else len(text)
        if ended := self._ended.search(text, at, limit):
            return ended.end(), False
        slashes = _slashes_before(text, limit, at)  # which may belong to a quote behind them
        if foreign:
            return limit - slashes, False
        ending = self._ending.search(text, max(at, limit - self._line_length))
        return (ending.start() if ending else limit - (slashes if slashes <= MAX_UNDECIDED else 0)), True


class Found(NamedTuple):
    """A secret in a text."""

    start: int
    end: int
    is_open: bool
    """More text could move the end."""
    tail: Tail
    quote: str = ""
    """Put around the replacement, where the value had no quotes although its place asks for some."""


BEGUN = "begun"
"""More text could make a secret of it."""
Look = Found | str | None
Covered = Mapping[Tail, int]
"""How far what a rule has found so far goes, by its tail: what would end there as well need not be looked at."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A secret that is recognised by what it consists of."""

    category: str
    pattern: str
    """As written; for people."""
    anchors: tuple[str, ...]
    """Literal beginnings; lower case where case does not count. Empty text: none, every place is looked at."""
    any_case: bool
    rest: tuple[Unit, ...]
    """Of the head, behind the anchor."""
    tail: Tail
    kept: tuple[int, int] | None = None
    """How many units of `rest` stay visible at its beginning (with the anchor) and at its end; None: nothing stays."""

    @property
    def triggers(self) -> tuple[str, ...]:
        """Literals of which one is there wherever the rule can match."""
        return self.anchors

    @property
    def min_length(self) -> int:
        return min(map(len, self.anchors)) + sum(unit.low for unit in self.rest)

    def places(self, text: str, lowered: str) -> Iterator[tuple[int, int]]:
        """Where a secret may begin, and where its anchor ends."""
        searched = lowered if self.any_case else text
        for anchor in self.anchors:
            if not anchor:
                yield from self._unanchored(text)
                continue
            at = searched.find(anchor)
            while at >= 0:
                yield at, at + len(anchor)
                at = searched.find(anchor, at + 1)

    def look(self, text: str, at: int, after: int, covered: Covered) -> Look:
        """What stands at one of the `places`."""
        head = self._head.match(text, after)
        if head is None:
            return BEGUN if self._begun.match(text, after) else None
        start = head.start(1) if self.kept else at
        if head.end(1) <= covered.get(self.tail, 0):
            return None
        return Found(start, *self.tail.end(text, head.end(1)), self.tail)

    @cached_property
    def _head(self) -> re.Pattern[str]:
        first, behind = self.kept or (0, 0)
        last = len(self.rest) - behind
        parts = self.rest[:first], self.rest[first:last], self.rest[last:]
        before, hidden, after = map(exact, parts)
        return re.compile(f"{before}({hidden}){after}", self._flags)

    @cached_property
    def _begun(self) -> re.Pattern[str]:
        return re.compile(begun(self.rest), self._flags)

    @property
    def _flags(self) -> int:
        return FLAGS | (re.IGNORECASE if self.any_case else 0)

    def _unanchored(self, text: str) -> Iterator[tuple[int, int]]:
        anywhere = re.compile(f"{exact(self.rest)}|{begun(self.rest)}", self._flags)
        found = anywhere.search(text)
        while found and found.start() < len(text):
            yield found.start(), found.start()
            found = anywhere.search(text, found.start() + 1)


_KEY_END = r"\\{0,31}[\"'`]"
_SEPARATOR = r"\s{0,16}[:=]{1,3}>?\s{0,16}"
_OPENING = r"\\{0,31}[\"'`]"
_BARE_FIRST = r"[^\s\"'`,;}\]\\{\[:=>]"
_BARE = Run(r"[^\s\"'`,;}\]\\]")
_ELEMENT = Run(r"[^<\s\"'\\]")


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """
    A secret that is recognised by its name: `password=…`, `"password": "…"`, `<password>…`.

    Where the name stands in quotes the text is data: name and quotes stay, so that it remains what it was. Else name
    and value go together.
    """

    category: str
    names: tuple[str, ...]
    """Lower case; `_` stands for nothing, `_` or `-`."""
    triggers: tuple[str, ...]
    """Literals of which one is part of each name."""
    any_case: ClassVar[bool] = True
    _lines: ClassVar[tuple[list[Unit], ...]] = (
        units_of(_SEPARATOR + _OPENING),
        units_of(_KEY_END + _SEPARATOR + _OPENING),
        units_of(rf">{_ELEMENT.chars}"),
    )
    _head: ClassVar[re.Pattern[str]] = re.compile(
        f"(?P<key>{exact(units_of(_KEY_END))})?+{exact(units_of(_SEPARATOR))}"
        f"(?:(?P<open>{exact(units_of(_OPENING))})|(?P<bare>{_BARE_FIRST}))|>(?P<element>{_ELEMENT.chars})",
        FLAGS,
    )
    _begun: ClassVar[re.Pattern[str]] = re.compile("|".join(map(begun, _lines)), FLAGS)

    @property
    def min_length(self) -> int:
        return min(map(len, self.anchors)) + len("=x")

    @property
    def pattern(self) -> str:
        names = "|".join(name.replace("_", "[_-]?") for name in self.names)
        return rf"(?i:{names})[\"']?\s*[:=]\s*[\"']?[^\s\"',;}}\]]+"

    @cached_property
    def anchors(self) -> tuple[str, ...]:
        return tuple(spelling for name in self.names for spelling in _spellings(name))

    @cached_property
    def _name(self) -> re.Pattern[str]:
        longest_first = sorted(self.names, key=len, reverse=True)
        return re.compile("|".join(name.replace("_", "[_-]?") for name in longest_first))

    def names_it(self, key: str) -> bool:
        """Whether a key of structured data names such a secret: `password`, `DB_PASSWORD`, `x-api-key`."""
        return key.lower().endswith(self.anchors)

    def places(self, text: str, lowered: str) -> Iterator[tuple[int, int]]:
        found = self._name.search(lowered)
        while found:
            yield found.span()
            found = self._name.search(lowered, found.start() + 1)

    def look(self, text: str, at: int, after: int, covered: Covered) -> Look:
        head = self._head.match(text, after)
        if head is None:
            return BEGUN if self._begun.match(text, after) else None
        if head["open"]:
            return self._quoted(text, at, head)
        start, tail = (head.start("bare"), _BARE) if head["bare"] else (head.start("element"), _ELEMENT)
        if start < covered.get(tail, 0):
            return None
        quote = head["key"] or ""
        return Found(start if quote or head["element"] else at, *tail.end(text, start), tail, quote)

    def _quoted(self, text: str, at: int, head: re.Match[str]) -> Look:
        value = head.end()
        tail = Quoted(head["open"], with_closing=not head["key"])
        end, is_open = tail.end(text, value)
        if end == value or text[value:end] == head["open"]:
            return BEGUN if is_open else None
        return Found(value if head["key"] else at, end, is_open, tail)


AnyRule = Rule | Assignment


def _spellings(name: str) -> Iterator[str]:
    parts = name.split("_")
    for joints in product(("", "_", "-"), repeat=len(parts) - 1):
        yield parts[0] + "".join(joint + part for joint, part in zip(joints, parts[1:], strict=True))


def rule_of(
    category: str, pattern: str, *, any_case: bool = False, joiner: str = "", kept: tuple[str, str] | None = None
) -> Rule:
    """
    The rule for a pattern: its leading literals are the anchor, an open quantifier at its end is the tail.

    Args:
        kept: patterns that must stand before and behind, and stay visible.

    Raises:
        ValueError: not in the language of patterns, ambiguous, without bound, or so short that it would match anything.
    """
    before, behind = map(units_of, kept or ("", ""))
    units = units_of(pattern)
    tail: Tail = Nothing()
    if units and units[-1].high is None:
        chars, low, _ = units.pop()
        tail = Run(f"(?i:{chars})" if any_case else chars, joiner)
        units += [Unit(chars, low, low)] if low else []
    if sum(unit.low for unit in units) < MIN_LENGTH and not kept:
        raise ValueError(f"it would match texts of fewer than {MIN_LENGTH} characters")
    head = [*before, *units, *behind]
    check(head, any_case)
    anchor = _anchor(head)
    return Rule(
        category=category,
        pattern=f"(?i:{pattern})" if any_case else pattern,
        anchors=(anchor.lower() if any_case else anchor,),
        any_case=any_case,
        rest=tuple(head[len(anchor) :]),
        tail=tail,
        kept=(len(before) - len(anchor), len(behind)) if kept else None,
    )


def literal_rule(category: str, value: str) -> Rule:
    """The rule for one known secret."""
    return Rule(category=category, pattern=category, anchors=(value,), any_case=False, rest=(), tail=Nothing())


def _anchor(units: Sequence[Unit]) -> str:
    anchor = ""
    for unit in units:
        is_literal = len(unit.chars) == 1 and unit.chars != "."
        if not (is_literal or (unit.chars[0] == "\\" and not unit.chars[1].isalpha())) or (unit.low, unit.high) != (
            1,
            1,
        ):
            break
        anchor += unit.chars[-1]
    return anchor
