"""
Judges commands against an allow-list and a deny-list.

That is a guard against mistakes, not a sandbox: a program that may run can start others (`awk`, `make`, `ssh`, an
interpreter), and only base names are compared. Within what a shell string itself says, though, nothing passes unseen:
what cannot be parsed with certainty is refused while a list is set.

Source: spec/05 §16.5.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import dropwhile
from typing import NamedTuple

from asm_core.domain.errors import AsmError, ErrorCode

MAX_NESTING = 16
"""Of substitutions, wrappers and shells within one another."""
MAX_JUDGED = 32_768
"""Characters of a command that is judged."""
SHIFT = 0xE000
"""Quoted characters move to a private plane, so that whatever is still in ASCII has its meaning to the shell."""
NO_CHAR = "\ue0ff"
"""Stands where quotes were: `""` is a word."""
TO_QUOTED = {code: SHIFT + code for code in range(128)}
FROM_QUOTED: dict[int, int | None] = {SHIFT + code: code for code in range(128)} | {ord(NO_CHAR): None}

OPERATOR_CHARS = "();<>|&\n"
WORD_BREAKS = f" \t{OPERATOR_CHARS}"
OPERATORS = re.compile(r"&>>?|&&|\|\||\|&|<<<?|>>|>&|<&|<>|>\||;;?&?|[;&|()<>\n]")
SEPARATORS = frozenset(("\n", ";", "&", "&&", "|", "||", "|&", "(", ")"))
REDIRECTIONS = frozenset(("<", ">", ">>", ">|", "<>", ">&", "<&"))
KEYWORDS = frozenset(("!", "{", "}", "if", "then", "elif", "else", "fi", "while", "until", "do", "done"))
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
EXPANSION = re.compile(r"[$*?\[\]{}~]")
DESCRIPTOR = re.compile(r"[0-9]-?|-")
PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")

TEXT_RUNNERS = ("eval", ".", "source", "alias", "trap", "fc", "bind", "complete", "compgen", "mapfile", "readarray")
NAME_CHANGERS = ("enable", "hash")
OTHER_GRAMMAR = ("for", "case", "select", "function", "coproc", "[[", "esac", "in")
OTHER_SHELLS = ("zsh", "fish", "csh", "tcsh", "mksh")
NOT_JUDGED = frozenset(TEXT_RUNNERS + NAME_CHANGERS + OTHER_GRAMMAR + OTHER_SHELLS)
SHELLS = frozenset(("sh", "bash", "dash", "ash", "ksh"))
FIND_RUNS = frozenset(("-exec", "-execdir", "-ok", "-okdir"))


class Wrapper(NamedTuple):
    """A command that runs the command in its arguments; options it does not list here are refused."""

    flags: str = ""
    values: str = ""
    """Options that take a value."""
    long: tuple[str, ...] = ()
    """Long options; `=` at the end: takes a value."""
    operands: int = 0
    """Words before the command."""
    assignments: bool = False


WRAPPERS: Mapping[str, Wrapper] = {
    "env": Wrapper("i0v", "uC", ("--ignore-environment", "--unset=", "--chdir="), assignments=True),
    "sudo": Wrapper("nEHkSbA", "ugpCTD", ("--user=", "--group=", "--preserve-env"), assignments=True),
    "doas": Wrapper("n", "uC"),
    "nohup": Wrapper(),
    "exec": Wrapper("cl", "a"),
    "command": Wrapper("pvV"),
    "builtin": Wrapper(),
    "time": Wrapper("pavq", "fo"),
    "xargs": Wrapper("0rtpxo", "nLPsdEa", ("--null", "--no-run-if-empty", "--max-args=", "--max-procs=")),
    "nice": Wrapper("0123456789", "n", ("--adjustment=",)),
    "ionice": Wrapper("t", "cn"),
    "timeout": Wrapper("vfp", "sk", ("--foreground", "--preserve-status", "--signal=", "--kill-after="), operands=1),
    "setsid": Wrapper("cfw", "", ("--fork", "--wait")),
    "stdbuf": Wrapper("", "ioe"),
    "busybox": Wrapper(),
}
"""Each has to pass the lists itself, too."""


class CommandRules:
    """
    Judges commands by base name.

    Args:
        allowed, denied: names, or paths of which the base name counts; None: no such list. Denied wins.
    """

    def __init__(self, allowed: Iterable[str] | None, denied: Iterable[str] | None) -> None:
        self._allowed = None if allowed is None else frozenset(map(_base_name, allowed))
        self._denied = frozenset(map(_base_name, denied or ()))
        self._is_set = allowed is not None or denied is not None

    def check_argv(self, argv: Sequence[str]) -> None:
        """A command that runs without a shell. Raises `policy_violation`."""
        if self._is_set:
            _check_text("".join(argv))
            self._check_command([quoted(arg) for arg in argv], 0)

    def check_script(self, script: str, depth: int = 0) -> None:
        """A string for a POSIX shell or bash, every command in it. Raises `policy_violation`."""
        if not self._is_set:
            return
        _check_text(script)
        scanner = Scanner(script, depth)
        scanner.scan()
        for part in scanner.parts:
            for words in simple_commands(part):
                self._check_command(_from_command_position(words), depth)

    def _check_command(self, words: list[str], depth: int) -> None:
        """Down through the wrappers to the command itself."""
        fed = False
        while words:
            depth += 1
            if depth > MAX_NESTING:
                raise _refused("commands nested too deep")
            name = self._judge(words[0])
            if name in SHELLS:
                return self.check_script(_string_of_shell(words[1:]), depth)
            if name == "find":
                return self._check_find(words[1:], fed, depth)
            if name not in WRAPPERS:
                return None
            words = _unwrap(words[1:], WRAPPERS[name])
            if name == "time":  # bash's own stands before a whole pipeline, assignments and all
                words = _from_command_position(words)
            if fed and not words:
                raise _refused("a command that xargs reads from its input")
            fed = fed or name == "xargs"
        return None

    def _check_find(self, words: list[str], fed: bool, depth: int) -> None:
        if fed:
            raise _refused("arguments that find takes from xargs")
        inner: list[str] | None = None
        last = ""
        for word in words:
            text = "{}" if word == "{}" else _literal(word)
            if inner is None:
                inner = [] if text in FIND_RUNS else None
            elif text == ";" or (text == "+" and last == "{}"):
                self._check_command(inner, depth)
                inner = None
            else:
                inner.append(word)
            last = text
        self._check_command(inner or [], depth)

    def _judge(self, word: str) -> str:
        name = _base_name(_literal(word))
        if not name or "{}" in name or name in NOT_JUDGED:
            raise _refused(plain(word))
        if name in self._denied:
            raise _violation("command_denied", f"the command {name!r} is denied", name)
        if self._allowed is not None and name not in self._allowed:
            raise _violation("command_not_allowed", f"the command {name!r} is not in the allow-list", name)
        return name


class Scanner:
    """Takes the quoting out of a shell string; `parts` are the string itself and each command substitution in it."""

    def __init__(self, text: str, depth: int, at: int = 0) -> None:
        self.parts: list[str] = []
        self._out: list[str] = []
        self._text, self._depth, self._at = text, depth, at

    def scan(self, closing: str = "") -> int:
        """To the end, or the unmatched `closing`; returns the place behind it."""
        if self._depth > MAX_NESTING:
            raise _refused("substitutions nested too deep")
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
                raise _refused("unbalanced quotes or parentheses")
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
            raise _refused("comments")
        if not char.isprintable() and char not in "\t\n":
            raise _refused(f"the character {char!r}")
        if char in "<>":
            self._drop_descriptor()
        self._out.append(char)

    def _drop_descriptor(self) -> None:
        """The 2 of `2>file` belongs to the operator; of `22>file` only to that of some shells."""
        start = len(self._out)
        while start and self._out[start - 1] in "0123456789":
            start -= 1
        if not start or self._out[start - 1] in WORD_BREAKS:
            if len(self._out) - start > 1:
                raise _refused("the number of a file descriptor above 9")
            del self._out[start:]

    def _until(self, closing: str) -> str:
        end = self._text.find(closing, self._at)
        if end < 0:
            raise _refused("unbalanced quotes")
        inside, self._at = self._text[self._at : end], end + 1
        return inside

    def _escaped(self) -> str:
        char = self._next()
        if char in ("", "\n"):
            raise _refused("continued lines")
        return quoted(char)

    def _double_quoted(self) -> None:
        self._out.append(NO_CHAR)
        while (char := self._next()) != '"':
            if char == "":
                raise _refused("unbalanced quotes")
            if char in "$`":
                self._expansion(char, in_quotes=True)
            elif char == "\\":
                escaped = self._escaped()
                self._out += [escaped] if plain(escaped) in '$`"\\' else [quoted(char), escaped]
            else:
                self._out.append(quoted(char))

    def _expansion(self, char: str, in_quotes: bool) -> None:
        """Becomes a bare `$`, which is never part of a name; the commands in it are parts of their own."""
        self._out.append("$")
        if char == "`":
            inside = self._until("`")
            if "\\" in inside or (in_quotes and '"' in inside):
                raise _refused("quoting within backquotes")
            self._substitution(Scanner(inside, self._depth + 1), "")
        elif self._text.startswith(("((", "["), self._at):
            raise _refused("arithmetic")
        elif self._text.startswith(("'", '"'), self._at) and not in_quotes:
            raise _refused("quotes behind $")
        elif self._text.startswith("(", self._at):
            self._at = self._substitution(Scanner(self._text, self._depth + 1, self._at + 1), ")")
        elif self._text.startswith("{", self._at):
            parameter = PARAMETER.match(self._text, self._at)
            if not parameter:
                raise _refused("${…} with anything but a name")
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
                raise _refused(f"{redirected} to anything but a descriptor")
            words += [] if redirected else [token]
            redirected = ""
            continue
        for operator in OPERATORS.findall(token):
            is_definition = operator == "(" and not KEYWORDS.issuperset(words)
            if redirected or is_definition or operator not in SEPARATORS | REDIRECTIONS:
                raise _refused(token)
            if operator in REDIRECTIONS:
                redirected = operator
            else:
                yield words
                words = []
    if redirected:
        raise _refused("a redirection to nothing")
    yield words


def quoted(text: str) -> str:
    return NO_CHAR + text.translate(TO_QUOTED)


def plain(word: str) -> str:
    return word.translate(FROM_QUOTED)


def _check_text(text: str) -> None:
    if len(text) > MAX_JUDGED:
        raise _refused(f"more than {MAX_JUDGED} characters")
    if any(SHIFT <= ord(char) <= ord(NO_CHAR) for char in text):
        raise _refused("characters for private use")


def _literal(word: str) -> str:
    if EXPANSION.search(word) and word != "[":
        raise _refused(f"the expansion in {plain(word)!r}")
    return plain(word)


def _base_name(command: str) -> str:
    return command.rpartition("/")[2]


def _from_command_position(words: list[str]) -> list[str]:
    """Without the keywords, then the assignments, in front of a command."""
    behind = dropwhile(ASSIGNMENT.match, dropwhile(KEYWORDS.__contains__, words))
    return [*behind]


def _unwrap(words: list[str], wrapper: Wrapper) -> list[str]:
    """The command in a wrapper's arguments; empty when there is none."""
    operands, options_end = wrapper.operands, False
    skip = False
    for place, raw in enumerate(words):
        word = _literal(raw)
        if skip:
            skip = False
        elif word.startswith("-") and (options_end or word == "-"):
            raise _refused(f"{word!r} in this place")
        elif word.startswith("-"):
            options_end = word == "--"
            skip = not options_end and _takes_next(word, wrapper)
        elif wrapper.assignments and "=" in word:
            options_end = True
        elif operands:
            operands, options_end = operands - 1, True
        else:
            return words[place:]
    return []


def _takes_next(option: str, wrapper: Wrapper) -> bool:
    """Whether the word behind the option is its value."""
    name, has_value, _ = option.partition("=")
    letters = option[1:].lstrip(wrapper.flags)
    if name in wrapper.long and not has_value:
        return False
    if f"{name}=" in wrapper.long:
        return not has_value
    if letters and letters[0] not in wrapper.values:
        raise _refused(f"the option {option!r}")
    return len(letters) == 1


def _string_of_shell(words: list[str]) -> str:
    """The string that a shell called with these arguments runs."""
    has_string = skip = False
    for word in map(_literal, words):
        if skip or word in ("--norc", "--noprofile", "--posix", "--login"):
            skip = False
        elif not word.startswith(("-", "+")) and has_string and "{}" not in word:
            return word
        elif not word.startswith("-") or word == "-" or set(word[1:]) - set("aceflmouvxBCE"):
            break
        else:
            has_string, skip = has_string or "c" in word, "o" in word
    raise _refused("a shell that is not given a literal string by -c")


def _refused(what: str) -> AsmError:
    return _violation("command_not_parsed", f"cannot be judged while commands are restricted: {what}", what)


def _violation(reason: str, message: str, command: str) -> AsmError:
    return AsmError(ErrorCode.POLICY_VIOLATION, message, details={"reason": reason, "command": command})
