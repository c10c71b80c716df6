"""`Ignore`, in the words of git and as a test of a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial

from asm_core.domain.workspace import Ignore

_SPECIAL = re.compile(r"([\\\[\]*?])")
_PARTS = re.compile(r"\*\*/|\*\*|\*|\?|.", re.DOTALL)
_MEANING = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def exclude_lines(ignore: Ignore) -> str:
    """Lines for git's `info/exclude`."""
    names = [path.strip("/") for path in ignore.paths]
    lines = [f"/{_literal(name)}" if "/" in name else _first(_literal(name)) for name in names]
    for glob in ignore.globs:
        plain = re.sub(r"([\\\[\]])", r"\\\1", glob.lstrip("/"))
        lines.append(_last(f"/{plain}" if "/" in glob else _first(plain)))
    return "".join(f"{line}\n" for line in lines)


def literal_lines(paths: Iterable[str]) -> str:
    """Lines that exclude just these paths from the root. A character that could not be read stands for any."""
    return "".join(f"/{_literal(path)}\n" for path in paths if "\n" not in path)


def _literal(path: str) -> str:
    return _last(_SPECIAL.sub(r"\\\1", path).replace("\ufffd", "*"))


def _first(pattern: str) -> str:
    return f"\\{pattern}" if pattern[:1] in "#!" else pattern


def _last(pattern: str) -> str:
    """Git drops blanks at the end."""
    return f"{pattern[:-1]}\\ " if pattern.endswith(" ") else pattern


def ignored_by(ignore: Ignore, always: frozenset[str]) -> Callable[[str], bool]:
    """
    Args:
        always: names of folders that are left out at any depth.

    Returns:
        Whether a path from the root, with `/`, is left out, given that no folder above it is.
    """
    given = [path.strip("/") for path in ignore.paths]
    names = always | {path for path in given if "/" not in path}
    paths = frozenset(path for path in given if "/" in path)
    wholes = [_compiled(glob.lstrip("/")) for glob in ignore.globs]
    bases = [_compiled(glob) for glob in ignore.globs if "/" not in glob]
    return partial(_is_ignored, names, paths, wholes, bases)


def _is_ignored(
    names: frozenset[str], paths: frozenset[str], wholes: list[re.Pattern[str]], bases: list[re.Pattern[str]], path: str
) -> bool:
    name = path.rpartition("/")[2]
    if name in names or path in paths:
        return True
    return any(glob.fullmatch(path) for glob in wholes) or any(glob.fullmatch(name) for glob in bases)


def _compiled(glob: str) -> re.Pattern[str]:
    """`**/` any folders, `**` anything, `*` and `?` anything but `/`; all else stands for itself."""
    return re.compile("".join(_MEANING.get(part) or re.escape(part) for part in _PARTS.findall(glob)), re.DOTALL)
