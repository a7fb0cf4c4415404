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
from operator import itemgetter
from typing import Any

import pandas as pd

from backfill_pipelines.engine.plan import Action, plan_frame
from backfill_pipelines.vendors.convex_records import NO_CLERK_ID

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
ROW_COLUMNS = ("document_id", "row_rejected", "fields")
"""`fields` are those of the eight that the row has."""

UNCHANGED, NOT_IN_CONVEX, DUPLICATE_ROWS = "unchanged", "not_in_convex", "duplicate_rows"
_ROWS_A_FRAME = 10_000
_USER, _USER_REJECTED, _FIELDS_BEGIN = range(3)
_DOCUMENT, _ROW_REJECTED, _FIELDS = range(_FIELDS_BEGIN + len(FIELD_OF), len(USER_COLUMNS) + len(ROW_COLUMNS))

Fields = Mapping[str, Any]
Pair = tuple[Any, ...]
"""A line of a frame: `USER_COLUMNS`, then `ROW_COLUMNS`. Taken by its places: a mapping for each of a million lines
would be a third of the time of a plan."""


@dataclass(kw_only=True)
class UsersPlan:
    """A plan in the making: its counts are complete once its frames are used up."""

    frames: Iterator[pd.DataFrame] = field(init=False)
    skips: Counter[str] = field(default_factory=Counter)
    """Users without a plan row, by reason."""
    users: int = 0
    """Users of Clerk that were looked at."""
    gone_from_clerk: int = 0
    """Rows whose user Clerk does not have; they are never touched."""
    of_nobody: int = 0
    """Rows without a Clerk id. Apps keep guests in the same table: no error, nobody's skip, and never touched."""


def plan_users(pairs: Iterable[pd.DataFrame], *, clear_nulls: bool, list_skips: bool) -> UsersPlan:
    """Decide about every user of Clerk and every row of Convex.

    `pairs` are frames with `USER_COLUMNS` and `ROW_COLUMNS`: users beside the rows that have their id, either side
    empty where the other has nothing. All lines of a user follow one another, and the plan is in their order.
    `clear_nulls`: a field that Clerk has empty is removed; else it is left alone. `list_skips`: a plan row also for
    each user that is skipped.
    """
    plan = UsersPlan()
    plan.frames = _framed(_rows(pairs, plan, clear_nulls=clear_nulls, list_skips=list_skips))
    return plan


def difference(wanted: Fields, held: Fields, *, clear_nulls: bool) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What changes in a row, as `before` and `after`; None where nothing does.

    `wanted` has all fields, None where Clerk has nothing, `held` those that the row has. Addresses and names are
    compared exactly, numbers as numbers. What Clerk has empty equals null and absent alike.
    """
    if wanted == held:
        return None  # so it is with most rows, and field by field takes many times as long
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name, value in wanted.items():
        found = held.get(name)
        if value is None:
            if clear_nulls and found is not None:
                before[name] = found
        elif value != found:
            if name in held:
                before[name] = found
            after[name] = value
    return (before, after) if before or after else None


def _rows(
    frames: Iterable[pd.DataFrame], plan: UsersPlan, *, clear_nulls: bool, list_skips: bool
) -> Iterator[tuple[Any, ...]]:
    for user_id, lines in groupby(_pairs(frames), key=itemgetter(_USER)):
        if user_id is None:
            for pair in lines:
                if pair[_ROW_REJECTED] is None:
                    plan.gone_from_clerk += 1
                elif pair[_ROW_REJECTED] == NO_CLERK_ID:
                    plan.of_nobody += 1
                else:
                    yield (TARGET, pair[_DOCUMENT], Action.REJECT, pair[_ROW_REJECTED], None, None)
            continue
        plan.users += 1
        row = _decided(user_id, list(lines), clear_nulls=clear_nulls)
        if row[2] is Action.SKIP and not list_skips:
            plan.skips[row[3]] += 1
        else:
            yield row


def _decided(user_id: str, pairs: list[Pair], *, clear_nulls: bool) -> tuple[Any, ...]:
    pair = pairs[0]
    document_id = pair[_DOCUMENT]
    if pair[_USER_REJECTED] is not None:
        return (TARGET, user_id, Action.REJECT, pair[_USER_REJECTED], None, None)
    if len(pairs) > 1:
        return (TARGET, user_id, Action.CONFLICT, DUPLICATE_ROWS, None, None)
    if pair[_ROW_REJECTED] is not None:
        return (TARGET, user_id, Action.REJECT, pair[_ROW_REJECTED], None, None)
    if document_id is None:
        return (TARGET, user_id, Action.SKIP, NOT_IN_CONVEX, None, None)
    wanted = dict(zip(FIELD_OF, pair[_FIELDS_BEGIN:_DOCUMENT], strict=True))
    changes = difference(wanted, pair[_FIELDS], clear_nulls=clear_nulls)
    if changes is None:
        return (TARGET, user_id, Action.SKIP, UNCHANGED, None, None)
    document = {DOCUMENT: document_id}
    return (TARGET, user_id, Action.UPDATE, None, document | changes[0], document | changes[1])


def _pairs(frames: Iterable[pd.DataFrame]) -> Iterator[Pair]:
    for frame in frames:
        yield from zip(*(frame[name].tolist() for name in (*USER_COLUMNS, *ROW_COLUMNS)), strict=True)


def _framed(rows: Iterable[tuple[Any, ...]]) -> Iterator[pd.DataFrame]:
    block: list[tuple[Any, ...]] = []
    for row in rows:
        block.append(row)
        if len(block) == _ROWS_A_FRAME:
            yield plan_frame(block)
            block = []
    if block:
        yield plan_frame(block)
