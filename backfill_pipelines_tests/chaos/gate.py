"""A gate in the database: the first statement that would pass it waits, and with it the process that sent it.

Belongs here: stopping a process at an exact place of its work, from outside, so that it can be killed there. Does not
belong here: killing it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Engine, text

from backfill_pipelines_tests.installation import wait_until

_KEYS = itertools.count(7_000)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate that is shut."""

    key: int
    _engine: Engine
    _holder: Connection

    def waiting(self) -> int:
        """How many sessions stand before it."""
        with self._engine.connect() as connection:
            found = connection.scalar(
                # The view shows the whole server's locks, those of other tests' databases too.
                text(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key AND NOT granted"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                ),
                {"key": self.key},
            )
        return int(found or 0)

    def wait_until_reached(self) -> None:
        wait_until(lambda: self.waiting() > 0)

    def open(self) -> None:
        """Let everything pass, from now on."""
        self._holder.execute(text("SELECT pg_advisory_unlock_all()"))


@contextmanager
def gate(
    engine: Engine, *, before: Literal["INSERT", "UPDATE", "DELETE"], of: str, when: str = "true"
) -> Iterator[Gate]:
    """Shut a gate before each row of a kind of statement on a table, where a condition (SQL) holds by then.

    The trigger stays with the database, which is the test's own; opened, it lets everything pass.
    """
    key = next(_KEYS)
    holder = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        holder.execute(text("SET application_name = 'gate'"))
        holder.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        holder.execute(
            text(
                f"CREATE FUNCTION gate_{key}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF {when} THEN PERFORM pg_advisory_xact_lock_shared({key}); END IF;"
                " IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$"
            )
        )
        holder.execute(
            text(f"CREATE TRIGGER gate_{key} BEFORE {before} ON {of} FOR EACH ROW EXECUTE FUNCTION gate_{key}()")
        )
        yield Gate(key=key, _engine=engine, _holder=holder)
    finally:
        holder.invalidate()  # its end opens the gate, even where the server is gone
        holder.close()
