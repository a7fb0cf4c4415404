"""Which fields of a row an undo puts back: any change, and any row as it may be by then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.backfills.convex_users_undo import remainder
from backfill_pipelines.vendors.convex import Patch, RejectedRow, Row

TEXTS, TIMES = ("firstName", "lastName", "email"), ("createdAt",)
HELD = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.sampled_from([None, "", "old", "new", "theirs"]) for name in TEXTS},
        **{name: st.sampled_from([None, 0, 1_704_700_800_000, 1.5]) for name in TIMES},
    },
)
NAMES = st.sets(st.sampled_from(TEXTS + TIMES))
ABSENT = "absent, which is not null"


def only(names: set[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in names}


def patched(fields: Mapping[str, Any], patch: Patch | None) -> dict[str, Any]:
    """The fields after the functions have made a patch, by compare-and-set: a refusal is a mistake."""
    if patch is None:
        return dict(fields)
    names = {*patch.before, *patch.after}
    assert only(names, fields) == patch.before
    return {**{name: value for name, value in fields.items() if name not in names}, **patch.after}


def row(fields: Mapping[str, Any], document_id: str = "doc") -> Row:
    return Row(document_id=document_id, clerk_id="user_a", fields=fields)


@given(names=NAMES, ours=HELD, previous=HELD, held=HELD)
def test_each_field_goes_back_that_holds_ours_and_no_other_is_touched(
    names: set[str], ours: dict[str, Any], previous: dict[str, Any], held: dict[str, Any]
) -> None:
    back = Patch(document_id="doc", clerk_id="user_a", before=only(names, ours), after=only(names, previous))
    changed = {*back.before, *back.after}
    left = remainder(back, [row(held)])
    after = patched(held, left.patch)
    for name in {*TEXTS, *TIMES}:
        was_ours = name in changed and held.get(name, ABSENT) == ours.get(name, ABSENT)
        assert after.get(name, ABSENT) == (previous if was_ours else held).get(name, ABSENT)
    assert left.whole == all(after.get(name, ABSENT) == previous.get(name, ABSENT) for name in changed)
    again = remainder(back, [row(after)])
    assert (patched(after, again.patch), again.whole) == (after, left.whole)


@given(unreadable=NAMES, held=HELD)
def test_a_field_that_cannot_be_read_is_none_of_ours(unreadable: set[str], held: dict[str, Any]) -> None:
    back = Patch(document_id="doc", clerk_id="user_a", before={"firstName": "new"}, after={"lastName": "old"})
    readable = only({*TEXTS, *TIMES} - unreadable, held)
    rejected = RejectedRow("doc", "malformed_email", "user_a", fields=readable, unreadable=frozenset(unreadable))
    left, without = remainder(back, [rejected]), remainder(back, [row(readable)])
    written = set() if left.patch is None else {*left.patch.before, *left.patch.after}
    assert not written & unreadable
    assert left.whole == (without.whole and not unreadable & {"firstName", "lastName"})


@pytest.mark.parametrize("ids", [[], ["another"], ["doc", "another"], ["another", "doc"], ["doc", "doc"]])
def test_unless_the_user_has_the_one_row_nothing_is_taken_back(ids: list[str]) -> None:
    back = Patch(document_id="doc", clerk_id="user_a", before={"firstName": "new"}, after={})
    left = remainder(back, [row({"firstName": "new"}, each) for each in ids])
    assert (left.patch, left.whole) == (None, False)
