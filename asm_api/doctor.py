"""`asm doctor`: is everything there that this installation's settings name?"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from asm_core.adapters.amp import CLI_PATH
from asm_core.config import VENDOR_VARIABLES, Settings
from asm_core.devprograms import find_postgres, find_redis
from asm_core.domain.errors import AsmError
from asm_core.optional import is_installed
from asm_core.providers import EXTRAS

MAX_SKEW_S = 1.0
GIB = 1024**3
MIN_FREE_BYTES = GIB


@dataclass(frozen=True, slots=True)
class Finding:
    part: str
    ok: bool
    says: str
    remedy: str = ""

    def line(self) -> str:
        mark = "ok  " if self.ok else "FAIL"
        return f"{mark} {self.part:<18} {self.says}" + (
            f"\n     -> {self.remedy}" if not self.ok and self.remedy else ""
        )

    def to_map(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """All checks, each on its own: one failing does not hide the next."""
    settings = Settings()
    checks: list[tuple[str, str, Callable[[Settings], str]]] = [
        ("postgres", "start Postgres or set ASM_DATABASE_URL; `asm dev` brings its own", _postgres),
        ("schema", "run `asm migrate`", _schema),
        ("workers", "start one with `asm worker`", _workers),
        ("clock", "synchronise this machine's clock (NTP)", _clock),
        ("redis", "start Redis or set ASM_REDIS_URL; `asm dev` brings its own", _redis),
        ("broker", "set ASM_BROKER_URL to a reachable broker", _broker),
        ("disk", "make room; agents and artifacts write there", _disk),
        ("postgres for dev", "", lambda _: _found(find_postgres)),
        ("redis for dev", "", lambda _: _found(find_redis)),
        *((name, "", partial(_provider, name)) for name in VENDOR_VARIABLES),
    ]
    return [_finding(part, remedy, check, settings) for part, remedy, check in checks]


def _finding(part: str, remedy: str, check: Callable[[Settings], str], settings: Settings) -> Finding:
    try:
        return Finding(part, True, check(settings))
    except AsmError as error:
        return Finding(part, False, error.message, remedy)
    except Exception as error:  # whatever a driver raises is the finding
        return Finding(part, False, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", remedy)


def _query(settings: Settings, statement: str) -> Any:
    import psycopg

    with psycopg.connect(settings.database_url, connect_timeout=3) as connection:
        row = connection.execute(statement).fetchone()
        return row[0] if row else None


def _postgres(settings: Settings) -> str:
    return str(_query(settings, "SELECT version()")).split(" on ")[0]


def _schema(settings: Settings) -> str:
    from asm_core.stores.sql.migrate import head

    found, wanted = _query(settings, "SELECT version_num FROM asm_alembic_version"), head()
    if found != wanted:
        raise RuntimeError(f"the database has {found}, this version needs {wanted}")
    return str(found)


def _workers(settings: Settings) -> str:
    alive = _query(settings, "SELECT count(*) FROM asm_workers WHERE lost_at IS NULL")
    if not alive:
        raise RuntimeError("no worker is alive")
    return f"{alive} alive"


def _clock(settings: Settings) -> str:
    before = time.time()
    theirs = _query(settings, "SELECT extract(epoch FROM clock_timestamp())::float8")
    skew = abs(float(theirs) - (before + time.time()) / 2)
    if skew > MAX_SKEW_S:
        raise RuntimeError(f"{skew:.1f} s apart from the database at {datetime.now(UTC):%H:%M:%S}")
    return f"{skew * 1000:.0f} ms apart from the database"


def _redis(settings: Settings) -> str:
    from redis import Redis

    with Redis.from_url(settings.redis_url, socket_connect_timeout=2, socket_timeout=2) as client:
        return f"redis {client.info('server')['redis_version']}"


def _broker(settings: Settings) -> str:
    from asm_workers.app import build_app

    with build_app(settings).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
        return str(connection.as_uri())


def _disk(settings: Settings) -> str:
    place = next(folder for folder in (settings.agents_folder, *settings.agents_folder.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES:
        raise RuntimeError(f"{free / GIB:.2f} GiB free at {place}, less than {MIN_FREE_BYTES / GIB:.0f}")
    return f"{free / GIB:.0f} GiB free at {place}"


def _provider(name: str, settings: Settings) -> str:
    """What this machine has for a provider; a fleet need not have all of them, so what lacks is no failure."""
    lacks = []
    if name in EXTRAS and not is_installed(EXTRAS[name]):
        lacks.append(f"pip install 'agent-session-manager[{name}]'")
    if name == "amp" and shutil.which(os.environ.get(CLI_PATH, "amp")) is None:
        lacks.append(f"install Amp's command line, or name it in {CLI_PATH}")
    if settings.provider_access(name).api_key is None:
        lacks.append(f"set ASM_{name.upper()}_API_KEY or {VENDOR_VARIABLES[name]['api_key']}")
    return f"not set up: {'; '.join(lacks)}" if lacks else "installed, with a key"


def _found(find: Callable[[], Any]) -> str:
    """What `asm dev` would start; a fleet does not need it, so its absence is no failure."""
    try:
        found = find()
    except AsmError:
        return "none; `asm dev` needs pip install 'agent-session-manager[embedded]'"
    return f"{found.kind} {found.version} ({found.origin})"
