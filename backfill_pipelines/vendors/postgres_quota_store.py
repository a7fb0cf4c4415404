"""Request budgets shared by every process and host through one Postgres table, `backfill.quota`.

Belongs here: the statements that do to a row what `budget.py` says, and nothing that decides anything else. Does not
belong here: the table's definition and migrations (`backfill_pipelines.database`).

Each operation is one statement, which takes the row's lock, reads the database's clock while it holds it, and
computes the new row from both: no polling, one round trip, first come first served. Notes on the form:

- `clock_timestamp()`, not `now()`: the latter is the moment the statement began, before it waited for the lock.
- The row is locked in one common table expression and the clock read in a second, materialised one, so that every expression of
  the statement sees the same moment and that moment lies after the wait.
- `set_config('synchronous_commit', 'off', true)` in the statement itself, in autocommit: `SET LOCAL` without the round trips
  of BEGIN, SET and COMMIT. A crash of the server forgets at most the last fraction of a second of accounting.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Engine, Row, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql.elements import TextClause

from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines.vendors.budget import (
    MAXIMUM_PAUSE_SECONDS,
    MINIMUM_PAUSE_SECONDS,
    ROUNDING,
    BudgetChange,
    BudgetRow,
    Terms,
)
from backfill_pipelines.vendors.clock import Clock
from backfill_pipelines.vendors.quota_store import QuotaKey, Reservation, Snapshot, Taken

_UNDEFINED_TABLE = ("42P01", "3F000")

_OPEN = text("""
    INSERT INTO backfill.quota AS q (vendor, account, kind, permits, window_seconds)
    VALUES (:vendor, :account, :kind, :permits, :window_seconds)
    ON CONFLICT (vendor, account, kind) DO UPDATE
        SET permits = excluded.permits, window_seconds = excluded.window_seconds, updated_at = clock_timestamp()
        WHERE q.permits <> excluded.permits OR q.window_seconds <> excluded.window_seconds
""")

_LOCKED = """
    WITH locked AS (
        SELECT * FROM backfill.quota WHERE vendor = :vendor AND account = :account AND kind = :kind FOR NO KEY UPDATE
    ), clocked AS MATERIALIZED (
        SELECT *, extract(epoch FROM clock_timestamp())::float8 AS t FROM locked
    )"""

_WHERE_AND_RETURNING = """
    WHERE q.vendor = :vendor AND q.account = :account AND q.kind = :kind
    RETURNING q.permits, q.window_seconds, q.next_slot_at, q.reduced_permits, q.reduced_until, q.window_started_at,
        q.used, old.t AS now, set_config('synchronous_commit', 'off', true)"""

# Postgres's least() ignores NULL, so an absent ceiling and an absent reduction need no case of their own.
_USABLE = """
        greatest(1, floor(least(permits, CAST(:ceiling AS int),
            CASE WHEN reduced_until > t THEN reduced_permits END) * CAST(:share AS float8) + CAST(:rounding AS float8)))"""

_RESERVE = text(f"""
    {_LOCKED}, old AS MATERIALIZED (
        SELECT *, window_seconds * CAST(:stretch AS float8) / {_USABLE} AS gap FROM clocked
    )
    UPDATE backfill.quota AS q
    SET next_slot_at = greatest(old.next_slot_at, old.t) + CAST(:count AS int) * old.gap, updated_at = to_timestamp(old.t)
    FROM old {_WHERE_AND_RETURNING}, old.gap
""")

_WINDOW = """
        SELECT *, {usable} AS usable,
            CASE WHEN t < window_started_at + window_seconds THEN window_started_at ELSE t END AS started,
            CASE WHEN t < window_started_at + window_seconds THEN used ELSE 0 END AS used_so_far FROM clocked"""

_TAKE = text(f"""
    {_LOCKED}, old AS MATERIALIZED ({_WINDOW.format(usable=_USABLE)})
    UPDATE backfill.quota AS q
    SET window_started_at = old.started, updated_at = to_timestamp(old.t),
        used = old.used_so_far + least(CAST(:count AS int), greatest(0, old.usable - old.used_so_far))
    FROM old {_WHERE_AND_RETURNING}, q.used - old.used_so_far AS granted
""")

_GIVE_BACK = text("""
    UPDATE backfill.quota SET used = greatest(0, used - :count), updated_at = clock_timestamp()
    WHERE vendor = :vendor AND account = :account AND kind = :kind AND window_started_at = :window_started_at
""")

_REFUSE = text(f"""
    {_LOCKED}, old AS MATERIALIZED (
        SELECT *, CASE WHEN reduced_permits IS NOT NULL THEN coalesce(reduced_until, t) ELSE t END AS until FROM clocked
    ), halved AS MATERIALIZED (
        SELECT *, CASE WHEN until > t THEN least(permits, reduced_permits) ELSE permits END AS in_force FROM old
    )
    UPDATE backfill.quota AS q
    SET next_slot_at = greatest(old.next_slot_at, old.t + CAST(:pause AS float8)),
        reduced_permits = CASE WHEN old.until - old.window_seconds > old.t THEN old.in_force
            ELSE greatest(1, old.in_force / 2) END,
        reduced_until = greatest(old.until, old.t + CAST(:pause AS float8) + old.window_seconds),
        updated_at = to_timestamp(old.t)
    FROM halved AS old {_WHERE_AND_RETURNING}
""")

_CHANGE = text(f"""
    {_LOCKED}, learned AS MATERIALIZED (
        SELECT vendor, account, kind, coalesce(CAST(:permits AS int), permits) AS permits,
            coalesce(CAST(:window_seconds AS float8), window_seconds) AS window_seconds, reduced_permits, reduced_until,
            window_started_at, used, t, CAST(:used AS bigint) IS NOT NULL OR CAST(:window_age AS float8) IS NOT NULL AS recounts
        FROM clocked
    ), old AS MATERIALIZED (
        SELECT *, NOT recounts OR coalesce(t < window_started_at + window_seconds, false) AS same_window FROM learned
    )
    UPDATE backfill.quota AS q
    SET permits = old.permits, window_seconds = old.window_seconds, updated_at = to_timestamp(old.t),
        reduced_permits = CASE WHEN CAST(:reduced_permits AS int) IS NULL THEN old.reduced_permits
            ELSE least(CAST(:reduced_permits AS int), CASE WHEN old.reduced_until > old.t THEN old.reduced_permits END) END,
        reduced_until = CASE WHEN CAST(:reduced_permits AS int) IS NULL THEN old.reduced_until
            ELSE greatest(old.reduced_until, old.t + CAST(:reduced_seconds AS float8)) END,
        used = greatest(CAST(:used AS bigint), CASE WHEN CAST(:recount AS boolean) AND CAST(:used AS bigint) IS NOT NULL THEN NULL
            WHEN old.same_window THEN old.used ELSE 0 END),
        window_started_at = CASE WHEN CAST(:window_age AS float8) IS NOT NULL THEN old.t - CAST(:window_age AS float8)
            WHEN old.same_window THEN old.window_started_at ELSE old.t END
    FROM old {_WHERE_AND_RETURNING}
""")


class PostgresQuotaStore:
    """Budgets in `backfill.quota`; see `QuotaStore` for the operations.

    Statements run on a thread each, since the engine is synchronous; `clock` stamps the replies there, before the
    event loop's own delays.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._clock = clock

    async def open(self, key: QuotaKey, *, permits: int, window_seconds: float) -> None:
        """See `QuotaStore`."""
        await self._execute(_OPEN, key, permits=permits, window_seconds=window_seconds)

    async def reserve(self, key: QuotaKey, count: int, terms: Terms) -> Reservation | None:
        """See `QuotaStore`."""
        row, received_at = await self._execute(_RESERVE, key, count=count, stretch=1 + terms.slack, **_parameters(terms))
        return None if row is None else Reservation(snapshot=_snapshot(row, received_at), gap=row.gap)

    async def take(self, key: QuotaKey, count: int, terms: Terms) -> Taken | None:
        """See `QuotaStore`."""
        row, received_at = await self._execute(_TAKE, key, count=count, **_parameters(terms))
        return None if row is None else Taken(snapshot=_snapshot(row, received_at), granted=int(row.granted))

    async def give_back(self, key: QuotaKey, count: int, *, window_started_at: float) -> None:
        """See `QuotaStore`."""
        await self._execute(_GIVE_BACK, key, count=count, window_started_at=window_started_at)

    async def refuse(self, key: QuotaKey, pause: float) -> Snapshot | None:
        """See `QuotaStore`."""
        pause = min(max(pause, MINIMUM_PAUSE_SECONDS), MAXIMUM_PAUSE_SECONDS)
        row, received_at = await self._execute(_REFUSE, key, pause=pause)
        return None if row is None else _snapshot(row, received_at)

    async def change(self, key: QuotaKey, change: BudgetChange) -> Snapshot | None:
        """See `QuotaStore`."""
        row, received_at = await self._execute(
            _CHANGE,
            key,
            permits=change.permits,
            window_seconds=change.window_seconds,
            reduced_permits=change.reduced_permits,
            reduced_seconds=change.reduced_seconds,
            used=change.used,
            recount=change.recount,
            window_age=change.window_age,
        )
        return None if row is None else _snapshot(row, received_at)

    async def _execute(self, statement: TextClause, key: QuotaKey, **parameters: Any) -> tuple[Row[Any] | None, float]:
        values = {"vendor": key.vendor, "account": key.account, "kind": key.kind, **parameters}
        return await asyncio.to_thread(self._execute_here, statement, values)

    def _execute_here(self, statement: TextClause, values: dict[str, Any]) -> tuple[Row[Any] | None, float]:
        try:
            with self._engine.connect() as connection:
                result = connection.execute(statement, values)
                row = result.one_or_none() if result.returns_rows else None
                return row, self._clock.monotonic()
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
        except SQLAlchemyError:
            state = None
        # Outside the handlers: the driver's text, which may hold parameters, is no part of what is raised.
        if state in _UNDEFINED_TABLE:
            raise ConfigurationError(
                "quota_table_missing", "The database has no table backfill.quota; run `backfill db upgrade` on it."
            )
        raise TransientError(
            "quota_unavailable",
            "The shared request quota in the database could not be read, so no request was sent; check that the "
            f"database named by DATABASE_URL is up and try again (SQLSTATE {state or 'none: no answer'}).",
        )


def _parameters(terms: Terms) -> dict[str, Any]:
    return {"ceiling": terms.ceiling, "share": 1 - terms.reserve, "rounding": ROUNDING}


def _snapshot(row: Row[Any], received_at: float) -> Snapshot:
    budget = BudgetRow(
        permits=row.permits,
        window_seconds=row.window_seconds,
        next_slot_at=row.next_slot_at,
        reduced_permits=row.reduced_permits,
        reduced_until=row.reduced_until,
        window_started_at=row.window_started_at,
        used=row.used,
    )
    return Snapshot(row=budget, now=row.now, received_at=received_at)
