"""The first way of loading: set-based, into a table of the same database as the ledger.

Belongs here: walking a plan's rows in batches, each batch one transaction that writes the target *and* its journal, so
that no crash can come between the two; halving a batch that one bad row refuses. Does not belong here: the statements
(`sql_target.py` builds the usual ones; a backfill may bring its own).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from backfill_pipelines.engine.journal import (
    CHANGED_SINCE,
    ChangeState,
    Outcome,
    applied_rows,
    remaining_rows,
    undo_codes,
    write_outcomes,
)
from backfill_pipelines.errors import DataError, TransientError

# Deadlock, serialization failure, lock timeout: the batch was rolled back whole and may simply be tried again.
_RETRIED_SQLSTATES = {"40001", "40P01", "55P03"}
_ATTEMPTS = 12
# Half of Postgres' deadlock_timeout: where two writers wait for each other, ours gives way before the server picks one.
_LOCK_TIMEOUT = "500ms"
_STATEMENT_TIMEOUT = "57014"
_UNAVAILABLE_SQLSTATE_CLASSES = ("08", "53", "57")
# The table, the role or the session is the matter, whatever the row. All else is taken for the row's own fault, since a
# trigger may raise any code: blaming a row wrongly costs that row, blaming the table wrongly stops the load for good.
_TARGET_SQLSTATE_CLASSES = ("0A", "25", "28", "3D", "3F", "42", "55", "58")


class SetBasedTarget(Protocol):
    """What a backfill brings to load, and to undo, a range of plan rows in the caller's transaction."""

    @property
    def batch_rows(self) -> int:
        """How many plan rows go into one transaction: locks are held that long."""

    def apply(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        """Execute the rows `first <= seq <= last` that are still planned, and journal every one of them."""

    def undo(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        """Take back the rows `first <= seq <= last` that are applied, and journal every one of them."""

    def refusal(self, error: DBAPIError) -> tuple[ChangeState, str]:
        """What a single row becomes that the database refuses: `conflict` or `failed`, and a code."""


def load_set_based(
    engine: Engine,
    run_id: UUID,
    target: SetBasedTarget,
    *,
    limit: int | None,
    safe_point: Callable[[], None],
    progress: Callable[[int, int], None],
) -> None:
    """Execute the rows of a stored plan that are still planned, at most `limit` of them.

    Between two batches `safe_point` may raise to stop; what is applied stays applied and journalled. Raises
    `TransientError` (`database_unavailable`, `target_busy`) and `DataError("target_refused")` where the whole target,
    not a row, is the matter.
    """
    with engine.connect() as connection:
        seqs = remaining_rows(connection, run_id, limit=limit)
    done = 0
    for start in range(0, len(seqs), target.batch_rows):
        safe_point()
        batch = seqs[start : start + target.batch_rows]
        _apply(engine, run_id, target, batch)
        done += len(batch)
        progress(done, len(seqs))


def undo_set_based(
    engine: Engine,
    run_id: UUID,
    target: SetBasedTarget,
    *,
    dry_run: bool,
    safe_point: Callable[[], None],
    progress: Callable[[int, int], None],
) -> Counter[str | None]:
    """Take back the applied rows of a run, last one first; a row changed since stays `applied` with a code.

    Returns how many rows came to each code; None is the code of those that were undone. With `dry_run` every batch is
    rolled back after it was counted.
    """
    with engine.connect() as connection:
        seqs = applied_rows(connection, run_id)
    codes: Counter[str | None] = Counter()
    done = 0
    for start in range(0, len(seqs), target.batch_rows):
        safe_point()
        batch = sorted(seqs[start : start + target.batch_rows])
        codes += _undo(engine, run_id, target, batch, dry_run=dry_run)
        done += len(batch)
        progress(done, len(seqs))
    return codes


def _apply(engine: Engine, run_id: UUID, target: SetBasedTarget, seqs: Sequence[int]) -> None:
    error = _try(engine, lambda connection: target.apply(connection, run_id, seqs[0], seqs[-1]))
    if error is None:
        return
    if len(seqs) == 1:
        if sqlstate_of(error) == _STATEMENT_TIMEOUT:
            raise _unavailable(error)
        state, code = target.refusal(error)
        _journal(engine, run_id, Outcome(seq=seqs[0], state=state, error_code=code))
        return
    middle = len(seqs) // 2
    _apply(engine, run_id, target, seqs[:middle])
    _apply(engine, run_id, target, seqs[middle:])


def _undo(
    engine: Engine, run_id: UUID, target: SetBasedTarget, seqs: Sequence[int], *, dry_run: bool
) -> Counter[str | None]:
    codes: Counter[str | None] = Counter()

    def work(connection: Connection) -> None:
        codes.clear()  # a batch that is tried again counts once
        target.undo(connection, run_id, seqs[0], seqs[-1])
        codes.update(undo_codes(connection, run_id, seqs))

    error = _try(engine, work, keep=not dry_run)
    if error is None:
        return codes
    codes.clear()
    if len(seqs) == 1:
        if sqlstate_of(error) == _STATEMENT_TIMEOUT:
            raise _unavailable(error)
        # Something else has come to depend on the row (a foreign key, usually): it stays, and stays ours to undo.
        if not dry_run:
            _journal(engine, run_id, Outcome(seq=seqs[0], state=ChangeState.APPLIED, error_code=CHANGED_SINCE))
        codes[CHANGED_SINCE] += 1
        return codes
    middle = len(seqs) // 2
    later = _undo(engine, run_id, target, seqs[middle:], dry_run=dry_run)
    return later + _undo(engine, run_id, target, seqs[:middle], dry_run=dry_run)


def _journal(engine: Engine, run_id: UUID, outcome: Outcome) -> None:
    with engine.begin() as connection:
        write_outcomes(connection, run_id, [outcome])


def _try(engine: Engine, work: Callable[[Connection], None], *, keep: bool = True) -> DBAPIError | None:
    """Do the work in a transaction; return the error where fewer rows may do, raise where no row is to blame.

    Without `keep` the transaction is rolled back in the end.
    """
    try:
        for attempt in Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            reraise=True,
        ):
            with attempt, engine.connect() as connection, connection.begin() as transaction:
                connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
                work(connection)
                # A deferred unique key would speak up only at COMMIT, where a row can no longer be told from its batch.
                connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
                if not keep:
                    transaction.rollback()
    except DBAPIError as error:
        sqlstate = sqlstate_of(error)
        if sqlstate == _STATEMENT_TIMEOUT:
            return error
        if sqlstate in _RETRIED_SQLSTATES:
            raise TransientError(
                "target_busy",
                f"Other writers kept rows of the target table locked, {_ATTEMPTS} times over (SQLSTATE {sqlstate}); "
                "run again to go on from there.",
            ) from None
        if is_unavailable(error):
            raise _unavailable(error) from None
        if sqlstate and (not sqlstate.startswith(_TARGET_SQLSTATE_CLASSES) or "row-level security" in str(error.orig)):
            return error
        raise DataError(
            "target_refused",
            f"The database refused to load the target table (SQLSTATE {sqlstate or 'none'}); "
            "check the role's privileges and the table's definition.",
        ) from None
    return None


def sqlstate_of(error: DBAPIError | psycopg.Error) -> str:
    """Postgres' five-character code of an error; empty where the connection broke before there was one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(original, psycopg.Error):
        return ""
    return original.sqlstate or original.diag.sqlstate or ""  # the former knows only Postgres' own codes


def is_unavailable(error: DBAPIError | psycopg.Error) -> bool:
    """Whether the database, or the connection to it, was the matter: the same statement may succeed later."""
    original = error.orig if isinstance(error, DBAPIError) else error
    sqlstate = sqlstate_of(error)
    if sqlstate:
        gone = isinstance(error, DBAPIError) and error.connection_invalidated
        return gone or sqlstate.startswith(_UNAVAILABLE_SQLSTATE_CLASSES)
    # Other errors without a code are the driver's own: a statement that it cannot even send.
    return isinstance(original, (psycopg.OperationalError, psycopg.InterfaceError))


def _unavailable(error: DBAPIError) -> TransientError:
    return TransientError(
        "database_unavailable",
        f"The database could not take a batch of rows (SQLSTATE {sqlstate_of(error) or 'none'}); "
        "run again to go on from there.",
    )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and sqlstate_of(error) in _RETRIED_SQLSTATES
