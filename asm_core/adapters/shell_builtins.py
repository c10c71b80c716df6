"""
What a shell's own commands make of their arguments, as far as it can start other commands.

bash evaluates a subscript wherever it takes a variable's name, and runs the command substitutions in it, quoted or not:
`read 'a[$(rm)]'`, `[ -v … ]`, `printf -v …`, `unset …`. It does so with the values of its integer variables
(`RANDOM='a[$(rm)]'`), and expands PS4 before every command that `set -x` shows. Other variables say which file a name
stands for (PATH), which script runs first (BASH_ENV), or define functions (BASH_FUNC_ls%%). All this is refused, and so
are names that come from expansions.

Source: spec/05 §16.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import pairwise

from asm_core.adapters.shell_words import ASSIGNMENT, EXPANSION, OPEN_EXPANSION, literal, plain, refused

STEERING = (
    *("PATH", "ENV", "BASH*", "SHELLOPTS", "PROMPT_COMMAND", "PS4", "LD_*", "DYLD_*"),
    *("SSH_CLIENT", "SSH2_CLIENT"),  # bash takes itself for started by a remote shell, and runs ~/.bashrc
    *("RANDOM", "SRANDOM", "SECONDS", "OPTIND", "HISTCMD", "LINENO"),  # integers, whose values are evaluated
)
"""Variables whose values decide which commands run."""
OPTION_LETTERS = frozenset("abcefhmnuvxBCET")
"""Of a shell and of `set`; without those that expand history, read a profile, or take assignments from arguments."""
OPTION_NAMES = frozenset((
    *("allexport", "errexit", "errtrace", "functrace", "noclobber", "noexec", "noglob", "nounset", "pipefail", "posix"),
    *("verbose", "xtrace"),
))  # fmt: skip


def check_builtin(name: str, words: list[str]) -> None:
    """The arguments of a command that the shell may know itself; raises `policy_violation`."""
    if check := CHECKS.get(name):
        check(words)


def check_assignment(word: str) -> None:
    """`NAME=value`."""
    check_variable(plain(word).partition("=")[0].removesuffix("+"))


def check_variable(name: str) -> None:
    if any(fnmatchcase(name, pattern) for pattern in STEERING):
        raise refused(f"a value for {name}")


def check_options(words: Iterable[str]) -> None:
    """Those of a shell or of `set`, as far as they go; each with at most one `o`, behind which a name follows."""
    name_follows = False
    for word in map(literal, words):
        if name_follows:
            is_known = word in OPTION_NAMES
        elif not word.startswith(("-", "+")) or word in ("-", "--"):
            return
        else:
            is_known = OPTION_LETTERS.issuperset(word[1:].replace("o", "", 1))
        if not is_known:
            raise refused(f"the option {word!r}")
        name_follows = not name_follows and "o" in word


def _check_names(words: list[str]) -> None:
    for word in words:
        if "[" in literal(word):
            raise refused(f"the subscript in {plain(word)!r}")
        check_variable(literal(word))


def _check_exported(words: list[str]) -> None:
    for word in words:
        name = literal(word.partition("=")[0] if ASSIGNMENT.match(word) else word)
        if not re.fullmatch(r"-[A-Za-z]+|[A-Za-z_][A-Za-z0-9_]*\+?", name) or "$" in word:
            raise refused(f"{plain(word)!r} in this place")
        check_variable(name.removesuffix("+"))


def _check_printf(words: list[str]) -> None:
    if words and literal(words[0]).startswith("-") and literal(words[0]) != "--":
        raise refused(f"the option {plain(words[0])!r}")


def _check_test(words: list[str]) -> None:
    """`-v` takes a name, and so may any word that is an expansion: no subscript may stand behind either."""
    for word, value in pairwise([*(word for word in words if word != "]"), ""]):
        if OPEN_EXPANSION.search(word):
            raise refused(f"{plain(word)!r} without double quotes")
        may_take_name = EXPANSION.search(word) or plain(word) in ("-v", "-R")
        if may_take_name and (EXPANSION.search(value) or "[" in plain(value)):
            raise refused(f"{plain(value)!r} behind {plain(word)!r}")


CHECKS: Mapping[str, Callable[[list[str]], None]] = {
    "read": _check_names,
    "unset": _check_names,
    "wait": _check_names,
    "export": _check_exported,
    "readonly": _check_exported,
    "printf": _check_printf,
    "test": _check_test,
    "[": _check_test,
    "set": check_options,
}
