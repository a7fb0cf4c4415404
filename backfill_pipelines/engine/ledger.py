"""The ledger: which runs there were, in what state, and where an interrupted one goes on.

Belongs here: reading and writing `backfill.run` and `backfill.cursor`. Does not belong here: the rows of a plan
(`plan.py`), their execution (`set_based.py`, `record_by_record.py`), when a run goes on with another (`runs.py`), and
anything of Dagster but its run ids, which are plain text here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, Row, delete, insert, select, text, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.dialects.postgresql import insert as upsert

from backfill_pipelines.database.tables import cursor, run
from backfill_pipelines.engine.runs import STALE_AFTER, Mode, Request, Run, State, can_resume, leaves_an_extraction
from backfill_pipelines.errors import BackfillError, ConfigurationError, ErrorCategory, ParkedError

__all__ = [
    "STALE_AFTER",
    "Ledger",
    "Mode",
    "Request",
    "Run",
    "State",
    "can_resume",
    "read_cursor",
    "write_cursor",
]

_RESUMABLE_CATEGORIES = (ErrorCategory.TRANSIENT, ErrorCategory.INTERRUPTED, ErrorCategory.PARKED)
_STATE_OF_CATEGORY = {ErrorCategory.PARKED: State.PARKED, ErrorCategory.INTERRUPTED: State.INTERRUPTED}


class Ledger:
    """Reads and writes the runs. Every method is one short transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def open_run(self, request: Request, *, now: datetime) -> Run:
        """Start a run, or go on with the one that was interrupted. Call it only while holding the partition's lock.

        The newest run of the partition is gone on with when it was asked for the same thing and died, was interrupted,
        parked, or failed for a passing reason: then its id, its plan and its applied rows stay. Otherwise a new run
        starts; half-done extractions are kept for it unless they are stale or the run before had come past them.
        """
        with self._engine.begin() as connection:
            self._close_the_dead(connection, request, now=now)
            newest = self._newest(connection, request.backfill, request.partition_key)
            resumed = newest is not None and can_resume(newest, request, now=now)
            if newest is None or not (resumed or leaves_an_extraction(newest, request)):
                self._delete_cursors(connection, request)
            elif newest.parked_until is None or newest.parked_until < now - STALE_AFTER:
                self._delete_cursors(connection, request, older_than=now - STALE_AFTER)
            if newest is not None and resumed:
                return self._resume(connection, newest, request)
            return self._insert(connection, request, now=now)

    def _close_the_dead(self, connection: Connection, request: Request, *, now: datetime) -> None:
        """Close the rows of the partition that look at work: we hold its lock, so whoever wrote them is dead."""
        connection.execute(
            update(run)
            .where(
                run.c.backfill == request.backfill,
                run.c.partition_key == request.partition_key,
                run.c.state == State.RUNNING,
            )
            .values(
                state=State.INTERRUPTED,
                resumable=run.c.mode.in_([Mode.PLAN, Mode.LOAD]),
                finished_at=now,
                error_code="process_died",
                error_category=ErrorCategory.INTERRUPTED,
                error_message="The process ended before the run did; run again to go on from there.",
            )
        )

    def open_newest_plan(self, request: Request, *, now: datetime) -> Run:
        """Take up the newest stored plan of the partition to load it.

        Raises `ConfigurationError`: `no_plan` where there is none, `plan_too_old` past 24 hours.
        """
        with self._engine.begin() as connection:
            self._close_the_dead(connection, request, now=now)
            newest = connection.execute(
                _of_partition(request.backfill, request.partition_key).where(run.c.plan_hash.is_not(None)).limit(1)
            ).one_or_none()
            if newest is None:
                raise ConfigurationError(
                    "no_plan",
                    f"There is no stored plan of {request.backfill} for {request.partition_key}; "
                    "run extract and plan first.",
                )
            found = _to_run(newest)
            if found.planned_at is None or now - found.planned_at > STALE_AFTER:
                raise ConfigurationError(
                    "plan_too_old",
                    f"The newest plan of {request.backfill} for {request.partition_key} is older than 24 hours; "
                    "plan again.",
                )
            return self._resume(connection, found, request)

    def _resume(self, connection: Connection, found: Run, request: Request) -> Run:
        row = connection.execute(
            update(run)
            .where(run.c.id == found.id)
            .values(
                mode=request.mode,
                state=State.RUNNING,
                dagster_run_id=request.dagster_run_id,
                root_run_id=request.root_run_id,
                options=dict(request.options),
                resumable=False,
                finished_at=None,
                parked_until=None,
                error_code=None,
                error_category=None,
                error_message=None,
            )
            .returning(*run.c)
        ).one()
        return _to_run(row)

    def _insert(self, connection: Connection, request: Request, *, now: datetime, undoes: UUID | None = None) -> Run:
        row = connection.execute(
            insert(run)
            .values(
                id=uuid4(),
                dagster_run_id=request.dagster_run_id,
                root_run_id=request.root_run_id,
                backfill=request.backfill,
                partition_key=request.partition_key,
                mode=request.mode,
                state=State.RUNNING,
                options=dict(request.options),
                started_at=now,
                undoes=undoes,
            )
            .returning(*run.c)
        ).one()
        return _to_run(row)

    def open_side_run(self, request: Request, *, now: datetime, undoes: UUID | None = None) -> Run:
        """Start a run that neither resumes another nor is resumed: an undo or a verification.

        Call it only while holding the partition's lock.
        """
        with self._engine.begin() as connection:
            self._close_the_dead(connection, request, now=now)
            return self._insert(connection, request, now=now, undoes=undoes)

    def open_verification(self, request: Request, *, now: datetime) -> Run:
        """Start a verification; it extracts anew, whatever an interrupted run had landed."""
        with self._engine.begin() as connection:
            self._close_the_dead(connection, request, now=now)
            self._delete_cursors(connection, request)
            return self._insert(connection, request, now=now)

    def refuse(self, request: Request, error: BackfillError, *, now: datetime) -> Run:
        """Record a run that was not started."""
        with self._engine.begin() as connection:
            opened = self._insert(connection, request, now=now)
            return self._close(connection, opened.id, now=now, state=State.REFUSED, **_error_values(error))

    def record_plan(
        self,
        connection: Connection,
        run_id: UUID,
        *,
        plan_hash: str,
        counts: Mapping[str, int],
        reasons: Mapping[str, int],
        details: Mapping[str, Any],
        now: datetime,
    ) -> None:
        """Note, in the transaction that stored the rows, that the run has its plan.

        Its figures (`details`) too: a process that dies now does not come to write them down at the end.
        """
        connection.execute(
            update(run)
            .where(run.c.id == run_id)
            .values(
                plan_hash=plan_hash,
                planned_counts=dict(counts),
                planned_reasons=dict(reasons),
                counts=dict(counts),
                reasons=dict(reasons),
                details=run.c.details.concat(dict(details)),
                planned_at=now,
            )
        )

    def record(self, run_id: UUID, **values: Any) -> None:
        """Set columns of a run: counts, reasons, warnings, details, verification."""
        with self._engine.begin() as connection:
            connection.execute(update(run).where(run.c.id == run_id).values(**values))

    def succeed(self, opened: Run, *, now: datetime, keep_extraction: bool = False) -> Run:
        """Close a run that did all it was asked for; its extraction is used up, so the next run extracts anew.

        `keep_extraction` is for a run that only extracted: whoever plans next plans from that.
        """
        with self._engine.begin() as connection:
            if opened.mode is not Mode.UNDO and not keep_extraction:
                self._delete_cursors(connection, opened)
            return self._close(connection, opened.id, now=now, state=State.SUCCEEDED)

    def fail(self, opened: Run, error: BackfillError, *, now: datetime) -> Run:
        """Close a run that failed, was interrupted or was parked.

        Where the reason may pass, what was extracted stays for the next run; data that could not be trusted does not.
        """
        resumable = error.category in _RESUMABLE_CATEGORIES and opened.mode in (Mode.PLAN, Mode.LOAD)
        with self._engine.begin() as connection:
            if not resumable and opened.mode is not Mode.UNDO:
                self._delete_cursors(connection, opened)
            return self._close(
                connection,
                opened.id,
                now=now,
                state=_STATE_OF_CATEGORY.get(error.category, State.FAILED),
                resumable=resumable,
                parked_until=error.wake_at if isinstance(error, ParkedError) else None,
                **_error_values(error),
            )

    def _close(self, connection: Connection, run_id: UUID, *, now: datetime, **values: Any) -> Run:
        row = connection.execute(
            update(run).where(run.c.id == run_id).values(finished_at=now, **values).returning(*run.c)
        ).one()
        return _to_run(row)

    def get(self, run_id: UUID) -> Run | None:
        """The run with this id."""
        with self._engine.connect() as connection:
            row = connection.execute(select(run).where(run.c.id == run_id)).one_or_none()
        return None if row is None else _to_run(row)

    def of_dagster_run(self, dagster_run_id: str) -> list[Run]:
        """The runs that a Dagster run worked on, by partition."""
        statement = select(run).where(run.c.dagster_run_id == dagster_run_id).order_by(run.c.partition_key)
        with self._engine.connect() as connection:
            return [_to_run(row) for row in connection.execute(statement)]

    def finished_in_group(self, request: Request) -> Run | None:
        """The successful run of the partition by an earlier attempt of the same Dagster run group, if there is one."""
        if request.root_run_id is None or request.root_run_id == request.dagster_run_id:
            return None
        statement = (
            _of_partition(request.backfill, request.partition_key)
            .where(run.c.root_run_id == request.root_run_id)
            .where(run.c.mode == request.mode)
            .where(run.c.state == State.SUCCEEDED)
            .limit(1)
        )
        with self._engine.connect() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else _to_run(row)

    def newest_runs(self, backfill: str | None, *, limit: int = 200) -> list[Run]:
        """The newest run of each partition (of one backfill, or of all), newest first."""
        newest = select(run).ext(distinct_on(run.c.backfill, run.c.partition_key))
        if backfill is not None:
            newest = newest.where(run.c.backfill == backfill)
        newest = newest.order_by(run.c.backfill, run.c.partition_key, run.c.started_at.desc())
        alias = newest.subquery()
        with self._engine.connect() as connection:
            rows = connection.execute(select(alias).order_by(alias.c.started_at.desc()).limit(limit))
            return [_to_run(row) for row in rows]

    def newest_figures(self, backfill: str) -> list[Run]:
        """The newest run with figures of its source (`details`), for each partition of a backfill: failed ones too."""
        statement = (
            select(run)
            .ext(distinct_on(run.c.partition_key))
            .where(run.c.backfill == backfill, run.c.details != text("'{}'::jsonb"))
            .order_by(run.c.partition_key, run.c.started_at.desc())
        )
        with self._engine.connect() as connection:
            return [_to_run(row) for row in connection.execute(statement)]

    def newest_verifications(self, backfill: str) -> list[Run]:
        """The newest run with a verification, for each partition of a backfill."""
        statement = (
            select(run)
            .ext(distinct_on(run.c.partition_key))
            .where(run.c.backfill == backfill, run.c.verification.is_not(None))
            .order_by(run.c.partition_key, run.c.started_at.desc())
        )
        with self._engine.connect() as connection:
            return [_to_run(row) for row in connection.execute(statement)]

    def _newest(self, connection: Connection, backfill: str, partition_key: str) -> Run | None:
        statement = (
            _of_partition(backfill, partition_key)
            .where(run.c.mode.in_([Mode.PLAN, Mode.LOAD]), run.c.state != State.REFUSED)
            .limit(1)
        )
        row = connection.execute(statement).one_or_none()
        return None if row is None else _to_run(row)

    def _delete_cursors(self, connection: Connection, of: Run | Request, *, older_than: datetime | None = None) -> None:
        statement = delete(cursor).where(cursor.c.backfill == of.backfill, cursor.c.partition_key == of.partition_key)
        if older_than is not None:
            statement = statement.where(cursor.c.updated_at < older_than)
        connection.execute(statement)


def read_cursor(connection: Connection, *, backfill: str, partition_key: str, stream: str) -> dict[str, Any] | None:
    """Where the extraction of a stream stands, or None at its start."""
    position: dict[str, Any] | None = connection.scalar(
        select(cursor.c.position).where(
            cursor.c.backfill == backfill, cursor.c.partition_key == partition_key, cursor.c.stream == stream
        )
    )
    return position


def write_cursor(
    connection: Connection, *, backfill: str, partition_key: str, stream: str, position: Mapping[str, Any]
) -> None:
    """Move a stream's cursor, in the transaction that landed the rows before it."""
    values = {"position": dict(position), "updated_at": datetime.now(UTC)}
    connection.execute(
        upsert(cursor)
        .values(backfill=backfill, partition_key=partition_key, stream=stream, **values)
        .on_conflict_do_update(index_elements=["backfill", "partition_key", "stream"], set_=values)
    )


def _of_partition(backfill: str, partition_key: str) -> Any:
    return (
        select(run)
        .where(run.c.backfill == backfill, run.c.partition_key == partition_key)
        .order_by(run.c.started_at.desc())
    )


def _error_values(error: BackfillError) -> dict[str, str]:
    return {"error_code": error.code, "error_category": error.category, "error_message": error.message}


def _to_run(row: Row[Any]) -> Run:
    values = dict(row._mapping)
    values["mode"], values["state"] = Mode(values["mode"]), State(values["state"])
    return Run(**values)
