"""
Bring a database to the schema of this version.

Two parts: Alembic's revisions (tables, once each, in order), then, on Postgres, the functions of
`stores/postgres/*.sql`, which are replaced as a whole every time, so that a function's text has one home. One
transaction, under a lock that makes concurrent calls take turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.stores.sql.engine import sqlalchemy_url

MIGRATIONS = Path(__file__).parent / "migrations"
FUNCTIONS = Path(__file__).parent.parent / "postgres"
_LOCK = 7_226_911_402


def head() -> str:
    """The newest revision this version knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def migrate(database_url: str, target: str = "head") -> str:
    """
    Upgrade (or downgrade, when `target` lies behind) and replace the functions.

    Args:
        database_url: `postgresql://…`, or `sqlite:///…` (the file is made when it is not there).
        target: an Alembic revision, or `head`.

    Returns:
        The revision the database has now.

    Raises:
        AsmError: `storage_connection_failed`, `storage_error`.
    """
    engine = sa.create_engine(sqlalchemy_url(database_url))
    try:
        with _alone(engine) as connection:
            config = _config()
            config.attributes["connection"] = connection
            _move(config, revision_of(connection), target)
            if target == "head" and engine.dialect.name == "postgresql":
                for file in sorted(FUNCTIONS.glob("*.sql")):
                    connection.exec_driver_sql(file.read_text().replace("%", "%%"))
            return revision_of(connection)
    except sa.exc.OperationalError as cause:
        raise AsmError(
            ErrorCode.STORAGE_CONNECTION_FAILED, f"cannot migrate: {_plain(cause)}", details={"reason": "unreachable"}
        ) from cause
    except sa.exc.SQLAlchemyError as cause:
        raise AsmError(ErrorCode.STORAGE_ERROR, f"cannot migrate: {_plain(cause)}") from cause
    finally:
        engine.dispose()


@contextmanager
def _alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that no other migration runs beside."""
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:  # BEGIN and COMMIT are ours
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # stays with the file
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.exec_driver_sql("COMMIT")


def _move(config: Config, current: str, target: str) -> None:
    newest_first = ScriptDirectory.from_config(config).walk_revisions()
    revisions = [script.revision for script in newest_first]
    is_ahead = (
        target == "head" or not current or (target in revisions and revisions.index(target) < revisions.index(current))
    )
    (command.upgrade if is_ahead else command.downgrade)(config, target)


def revision_of(connection: sa.Connection) -> str:
    """The revision a database has; empty text when it has none."""
    if not sa.inspect(connection).has_table("asm_alembic_version"):
        return ""
    return str(connection.execute(sa.text("SELECT version_num FROM asm_alembic_version")).scalar() or "")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def _plain(cause: sa.exc.SQLAlchemyError) -> str:
    """The driver's words without the statement and its values."""
    origin = getattr(cause, "orig", None)
    text = str(origin) if isinstance(origin, psycopg.Error) else type(cause).__name__
    return text.strip().splitlines()[0] if text.strip() else type(cause).__name__
