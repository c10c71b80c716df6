"""
Text in, text without secrets out: whole, or as it streams in.

Both read the same spans from the same rules. A stream differs in one thing only: what stands at the end of the text so
far and may still become a secret waits for more. So the parts that come out of a stream add up to exactly what the
whole text would have become, however it was cut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from asm_core.domain.secret_rule import AnyRule, Found, Tail

_PUNCTUATION = "_-./:=~"
"""Cheapest of all to look for: a trigger that has one of these is not there where the character is not."""
SHORT = 20
"""Most rules need not look at texts of so few characters."""


@dataclass(frozen=True, slots=True)
class Span:
    """One secret in a text."""

    start: int
    head: int
    """Where the rule's head begins: before `start` where a name stays visible."""
    order: int
    """Of the rule in its table: the first one names what several cover."""
    end: int
    tail: Tail | None
    """Set while more text could move `end`."""
    category: str
    quote: str

    def moved(self, by: int) -> Span:
        return self._at(self.start - by, self.head - by, self.end - by, self.tail)

    def extended(self, text: str) -> Span:
        """The same span, with what of `text` goes on belonging to it."""
        if self.tail is None:
            return self
        end, is_open = self.tail.end(text, self.end)
        return self._at(self.start, self.head, end, self.tail if is_open else None)

    def _at(self, start: int, head: int, end: int, tail: Tail | None) -> Span:
        return Span(start, head, self.order, end, tail, self.category, self.quote)


Triggers = list[tuple[str, int]]
Gate = tuple[str, Triggers, Triggers]
"""A character, and the triggers that hold it with the order of their rules: case-sensitive ones, then the others."""

_in_order = attrgetter("start", "head", "order")

Mark = Callable[[Span], str]


class Scanner:
    """Finds secrets. Holds no state; one serves all texts."""

    def __init__(self, rules: Sequence[AnyRule]) -> None:
        self._rules = rules
        self._gates = _gates_of(rules)
        self._short_gates = _gates_of(rules, at_most=SHORT)
        self._beginnings = _beginnings(rule for rule in rules if not rule.any_case)
        self._lower_beginnings = _beginnings(rule for rule in rules if rule.any_case)

    def spans(self, text: str) -> list[Span]:
        """The secrets in a text, in no particular order."""
        lowered = _lowered(text)
        candidates = self._candidates(text, lowered, self._gates if len(text) > SHORT else self._short_gates)
        return self._look(text, lowered, candidates)[0] if candidates else []

    def spans_so_far(self, text: str) -> tuple[list[Span], int]:
        """
        The secrets in a text that goes on, and from where on it is undecided.

        What a rule finds at a place does not depend on the text before that place.
        """
        lowered = _lowered(text)
        spans, undecided = self._look(text, lowered, self._candidates(text, lowered, self._gates))
        return spans, min(undecided, self._last_beginning(text, lowered))

    def _look(self, text: str, lowered: str, candidates: Iterable[int]) -> tuple[list[Span], int]:
        spans: list[Span] = []
        undecided = len(text)
        for order in candidates:
            rule = self._rules[order]
            covered: dict[Tail, int] = {}
            for at, after in rule.places(text, lowered):
                found = rule.look(text, at, after, covered)
                if isinstance(found, Found):
                    tail = found.tail if found.is_open else None
                    spans.append(Span(found.start, at, order, found.end, tail, rule.category, found.quote))
                    if found.tail.is_uniform:
                        covered[found.tail] = found.end
                elif found:
                    undecided = min(undecided, at)
        return spans, undecided

    def _candidates(self, text: str, lowered: str, gates: Sequence[Gate]) -> list[int]:
        """The rules of which a trigger is there, by their order."""
        hits: set[int] = set()
        for char, exact, any_case in gates:
            if char in text:
                for trigger, order in exact:
                    if trigger in text:
                        hits.add(order)
                for trigger, order in any_case:
                    if trigger in lowered:
                        hits.add(order)
        return sorted(hits)

    def _last_beginning(self, text: str, lowered: str) -> int:
        """Where the longest beginning of an anchor at the end of the text stands; the text's end, if there is none."""
        length = max(_longest(text, self._beginnings), _longest(lowered, self._lower_beginnings))
        return len(text) - length


def _lowered(text: str) -> str:
    """In lower case, character by character: one character has two there."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else text.replace("\u0130", "i").lower()


def _gates_of(rules: Sequence[AnyRule], at_most: int | None = None) -> list[Gate]:
    """Of the rules that can match in `at_most` characters."""
    gates: dict[str, tuple[Triggers, Triggers]] = defaultdict(lambda: ([], []))
    for order, rule in enumerate(rules):
        if at_most is None or rule.min_length <= at_most:
            for trigger in rule.triggers:
                char = next((char for char in _PUNCTUATION if char in trigger), "")
                gates[char][rule.any_case].append((trigger, order))
    return [(char, exact, any_case) for char, (exact, any_case) in gates.items()]


class Beginnings(NamedTuple):
    """Proper beginnings of anchors that end in the same characters."""

    lengths: Sequence[int]
    """That occur, longest first."""
    texts: frozenset[str]


def _beginnings(rules: Iterable[AnyRule]) -> dict[str, Beginnings]:
    """By their last two characters; those of one character by that."""
    by_end: dict[str, set[str]] = defaultdict(set)
    for rule in rules:
        for anchor in rule.anchors:
            for length in range(1, len(anchor)):
                beginning = anchor[:length]
                by_end[beginning[-2:]].add(beginning)
    return {
        end: Beginnings(sorted(set(map(len, texts)), reverse=True), frozenset(texts)) for end, texts in by_end.items()
    }


def _longest(text: str, by_end: Mapping[str, Beginnings]) -> int:
    if beginnings := by_end.get(text[-2:]):
        for length in beginnings.lengths:
            end = text[-length:]
            if end in beginnings.texts:
                return len(end)
    return 1 if text[-1:] in by_end else 0


@dataclass(frozen=True, slots=True)
class Rendered:
    text: str
    covered: int
    """Where the last secret ends."""
    count: int
    """Replacements made."""


def render(
    text: str, spans: Iterable[Span], mark: Mark, *, shown: int = 0, covered: int = 0, until: int | None = None
) -> Rendered:
    """
    The text with its secrets replaced; those that overlap become one, named after the first.

    Args:
        shown: what lies before is out already.
        covered: what lies before belongs to a secret that is replaced already.
        until: what lies behind waits.
    """
    until = len(text) if until is None else until
    parts: list[str] = []
    count = 0
    for span in sorted(spans, key=_in_order):
        if span.start >= until:
            break
        if span.start >= covered and span.end > shown:
            parts += text[max(shown, covered) : span.start], mark(span)
            count += 1
        covered = max(covered, span.end)
    parts.append(text[max(shown, covered) : until])
    return Rendered("".join(parts), covered, count)


def _reaching(spans: Iterable[Span], beyond: int) -> Iterable[Span]:
    """Of the spans that would not be found again, those that go on; of several that go the same way, one."""
    kept: dict[object, Span] = {}
    for span in spans:
        if span.head < beyond and (span.tail or span.end > beyond):
            kept.setdefault((max(span.start, beyond - 1), span.end, span.tail), span)
    return kept.values()


class TextStream:
    """
    One text that arrives in parts.

    Holds back what may still become a secret, at most 256 characters; what a secret consists of it neither holds nor
    shows.
    """

    def __init__(self, scanner: Scanner, mark: Mark) -> None:
        self._scanner = scanner
        self._mark = mark
        self._text = ""
        """From the first undecided character on."""
        self._shown = 0
        self._covered = 0
        self._spans: list[Span] = []
        """Found in what was there before `_text`, and reaching into it or beyond."""
        self.count = 0
        """Replacements made so far."""

    @property
    def held(self) -> int:
        """Characters held back just now."""
        return max(len(self._text) - max(self._shown, self._covered), 0)

    def feed(self, part: str) -> str:
        """The next part; what may be shown by now."""
        text = self._text + part
        spans, undecided = self._all_spans(text)
        if not spans and undecided == len(text) and not self._text:
            return text  # nearly always
        undecided = min([undecided, *(span.end for span in spans if span.tail)])
        out = self._rendered(text, spans, undecided)
        self._spans = [span.moved(undecided) for span in _reaching(spans, undecided)]
        self._text = text[undecided:]
        self._shown = max(self._shown - undecided, 0)
        self._covered = max(self._covered - undecided, 0)
        return out

    def flush(self) -> str:
        """
        What is held back: nothing follows, or not soon.

        If more follows after all and makes a secret of it, the rest of that secret is still replaced.
        """
        spans, _ = self._all_spans(self._text)
        out = self._rendered(self._text, spans, len(self._text))
        self._shown = len(self._text)
        return out

    def _all_spans(self, text: str) -> tuple[list[Span], int]:
        spans, undecided = self._scanner.spans_so_far(text)
        return [*(span.extended(text) for span in self._spans), *spans], undecided

    def _rendered(self, text: str, spans: Iterable[Span], until: int) -> str:
        rendered = render(text, spans, self._mark, shown=self._shown, covered=self._covered, until=until)
        self._covered = rendered.covered
        self.count += rendered.count
        return rendered.text
