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
from sqlalchemy import Connection, text

from backfill_pipelines.database.bulk import copied_text, copy_lines

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


@dataclass(frozen=True)
class Executed:
    """How many rows of a target and an action there are, and between which numbers (`seq`) they are."""

    count: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """What storing a plan told: its hash, and how many rows it has by action and by reason (skips included)."""

    plan_hash: str
    actions: Mapping[str, int]
    reasons: Mapping[str, int]
    executed: Mapping[tuple[str, str], Executed]
    """By target and action: the rows that a load executes."""


def store_plan(
    connection: Connection,
    *,
    run_id: UUID,
    frames: Iterable[pd.DataFrame],
    store_skips: bool = False,
    executed: bool = False,
) -> StoredPlan:
    """Copy a plan's rows into `backfill.change`, in the order given, within the caller's transaction.

    `frames` have the columns `PLAN_COLUMNS` and are consumed one at a time, so a plan of any length takes the memory of
    one frame. The order is part of the hash: a backfill yields its rows sorted by key. With `executed` the rows that a
    load executes are journalled as applied from the start: for a caller who executes them in this very transaction.
    """
    actions: Counter[tuple[str, str]] = Counter()
    ranges: dict[tuple[str, str], tuple[int, int]] = {}
    reasons: Counter[str] = Counter()
    # Over what is in the rows, without run id, number and clock; skips, which may be millions, are nowhere in it.
    digest = hashlib.sha256()
    applied = ("applied", connection.scalar(text("SELECT now()::text"))) if executed else ("planned", _NULL)
    seq = 0
    columns = ("run_id", "seq", "state", "applied_at", "target", "record_key", "action", "reason", "before", "after")
    with copy_lines(connection, table=("backfill", "change"), columns=columns) as write:
        for frame in frames:
            rows = list(zip(*(frame[column].tolist() for column in PLAN_COLUMNS), strict=True))
            kinds = Counter([(row[0], str(row[2])) for row in rows])
            actions.update(kinds)
            reasons.update([row[3] for row in rows if row[3] is not None])
            stored = [(row[2], _line(row)) for row in rows if store_skips or row[2] != Action.SKIP]
            digest.update("".join([line for action, line in stored if action != Action.SKIP]).encode())
            states = [applied if action in EXECUTED else ("planned", _NULL) for action, _ in stored]
            write(
                "".join(
                    [
                        f"{run_id}\t{number}\t{state}\t{applied_at}\t{line}"
                        for number, ((state, applied_at), (_, line)) in enumerate(
                            zip(states, stored, strict=True), start=seq
                        )
                    ]
                )
            )
            for kind in kinds:
                # Of a frame's rows it may be any.
                ranges[kind] = (ranges.get(kind, (seq, 0))[0], seq + len(stored) - 1)
            seq += len(stored)
    return StoredPlan(
        plan_hash=digest.hexdigest(),
        actions={each: sum(n for (_, action), n in actions.items() if action == each) for _, each in actions},
        executed={kind: Executed(count, *ranges[kind]) for kind, count in actions.items() if kind[1] in EXECUTED},
        reasons=dict(sorted(reasons.items())),
    )


def _line(row: tuple[Any, ...]) -> str:
    target, record_key, action, reason, before, after = row
    return (
        f"{target}\t{copied_text(record_key)}\t{action}\t{_NULL if reason is None else reason}"
        f"\t{_document(before)}\t{_document(after)}\n"
    )


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
