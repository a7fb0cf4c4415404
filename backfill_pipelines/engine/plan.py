"""A plan: the rows that say what a load will do, and nothing else will.

Belongs here: the shape of a plan row, its canonical form, the plan hash, and storing a plan in `backfill.change` in one
transaction. Does not belong here: deciding anything (each backfill's own pure function) and executing
(`set_based.py`, `record_by_record.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson
import pandas as pd
from sqlalchemy import Connection

from backfill_pipelines.database.bulk import copied_texts, copy_lines

PLAN_COLUMNS = ("target", "record_key", "action", "reason", "before", "after")
"""The columns of a plan frame.

`target` names the table or object, `record_key` the record in the source's own terms, `action` one of `Action`,
`reason` a short code or None; `before` and `after` are mappings of column to JSON value, their canonical JSON as text,
or None. `before` holds what the load compares with, `after` what it writes.
"""

_NULL = r"\N"


class Action(StrEnum):
    """What a plan row asks for. Only `create` and `update` are ever executed."""

    CREATE = "create"
    UPDATE = "update"
    SKIP = "skip"
    CONFLICT = "conflict"
    REJECT = "reject"


EXECUTED = (Action.CREATE, Action.UPDATE)


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """What storing a plan told: its hash, and how many rows it has by action and by reason (skips included)."""

    plan_hash: str
    actions: Mapping[str, int]
    reasons: Mapping[str, int]


def store_plan(
    connection: Connection,
    *,
    run_id: UUID,
    frames: Iterable[pd.DataFrame],
    store_skips: bool = False,
    applied_at: str | None = None,
) -> StoredPlan:
    """Copy a plan's rows into `backfill.change`, in the order given, within the caller's transaction.

    `frames` have the columns `PLAN_COLUMNS` and are consumed one at a time, so a plan of any length takes the memory of
    one frame. The order is part of the hash: a backfill yields its rows sorted by key. With `applied_at` the rows that
    a load executes are journalled as applied then, from the start: for a caller who executes them as they are stored.
    """
    actions: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    # Over what is in the rows, without run id, number and clock; skips, which may be millions, are nowhere in it.
    digest = hashlib.sha256()
    planned = f"\tplanned\t{_NULL}\t"
    outcome = dict.fromkeys(EXECUTED, planned if applied_at is None else f"\tapplied\t{applied_at}\t")
    seq = 0
    columns = ("run_id", "seq", "state", "applied_at", "target", "record_key", "action", "reason", "before", "after")
    with copy_lines(connection, table=("backfill", "change"), columns=columns) as write:
        for frame in frames:
            actions.update(frame["action"].tolist())
            reasons.update(frame["reason"].dropna().tolist())
            if Action.SKIP in set(frame["action"].tolist()):
                counted = frame[frame["action"] != Action.SKIP]
                stored = frame if store_skips else counted
            else:
                counted = stored = frame
            lines = _lines(stored)
            digest.update("".join(lines if stored is counted else _lines(counted)).encode())
            states = [outcome.get(action, planned) for action in stored["action"].tolist()]
            numbered = zip(range(seq, seq + len(lines)), states, lines, strict=True)
            write("".join([f"{run_id}\t{number}{state}{line}" for number, state, line in numbered]))
            seq += len(lines)
    return StoredPlan(
        plan_hash=digest.hexdigest(),
        actions={str(action): count for action, count in actions.items()},
        reasons=dict(sorted(reasons.items())),
    )


def _lines(frame: pd.DataFrame) -> list[str]:
    """Rows as COPY takes them, column by column: a call for each of millions of values would be most of the time."""
    targets, keys, actions, reasons, before, after = (frame[column].tolist() for column in PLAN_COLUMNS)
    rows = zip(
        targets,
        copied_texts(keys),
        actions,
        [_NULL if reason is None else reason for reason in reasons],
        map(_document, before),
        map(_document, after),
        strict=True,
    )
    return list(map("%s\t%s\t%s\t%s\t%s\t%s\n".__mod__, rows))


def _document(value: Mapping[str, Any] | str | None) -> str:
    if value is None:
        return _NULL
    # JSON has no tab and no line break of its own: only its backslashes mean something to COPY.
    document = value if isinstance(value, str) else canonical_json(value).decode()
    return document.replace("\\", "\\\\") if "\\" in document else document


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """The one spelling of a mapping: keys sorted, UUIDs and aware datetimes as text."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)


def plan_frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """Make a frame of plan rows; every column keeps Python objects, so that None never becomes NaN."""
    return pd.DataFrame(list(rows), columns=list(PLAN_COLUMNS), dtype=object)
