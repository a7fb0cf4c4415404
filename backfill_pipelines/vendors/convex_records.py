"""Rows of a Convex table of users as our functions show them, and the changes that are made to them.

Belongs here: the records, reading each from a row of JSON or saying with a code why it cannot be, a patch in the form
the functions take. Does not belong here: calls (`convex.py`), which field should hold what (the backfills).

Convex tells a field that is null from one that is absent, and so does everything here: an absent field has no key. All
its numbers are floats; those that are whole are given as int, so that the same value has one spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

TEXT_FIELDS = ("firstName", "lastName", "email", "username", "imageUrl")
TIME_FIELDS = ("lastSignInAt", "createdAt", "lastActiveAt")
"""Milliseconds since 1970, as Clerk counts."""
FIELDS = (*TEXT_FIELDS, *TIME_FIELDS)
"""The only fields that the functions show and write."""
EXACT = 2**53
"""Up to here every whole number is a float of its own."""
LONGEST_ID = 255
NO_CLERK_ID = "no_clerk_id"
"""The code of a row whose Clerk id is null or absent: nobody's, as of a guest who has not signed up."""

Value = str | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableNames:
    """Where a deployment holds its users: the table, the index on the Clerk id, and the field it is in."""

    table: str = "users"
    index: str = "by_clerkId"
    id_field: str = "clerkId"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row. `fields` holds those of the eight that are there."""

    document_id: str
    clerk_id: str
    fields: Mapping[str, Value] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be used. `id` and `clerk_id` are None where not even they can be read.

    `fields` holds those of the eight that are there and can be read, `unreadable` names those that cannot.
    """

    id: str | None
    code: str
    clerk_id: str | None = None
    fields: Mapping[str, Value] = field(default_factory=dict, repr=False, compare=False)
    unreadable: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A change of one row, made only if the row holds `before`.

    Every field that is in `before` or in `after` is compared and written. One that is only in `after` is expected to be
    absent, one that is only in `before` is removed. The undo of a patch is the patch with the two exchanged.
    """

    document_id: str
    clerk_id: str
    before: Mapping[str, Value] = field(repr=False)
    after: Mapping[str, Value] = field(repr=False)

    def as_json(self) -> Mapping[str, Any]:
        """The form in which the functions take it."""
        return {
            "id": self.document_id,
            "clerkId": self.clerk_id,
            "before": dict(self.before),
            "after": dict(self.after),
        }


class Outcome(StrEnum):
    """What a patch came to; except for `PATCHED` nothing was written."""

    PATCHED = "patched"
    ALREADY = "already"
    """The fields hold the new values: an earlier reply was lost, or somebody else was faster."""
    CONFLICT = "conflict"
    """A field holds something else than `before`."""
    MISSING = "missing"
    """The row is gone."""
    DUPLICATE_ROWS = "duplicate_rows"
    """Several rows have this Clerk id by now."""
    OTHER_CLERK_ID = "other_clerk_id"
    """The row belongs to somebody else by now."""
    REFUSED_BY_SCHEMA = "refused_by_schema"
    """The table's schema does not allow the new values."""


class _MalformedError(Exception):
    """A field holds what it cannot hold."""


def read_row(row: Any) -> Row | RejectedRow:
    """A row. Codes: `not_an_object`, `malformed_id`, `no_clerk_id`, `malformed_clerk_id`, `malformed_FIELD`."""
    if not isinstance(row, dict):
        return RejectedRow(id=None, code="not_an_object")
    document_id, clerk_id = _id(row.get("id")), _id(row.get("clerkId"))
    if document_id is None:
        return RejectedRow(id=None, code="malformed_id")
    if clerk_id is None:
        return RejectedRow(id=document_id, code=NO_CLERK_ID if row.get("clerkId") is None else "malformed_clerk_id")
    given = row.get("fields")
    if not isinstance(given, dict):
        return RejectedRow(id=document_id, code="malformed_fields", clerk_id=clerk_id, unreadable=frozenset(FIELDS))
    fields: dict[str, Value] = {}
    unreadable: list[str] = []
    for name in FIELDS:
        if name in given:
            try:
                fields[name] = _value(name, given[name])
            except _MalformedError:
                unreadable.append(name)
    if unreadable:
        return RejectedRow(
            id=document_id,
            code=f"malformed_{unreadable[0]}",
            clerk_id=clerk_id,
            fields=fields,
            unreadable=frozenset(unreadable),
        )
    return Row(document_id=document_id, clerk_id=clerk_id, fields=fields)


def _value(name: str, value: Any) -> Value:
    if value is None:
        return None
    if name in TEXT_FIELDS:
        # No store of ours takes a NUL character, and no name has one.
        if isinstance(value, str) and "\x00" not in value:
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) if abs(value) <= EXACT and value == int(value) else value
    # Convex spells an int64 as the text of its digits, like a text of digits; and the functions could neither write an
    # int64 nor put one back, so that a field that holds one is left to the app.
    raise _MalformedError


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= LONGEST_ID and value.isprintable() else None
