"""
Postgres and Redis servers of our own, for `asm dev`, `asm demo` and tests: never the machine's running ones.

Finding: `devprograms`. A data folder is opened again only with the Postgres major version that filled it.

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
import os
import pwd
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
from pathlib import Path
from typing import Any, ClassVar, Self

from asm_core.devprograms import (
    PROGRAM_TIMEOUT_S,
    Found,
    copy_programs,
    find_redis,
    none_found,
    postgres_candidates,
    unavailable,
    wheel_libs,
)

START_TIMEOUT_S = 60.0
"""From the start of a server (or of initdb) to its first answer."""
STOP_TIMEOUT_S = 10.0
"""From the polite signal to SIGKILL."""
HANDOVER_TIMEOUT_S = 15.0
"""How long a start waits for an earlier server on the same data, whose parent died, to leave."""
ANSWER_TIMEOUT_S = 1
"""For one attempt; a foreign server on our port may never answer."""
POLL_S = 0.02
BIND_ATTEMPTS, BIND_PAUSE_S = 10, 0.3
"""Another free port is tried at once; a given port, and that of a restart, is tried again after the pause."""
PORTS = range(15_000, 30_000)
"""Below the ports that kernels hand to clients: one of those could take a server's port while it restarts."""
CLONE_NEWUSER, PR_SET_PDEATHSIG, NOBODY = 0x10000000, 1, 65534
SOCKET_PATH_LIMIT = 103
"""The shortest `sun_path` of all systems (macOS), without its final zero."""

LINUX = sys.platform.startswith("linux")
SERVER_NAMES = ("postgres", "redis-server", "valkey-server")


def start_postgres(
    data_dir: Path, *, port: int | None = None, durable: bool = True, extra: Mapping[str, str] | None = None
) -> Server:
    """
    Start Postgres on the data in `data_dir`, which is created and initialised when needed; return when it answers.

    Args:
        data_dir: gets `pgdata` (the cluster, or a link to it) and `postgres.log`. Not shared with a second server.
        port: on 127.0.0.1; a free one is chosen when omitted.
        durable: False trades safety for speed (tests): SIGKILL costs the last transactions, a crash of the machine all.
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
    url_form: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    process: subprocess.Popen[bytes]
    port = 0
    _ended = False
    """Nothing of this server is left; what works on its data from now on belongs to somebody else."""

    def __init__(self, data_dir: Path, found: Found, account: _Account, work_dir: Path) -> None:
        self.data_dir = data_dir
        self.found = found
        self.log = data_dir / f"{self.name}.log"
        self._account = account
        self._work_dir = work_dir
        """The working folder of the server's processes: by it they are told from those of other servers."""

    @property
    def url(self) -> str:
        """For psycopg or libpq; for redis-py."""
        return self.url_form.format(port=self.port)

    @property
    def pid(self) -> int:
        return self.process.pid

    def describe(self) -> str:
        """One line for people: which server, which version, where from, where to."""
        found = self.found
        return f"{found.kind} {found.version} ({found.origin}) on 127.0.0.1:{self.port}, data in {self.data_dir}"

    def _start(self, port: int | None) -> None:
        """Start the process and wait for its first answer. Without a port, a free one is chosen."""
        self._await_no_process(HANDOVER_TIMEOUT_S)
        self._prepare()
        for _ in range(BIND_ATTEMPTS):
            self.port = port or _free_port()
            if self._launch():
                return
            if port:
                time.sleep(BIND_PAUSE_S)
        self._tidy()
        raise unavailable(f"{self.name} finds port {self.port} on 127.0.0.1 in use")

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Shut down, keeping the data; SIGKILL after the timeout. No process is left. Harmless when repeated."""
        if self._ended:
            return
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        self.kill()
        self._tidy()

    def kill(self) -> None:
        """SIGKILL the server and all its children (fault tests). Harmless when repeated."""
        if self._ended:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)  # so that it forks no child behind the list taken next
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(STOP_TIMEOUT_S)
        self._await_no_process(STOP_TIMEOUT_S)
        self._ended = True

    def restart(self) -> None:
        """Stop what is left of the server and start it again: same port, same data. Raises as the first start did."""
        self.stop()
        with _typed_errors(self.name):
            self._start(self.port)

    def discard(self) -> None:
        """Kill the server and delete its whole data folder (tests)."""
        self.kill()
        for folder in (self._work_dir, self.data_dir):
            shutil.rmtree(folder, ignore_errors=True)
        self._tidy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _await_no_process(self, timeout_s: float) -> None:
        """Two servers on the same data would destroy it; one whose parent has just died is still shutting down."""
        deadline = time.monotonic() + timeout_s
        while pids := self._processes():
            if time.monotonic() > deadline:
                raise unavailable(f"{self.data_dir} is in use by a {self.name} server: process {pids[0]}")
            time.sleep(POLL_S)

    def _launch(self) -> bool:
        """Start once. False when the port is taken; AsmError with the end of the log for everything else."""
        options = self._account.options(self.stop_signal)
        with self.log.open("ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log, **options)
        self._ended = False
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
        raise unavailable(f"{self.name} {self.found.version} ({self.found.origin}) did not start", said)

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

    def _processes(self) -> list[int]:
        """The processes that work on this data, whoever started them. Known on Linux only."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone meanwhile, or of another user
                runs_server = (process / "comm").read_text().startswith(SERVER_NAMES)
                if runs_server and (process / "cwd").readlink() == self._work_dir:
                    found.append(int(process.name))
        return found


class _Redis(Server):
    name = "redis"
    url_form = "redis://127.0.0.1:{port}/0"
    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path, durable: bool) -> None:
        super().__init__(data_dir, find_redis(), _Account(os.geteuid(), os.getegid()), data_dir)
        self._durable = durable

    def _command(self) -> list[str]:
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.data_dir), "--daemonize", "no"]
        keep = ["--save", "", "--appendonly", "yes" if self._durable else "no", "--appendfsync", "everysec"]
        return [str(self.found.path), *place, *keep]

    def _answers(self) -> bool:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        client = redis.Redis(port=self.port, socket_timeout=ANSWER_TIMEOUT_S, retry=Retry(NoBackoff(), 0))
        with client, suppress(redis.RedisError):
            client.ping()
            facts: Any = client.info("server")
            return bool(facts["process_id"] == self.pid)
        return False


class _Postgres(Server):
    name = "postgres"
    url_form = "postgresql://postgres@127.0.0.1:{port}/postgres"
    stop_signal = signal.SIGINT  # "fast": ends the sessions, keeps the data

    def __init__(self, data_dir: Path, durable: bool, extra: Mapping[str, str]) -> None:
        self._link = data_dir / "pgdata"
        account = _account_for(self._link)
        self._home = _home(data_dir, account, self._link.resolve())
        here = self._link.exists() or account.may("-x", data_dir)
        cluster = self._link.resolve() if here else self._home / "pgdata"
        super().__init__(data_dir, _postgres_for(cluster, account), account, cluster)
        self._durable = durable
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._home),
            "max_connections": "300",
            "shared_buffers": "128MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **({} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
            **extra,
        }

    def _prepare(self) -> None:
        self._make_home()
        self._bindir = self.found.path
        if not self._account.may("-x", self._bindir / "initdb"):
            self._bindir = copy_programs(self._bindir, self._home / "programs")
        if not (self._work_dir / "PG_VERSION").exists():
            self._initialise()
        if LINUX:  # then `_await_no_process` saw that nobody works here, whoever has that process id now
            (self._work_dir / "postmaster.pid").unlink(missing_ok=True)

    def _make_home(self) -> None:
        """The name can be guessed, so a folder that another user made first is refused."""
        self._home.mkdir(mode=0o700, exist_ok=True)
        facts = self._home.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in (self._account.uid, os.geteuid()):
            raise unavailable(f"{self._home} belongs to another user")
        self._account.own(self._home)
        self._tidy_home()

    def _initialise(self) -> None:
        """Under another name first, so that a cluster with the right name is complete."""
        fresh = self._work_dir.with_name("pgdata.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._account.own(fresh)
        command = [str(self._bindir / "initdb"), "-D", str(fresh), "-U", "postgres", "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C", *([] if self._durable else ["--no-sync"])]
        child = self._account.options(signal.SIGKILL)
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False, **child)
        if done.returncode:
            raise unavailable(f"initdb {self.found.version} failed", done.stdout + done.stderr)
        fresh.rename(self._work_dir)
        if self._work_dir != self._link:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(self._work_dir)

    def _command(self) -> list[str]:
        settings = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self._bindir / "postgres"), "-D", str(self._work_dir), "-p", str(self.port), *settings]

    def _answers(self) -> bool:
        """Asked through the socket, which no other server has; it listens only when TCP does, too."""
        import psycopg

        place: dict[str, Any] = {"host": str(self._home), "port": self.port, "connect_timeout": ANSWER_TIMEOUT_S}
        with suppress(psycopg.OperationalError), psycopg.connect("user=postgres dbname=postgres", **place):
            return True
        return False

    def _tidy(self) -> None:
        self._tidy_home()
        with suppress(OSError):  # not empty: it holds the cluster
            self._home.rmdir()

    def _tidy_home(self) -> None:
        shutil.rmtree(self._home / "programs", ignore_errors=True)
        for socket_file in self._home.glob(".s.PGSQL.*"):
            socket_file.unlink(missing_ok=True)


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


def _home(data_dir: Path, account: _Account, cluster: Path) -> Path:
    """A private folder for this data, with a short path: for sockets, and for what the account could not enter."""
    digest = hashlib.sha256(f"{account.uid}:{data_dir}".encode()).hexdigest()[:12]
    longest = len(f"/asm-pg-{digest}-99/.s.PGSQL.{PORTS.stop}.lock")
    roots = [Path(folder).resolve() for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp")]  # noqa: S108
    roots = [root for root in roots if len(str(root)) + longest <= SOCKET_PATH_LIMIT and account.may("-x", root)]
    if not roots:
        raise unavailable(f"no temporary folder has a short path and is open to user {account.uid}")
    homes = (roots[0] / f"asm-pg-{digest}{suffix}" for suffix in ["", *(f"-{n}" for n in range(1, 100))])
    # A cluster that is not linked from data_dir belonged to a folder that was moved or deleted: not ours to open.
    return next(home for home in homes if not (home / "pgdata").exists() or home / "pgdata" == cluster)


def _account_for(cluster: Path) -> _Account:
    """The account for a cluster: ourselves if Postgres agrees, else its owner, else the first usable one."""
    uid, gid = os.geteuid(), os.getegid()
    if uid and _passwd([uid]):
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
    raise unavailable(
        f"Postgres cannot run as user {uid}; run as a user with a name and not root, or set ASM_DATABASE_URL"
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
    if not LINUX:
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
    version = cluster / "PG_VERSION"
    major = version.read_text().strip() if version.exists() else None
    unusable = []
    for found in postgres_candidates():
        if major and found.version.split(".")[0] != major:
            unusable.append(f"; {found.origin} is {found.version}")
        elif not account.may("-x", found.path / "initdb") and not wheel_libs(found.path).is_dir():
            unusable.append(f"; user {account.uid} cannot execute {found.origin}")
        else:
            return found
    raise none_found(f"no Postgres for {cluster} (version {major or 'any'}{''.join(unusable)})", "ASM_PG_BINDIR")


def _free_port() -> int:
    for _ in PORTS:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise unavailable(f"no free port between {PORTS.start} and {PORTS.stop}")


@contextmanager
def _typed_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.SubprocessError) as cause:
        raise unavailable(f"{what} cannot be started: {cause}") from cause
