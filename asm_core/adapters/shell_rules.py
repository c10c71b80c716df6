"""
Judges commands against an allow-list and a deny-list.

That is a guard against mistakes, not a sandbox: a program that may run can start others (`awk`, `make`, `ssh`, an
interpreter), and only base names are compared. Within what a shell string itself says, though, nothing passes unseen:
what cannot be parsed with certainty is refused while a list is set. `shell_words.py` reads a string's words,
`shell_builtins.py` knows what a shell itself evaluates.

Source: spec/05 §16.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import dropwhile
from typing import NamedTuple

from asm_core.adapters.shell_builtins import check_assignment, check_builtin, check_options, check_variable
from asm_core.adapters.shell_words import (
    ASSIGNMENT,
    KEYWORDS,
    MAX_NESTING,
    Scanner,
    check_text,
    literal,
    plain,
    quoted,
    refused,
    simple_commands,
    violation,
)

NOT_JUDGED = frozenset((
    # run or evaluate their arguments
    *("eval", ".", "source", "alias", "trap", "fc", "bind", "complete", "compgen", "mapfile", "readarray", "jobs"),
    *("let", "declare", "typeset", "local"),
    # change what names or characters mean
    *("enable", "hash", "shopt"),
    # have a grammar of their own
    *("for", "case", "select", "function", "coproc", "[[", "esac", "in"),
    *("rbash", "ksh", "ksh93", "mksh", "rksh", "yash", "zsh", "fish", "csh", "tcsh", "pwsh"),
    # run the command in their arguments, behind options of many kinds
    *("su", "runuser", "pkexec", "run0", "gosu", "chroot", "unshare", "nsenter", "setpriv", "capsh", "runcon", "bwrap"),
    *("prlimit", "setarch", "linux32", "linux64", "fakeroot", "systemd-run", "start-stop-daemon", "strace", "ltrace"),
    *("script", "watch", "parallel", "unbuffer", "dbus-run-session"),
))  # fmt: skip
SHELLS = frozenset(("sh", "bash", "dash", "ash"))
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
    "taskset": Wrapper("ac", operands=1),
    "chrt": Wrapper("abfior", operands=1),
    "flock": Wrapper("sxnuoF", "wE", operands=1),
    "setsid": Wrapper("cfw", "", ("--fork", "--wait")),
    "stdbuf": Wrapper("", "ioe"),
    "busybox": Wrapper(),
    "toybox": Wrapper(),
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
        self._denied = frozenset(_base_name(name).casefold() for name in denied or ())
        self._is_set = allowed is not None or denied is not None

    def check_argv(self, argv: Sequence[str]) -> None:
        """A command that runs without a shell. Raises `policy_violation`."""
        if self._is_set:
            check_text("".join(argv))
            self._check_command([quoted(arg) for arg in argv], 0)

    def check_script(self, script: str, depth: int = 0) -> None:
        """A string for a POSIX shell or bash, every command in it. Raises `policy_violation`."""
        if not self._is_set:
            return
        check_text(script)
        scanner = Scanner(script, depth)
        scanner.scan()
        for part in scanner.parts:
            for words in simple_commands(part):
                self._check_command(_from_command_position(words), depth)

    def check_env(self, env: Iterable[str]) -> None:
        """The names of what a request sets for its command. Raises `policy_violation`."""
        for name in env if self._is_set else ():
            check_variable(name)

    def _check_command(self, words: list[str], depth: int) -> None:
        """Down through the wrappers to the command itself."""
        fed = False
        while words:
            depth += 1
            if depth > MAX_NESTING:
                raise refused("commands nested too deep")
            name = self._judge(words[0])
            if name in SHELLS:
                return self.check_script(_string_of_shell(words[1:]), depth)
            if name == "find":
                return self._check_find(words[1:], fed, depth)
            if name not in WRAPPERS:
                return check_builtin(name, words[1:])
            words = _unwrap(words[1:], WRAPPERS[name])
            if name == "time":  # bash's own stands before a whole pipeline, assignments and all
                words = _from_command_position(words)
            if fed and not words:
                raise refused("a command that xargs reads from its input")
            fed = fed or name == "xargs"
        return None

    def _check_find(self, words: list[str], fed: bool, depth: int) -> None:
        if fed:
            raise refused("arguments that find takes from xargs")
        inner: list[str] | None = None
        last = ""
        for word in words:
            text = "{}" if word == "{}" else literal(word)
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
        """Its name in small letters: there are systems on which /bin/RM is rm."""
        name = _base_name(literal(word))
        known = name.casefold()
        if not name or "{}" in name or known in NOT_JUDGED:
            raise refused(plain(word))
        if known in self._denied:
            raise violation("command_denied", f"the command {name!r} is denied", name)
        if self._allowed is not None and name not in self._allowed:
            raise violation("command_not_allowed", f"the command {name!r} is not in the allow-list", name)
        return known


def _base_name(command: str) -> str:
    return command.rpartition("/")[2]


def _from_command_position(words: list[str]) -> list[str]:
    """Without the keywords, then the assignments, in front of a command."""
    words = [*dropwhile(KEYWORDS.__contains__, words)]
    for place, word in enumerate(words):
        if not ASSIGNMENT.match(word):
            return words[place:]
        check_assignment(word)
    return []


def _unwrap(words: list[str], wrapper: Wrapper) -> list[str]:
    """The command in a wrapper's arguments; empty when there is none."""
    operands, options_end = wrapper.operands, False
    skip = False
    for place, raw in enumerate(words):
        word = literal(raw)
        if skip:
            skip = False
        elif word.startswith("-") and (options_end or word == "-"):
            raise refused(f"{word!r} in this place")
        elif word.startswith("-"):
            options_end = word == "--"
            skip = not options_end and _takes_next(word, wrapper)
        elif wrapper.assignments and "=" in word:
            check_assignment(word)
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
        raise refused(f"the option {option!r}")
    return len(letters) == 1


def _string_of_shell(words: list[str]) -> str:
    """The string that a shell called with these arguments runs."""
    has_string = skip = False
    words = [*dropwhile(lambda word: plain(word) in ("--norc", "--noprofile", "--posix"), words)]
    check_options(words)
    for word in map(literal, words):
        if skip:
            skip = False
        elif not word.startswith(("-", "+")) and has_string and "{}" not in word:
            return word
        elif not word.startswith("-") or word in ("-", "--"):
            break
        else:
            has_string, skip = has_string or "c" in word, "o" in word
    raise refused("a shell that is not given a literal string by -c")
