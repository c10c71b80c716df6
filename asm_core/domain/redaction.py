"""
Redaction: no secret is stored, published or logged.

It works on text wherever text is found: in the values and keys of nested data, in errors, in streams. Structured data
knows more than text does: what stands under a key that names a secret (`{"password": "…"}`) is one, whatever it looks
like. Redacting what is redacted changes nothing, and JSON stays JSON.

What it cannot know: secrets without a shape and without a name beside them. They do not belong into inputs; a
provider's credentials are settings of the worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any, Literal

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.domain.run import RunOutcome
from asm_core.domain.scrub import Scanner, Span, TextStream, render
from asm_core.domain.secret_pattern import MAX_HEAD
from asm_core.domain.secret_rule import AnyRule, literal_rule, rule_of
from asm_core.domain.secrets import DEFAULT, EXTENDED, secret_named
from asm_core.domain.session import Session

CATEGORIZED = "categorized"
"""As a replacement: `[REDACTED:<category>]`."""
MAX_DEPTH = 64
TOO_DEEP = "[nested too deep]"
"""Stands for what lies deeper than `MAX_DEPTH` levels: it was not looked at."""
CUSTOM = "custom"
"""Category of patterns that name none."""
OWN = "own_secret"
"""Category of what the installation itself was given."""
MIN_LITERAL = 12
MAX_REPLACEMENT = 100
MIN_OWN_MARK = 3
"""Characters of a replacement that is recognised as one."""
BASE64 = re.compile(r"[A-Za-z0-9+/\r\n]*={0,2}[\r\n]*")
IMAGE_BEGINS = re.compile(r"iVBORw0KGgo|/9j/|R0lGOD[dl]h|UklGR[A-Za-z0-9+/]{6}XRUJQ")
"""In base64: PNG, JPEG, GIF, WebP."""
MIN_TEXT = 5
"""Characters of the shortest secret with its name."""

_PLAIN = "[REDACTED]"

_T = EventType
SCANNED_FIELDS: Mapping[EventType, frozenset[str]] = {
    _T.MESSAGE_SENT: frozenset({"content"}),
    _T.MESSAGE_RECEIVED: frozenset({"content"}),
    _T.MESSAGE_STREAMED: frozenset({"content", "delta"}),
    _T.TOOL_CALL_STARTED: frozenset({"tool_input"}),
    _T.TOOL_CALL_COMPLETED: frozenset({"tool_input", "tool_output"}),
    _T.TOOL_CALL_FAILED: frozenset({"tool_input", "tool_output"}),
    _T.ERROR_OCCURRED: frozenset({"error_message", "provider_error"}),
    _T.RUN_FAILED: frozenset({"error_message", "provider_error"}),
    _T.SESSION_FAILED: frozenset({"error_message", "provider_error"}),
    _T.POLICY_VIOLATION: frozenset({"details"}),
}
"""Where secrets are looked for without `deep_scan`."""

Pattern = str | re.Pattern[str] | tuple[str, str | re.Pattern[str]]
"""An expression (`asm_core.domain.secret_pattern` says which), alone or behind its category."""


@dataclass(frozen=True, slots=True)
class Replace:
    """These patterns and no others."""

    patterns: Sequence[Pattern]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionOptions:
    """Source: spec/02 §16.1; on by default, and metadata are looked at, because nothing stored may hold a secret."""

    enabled: bool = True
    patterns: Literal["default"] | Sequence[Pattern] | Replace = "default"
    """Patterns are added to the built-in ones, unless they replace them."""
    replacement: str = _PLAIN
    """Text, or `categorized`."""
    deep_scan: bool = True
    """All of an event's data; else only `SCANNED_FIELDS`."""
    scan_metadata: bool = True
    literals: Sequence[str] = field(default=(), repr=False)
    """Secrets that are known as they are; those of fewer than `MIN_LITERAL` characters would hit innocent words."""


@dataclass(frozen=True, slots=True)
class RedactionResult:
    event: Event
    count: int
    """Replacements made."""
    fields: frozenset[str]
    """Top-level keys of data and metadata that changed."""


class Redactor:
    """
    One set of options at work. Holds no state; one serves a process.

    Raises:
        AsmError: `validation_error`, naming the pattern or the replacement that cannot be used, and why.
    """

    def __init__(self, options: RedactionOptions | None = None) -> None:
        self.options = options or RedactionOptions()
        literals = [value for value in self.options.literals if MIN_LITERAL <= len(value) <= MAX_HEAD]
        self._rules = (*_rules_of(self.options.patterns), *(literal_rule(OWN, value) for value in literals))
        self._scanner = Scanner(self._rules)
        self._check_replacement(self.options.replacement)

    @property
    def is_on(self) -> bool:
        return self.options.enabled

    def text(self, text: str) -> str:
        return self._text(text)[0] if self.is_on else text

    def value(self, value: Any) -> Any:
        """Nested data with every text in it redacted; what is not text, list or mapping stays as it is."""
        return _Walk(self).value(value) if self.is_on else value

    def event(self, event: Event) -> RedactionResult:
        if not self.is_on:
            return RedactionResult(event, 0, frozenset())
        walk = _Walk(self)
        scanned = None if self.options.deep_scan else SCANNED_FIELDS.get(event.type, frozenset())
        data = walk.fields(event.data, scanned)
        metadata = walk.fields(event.metadata, None if self.options.scan_metadata else frozenset())
        if not walk.changed:
            return RedactionResult(event, 0, frozenset())
        return RedactionResult(replace(event, data=data, metadata=metadata), walk.count, frozenset(walk.changed))

    def error(self, error: AsmError) -> AsmError:
        """The same failure without secrets in its message and around it; the cause is kept."""
        if not self.is_on:
            return error
        told = self.value(error.to_map() | {"code": None})
        redacted = AsmError(
            error.code,
            told["message"],
            details=told["details"],
            provider_error=told["provider_error"],
            stacktrace=told["stacktrace"],
            context=told["context"],
            timestamp=error.timestamp,
        )
        redacted.__cause__ = error.__cause__
        return redacted

    def outcome(self, outcome: RunOutcome) -> RunOutcome:
        """What is stored of an execution's end."""
        return replace(
            outcome,
            output=self.value(outcome.output),
            error=self.error(outcome.error) if outcome.error else None,
            data=self.value(outcome.data),
            provider_metadata=self.value(outcome.provider_metadata),
            metadata=self.value(outcome.metadata),
        )

    def session(self, session: Session) -> Session:
        """What is stored of a session that a caller described."""
        return replace(
            session,
            agent_id=self.text(session.agent_id),
            model=self.value(session.model),
            metadata=self.value(session.metadata),
            context=self.value(session.context),
            tags=self.value(session.tags),
        )

    def stream(self) -> TextStream:
        """For a text that arrives in parts."""
        return TextStream(self._scanner, self._mark)

    def kinds(self, text: str) -> set[str]:
        """The categories of the secrets in a text; none in a text that is redacted."""
        if self._text(text)[0] is text:
            return set()
        return {span.category for span in self._scanner.spans(text) if text[span.start : span.end] != self._mark(span)}

    def _text(self, text: str) -> tuple[str, int]:
        """The text, the very same object when there is nothing in it, and how often something was replaced."""
        if len(text) < MIN_TEXT:
            return text, 0
        spans = self._scanner.spans(text)
        if not spans:
            return text, 0
        found = render(text, spans, self._mark)
        return (text, 0) if found.text == text else (found.text, found.count)

    def _mark(self, span: Span) -> str:
        return f"{span.quote}{self._replacement(span.category)}{span.quote}"

    def _replacement(self, category: str) -> str:
        return f"[REDACTED:{category}]" if self.options.replacement == CATEGORIZED else self.options.replacement

    def _check_replacement(self, replacement: str) -> None:
        is_plain = replacement.isprintable() and not set(replacement) & set("\"'`\\")
        if not is_plain or len(replacement) > MAX_REPLACEMENT:
            problem = f"must be printable, without quotes and backslashes, at most {MAX_REPLACEMENT} characters"
            raise _invalid("replacement", f"a replacement {problem}, not {replacement[:MAX_REPLACEMENT]!r}")
        for mark in {self._replacement(rule.category) for rule in self._rules}:
            if self._scanner.spans(f" {mark} "):
                raise _invalid("patterns", f"the replacement {mark!r} would itself be taken for a secret")

    @cached_property
    def _named(self) -> Callable[[str], str | None]:
        """The category of the secret that a key names, if it does. Keys are few and come again and again."""
        return lru_cache(4_096)(lambda key: secret_named(key, self._rules))

    @cached_property
    def _key(self) -> Callable[[str], str]:
        return lru_cache(4_096)(self.text)


class _Walk:
    """One way through nested data, counting."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self.count = 0
        self.changed: set[str] = set()

    def fields(self, data: Mapping[str, Any], scanned: frozenset[str] | None) -> dict[str, Any]:
        """Top-level keys, noting which changed. None: all are looked at."""
        redacted: dict[str, Any] = {}
        for key, value in data.items():
            if scanned is not None and key not in scanned:
                redacted[key] = value
                continue
            new_key, new = self._entry(key, value, 1)
            redacted[_unused(new_key, redacted)] = new
            if new_key != key or (new is not value and new != value):
                self.changed.add(new_key)
        return redacted

    def value(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, str):
            return value if isinstance(value, Enum) else self._text(value)
        if not isinstance(value, Mapping | list | tuple):
            return value
        if depth > MAX_DEPTH:
            self.count += 1
            return TOO_DEEP
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        items = [self.value(item, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        redacted: dict[Any, Any] = {}
        holds_image = _holds_image(value)
        for key, item in value.items():
            if key == "data" and holds_image:
                redacted[key] = item
                continue
            new_key, new = self._entry(key, item, depth + 1)
            redacted[_unused(new_key, redacted)] = new
        return redacted

    def _entry(self, key: Any, value: Any, depth: int) -> tuple[Any, Any]:
        if not isinstance(key, str) or isinstance(key, Enum):
            return key, self.value(value, depth)
        category = self._redactor._named(key)
        new_key = self._redactor._key(key)
        if category is not None and value:
            if isinstance(value, str):
                return new_key, self._named_text(value, category)
            if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
                return new_key, [self._named_text(item, category) for item in value]
        return new_key, self.value(value, depth)

    def _named_text(self, text: str, category: str) -> str:
        replacement = self._redactor._replacement(category)
        self.count += text != replacement
        return replacement

    def _text(self, text: str) -> str:
        text, count = self._redactor._text(text)
        self.count += count
        return text


class SecretSearch:
    """
    Looks for secrets where none should be, and tells their kinds, never themselves.

    Args:
        options: of the redaction whose result is looked at; what it left in place of secrets is none.
    """

    def __init__(self, options: RedactionOptions | None = None) -> None:
        given = options or RedactionOptions()
        self._redactor = Redactor(replace(given, enabled=True, replacement=_PLAIN))
        own = [re.escape(given.replacement)] if len(given.replacement) >= MIN_OWN_MARK else []
        self._marks = re.compile("|".join((r"\[REDACTED(?::[a-z0-9_]{1,40})?\]", *own)))

    def kinds(self, value: Any) -> list[str]:
        """The categories of the secrets in nested data, in alphabetical order."""
        walk = _SearchWalk(self._redactor, self._marks)
        walk.value(value)
        return sorted(walk.kinds)

    def hide(self, text: str) -> str:
        """`text` as it may be shown."""
        return self._redactor.text(text)


class _SearchWalk(_Walk):
    def __init__(self, redactor: Redactor, marks: re.Pattern[str]) -> None:
        super().__init__(redactor)
        self._marks = marks
        self.kinds: set[str] = set()

    def _entry(self, key: Any, value: Any, depth: int) -> tuple[Any, Any]:
        if isinstance(key, str) and not isinstance(key, Enum):
            self._text(key)
        return super()._entry(key, value, depth)

    def _named_text(self, text: str, category: str) -> str:
        if text and not self._marks.fullmatch(text):
            self.kinds.add(category)
        return text

    def _text(self, text: str) -> str:
        plain = self._marks.sub(_PLAIN, text)
        self.kinds |= self._redactor.kinds(plain)
        return text


def _holds_image(value: Mapping[Any, Any]) -> bool:
    """
    Whether `data` is an image in base64, as in blocks of messages and in MCP's results. In a large one something looks
    like a secret by chance, and the image would be spoilt.
    """
    data, kind = value.get("data"), value.get("media_type") or value.get("mimeType")
    if not isinstance(data, str) or not isinstance(kind, str) or not kind.startswith("image/"):
        return False
    return IMAGE_BEGINS.match(data) is not None and BASE64.fullmatch(data) is not None


def _unused(key: Any, taken: Mapping[Any, Any]) -> Any:
    """Two keys that were secrets do not become one."""
    while key in taken:
        key = f"{key}*"
    return key


def default_patterns() -> list[tuple[str, str]]:
    """The 22 categories of the reference in its order, each with the expression for what it covers."""
    return _patterns_of(DEFAULT)


def extended_patterns() -> list[tuple[str, str]]:
    """What is recognised beside them."""
    return _patterns_of(EXTENDED)


def redact_map(value: Mapping[str, Any], options: RedactionOptions | None = None) -> dict[str, Any]:
    """A mapping of one's own, redacted deeply; for user callbacks. Raises as `Redactor`."""
    redactor = Redactor(options) if options else REDACTOR
    return dict(redactor.value(value))


def _patterns_of(rules: Iterable[AnyRule]) -> list[tuple[str, str]]:
    by_category: dict[str, list[str]] = {}
    for rule in rules:
        by_category.setdefault(rule.category, []).append(rule.pattern)
    return [(category, "|".join(patterns)) for category, patterns in by_category.items()]


def _rules_of(patterns: Literal["default"] | Sequence[Pattern] | Replace) -> tuple[AnyRule, ...]:
    builtin = (*DEFAULT, *EXTENDED)
    if isinstance(patterns, Replace):
        return tuple(map(_custom_rule, patterns.patterns))
    if isinstance(patterns, str):
        if patterns != "default":
            raise _invalid("patterns", f"must be `default` or a list of patterns, not {patterns!r}")
        return builtin
    return (*builtin, *map(_custom_rule, patterns))


def _custom_rule(item: Pattern) -> AnyRule:
    category, given = (CUSTOM, item) if isinstance(item, str | re.Pattern) else item
    text = given.pattern if isinstance(given, re.Pattern) else given
    any_case = isinstance(given, re.Pattern) and bool(given.flags & re.IGNORECASE)
    if text.startswith("(?i)"):
        text, any_case = text.removeprefix("(?i)"), True
    if not re.fullmatch("[a-z0-9_]{1,40}", category):
        raise _invalid("patterns", f"a category has a-z, 0-9 and _ only, not {category!r}")
    try:
        return rule_of(category, text, any_case=any_case)
    except ValueError as cause:
        raise _invalid("patterns", f"the redaction pattern {text!r} cannot be used: {cause}") from cause


def _invalid(field: str, message: str) -> AsmError:
    return AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": field})


REDACTOR = Redactor()
"""With the default options."""
SEARCH = SecretSearch()
"""With the default options."""
OFF = Redactor(RedactionOptions(enabled=False))
