"""The decision of `convex_users` in an undo: which fields of a row still hold what the run wrote. Pure.

Belongs here: comparing a change with the row as it is now, field by field. Does not belong here: reading rows and
writing them (`convex_users.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backfill_pipelines.vendors.convex import Patch, RejectedRow, Row

_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Remainder:
    """What of a change can be taken back.

    `patch` puts the previous values into the fields that hold ours; None where there is none. `whole`: with that, every
    field of the change is back at its previous value, whoever put it there.
    """

    patch: Patch | None
    whole: bool


def remainder(back: Patch, rows: Sequence[Row | RejectedRow]) -> Remainder:
    """What of a patch that takes a whole change back (`before` ours, `after` the previous values) is still to be done.

    `rows` are all those with the user's Clerk id: unless the patch's is the only one, nothing is taken back.
    """
    if [_document_id(row) for row in rows] != [back.document_id]:
        return Remainder(patch=None, whole=False)
    ours: set[str] = set()
    whole = True
    for name in {*back.before, *back.after}:
        if _is_unreadable(rows[0], name):
            whole = False
            continue
        held = rows[0].fields.get(name, _ABSENT)
        if held == back.before.get(name, _ABSENT):
            ours.add(name)
        elif held != back.after.get(name, _ABSENT):
            whole = False
    return Remainder(patch=_of_fields(back, ours) if ours else None, whole=whole)


def _document_id(row: Row | RejectedRow) -> str | None:
    return row.document_id if isinstance(row, Row) else row.id


def _is_unreadable(row: Row | RejectedRow, name: str) -> bool:
    return isinstance(row, RejectedRow) and name in row.unreadable


def _of_fields(patch: Patch, names: set[str]) -> Patch:
    return Patch(
        document_id=patch.document_id,
        clerk_id=patch.clerk_id,
        before={name: value for name, value in patch.before.items() if name in names},
        after={name: value for name, value in patch.after.items() if name in names},
    )
