"""A worker's beat: a thread's own connection, so that nothing else can hold it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from asm_core.ports.queue import HeldLease
from asm_core.stores.postgres.pool import CONNECT_TIMEOUT_S, hang_up, to_asm_error

BEAT_TIMEOUT_MS = 2_000


class PostgresBeat:
    """Blocking; used from one thread."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: psycopg.Connection[Any] | None = None

    def beat(self, worker_id: str, *, draining: bool) -> list[HeldLease] | None:
        """
        Confirm that the worker lives.

        Returns:
            The leases it holds, with requested cancels; None when it was declared dead.

        Raises:
            AsmError: `storage_connection_failed`: nothing is confirmed.
        """
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            row = self._connection.execute("SELECT asm_beat(%s, %s)", (worker_id, draining)).fetchone()
        except psycopg.Error as cause:
            self.close()
            raise to_asm_error(cause) from cause
        return None if row is None or row[0] is None else [_lease(value) for value in row[0]]

    def hang_up(self) -> None:
        """From another thread: a beat that waits for its answer fails now."""
        connection = self._connection
        if connection is not None:
            hang_up(connection)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="asm-beat",
            tcp_user_timeout=BEAT_TIMEOUT_MS,
            options=f"-c statement_timeout={BEAT_TIMEOUT_MS} -c lock_timeout={BEAT_TIMEOUT_MS}",
        )


def _lease(value: Mapping[str, Any]) -> HeldLease:
    return HeldLease(
        run_id=value["run_id"],
        session_id=value["session_id"],
        fence=value["fence"],
        cancel_kind=value["cancel_kind"],
    )
