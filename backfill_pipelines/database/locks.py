"""Advisory locks: one holder at a time for a name, across processes and hosts, released by the server on any death.

Belongs here: taking, keeping and checking such locks. Does not belong here: what they protect.
"""

from __future__ import annotations

import hashlib
import threading
from types import TracebackType

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.errors import TransientError

_TRANSACTION_POOLER_PORT = 6543


class AdvisoryLocks:
    """The advisory locks of one process.

    Session-level locks share one connection: a pooler of 15 connections must not lose one for each of 24 partitions.
    Behind a transaction pooler (port 6543) session-level locks do not exist; there each lock is transaction-level and
    keeps a transaction of its own open. These connections are not the engine's pool's: two dozen locks would starve it.
    """

    def __init__(self, engine: Engine, *, per_transaction: bool | None = None) -> None:
        """`per_transaction` says whether a pooler hands out sessions by transaction; by default the port tells."""
        self._engine = engine
        self._per_transaction = (
            engine.url.port == _TRANSACTION_POOLER_PORT if per_transaction is None else per_transaction
        )
        self._mutex = threading.Lock()
        self._shared: Connection | None = None
        self._held: dict[int, Connection] = {}

    @property
    def place(self) -> str:
        """What tells the database of these locks from any other, in a few letters; a lock means nothing elsewhere."""
        url = self._engine.url
        where = repr((url.host, url.port, url.database, sorted(url.query.items())))
        return hashlib.sha256(where.encode()).hexdigest()[:12]

    def try_acquire(self, name: str) -> bool:
        """Take the lock if nobody has it, in this process or any other; never waits."""
        key = _lock_key(name)
        with self._mutex:
            # The server would grant a session its own lock a second time.
            if key in self._held:
                return False
            connection = self._try_in_transaction(key) if self._per_transaction else self._try_in_session(key)
            if connection is not None:
                self._held[key] = connection
            return connection is not None

    def release(self, name: str) -> None:
        """Give the lock back; a lock that a broken connection has lost already is simply forgotten."""
        key = _lock_key(name)
        with self._mutex:
            connection = self._held.pop(key, None)
            if connection is None or connection.closed or connection.invalidated:
                return
            try:
                if self._per_transaction:
                    connection.close()
                else:
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
            except DBAPIError:
                if not connection.closed:
                    connection.invalidate()

    def require(self, name: str) -> None:
        """Raise `TransientError("lock_lost")` unless the lock is still ours.

        Its connection may have died while the process lived on; another run may then be at work on the same partition.
        """
        with self._mutex:
            connection = self._held.get(_lock_key(name))
            try:
                if connection is not None and not connection.invalidated and connection.scalar(text("SELECT 1")) == 1:
                    return
            except DBAPIError:
                pass  # falls through to the error below, which says the same without the driver's text
        raise TransientError(
            "lock_lost",
            "The database connection that held this partition's lock was lost; run again to go on from where it "
            "stopped.",
        )

    def close(self) -> None:
        """Give all locks back."""
        with self._mutex:
            connections = {id(c): c for c in (*self._held.values(), self._shared) if c is not None}
            for connection in connections.values():
                if not self._per_transaction:
                    _unlock_all(connection)
                connection.close()
            self._held.clear()
            self._shared = None

    def __enter__(self) -> AdvisoryLocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _try_in_transaction(self, key: int) -> Connection | None:
        connection = self._engine.connect()
        connection.detach()
        try:
            if connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}):
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None

    def _try_in_session(self, key: int) -> Connection | None:
        statement = text("SELECT pg_try_advisory_lock(:key)")
        try:
            connection = self._session()
            return connection if connection.scalar(statement, {"key": key}) else None
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        # The server has cut the shared connection since it was last used, and with it the locks on it: `require` tells
        # those who hold them. This one does not hold any yet.
        connection = self._session()
        return connection if connection.scalar(statement, {"key": key}) else None

    def _session(self) -> Connection:
        if self._shared is None or self._shared.closed or self._shared.invalidated:
            self._shared = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._shared.detach()
        return self._shared


def _unlock_all(connection: Connection) -> None:
    """Unlock before closing: the server takes a moment to see that a connection is gone, and a run that starts in it
    would be refused."""
    if connection.closed or connection.invalidated:
        return
    try:
        connection.execute(text("SELECT pg_advisory_unlock_all()"))
    except DBAPIError:
        connection.invalidate()


def _lock_key(name: str) -> int:
    """A signed 64-bit number for a name: Postgres locks numbers."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
