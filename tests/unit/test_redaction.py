"""Redaction of texts, nested data, events and errors."""

from __future__ import annotations

import inspect
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import EventType
from asm_core.domain.lifecycle import RunStatus
from asm_core.domain.redaction import (
    MAX_DEPTH,
    OFF,
    REDACTOR,
    TOO_DEEP,
    RedactionOptions,
    Redactor,
    Replace,
    SecretSearch,
    default_patterns,
    extended_patterns,
    redact_map,
)
from asm_core.domain.secret_pattern import MAX_HEAD, begun, check, exact, units_of
from asm_core.domain.secret_rule import Rule
from asm_core.domain.secrets import DEFAULT, EXTENDED
from tests.builders import an_event, an_outcome
from tests.fixtures.secrets import LOOK_ALIKES, NEWER, PLANTED, REFERENCE, Planted

MARK = "[REDACTED]"
CATEGORIZED = Redactor(RedactionOptions(replacement="categorized"))
KEY_ID = REFERENCE[0].secret
GITHUB = REFERENCE[6].secret
GUARD_S = 60
"""Against hanging: what is linear takes a second or two."""

every_planted = pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.kind)


def categories(patterns: Sequence[tuple[str, str]]) -> list[str]:
    return [category for category, _ in patterns]


# --- what is recognised -----------------------------------------------------------------------------------------------


def test_the_categories_of_the_reference_stand_in_its_order() -> None:
    """spec/02 check 218: 22 of them, each with an expression; the list of samples follows it."""
    assert len(default_patterns()) == 22
    assert categories(default_patterns()) == [planted.kind for planted in REFERENCE]
    assert all(re.compile(pattern) for _, pattern in default_patterns())
    assert not set(categories(default_patterns())) & set(categories(extended_patterns()))


@every_planted
def test_a_secret_is_replaced_and_named(planted: Planted) -> None:
    """spec/02 checks 218, 219, 235: each category's sample, what the reference missed, and newer kinds."""
    found = CATEGORIZED.text(planted.text)
    assert planted.secret not in found
    assert f"[REDACTED:{planted.kind}]" in found
    assert planted.secret not in REDACTOR.text(planted.text)


def test_the_planted_secrets_are_many() -> None:
    assert len(PLANTED) >= 60
    assert {planted.kind for planted in PLANTED} >= {*categories(default_patterns())}
    assert len({planted.kind for planted in NEWER}) >= 22


@pytest.mark.parametrize("planted", [planted for planted in PLANTED if planted.text.startswith("use ")])
def test_the_text_around_a_secret_stays(planted: Planted) -> None:
    assert REDACTOR.text(planted.text) == f"use {MARK} here"


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_look_alikes_stay(text: str) -> None:
    """spec/02 check 231."""
    assert REDACTOR.text(text) == text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("DATABASE_URL=postgres://u:p@h/db", "[REDACTED:env_secret]"),
        (f"password={KEY_ID}", "[REDACTED:password]"),
        (f"password=abc, {KEY_ID}.", "[REDACTED:password], [REDACTED:aws_access_key]."),
        ("(pwd=x)", "([REDACTED:password]"),
        ('{"password": "x", "n": 1}', '{"password": "[REDACTED:password]", "n": 1}'),
        ('{"password": 123, "n": 1}', '{"password": "[REDACTED:password]", "n": 1}'),
        ('{"password": "a\\"b\\\\", "n": 1}', '{"password": "[REDACTED:password]", "n": 1}'),
        ('{"password": "", "n": 1}', '{"password": "", "n": 1}'),
        ('{"password": {"type": "string"}}', '{"password": {"type": "string"}}'),
        ('{"cmd": "login --password=abc"}', '{"cmd": "login --[REDACTED:password]"}'),
        ('{"cmd": "login --password=\\"a b\\" x"}', '{"cmd": "login --[REDACTED:password] x"}'),
        ('{"u": "redis://:p@h/0"}', '{"u": "[REDACTED:connection_string]"}'),
        ("api_secret_key=xyz", "api_[REDACTED:secret_key]"),
        ("https://bob:pw@host/x", "https://[REDACTED:url_credentials]@host/x"),
        ("password=[REDACTED]", "password=[REDACTED]"),
        ("password = 'a b'\nnext", "[REDACTED:password]\nnext"),
        ('password = "a b\nnext', "[REDACTED:password]\nnext"),
    ],
)
def test_how_far_a_secret_goes(text: str, redacted: str) -> None:
    """Overlapping secrets are one, named after the first; punctuation behind them stays (W22)."""
    assert CATEGORIZED.text(text) == redacted


@every_planted
def test_json_stays_json(planted: Planted) -> None:
    """Also where it is written into a string of other JSON, twice."""
    document: Any = {"before": 1, "text": planted.text, "after": [True, None]}
    for _ in range(3):
        redacted = REDACTOR.text(json.dumps(document, ensure_ascii=False))
        assert planted.secret not in redacted
        assert json.dumps(planted.secret)[1:-1] not in redacted
        read = json.loads(redacted)
        assert read.keys() == document.keys()
        document = {"inner": json.dumps(document)}


@every_planted
def test_redacting_what_is_redacted_changes_nothing(planted: Planted) -> None:
    for redactor in (REDACTOR, CATEGORIZED, Redactor(RedactionOptions(replacement="***"))):
        once = redactor.text(planted.text)
        assert redactor.text(once) == once
        assert redactor.event(an_event(data={"content": once})).count == 0


def test_exact_counts() -> None:
    """spec/02 check 230. A secret inside of another is one replacement, where the reference counts two."""
    text = f"{KEY_ID} and {GITHUB} and password=x"
    assert REDACTOR.event(an_event(data={"content": text})).count == 3
    assert REDACTOR.event(an_event(data={"content": f"password={KEY_ID}"})).count == 1


def test_large_and_foreign_texts_pass() -> None:
    """spec/02 check 231: unchanged, the very same object."""
    text = "word " * 24_000
    assert REDACTOR.text(text) is text
    assert REDACTOR.text(f"İ秘密 {GITHUB} é") == f"İ秘密 {MARK} é"
    assert REDACTOR.text("\u212apassword=x") == f"\u212a{MARK}", "a letter whose lower case is a k"


# --- bounded work -----------------------------------------------------------------------------------------------------

HOSTILE = (
    "sk-" * 100_000,
    "password=" * 50_000,
    "password=" + "\\" * 300_000,
    'password="' * 30_000,
    'password=\\"' * 30_000,
    '"password": "' + "a" * 300_000,
    "password" + " " * 300_000,
    "eyJ" * 100_000,
    "eyJ" + "a" * 300_000,
    "eyJaaaaaaaaaa." * 20_000,
    f"{'-' * 5}BEGIN PRIVATE KEY{'-' * 5}\n" * 10_000,
    f"{'-' * 5}BEGIN " + "A" * 300_000,
    f"{'-' * 5}BEGIN PRIVATE KEY{'-' * 5}" + f"{'-' * 5}END" * 30_000,
    "-" * 300_000,
    "://" * 100_000,
    "://" + "a" * 300_000,
    "://a:b" * 50_000,
    "bearer " * 40_000,
    "postgres" * 40_000,
    "authorization: " * 20_000,
)


@pytest.mark.timeout(GUARD_S)
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:20])
def test_no_text_makes_it_slow(text: str) -> None:
    """Linear, whole and in parts: text made to be looked at again and again is done long before the guard."""
    stream = REDACTOR.stream()
    parts = [stream.feed(text[at : at + 5_000]) for at in range(0, len(text), 5_000)]
    assert "".join([*parts, stream.flush()]) == REDACTOR.text(text)


@pytest.mark.parametrize("rule", [rule for rule in (*DEFAULT, *EXTENDED) if isinstance(rule, Rule)], ids=str)
def test_nothing_that_is_built_in_backtracks(rule: Rule) -> None:
    """Where a repeated class ends is never in doubt, and no head is longer than a stream may hold back."""
    literal = [unit for char in rule.anchors[0] for unit in units_of(re.escape(char))]
    check([*literal, *rule.rest], rule.any_case)


@pytest.mark.parametrize("pattern", [r"ab[0-9]{2,4}-x?y", r"[a-c]{0,3}:\s{1,2}\.", "x{3}"])
def test_every_beginning_of_a_match_is_known_as_one(pattern: str) -> None:
    whole = {"ab[0-9]{2,4}-x?y": "ab123-xy", r"[a-c]{0,3}:\s{1,2}\.": "abc: .", "x{3}": "xxx"}[pattern]
    units = units_of(pattern)
    assert re.fullmatch(exact(units), whole)
    for length in range(len(whole)):
        assert re.match(begun(units), whole[:length]), whole[:length]
        assert not re.match(begun(units), whole[:length] + "~")


# --- streams ----------------------------------------------------------------------------------------------------------

samples = st.sampled_from([*(planted.text for planted in PLANTED), *LOOK_ALIKES])
FRAGMENTS = (
    "password", "PWD", "api_", "secret_key", "_base", "private_key", '"', "'", "`", "\\", "\\\\", " ", "\n", ":",
    "=", ">", "<", "{", "}", "[REDACTED]", "[", "]", ",", ".", "-", "-----BEGIN ", "RSA ", "PRIVATE KEY", "-----",
    "-----END ", "://",
    "postgres", "u:p", "@", "/", "bearer ", "authorization", "Basic ", "--password ", "sk-", "sk-ant-", "eyJ", "AKIA",
    "ghp_", "abc", "0" * 16, "A" * 20, "aB3" * 12, "é", "\u0130",
)  # fmt: skip
noise = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
texts = st.lists(st.one_of(samples, noise), min_size=1, max_size=4).map("".join)


def streamed(text: str, cuts: Sequence[int]) -> str:
    """The text through a stream, cut at these places; held back is never more than a head."""
    stream = CATEGORIZED.stream()
    parts = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        parts.append(stream.feed(text[start:end]))
        assert stream.held <= MAX_HEAD
    return "".join([*parts, stream.flush()])


@given(texts, st.data())
def test_a_stream_adds_up_to_the_redacted_whole(text: str, data: st.DataObject) -> None:
    """spec/02 check 236: however it is cut."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=30)))
    assert streamed(text, cuts) == CATEGORIZED.text(text)


@given(st.lists(st.sampled_from(PLANTED), min_size=1, max_size=4), st.integers(1, 40))
@example([*PLANTED], 1)
@example([*PLANTED], 7)
def test_no_planted_secret_gets_through_a_stream(planted: list[Planted], size: int) -> None:
    text = "\n".join(one.text for one in planted)
    out = streamed(text, range(size, len(text), size))
    assert not [one.kind for one in planted if one.secret in out]


@given(texts)
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = CATEGORIZED.text(text)
    assert CATEGORIZED.text(once) == once


@every_planted
def test_a_secret_in_two_parts_is_replaced_wherever_it_is_cut(planted: Planted) -> None:
    whole = CATEGORIZED.text(planted.text)
    assert all(streamed(planted.text, [cut]) == whole for cut in range(len(planted.text)))


def test_text_that_cannot_become_a_secret_passes_at_once() -> None:
    """DESIGN §5: token-rate streaming stays."""
    stream = REDACTOR.stream()
    for part in ("The quick ", "brown fox ", "jumps over ", "12 dogs; ", "gh", "ost ", "password ", "is not known. "):
        shown = stream.feed(part)
        assert shown == {"gh": "", "ost ": "ghost ", "password ": "", "is not known. ": "password is not known. "}.get(
            part, part
        )
    assert stream.held == 0


def test_what_was_let_go_is_remembered() -> None:
    """A text that went on after all: the rest of a secret is replaced, and never the whole of it shown."""
    stream = REDACTOR.stream()
    assert stream.feed(f"use {GITHUB[:20]}") == "use "
    assert stream.flush() == GITHUB[:20]
    assert stream.flush() == ""
    assert stream.feed(f"{GITHUB[20:]} here.") == f"{MARK} here."


def test_a_secret_without_end_is_neither_shown_nor_kept() -> None:
    stream = REDACTOR.stream()
    assert stream.feed("key " + GITHUB) == f"key {MARK}"
    assert [stream.feed("A" * 1_000) for _ in range(100)] == [""] * 100
    assert stream.held == 0
    assert stream.feed(" end.") == " end."
    assert stream.count == 1


# --- nested data and events -------------------------------------------------------------------------------------------


def test_nested_data_is_searched() -> None:
    """spec/02 check 220: neighbours stay, the given data are not touched."""
    data = {"blocks": [{"text": f"a {GITHUB}", "n": 1}, ["x", KEY_ID]], "safe": {"a": "b"}}
    given = deepcopy(data)
    event = REDACTOR.event(an_event(data=data)).event
    assert event.data == {"blocks": [{"text": f"a {MARK}", "n": 1}, ["x", MARK]], "safe": {"a": "b"}}
    assert data == given


PNG = b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\0").decode().rstrip("=")


@pytest.mark.parametrize("begin", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\1\2\3\4WEBPVP8 "])
@pytest.mark.parametrize("name", ["media_type", "mimeType"])
def test_an_image_is_not_spoilt_by_what_only_looks_like_a_secret(begin: bytes, name: str) -> None:
    """Its letters are a drawing; what stands beside them is text."""
    data = b64encode(begin + bytes(12)).decode().rstrip("=") + f"////{KEY_ID}////"
    assert REDACTOR.text(f"/{KEY_ID}/") != f"/{KEY_ID}/"
    block = {"type": "base64", name: "image/png", "data": data}
    assert REDACTOR.value(block) == block
    assert SecretSearch().kinds({"content": [block]}) == []
    assert REDACTOR.value(block | {"alt": f"of {KEY_ID}"})["alt"] == f"of {MARK}"


@pytest.mark.parametrize(
    "block",
    [
        {"media_type": "text/plain", "data": f"{PNG}/{KEY_ID}/"},
        {"media_type": "image/png", "data": f"{PNG}/ {KEY_ID} /"},
        {"media_type": "image/png", "data": f"/{KEY_ID}/"},
        {"media_type": "image/png", "text": f"{PNG}/{KEY_ID}/"},
        {"data": f"{PNG}/{KEY_ID}/"},
    ],
)
def test_what_only_claims_to_be_an_image_is_searched(block: dict[str, str]) -> None:
    assert KEY_ID not in str(REDACTOR.value(block))
    assert SecretSearch().kinds(block)


def test_a_failed_runs_error_is_searched() -> None:
    """spec/02 check 221."""
    data = {"error_code": "x", "provider_error": {"stderr": f"at {GITHUB}"}, "details": {"why": [KEY_ID]}}
    result = REDACTOR.event(an_event(EventType.RUN_FAILED, data=data))
    assert result.event.data == {
        "error_code": "x", "provider_error": {"stderr": f"at {MARK}"}, "details": {"why": [MARK]},
    }  # fmt: skip


def test_what_is_no_text_stays() -> None:
    """spec/02 checks 222, 231."""
    data = {"n": 1, "f": 1.5, "b": True, "none": None, "kind": EventType.RUN_STARTED, "at": datetime.now(UTC)}
    result = REDACTOR.event(an_event(data=data))
    assert (result.event.data, result.count, result.fields) == (data, 0, frozenset())
    assert result.event.data["kind"] is EventType.RUN_STARTED


def test_secrets_are_found_at_any_depth_that_is_kept() -> None:
    """spec/02 check 223: levels 5, 12 and 63; beyond the last level a marker, never what was not looked at."""

    def nested(depth: int) -> Any:
        value: Any = {"text": GITHUB}
        for _ in range(depth - 1):
            value = {"in": value}
        return value

    for depth in (5, 12, MAX_DEPTH):
        assert GITHUB not in str(REDACTOR.value(nested(depth)))
        assert MARK in str(REDACTOR.value(nested(depth)))
    deep = REDACTOR.event(an_event(data=nested(MAX_DEPTH + 10)))
    assert GITHUB not in str(deep.event.data)
    assert TOO_DEEP in str(deep.event.data)
    assert deep.count == 1


@pytest.mark.parametrize("kind", list(EventType))
def test_every_type_is_searched_and_safe_data_stay(kind: EventType) -> None:
    """spec/02 check 224, first part; types that the reference skips are searched, because they are stored as well."""
    safe = an_event(kind, data={"input_tokens": 5, "name": "x" * 50, "path": "/usr/bin"}, metadata={"source": "cli"})
    result = REDACTOR.event(safe)
    assert result.event is safe
    assert (result.count, result.fields) == (0, frozenset())
    assert REDACTOR.event(an_event(kind, data={"command": GITHUB})).event.data == {"command": MARK}


def test_disabled_is_untouched() -> None:
    """spec/02 checks 225, 200."""
    event = an_event(data={"content": GITHUB, "password": "x"})
    assert OFF.event(event).event is event
    assert OFF.text(GITHUB) == GITHUB
    assert OFF.value(event.data) is event.data


def test_replacements() -> None:
    """spec/02 check 226; the text is put in as it is."""
    assert Redactor(RedactionOptions(replacement="<gone>")).text(GITHUB) == "<gone>"
    assert CATEGORIZED.text(GITHUB) == "[REDACTED:github_pat]"


@pytest.mark.parametrize("replacement", ['a"b', "a\\1", "a\nb", "`", "x" * 101, f"password={'x'}"])
def test_a_replacement_that_could_break_something_is_refused(replacement: str) -> None:
    with pytest.raises(AsmError, match="replacement"):
        Redactor(RedactionOptions(replacement=replacement))


def test_without_deep_scan_only_the_fields_of_the_type_are_searched() -> None:
    """spec/02 check 228."""
    redactor = Redactor(RedactionOptions(deep_scan=False))
    result = redactor.event(an_event(data={"content": GITHUB, "extra": GITHUB}))
    assert result.event.data == {"content": MARK, "extra": GITHUB}
    assert redactor.event(an_event(EventType.RUN_STARTED, data={"x": GITHUB})).count == 0


def test_metadata_are_searched_unless_told_otherwise() -> None:
    """spec/02 check 229."""
    event = an_event(data={}, metadata={"note": GITHUB})
    assert REDACTOR.event(event).event.metadata == {"note": MARK}
    assert Redactor(RedactionOptions(scan_metadata=False)).event(event).event is event


def test_the_changed_fields_are_told() -> None:
    """spec/02 check 232."""
    data = {"tool_name": "x", "tool_input": {"a": GITHUB}, "tool_output": KEY_ID}
    result = REDACTOR.event(an_event(EventType.TOOL_CALL_COMPLETED, data=data, metadata={"note": KEY_ID}))
    assert (result.fields, result.count) == ({"tool_input", "tool_output", "note"}, 3)


@pytest.mark.parametrize("key", ["password", "DB_PASSWORD", "x-api-key", "clientSecret", "AWS_SECRET_ACCESS_KEY"])
def test_a_value_under_the_name_of_a_secret_is_one(key: str) -> None:
    """Stored as JSON it would read `"password": "hunter2"`."""
    value = {"env": {key: "hunter2", "other": "x"}, "list": [{key: ["a", "b"]}]}
    assert REDACTOR.value(value) == {"env": {key: MARK, "other": "x"}, "list": [{key: [MARK, MARK]}]}
    kept = {key: {"type": "string"}, "tokens": "5", "password_field": "name", key + "s": 5}
    assert REDACTOR.value(kept) == kept
    assert REDACTOR.value({key: ""}) == {key: ""}
    assert REDACTOR.event(an_event(data={key: "hunter2"})).fields == {key}


def test_keys_are_searched_and_stay_apart() -> None:
    assert REDACTOR.value({GITHUB: 1, KEY_ID: 2, "a": 3}) == {MARK: 1, f"{MARK}*": 2, "a": 3}


def test_redact_map() -> None:
    """spec/02 check 233: a mapping, the same patterns, on unless told otherwise."""
    assert redact_map({"a": [GITHUB], "n": 1}) == {"a": [MARK], "n": 1}
    assert redact_map({"a": GITHUB}, RedactionOptions(enabled=False)) == {"a": GITHUB}
    assert redact_map({"a": "ACME-1234"}, RedactionOptions(patterns=["ACME-[0-9]{4}"])) == {"a": MARK}


def test_errors_keep_everything_but_their_secrets() -> None:
    """spec/01 §21 (52)."""
    cause = ValueError()
    error = AsmError(
        ErrorCode.PROVIDER_ERROR, f"no {GITHUB}", details={"field": "x", "got": KEY_ID, "retry_after_s": 2},
        provider_error={"stderr": f"bad {GITHUB}", "exit_code": 1}, context={"api_key": "x"}, stacktrace=f"at {KEY_ID}",
    )  # fmt: skip
    error.__cause__ = cause
    redacted = REDACTOR.error(error)
    assert redacted.to_map() == error.to_map() | {
        "message": f"no {MARK}", "details": {"field": "x", "got": MARK, "retry_after_s": 2},
        "provider_error": {"stderr": f"bad {MARK}", "exit_code": 1}, "context": {"api_key": MARK},
        "stacktrace": f"at {MARK}",
    }  # fmt: skip
    assert redacted.__cause__ is cause


def test_outcomes() -> None:
    """What a run leaves behind is redacted wherever it stands."""
    error = AsmError(ErrorCode.PROVIDER_ERROR, GITHUB)
    outcome = an_outcome(
        RunStatus.FAILED, output={"content": GITHUB}, error=error, data={"why": KEY_ID}, provider_metadata={"k": GITHUB}
    )
    redacted = REDACTOR.outcome(outcome)
    assert redacted.status is RunStatus.FAILED
    assert redacted.error is not None
    assert [redacted.output, redacted.error.message, redacted.data, redacted.provider_metadata] == [
        {"content": MARK}, MARK, {"why": MARK}, {"k": MARK},
    ]  # fmt: skip
    assert REDACTOR.outcome(an_outcome()) == an_outcome()


# --- patterns of one's own --------------------------------------------------------------------------------------------


def test_patterns_are_added_or_replace() -> None:
    """spec/02 checks 227, 234: options are complete in themselves."""
    added = Redactor(
        RedactionOptions(patterns=[("acme_key", r"ACME-\d{4,}"), "(?i)xyzzy_[a-z]{3}"], replacement="categorized")
    )
    text = f"ACME-123456 XYZZY_abc {GITHUB}"
    assert added.text(text) == "[REDACTED:acme_key] [REDACTED:custom] [REDACTED:github_pat]"
    alone = Redactor(RedactionOptions(patterns=Replace([re.compile(r"ACME-\d{4,}")])))
    result = alone.event(an_event(data={"content": text, "password": "x"}))
    assert result.event.data == {"content": f"{MARK} XYZZY_abc {GITHUB}", "password": "x"}
    assert result.count == 1


@pytest.mark.parametrize("text", ["123-45-6789", "a 123-45-6789 b", "1234-5678-123-45-6789"])
def test_a_pattern_may_begin_with_a_class(text: str) -> None:
    redactor = Redactor(RedactionOptions(patterns=Replace([r"\d{3}-\d{2}-\d{4}"])))
    whole = redactor.text(text)
    assert "123-45-6789" not in whole
    for cut in range(len(text)):
        stream = redactor.stream()
        assert stream.feed(text[:cut]) + stream.feed(text[cut:]) + stream.flush() == whole


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(a|b)cdef", "no groups"),
        ("abcd|efgh", "alternatives"),
        (r"\bword\b", "anchors"),
        ("^abcd$", "anchors"),
        ("(a+)+$", "no groups"),
        ("[unclosed", "cannot read"),
        ("[z-a]{4}", "cannot read"),
        (r"\w+_secret", "in common"),
        (r"\d{2,4}5678", "in common"),
        ("abcd.*x", "in common"),
        ("abcd[0-9]+-x", "only the last quantifier may be open"),
        ("abcd[0-9]{300}", "256"),
        ("abcd[0-9]{2,4}", "exact or open"),
        ("abcd{3,2}", "allows nothing"),
        ("x*", "fewer than 4"),
        ("abc", "fewer than 4"),
        ("", "fewer than 4"),
        ("REDACTED", "would itself be taken"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_with_the_reason(pattern: str, problem: str) -> None:
    """When it is configured, and not when it meets a text."""
    with pytest.raises(AsmError, match=problem) as caught:
        Redactor(RedactionOptions(patterns=[pattern]))
    assert caught.value.code is ErrorCode.VALIDATION_ERROR
    with pytest.raises(ValidationError, match="redaction_patterns"):
        Settings(redaction_patterns=[pattern])


def test_a_bad_category_is_refused() -> None:
    with pytest.raises(AsmError, match="category"):
        Redactor(RedactionOptions(patterns=[("Not a name]", "abcdef")]))


def test_patterns_must_be_a_list() -> None:
    wrong: Any = "extended"
    with pytest.raises(AsmError, match="default"):
        Redactor(RedactionOptions(patterns=wrong))


def test_settings_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """On by default; the environment speaks JSON."""
    assert Settings().redactor is REDACTOR
    monkeypatch.setenv("ASM_REDACTION_PATTERNS", '[["acme_key", "ACME-[0-9]{4}"], "XYZ-[0-9]{4}"]')
    monkeypatch.setenv("ASM_REDACTION_REPLACEMENT", "categorized")
    text = f"ACME-1234 XYZ-1234 {GITHUB}"
    assert Settings().redactor.text(text) == "[REDACTED:acme_key] [REDACTED:custom] [REDACTED:github_pat]"
    monkeypatch.setenv("ASM_REDACTION_PATTERNS", '{"replace": [["acme_key", "ACME-[0-9]{4}"], "XYZ-[0-9]{4}"]}')
    assert Settings().redactor.text(text) == f"[REDACTED:acme_key] [REDACTED:custom] {GITHUB}"
    monkeypatch.setenv("ASM_REDACTION_ENABLED", "0")
    assert Settings().redactor.text(text) == text


def test_what_the_installation_was_given_is_known() -> None:
    """Whatever it looks like, as it is and as it is written in an address; too short words are not hunted."""
    url = "postgresql://asm:" + "pass%40word/of-ours".replace("/", "%2F") + "@db/asm"
    settings = Settings(api_key=SecretStr("our own api key"), database_url=url, redis_url="redis://:short@h/0")
    redactor = settings.redactor
    told = redactor.text("our own api key, pass@word/of-ours, pass%40word%2Fof-ours, a short word")
    assert told == f"{MARK}, {MARK}, {MARK}, a short word"
    stream = redactor.stream()
    assert stream.feed("our own a") + stream.feed("pi key.") == f"{MARK}."
    assert "our own" not in repr(redactor.options)


def test_the_list_of_planted_secrets_holds_none_itself() -> None:
    """They are put together when asked for, so that a scanner of this repository finds nothing."""
    source = Path(inspect.getfile(Planted)).read_text()
    found = set(re.findall(r"\[REDACTED:(\w+)\]", CATEGORIZED.text(source)))
    assert found <= {"password", "env_secret", "url_credentials"}, "names with a placeholder behind them"
