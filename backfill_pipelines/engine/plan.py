"""A plan: the rows that say what a load will do, and nothing else will.

Belongs here: the shape of a plan row, its canonical form, the plan hash, and storing a plan in `backfill.change` in one
transaction. Does not belong here: deciding anything (each backfill's own pure function) and executing
(`set_based.py`, `record_by_record.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson
import pandas as pd
from sqlalchemy import Connection

from backfill_pipelines.database.bulk import copy_rows

PLAN_COLUMNS = ("target", "record_key", "action", "reason", "before", "after")
"""The columns of a plan frame.

`target` names the table or object, `record_key` the record in the source's own terms, `action` one of `Action`,
`reason` a short code or None; `before` and `after` are mappings of column to JSON value, or None. `before` holds what
the load compares with, `after` what it writes.
"""


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


@dataclass(kw_only=True)
class PlanTally:
    """Counts and hashes plan rows as they pass by; holds no rows itself."""

    actions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    _digest: Any = field(default_factory=hashlib.sha256)

    def add(self, row: tuple[Any, ...], before: bytes | None, after: bytes | None) -> None:
        """Count a row; hash it unless it is a skip, whose number may be huge and whose content is nowhere stored."""
        target, record_key, action, reason = row[:4]
        self.actions[action] += 1
        if reason is not None:
            self.reasons[reason] += 1
        if action != Action.SKIP:
            self._digest.update(orjson.dumps([target, record_key, action, reason]))
            self._digest.update(before or b"-")
            self._digest.update(after or b"-")
            self._digest.update(b"\n")

    def result(self) -> StoredPlan:
        """The plan's hash over all rows so far; it holds neither run id nor clock, so an unchanged world repeats it."""
        return StoredPlan(
            plan_hash=self._digest.hexdigest(), actions=dict(self.actions), reasons=dict(sorted(self.reasons.items()))
        )


def store_plan(
    connection: Connection, *, run_id: UUID, frames: Iterable[pd.DataFrame], store_skips: bool = False
) -> StoredPlan:
    """Copy a plan's rows into `backfill.change`, in the order given, within the caller's transaction.

    `frames` have the columns `PLAN_COLUMNS` and are consumed one at a time, so a plan of any length takes the memory of
    one frame. The order is part of the hash: a backfill yields its rows sorted by key.
    """
    tally = PlanTally()
    copy_rows(
        connection,
        table=("backfill", "change"),
        columns=("run_id", "seq", "target", "record_key", "action", "reason", "before", "after"),
        rows=_change_rows(run_id, frames, tally, store_skips=store_skips),
    )
    return tally.result()


def _change_rows(
    run_id: UUID, frames: Iterable[pd.DataFrame], tally: PlanTally, *, store_skips: bool
) -> Iterator[tuple[Any, ...]]:
    seq = 0
    for frame in frames:
        for row in zip(*(frame[column] for column in PLAN_COLUMNS), strict=True):
            before, after = canonical_json(row[4]), canonical_json(row[5])
            tally.add(row, before, after)
            if row[2] == Action.SKIP and not store_skips:
                continue
            yield (run_id, seq, row[0], row[1], str(row[2]), row[3], _decoded(before), _decoded(after))
            seq += 1


def canonical_json(value: Mapping[str, Any] | None) -> bytes | None:
    """The one spelling of a mapping: keys sorted, UUIDs and aware datetimes as text. None stays None."""
    return None if value is None else orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def plan_frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """Make a frame of plan rows; every column keeps Python objects, so that None never becomes NaN."""
    return pd.DataFrame(list(rows), columns=list(PLAN_COLUMNS), dtype=object)
