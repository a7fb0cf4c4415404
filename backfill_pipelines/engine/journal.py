"""The journal: what became of each row of a plan.

Belongs here: reading the rows that are still to do and writing their outcomes into `backfill.change`. Does not belong
here: doing them (`set_based.py`, `record_by_record.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Connection, Integer, any_, func, literal, select, text, update

from backfill_pipelines.database.tables import change
from backfill_pipelines.engine.plan import EXECUTED


class ChangeState(StrEnum):
    """How a plan row stands; rows that are not executed stay `planned`."""

    PLANNED = "planned"
    APPLIED = "applied"
    CONFLICT = "conflict"
    FAILED = "failed"
    UNDONE = "undone"


STALE = "stale"
"""The code of a record that moved between plan and load: a conflict, never an overwrite."""
CHANGED_SINCE = "changed_since"
"""The code of an applied change that undo leaves, because somebody has changed the record since."""
FORGOTTEN = "forgotten"
"""The code of a change whose values retention has blanked: it can be neither loaded nor undone any more."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A row of `backfill.change`, as the record-by-record way of loading sees it."""

    seq: int
    target: str
    record_key: str
    action: str
    reason: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    record_id: str | None
    attempted: bool

    def __repr__(self) -> str:
        """Name the row without its values: those are personal."""
        return f"Change(seq={self.seq}, target={self.target!r}, action={self.action!r})"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one row: a state, a code where it is not `applied` or `undone`, and the target's record id."""

    seq: int
    state: ChangeState
    error_code: str | None = None
    record_id: str | None = None


def remaining_rows(connection: Connection, run_id: UUID, *, limit: int | None) -> Sequence[int]:
    """The numbers (`seq`) of the rows that are planned and not yet executed, in order."""
    planned = (change.c.state == ChangeState.PLANNED) & change.c.action.in_(EXECUTED)
    return _numbers(connection, (change.c.run_id == run_id) & planned)[:limit]


def applied_rows(connection: Connection, run_id: UUID) -> Sequence[int]:
    """The numbers of the rows that a run has applied and that are not undone, last one first."""
    return _numbers(connection, (change.c.run_id == run_id) & (change.c.state == ChangeState.APPLIED))[::-1]


def _numbers(connection: Connection, which: ColumnElement[bool]) -> Sequence[int]:
    """The numbers of such rows, in order: a range where none is missing between the first and the last.

    So it is in a large plan, of which 200,000 numbers in a list would be a tenth of the time of its load.
    """
    first, last, count = connection.execute(
        select(func.min(change.c.seq), func.max(change.c.seq), func.count()).where(which)
    ).one()
    if count and last - first + 1 == count:
        return range(first, last + 1)
    return list(connection.scalars(select(change.c.seq).where(which).order_by(change.c.seq)))


def executed_count(connection: Connection, run_id: UUID) -> int:
    """How many rows of a run have an outcome already."""
    statement = select(func.count()).where(
        change.c.run_id == run_id, change.c.state != ChangeState.PLANNED, change.c.action.in_(EXECUTED)
    )
    return connection.scalar(statement) or 0


def outcome_counts(connection: Connection, run_id: UUID) -> tuple[dict[str, int], dict[str, int]]:
    """Executed rows by state, and by error code."""
    states: dict[str, int] = {}
    codes: dict[str, int] = {}
    statement = (
        select(change.c.state, change.c.error_code, func.count())
        .where(change.c.run_id == run_id, change.c.action.in_(EXECUTED))
        .group_by(change.c.state, change.c.error_code)
    )
    for state, code, count in connection.execute(statement):
        states[state] = states.get(state, 0) + count
        if code is not None:
            codes[code] = codes.get(code, 0) + count
    return states, codes


def left_alone(connection: Connection, *, backfill: str, partition_key: str, target: str) -> dict[str, str]:
    """What a partition's newest plan rejected, or it or its load left as a conflict: record keys with the reason.

    A row whose write failed is not among them: source and target differ, and nobody has decided that they may.
    """
    rows = connection.execute(
        text(
            "SELECT record_key, coalesce(error_code, reason, action) FROM backfill.change WHERE run_id = (SELECT id"
            " FROM backfill.run WHERE backfill = :backfill AND partition_key = :key AND planned_at IS NOT NULL"
            " ORDER BY planned_at DESC LIMIT 1)"
            " AND target = :target AND (action IN ('conflict', 'reject') OR state = 'conflict')"
        ),
        {"backfill": backfill, "key": partition_key, "target": target},
    )
    return {row[0]: row[1] for row in rows}


def undo_codes(connection: Connection, run_id: UUID, seqs: Sequence[int]) -> Counter[str | None]:
    """How many of these rows, all applied before an undo, came to each code; None counts those that were undone."""
    statement = (
        select(change.c.state, change.c.error_code, func.count())
        .where(change.c.run_id == run_id, change.c.seq == any_(literal(list(seqs), ARRAY(Integer))))
        .group_by(change.c.state, change.c.error_code)
    )
    counts: Counter[str | None] = Counter()
    for state, code, count in connection.execute(statement):
        counts[None if state == ChangeState.UNDONE else code or CHANGED_SINCE] += count
    return counts


def read_changes(connection: Connection, run_id: UUID, seqs: Sequence[int]) -> list[Change]:
    """The rows with these numbers, in the order of the numbers given."""
    statement = select(
        change.c.seq,
        change.c.target,
        change.c.record_key,
        change.c.action,
        change.c.reason,
        change.c.before,
        change.c.after,
        change.c.record_id,
        change.c.attempted_at.is_not(None).label("attempted"),
    ).where(change.c.run_id == run_id, change.c.seq == any_(literal(list(seqs), ARRAY(Integer))))
    found = {row.seq: Change(**row._mapping) for row in connection.execute(statement)}
    return [found[seq] for seq in seqs]


def mark_attempted(connection: Connection, run_id: UUID, seqs: Sequence[int]) -> None:
    """Note, before it happens, that these rows are about to leave for a system outside this database."""
    connection.execute(
        text("UPDATE backfill.change SET attempted_at = now() WHERE run_id = :run_id AND seq = ANY(:seqs)"),
        {"run_id": run_id, "seqs": list(seqs)},
    )


def replan_row(
    connection: Connection,
    run_id: UUID,
    seq: int,
    *,
    action: str,
    reason: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> None:
    """Let a row say what is really about to be done, before it is: a target has met what the plan could not see.

    For a row that is still planned, and one kind of write for another: whoever looks after a crash, or undoes, goes by
    what the row says. The plan hash stays that of the plan.
    """
    connection.execute(
        update(change)
        .where(change.c.run_id == run_id, change.c.seq == seq, change.c.state == ChangeState.PLANNED)
        .values(action=action, reason=reason, before=dict(before), after=dict(after))
    )


def write_outcomes(connection: Connection, run_id: UUID, outcomes: Sequence[Outcome]) -> None:
    """Journal outcomes, in one statement."""
    connection.execute(
        text(
            # The first outcome's time stays: undo compares the record's own `updated_at` with it.
            "UPDATE backfill.change AS c SET state = o.state, error_code = o.error_code,"
            " applied_at = CASE WHEN c.state = 'planned' THEN now() ELSE c.applied_at END,"
            " record_id = coalesce(o.record_id, c.record_id)"
            " FROM unnest(CAST(:seqs AS int[]), CAST(:states AS text[]), CAST(:codes AS text[]), CAST(:ids AS text[]))"
            " AS o(seq, state, error_code, record_id) WHERE c.run_id = :run_id AND c.seq = o.seq"
        ),
        {
            "run_id": run_id,
            "seqs": [o.seq for o in outcomes],
            "states": [str(o.state) for o in outcomes],
            "codes": [o.error_code for o in outcomes],
            "ids": [o.record_id for o in outcomes],
        },
    )
