"""The decisions of `convex_users`: which fields of which row change. Pure.

Belongs here: comparing a user of Clerk with the rows that have its id, field by field. Does not belong here: reading
either, and writing (`convex_users.py`).

Convex tells null from absent: in `before` and `after` an absent field has no key. What only `after` has is added, what
only `before` has is removed, and undo is the same change with the two exchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pandas as pd

from backfill_pipelines.engine.plan import Action, plan_frame

TARGET = "users"
DOCUMENT = "_id"
"""Under this key `before` and `after` name the row; Convex calls it so as well."""
FIELD_OF: Mapping[str, str] = {
    "firstName": "first_name",
    "lastName": "last_name",
    "email": "primary_email",
    "username": "username",
    "imageUrl": "image_url",
    "lastSignInAt": "last_sign_in_at",
    "createdAt": "created_at",
    "lastActiveAt": "last_active_at",
}
"""A row's field, and the user's column it comes from. Times are milliseconds since 1970 on both sides."""
USER_COLUMNS = ("user_id", "user_rejected", *FIELD_OF.values())
ROW_COLUMNS = ("document_id", "row_rejected", "clerk_id", "fields")
"""`fields` are those of the eight that the row has."""

UNCHANGED, NOT_IN_CONVEX, DUPLICATE_ROWS = "unchanged", "not_in_convex", "duplicate_rows"
GONE_FROM_CLERK = "gone_from_clerk"
_SILENT = frozenset({UNCHANGED, NOT_IN_CONVEX})
_ROWS_A_FRAME = 10_000

Fields = Mapping[str, Any]


@dataclass(kw_only=True)
class UsersPlan:
    """A plan in the making: its counts are complete once its frames are used up."""

    frames: Iterator[pd.DataFrame] = field(init=False)
    skips: Counter[str] = field(default_factory=Counter)
    """Users without a plan row, by reason."""
    gone_from_clerk: int = 0
    """Rows whose user Clerk no longer has; they are never touched."""


def plan_users(pairs: Iterable[pd.DataFrame], *, clear_nulls: bool, list_skips: bool) -> UsersPlan:
    """Decide about every user of Clerk and every row of Convex.

    `pairs` are frames with `USER_COLUMNS` and `ROW_COLUMNS`: users beside the rows that have their id, either side
    empty where the other has nothing, sorted by the user's id. `clear_nulls`: a field that Clerk has empty is removed;
    else it is left alone.
    """
    plan = UsersPlan()
    plan.frames = _framed(_rows(pairs, plan, clear_nulls=clear_nulls, list_skips=list_skips))
    return plan


def difference(user: Fields, document: Fields, *, clear_nulls: bool) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What changes in a row, as `before` and `after`; None where nothing does.

    Addresses and names are compared exactly, numbers as numbers. What Clerk has empty equals null and absent alike.
    """
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name, column in FIELD_OF.items():
        wanted, held = user[column], document.get(name)
        if wanted is None:
            if clear_nulls and held is not None:
                before[name] = held
        elif wanted != held:
            if name in document:
                before[name] = held
            after[name] = wanted
    return (before, after) if before or after else None


def _rows(
    pairs: Iterable[pd.DataFrame], plan: UsersPlan, *, clear_nulls: bool, list_skips: bool
) -> Iterator[tuple[Any, ...]]:
    for _, found in groupby(
        _dictionaries(pairs), key=lambda each: (each["user_id"], each["document_id"])[each["user_id"] is None]
    ):
        rows = list(found)
        user = rows[0]
        if user["user_id"] is None:
            if user["row_rejected"] is not None:
                yield (TARGET, user["document_id"], Action.REJECT, user["row_rejected"], None, None)
            else:
                plan.gone_from_clerk += 1
            continue
        row = _decided(user, rows, clear_nulls=clear_nulls)
        if row[2] is Action.SKIP and not list_skips:
            plan.skips[row[3]] += 1
        else:
            yield row


def _decided(user: Fields, rows: list[dict[str, Any]], *, clear_nulls: bool) -> tuple[Any, ...]:
    key = user["user_id"]
    if user["user_rejected"] is not None:
        return (TARGET, key, Action.REJECT, user["user_rejected"], None, None)
    if user["document_id"] is None:
        return (TARGET, key, Action.SKIP, NOT_IN_CONVEX, None, None)
    if len(rows) > 1:
        return (TARGET, key, Action.CONFLICT, DUPLICATE_ROWS, None, None)
    changes = difference(user, user["fields"], clear_nulls=clear_nulls)
    if changes is None:
        return (TARGET, key, Action.SKIP, UNCHANGED, None, None)
    document = {DOCUMENT: user["document_id"]}
    return (TARGET, key, Action.UPDATE, None, document | changes[0], document | changes[1])


def _dictionaries(frames: Iterable[pd.DataFrame]) -> Iterator[dict[str, Any]]:
    names = (*USER_COLUMNS, *ROW_COLUMNS)
    for frame in frames:
        for values in zip(*(frame[name].tolist() for name in names), strict=True):
            yield dict(zip(names, values, strict=True))


def _framed(rows: Iterable[tuple[Any, ...]]) -> Iterator[pd.DataFrame]:
    block: list[tuple[Any, ...]] = []
    for row in rows:
        block.append(row)
        if len(block) == _ROWS_A_FRAME:
            yield plan_frame(block)
            block = []
    if block:
        yield plan_frame(block)
