"""What `convex_users` must do, said once more and in another way: as a table before and a table after.

Belongs here: users, rows, and the expected outcome of each. Does not belong here: how the backfill comes to it. Nothing
of the backfill is used but the names of its frames' columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from backfill_pipelines.backfills.convex_users_plan import ROW_COLUMNS, USER_COLUMNS

FIELDS = ("firstName", "lastName", "email", "username", "imageUrl", "lastSignInAt", "createdAt", "lastActiveAt")
NOTHING: Mapping[str, Any] = dict.fromkeys(FIELDS)
_ABSENT = object()

Fields = Mapping[str, Any]
Outcome = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True)
class KnownUser:
    """A user of Clerk: all eight fields, None where Clerk has nothing; or the code of one that cannot be read."""

    id: str
    profile: Fields = field(default_factory=lambda: NOTHING)
    rejected: str | None = None


@dataclass(frozen=True, kw_only=True)
class KnownRow:
    """A row of Convex: those of the eight fields that it has; or the code of one that cannot be read."""

    id: str
    clerk_id: str | None
    fields: Fields = field(default_factory=dict)
    rejected: str | None = None


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Action and reason by the plan's key, the fields of every row afterwards, and the rows whose user is gone."""

    outcomes: Mapping[str, Outcome]
    table: Mapping[str, Fields]
    gone: int


@dataclass(frozen=True, kw_only=True)
class KnownWorld:
    """Both sides."""

    users: Sequence[KnownUser] = ()
    rows: Sequence[KnownRow] = ()

    def frames(self, *, lines: int = 3) -> Iterator[pd.DataFrame]:
        """Both sides as the plan gets them, so many lines a frame."""
        found: list[tuple[Any, ...]] = []
        ids = {user.id for user in self.users}
        for user in self.users:
            left = (user.id, user.rejected, *(user.profile[name] for name in FIELDS))
            own = [row for row in self.rows if row.clerk_id == user.id]
            found += [(*left, row.id, row.rejected, dict(row.fields)) for row in own] or [(*left, None, None, {})]
        nobody = (None,) * len(USER_COLUMNS)
        found += [(*nobody, row.id, row.rejected, dict(row.fields)) for row in self.rows if row.clerk_id not in ids]
        document = len(USER_COLUMNS)
        found.sort(key=lambda line: (line[0] or line[document], line[document] or ""))
        for start in range(0, len(found), lines):
            columns = [*USER_COLUMNS, *ROW_COLUMNS]
            yield pd.DataFrame(found[start : start + lines], columns=columns, dtype=object)


def expected(world: KnownWorld, *, clear_nulls: bool = False) -> Expected:
    """What must become of everybody."""
    outcomes: dict[str, Outcome] = {}
    table = {row.id: dict(row.fields) for row in world.rows}
    for user in world.users:
        own = [row for row in world.rows if row.clerk_id == user.id]
        if user.rejected:
            outcomes[user.id] = ("reject", user.rejected)
        elif not own:
            outcomes[user.id] = ("skip", "not_in_convex")
        elif len(own) > 1:
            outcomes[user.id] = ("conflict", "duplicate_rows")
        elif own[0].rejected:
            outcomes[user.id] = ("reject", own[0].rejected)
        else:
            table[own[0].id] = _afterwards(user.profile, own[0].fields, clear_nulls=clear_nulls)
            same = table[own[0].id] == own[0].fields
            outcomes[user.id] = ("skip", "unchanged") if same else ("update", None)
    ids = {user.id for user in world.users}
    strangers = [row for row in world.rows if row.clerk_id not in ids]
    unusable = [row for row in strangers if row.rejected and row.rejected != "no_clerk_id"]
    outcomes |= {row.id: ("reject", row.rejected) for row in unusable}
    return Expected(outcomes=outcomes, table=table, gone=sum(row.rejected is None for row in strangers))


def _afterwards(profile: Fields, held: Fields, *, clear_nulls: bool) -> dict[str, Any]:
    after = {name: _field(profile[name], held.get(name, _ABSENT), clear_nulls=clear_nulls) for name in FIELDS}
    return {name: value for name, value in after.items() if value is not _ABSENT}


def _field(wanted: Any, held: Any, *, clear_nulls: bool) -> Any:
    if wanted is not None:
        return wanted
    return _ABSENT if clear_nulls and held is not None else held
