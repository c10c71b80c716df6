"""
The words of a shell string, their quoting taken out: of the string itself and of each command substitution in it.

What POSIX shells and bash may read in different ways, and what only some of them know, is refused.

Source: spec/05 §16.5.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from asm_core.domain.errors import AsmError, ErrorCode

MAX_NESTING = 16
"""Of substitutions, wrappers and shells within one another."""
MAX_JUDGED = 32_768
"""Characters of a command that is judged."""
SHIFT = 0xE000
"""Quoted characters move to a private plane, so that whatever is still in ASCII has its meaning to the shell."""
NO_CHAR = "\ue0ff"
"""Stands where quotes were: `""` is a word."""
ONE_WORD = "\ue0fe"
"""Stands for an expansion that stays one word, as those in double quotes do."""
TO_QUOTED = {code: SHIFT + code for code in range(128)}
FROM_QUOTED: dict[int, int | None] = {SHIFT + code: code for code in range(128)}
FROM_QUOTED |= {ord(NO_CHAR): None, ord(ONE_WORD): ord("$")}

OPERATOR_CHARS = "();<>|&\n"
WORD_BREAKS = f" \t{OPERATOR_CHARS}"
OPERATORS = re.compile(r"&>>?|&&|\|\||\|&|<<<?|>>|>&|<&|<>|>\||;;?&?|[;&|()<>\n]")
SEPARATORS = frozenset(("\n", ";", "&", "&&", "|", "||", "|&", "(", ")"))
REDIRECTIONS = frozenset(("<", ">", ">>", ">|", "<>", ">&", "<&"))
KEYWORDS = frozenset(("!", "{", "}", "if", "then", "elif", "else", "fi", "while", "until", "do", "done"))
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
OPEN_EXPANSION = re.compile(r"[$*?\[\]{}~]")
"""May become no word, or several."""
EXPANSION = re.compile(rf"{OPEN_EXPANSION.pattern}|{ONE_WORD}")
DESCRIPTOR = re.compile(r"[0-9]-?|-")
PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


class Scanner:
    """Takes the quoting out of a shell string; `parts` are the string itself and each command substitution in it."""

    def __init__(self, text: str, depth: int, at: int = 0) -> None:
        self.parts: list[str] = []
        self._out: list[str] = []
        self._text, self._depth, self._at = text, depth, at

    def scan(self, closing: str = "") -> int:
        """To the end, or the unmatched `closing`; returns the place behind it."""
        if self._depth > MAX_NESTING:
            raise refused("substitutions nested too deep")
        open_parens = 0
        while (char := self._next()) != closing or open_parens:
            open_parens += {"(": 1, ")": -1}.get(char, 0)
            self._take(char)
        self.parts.append("".join(self._out))
        return self._at

    def _next(self) -> str:
        """The next character; empty at the end."""
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _take(self, char: str) -> None:
        match char:
            case "":
                raise refused("unbalanced quotes or parentheses")
            case "'":
                self._out.append(quoted(self._until("'")))
            case '"':
                self._double_quoted()
            case "\\":
                self._out.append(self._escaped())
            case "`" | "$":
                self._expansion(char, in_quotes=False)
            case _:
                self._unquoted(char)

    def _unquoted(self, char: str) -> None:
        if char == "#" and (not self._out or self._out[-1] in WORD_BREAKS):
            raise refused("comments")
        if not char.isprintable() and char not in "\t\n":
            raise refused(f"the character {char!r}")
        if char in "<>":
            self._drop_descriptor()
        self._out.append(char)

    def _drop_descriptor(self) -> None:
        """
        The 2 of `2>file` belongs to the operator; the 22 of `22>file` and, in bash, `{a[x]}` only in some shells.
        """
        start = len(self._out)
        if self._out[-1:] == ["}"] and self._out[-2:-1] and self._out[-2] not in WORD_BREAKS:
            raise refused("a descriptor's number as a variable")
        while start and self._out[start - 1] in "0123456789":
            start -= 1
        if not start or self._out[start - 1] in WORD_BREAKS:
            if len(self._out) - start > 1:
                raise refused("the number of a file descriptor above 9")
            del self._out[start:]

    def _until(self, closing: str) -> str:
        end = self._text.find(closing, self._at)
        if end < 0:
            raise refused("unbalanced quotes")
        inside, self._at = self._text[self._at : end], end + 1
        return inside

    def _escaped(self) -> str:
        char = self._next()
        if char in ("", "\n"):
            raise refused("continued lines")
        return quoted(char)

    def _double_quoted(self) -> None:
        self._out.append(NO_CHAR)
        while (char := self._next()) != '"':
            if char == "":
                raise refused("unbalanced quotes")
            if char in "$`":
                self._expansion(char, in_quotes=True)
            elif char == "\\":
                escaped = self._escaped()
                self._out += [escaped] if plain(escaped) in '$`"\\' else [quoted(char), escaped]
            else:
                self._out.append(quoted(char))

    def _expansion(self, char: str, in_quotes: bool) -> None:
        """Becomes a `$` or ONE_WORD, neither of them ever part of a name; the commands in it are parts of their own."""
        is_number = char == "$" and self._text.startswith(("?", "#"), self._at)
        is_list = char == "$" and self._text.startswith("@", self._at)
        self._out.append(ONE_WORD if is_number or (in_quotes and not is_list) else "$")
        if char == "`":
            inside = self._until("`")
            if "\\" in inside or (in_quotes and '"' in inside):
                raise refused("quoting within backquotes")
            self._substitution(Scanner(inside, self._depth + 1), "")
        elif is_number:
            self._at += 1
        elif self._text.startswith(("((", "["), self._at):
            raise refused("arithmetic")
        elif self._text.startswith(("'", '"'), self._at) and not in_quotes:
            raise refused("quotes behind $")
        elif self._text.startswith("(", self._at):
            self._at = self._substitution(Scanner(self._text, self._depth + 1, self._at + 1), ")")
        elif self._text.startswith("{", self._at):
            parameter = PARAMETER.match(self._text, self._at)
            if not parameter:
                raise refused("${…} with anything but a name")
            self._at = parameter.end()

    def _substitution(self, inner: Scanner, closing: str) -> int:
        end = inner.scan(closing)
        self.parts += inner.parts
        return end


def simple_commands(part: str) -> Iterator[list[str]]:
    """The words of each command, without redirections; `part` comes from the scanner."""
    lexer = shlex.shlex(part, posix=True, punctuation_chars=OPERATOR_CHARS)
    lexer.whitespace, lexer.commenters, lexer.quotes, lexer.escape = " \t", "", "", ""
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = ""
    for token in lexer:
        if token[0] not in OPERATOR_CHARS:
            if redirected.endswith("&") and not DESCRIPTOR.fullmatch(token):  # bash may expand a quoted one once more
                raise refused(f"{redirected} to anything but a descriptor")
            words += [] if redirected else [token]
            redirected = ""
            continue
        if "((" in token:
            raise refused("arithmetic")
        for operator in OPERATORS.findall(token):
            is_definition = operator == "(" and not KEYWORDS.issuperset(words)
            if redirected or is_definition or operator not in SEPARATORS | REDIRECTIONS:
                raise refused(token)
            if operator in REDIRECTIONS:
                redirected = operator
            else:
                yield words
                words = []
    if redirected:
        raise refused("a redirection to nothing")
    yield words


def quoted(text: str) -> str:
    return NO_CHAR + text.translate(TO_QUOTED)


def plain(word: str) -> str:
    return word.translate(FROM_QUOTED)


def check_text(text: str) -> None:
    if len(text) > MAX_JUDGED:
        raise refused(f"more than {MAX_JUDGED} characters")
    if any(SHIFT <= ord(char) <= ord(NO_CHAR) for char in text):
        raise refused("characters for private use")


def literal(word: str) -> str:
    if EXPANSION.search(word) and word != "[":
        raise refused(f"the expansion in {plain(word)!r}")
    return plain(word)


def refused(what: str) -> AsmError:
    return violation("command_not_parsed", f"cannot be judged while commands are restricted: {what}", what)


def violation(reason: str, message: str, command: str) -> AsmError:
    return AsmError(ErrorCode.POLICY_VIOLATION, message, details={"reason": reason, "command": command})
