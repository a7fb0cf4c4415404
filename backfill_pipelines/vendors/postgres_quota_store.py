"""Request budgets shared by every process and host through one Postgres table, `backfill.quota`.

Belongs here: the statements that do to a row what `budget.py` says, and nothing that decides anything else. Does not
belong here: the table's definition and migrations (`backfill_pipelines.database`).

Handing out permits is one statement, which takes the row's lock, reads the database's clock while it holds it, and
computes the new row from both: no polling, one round trip, first come first served. What is rare (a refusal, a new
limit) locks the row, asks `budget.py` and writes the answer. Notes on the statements:

- `clock_timestamp()`, not `now()`: the latter is the moment the transaction began, before it waited for the lock.
- The clock is read once in a statement, and again if the row had to be waited for: in a subquery of the SET, which
  Postgres evaluates anew on the row's new version, or after an expression that locks the row.
- `set_config('synchronous_commit', 'off', true)` is `SET LOCAL` without the round trips of BEGIN, SET and COMMIT. A
  crash of the server forgets at most the last fraction of a second of accounting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, Double, Engine, Row, bindparam, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql.elements import TextClause

from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines.vendors.budget import (
    ROUNDING,
    BudgetChange,
    BudgetRow,
    Terms,
    apply_change,
    give_back,
    refuse,
    spacing,
)
from backfill_pipelines.vendors.clock import Clock
from backfill_pipelines.vendors.quota_store import QuotaKey, Reservation, Snapshot, Taken

_Result = TypeVar("_Result")

_UNDEFINED_TABLE = ("42P01", "3F000")
_FRACTIONS = (bindparam("rounding", type_=Double), bindparam("share", type_=Double))

_OPEN = text("""
    INSERT INTO backfill.quota AS q (vendor, account, kind, permits, window_seconds)
    VALUES (:vendor, :account, :kind, :permits, :window_seconds)
    ON CONFLICT (vendor, account, kind) DO UPDATE
        SET permits = excluded.permits, window_seconds = excluded.window_seconds, updated_at = clock_timestamp()
    RETURNING q.*, extract(epoch FROM clock_timestamp())::float8 AS now
""")

_LOCKED = """
    WITH locked AS (
        SELECT * FROM backfill.quota WHERE vendor = :vendor AND account = :account AND kind = :kind FOR NO KEY UPDATE
    ), clock AS MATERIALIZED (
        SELECT *, extract(epoch FROM clock_timestamp())::float8 AS now FROM locked
    )"""

# Postgres's least() ignores NULL, so an absent ceiling and an absent reduction need no case of their own.
_USABLE = """greatest(1, floor(:rounding + :share * least(
                permits, CAST(:ceiling AS int), CASE WHEN reduced_until > clock.now THEN reduced_permits END)))"""

_RESERVE = text(
    f"""
    UPDATE backfill.quota AS q
    SET (updated_at, next_slot_at) = (
        SELECT to_timestamp(clock.now),
            greatest(next_slot_at, clock.now + :lead) + :count * (window_seconds * :stretch / {_USABLE})
        FROM (SELECT extract(epoch FROM clock_timestamp())::float8 AS now) AS clock)
    WHERE vendor = :vendor AND account = :account AND kind = :kind
    RETURNING q.*, extract(epoch FROM q.updated_at)::float8 AS now, set_config('synchronous_commit', 'off', true)
    """  # noqa: S608 - constants only
).bindparams(*_FRACTIONS, bindparam("stretch", type_=Double), bindparam("lead", type_=Double))

_TAKE = text(
    f"""{_LOCKED}, old AS MATERIALIZED (
        SELECT *, {_USABLE} AS usable,
            CASE WHEN now < window_started_at + window_seconds THEN window_started_at ELSE now END AS started,
            CASE WHEN now < window_started_at + window_seconds THEN used ELSE 0 END AS used_so_far
        FROM clock
    )
    UPDATE backfill.quota AS q
    SET window_started_at = old.started, updated_at = to_timestamp(old.now),
        used = old.used_so_far + least(:count, greatest(0, old.usable - old.used_so_far))
    FROM old
    WHERE q.vendor = old.vendor AND q.account = old.account AND q.kind = old.kind
    RETURNING q.*, old.now, q.used - old.used_so_far AS granted, set_config('synchronous_commit', 'off', true)
    """  # noqa: S608 - constants only
).bindparams(*_FRACTIONS)

_LOCK = text(f"{_LOCKED} SELECT *, set_config('synchronous_commit', 'off', true) FROM clock")  # noqa: S608 - constants

_REPLACE = text("""
    UPDATE backfill.quota
    SET permits = :permits, window_seconds = :window_seconds, next_slot_at = :next_slot_at,
        reduced_permits = :reduced_permits, reduced_until = :reduced_until, window_started_at = :window_started_at,
        used = :used, updated_at = to_timestamp(:now)
    WHERE vendor = :vendor AND account = :account AND kind = :kind
""")


class PostgresQuotaStore:
    """Budgets in `backfill.quota`; see `QuotaStore` for the operations.

    Statements run on a thread each, since the engine is synchronous; `clock` stamps the replies there, before the
    event loop's own delays.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._clock = clock

    async def open(self, key: QuotaKey, *, permits: int, window_seconds: float) -> Snapshot:
        """See `QuotaStore`."""
        answer = await self._execute(_OPEN, key, permits=permits, window_seconds=window_seconds)
        if answer is None:
            raise RuntimeError("an INSERT with RETURNING returned no row")
        return answer[1]

    async def reserve(self, key: QuotaKey, count: int, terms: Terms, *, lead: float) -> Reservation | None:
        """See `QuotaStore`."""
        parameters = {"count": count, "lead": lead, "stretch": 1 + terms.slack, **_fractions(terms)}
        answer = await self._execute(_RESERVE, key, **parameters)
        if answer is None:
            return None
        snapshot = answer[1]
        return Reservation(snapshot=snapshot, gap=spacing(snapshot.row, snapshot.now, terms))

    async def take(self, key: QuotaKey, count: int, terms: Terms) -> Taken | None:
        """See `QuotaStore`."""
        answer = await self._execute(_TAKE, key, count=count, **_fractions(terms))
        return None if answer is None else Taken(snapshot=answer[1], granted=int(answer[0].granted))

    async def give_back(self, key: QuotaKey, count: int, *, window_started_at: float) -> None:
        """See `QuotaStore`."""
        await self._modify(key, lambda row, _: give_back(row, count, window_started_at))

    async def refuse(self, key: QuotaKey, pause: float) -> Snapshot | None:
        """See `QuotaStore`."""
        return await self._modify(key, lambda row, now: refuse(row, now, pause))

    async def change(self, key: QuotaKey, change: BudgetChange) -> Snapshot | None:
        """See `QuotaStore`."""
        return await self._modify(key, lambda row, now: apply_change(row, now, change))

    async def _execute(
        self, statement: TextClause, key: QuotaKey, **parameters: Any
    ) -> tuple[Row[Any], Snapshot] | None:
        def execute() -> tuple[Row[Any], Snapshot] | None:
            with self._autocommit.connect() as connection:
                return self._ask(connection, statement, {**asdict(key), **parameters})

        return await asyncio.to_thread(_without_values, execute)

    async def _modify(self, key: QuotaKey, function: Callable[[BudgetRow, float], BudgetRow]) -> Snapshot | None:
        """Lock, ask `budget.py`, write: what is rare may take three round trips, and its rules stay in one place."""

        def modify() -> Snapshot | None:
            with self._engine.begin() as connection:
                found = self._ask(connection, _LOCK, asdict(key))
                if found is None:
                    return None
                _, snapshot = found
                row = function(snapshot.row, snapshot.now)
                connection.execute(_REPLACE, {**asdict(key), **asdict(row), "now": snapshot.now})
            return replace(snapshot, row=row)

        return await asyncio.to_thread(_without_values, modify)

    def _ask(
        self, connection: Connection, statement: TextClause, parameters: Mapping[str, Any]
    ) -> tuple[Row[Any], Snapshot] | None:
        """Execute on a connection that is there already: the time to make one is no part of the exchange."""
        sent_at = self._clock.monotonic()
        row = connection.execute(statement, parameters).one_or_none()
        received_at = self._clock.monotonic()
        if row is None:
            return None
        budget = BudgetRow(**{field.name: row._mapping[field.name] for field in fields(BudgetRow)})
        return row, Snapshot(row=budget, now=row.now, sent_at=sent_at, received_at=received_at)


def _without_values(operation: Callable[[], _Result]) -> _Result:
    """Run a database operation; what the driver says of a failure may hold values and is left out."""
    try:
        return operation()
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
    except SQLAlchemyError:
        state = None
    if state in _UNDEFINED_TABLE:
        raise ConfigurationError(
            "quota_table_missing", "The database has no table backfill.quota; run `backfill db upgrade` on it."
        )
    raise TransientError(
        "quota_unavailable",
        "The shared request quota in the database could not be read, so no request was sent; check that the database "
        f"named by DATABASE_URL is up and try again (SQLSTATE {state or 'none, no answer'}).",
    )


def _fractions(terms: Terms) -> dict[str, Any]:
    return {"ceiling": terms.ceiling, "share": 1 - terms.reserve, "rounding": ROUNDING}
