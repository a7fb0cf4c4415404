"""The rules of `convex_users`, one by one and over random worlds, against a reference that was written apart."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.backfills.convex_users_plan import DOCUMENT, UsersPlan, plan_users
from backfill_pipelines.vendors import convex_records
from backfill_pipelines_tests.backfills.convex_users_reference import (
    FIELDS,
    NOTHING,
    KnownRow,
    KnownUser,
    KnownWorld,
    expected,
)

Row = dict[str, Any]
ADA: Mapping[str, Any] = {
    "firstName": "Ada",
    "lastName": None,
    "email": "Ada@example.com",
    "username": "ada",
    "imageUrl": "https://img.clerk.test/ada",
    "lastSignInAt": 1_704_704_400_000,
    "createdAt": 1_704_700_800_000,
    "lastActiveAt": None,
}
AS_ADA = {name: value for name, value in ADA.items() if value is not None}


def planned(world: KnownWorld, *, clear_nulls: bool = False, list_skips: bool = False, lines: int = 3) -> UsersPlan:
    return plan_users(world.frames(lines=lines), clear_nulls=clear_nulls, list_skips=list_skips)


def rows_of(plan: UsersPlan) -> dict[str, Row]:
    rows = [row for frame in plan.frames for row in frame.to_dict("records")]
    assert [row["record_key"] for row in rows] == sorted({row["record_key"] for row in rows})
    assert {row["target"] for row in rows} <= {"users"}
    return {row["record_key"]: row for row in rows}


def about_ada(held: Mapping[str, Any], *, clear_nulls: bool = False, **differing: Any) -> Row | None:
    """The plan's row for Ada, whose row in Convex holds this; None where there is none."""
    world = KnownWorld(
        users=[KnownUser(id="user_a", profile={**ADA, **differing})],
        rows=[KnownRow(id="doc", clerk_id="user_a", fields=held)],
    )
    plan = planned(world, clear_nulls=clear_nulls)
    rows = rows_of(plan)
    assert plan.skips == ({} if rows else {"unchanged": 1})
    return rows.get("user_a")


def change_of(held: Mapping[str, Any], *, clear_nulls: bool = False, **differing: Any) -> tuple[Row, Row] | None:
    """`before` and `after` of an update, without the row's name."""
    row = about_ada(held, clear_nulls=clear_nulls, **differing)
    if row is None:
        return None
    assert (row["action"], row["reason"]) == ("update", None)
    before, after = dict(row["before"]), dict(row["after"])
    assert (before.pop(DOCUMENT), after.pop(DOCUMENT)) == ("doc", "doc")
    return before, after


# --- one rule at a time ----------------------------------------------------------------------------------------------


def test_the_eight_fields_are_those_of_the_client() -> None:
    assert set(FIELDS) == set(convex_records.FIELDS)


def test_a_row_that_equals_its_user_is_only_counted() -> None:
    assert about_ada(AS_ADA) is None


def test_null_and_absent_are_the_same_where_clerk_has_nothing() -> None:
    for clear_nulls in (False, True):
        assert about_ada({**AS_ADA, "lastName": None}, clear_nulls=clear_nulls) is None
        assert about_ada(AS_ADA, clear_nulls=clear_nulls) is None


def test_an_update_holds_the_fields_that_differ_and_no_other() -> None:
    held = {**AS_ADA, "firstName": "Augusta", "createdAt": 0}
    assert change_of(held) == (
        {"firstName": "Augusta", "createdAt": 0},
        {"firstName": "Ada", "createdAt": ADA["createdAt"]},
    )


def test_a_field_that_the_row_lacks_is_expected_to_be_absent_and_one_that_is_null_to_be_null() -> None:
    absent = {name: value for name, value in AS_ADA.items() if name != "email"}
    assert change_of(absent) == ({}, {"email": "Ada@example.com"})
    assert change_of({**AS_ADA, "email": None}) == ({"email": None}, {"email": "Ada@example.com"})


def test_what_clerk_has_emptied_is_left_alone_unless_it_is_to_be_cleared() -> None:
    held = {**AS_ADA, "lastName": "Byron", "lastActiveAt": 1_700_000_000_000}
    assert about_ada(held) is None
    assert change_of(held, clear_nulls=True) == ({"lastName": "Byron", "lastActiveAt": 1_700_000_000_000}, {})


def test_clearing_and_writing_are_one_update() -> None:
    held = {**AS_ADA, "lastName": "Byron", "firstName": "Augusta"}
    assert change_of(held) == ({"firstName": "Augusta"}, {"firstName": "Ada"})
    both = ({"lastName": "Byron", "firstName": "Augusta"}, {"firstName": "Ada"})
    assert change_of(held, clear_nulls=True) == both


def test_an_empty_text_is_a_text() -> None:
    assert change_of({**AS_ADA, "username": ""}) == ({"username": ""}, {"username": "ada"})
    assert change_of(AS_ADA, username="") == ({"username": "ada"}, {"username": ""})
    assert change_of({**AS_ADA, "lastName": ""}, clear_nulls=True) == ({"lastName": ""}, {})


def test_addresses_and_names_are_compared_exactly() -> None:
    for other in ("ada@example.com", "Ada@example.com ", "Ada@EXAMPLE.com"):
        assert change_of({**AS_ADA, "email": other}) == ({"email": other}, {"email": "Ada@example.com"})


def test_numbers_are_compared_as_numbers() -> None:
    assert about_ada({**AS_ADA, "createdAt": float(ADA["createdAt"])}) is None
    for other in (ADA["createdAt"] + 1, ADA["createdAt"] + 0.5, ADA["createdAt"] // 1000, 0, -0.0, 1e20):
        assert change_of({**AS_ADA, "createdAt": other}) == ({"createdAt": other}, {"createdAt": ADA["createdAt"]})


def test_who_has_no_row_has_never_signed_in() -> None:
    plan = planned(KnownWorld(users=[KnownUser(id="user_a", profile=ADA)]))
    assert (rows_of(plan), plan.skips, plan.users) == ({}, {"not_in_convex": 1}, 1)


@pytest.mark.parametrize("lines", [1, 2, 100])
def test_several_rows_for_one_user_are_a_conflict_wherever_a_frame_ends(lines: int) -> None:
    twice = [KnownRow(id=name, clerk_id="user_b", fields={"firstName": name}) for name in ("one", "two", "three")]
    users = [KnownUser(id=name, profile=ADA) for name in ("user_a", "user_b", "user_c")]
    plan = planned(KnownWorld(users=users, rows=twice), lines=lines)
    (row,) = rows_of(plan).values()
    assert (row["record_key"], row["action"], row["reason"]) == ("user_b", "conflict", "duplicate_rows")
    assert (row["before"], row["after"]) == (None, None)
    assert (plan.skips, plan.users) == ({"not_in_convex": 2}, 3)


def test_what_cannot_be_read_is_rejected_with_its_code_and_never_written() -> None:
    world = KnownWorld(
        users=[
            KnownUser(id="user_a", rejected="two_primary_addresses"),
            KnownUser(id="user_b", profile=ADA),
            KnownUser(id="user_c", rejected="malformed_created_at"),
        ],
        rows=[
            KnownRow(id="doc_a", clerk_id="user_a", fields={"firstName": "Augusta"}),
            KnownRow(id="doc_b", clerk_id="user_b", rejected="malformed_email"),
            KnownRow(id="doc_x", clerk_id=None, rejected="malformed_clerk_id"),
        ],
    )
    plan = planned(world)
    found = {key: (row["action"], row["reason"], row["before"], row["after"]) for key, row in rows_of(plan).items()}
    assert found == {
        "user_a": ("reject", "two_primary_addresses", None, None),
        "user_b": ("reject", "malformed_email", None, None),
        "user_c": ("reject", "malformed_created_at", None, None),
        "doc_x": ("reject", "malformed_clerk_id", None, None),
    }
    assert (plan.skips, plan.gone_from_clerk) == ({}, 0)


def test_two_that_have_not_even_an_id_are_two() -> None:
    """Both sides call such a row by its number, which may be the same."""
    world = KnownWorld(
        users=[KnownUser(id="unreadable 0", rejected="malformed_id")],
        rows=[KnownRow(id="unreadable 0", clerk_id=None, rejected="not_an_object")],
    )
    rows = [row for frame in planned(world).frames for row in frame.to_dict("records")]
    assert Counter(row["reason"] for row in rows) == {"malformed_id": 1, "not_an_object": 1}


def test_rows_whose_user_is_gone_are_counted_and_never_touched() -> None:
    rows = [KnownRow(id=name, clerk_id=f"user_{name}", fields={"firstName": name}) for name in ("one", "two")]
    plan = planned(KnownWorld(users=[KnownUser(id="user_a", profile=ADA)], rows=rows), clear_nulls=True)
    assert rows_of(plan) == {}
    assert (plan.gone_from_clerk, plan.users, plan.skips) == (2, 1, {"not_in_convex": 1})


@pytest.mark.parametrize("list_skips", [False, True])
def test_a_row_of_nobody_is_neither_gone_nor_an_error_nor_a_user_s_skip(list_skips: bool) -> None:
    rows = [KnownRow(id=name, clerk_id=None, rejected="no_clerk_id") for name in ("one", "two")]
    plan = planned(KnownWorld(rows=rows), list_skips=list_skips)
    assert rows_of(plan) == {}
    assert (plan.of_nobody, plan.gone_from_clerk, plan.users, plan.skips) == (2, 0, 0, {})


def test_those_that_are_skipped_are_listed_where_that_is_wanted() -> None:
    world = KnownWorld(
        users=[KnownUser(id="user_a", profile=ADA), KnownUser(id="user_b", profile=ADA)],
        rows=[KnownRow(id="doc", clerk_id="user_b", fields=AS_ADA)],
    )
    plan = planned(world, list_skips=True)
    assert {key: row["reason"] for key, row in rows_of(plan).items()} == {
        "user_a": "not_in_convex",
        "user_b": "unchanged",
    }
    assert (plan.skips, plan.users) == ({}, 2)


def test_a_plan_without_anybody_is_empty() -> None:
    plan = planned(KnownWorld())
    assert (rows_of(plan), plan.skips, plan.users, plan.gone_from_clerk) == ({}, {}, 0, 0)


# --- any world -------------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(["Ada", "ada", "", "Zoë", "Ada ", "a@example.com", "A@example.com"])
TIMES = st.sampled_from([0, 1_704_700_800, 1_704_700_800_000, 1_704_700_800_001])
NUMBERS = st.one_of(TIMES, TIMES.map(float), st.just(1_704_700_800_000.5))


def values(name: str) -> st.SearchStrategy[Any]:
    return TIMES if name.endswith("At") else TEXTS


def held_values(name: str) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), NUMBERS if name.endswith("At") else TEXTS)


PROFILES = st.fixed_dictionaries({name: st.one_of(st.none(), values(name)) for name in FIELDS})
HELD = st.fixed_dictionaries({}, optional={name: held_values(name) for name in FIELDS})


@st.composite
def worlds(draw: st.DrawFn) -> KnownWorld:
    users = []
    for number in range(draw(st.integers(0, 6))):
        rejected = draw(st.sampled_from([None, None, None, "malformed_username"]))
        profile = NOTHING if rejected else draw(PROFILES)
        users.append(KnownUser(id=f"user_{number}", profile=profile, rejected=rejected))
    rows = []
    # Fewer Clerk ids than rows, one of them nobody's: duplicates and strangers come up often.
    for number in range(draw(st.integers(0, 7))):
        clerk_id = f"user_{draw(st.integers(0, 6))}"
        rejected = draw(st.sampled_from([None, None, None, None, "malformed_email", "no_clerk_id"]))
        owner = next((user for user in users if user.id == clerk_id), None)
        like_the_user = {
            name: value for name, value in (owner.profile if owner else NOTHING).items() if value is not None
        }
        fields = {} if rejected else {**draw(st.sampled_from([{}, like_the_user])), **draw(HELD)}
        known = None if rejected == "no_clerk_id" or (rejected and draw(st.booleans())) else clerk_id
        rows.append(KnownRow(id=f"doc_{number}", clerk_id=known, fields=fields, rejected=rejected))
    return KnownWorld(users=users, rows=rows)


def loaded(world: KnownWorld, plan: Mapping[str, Row], *, back: bool = False) -> KnownWorld:
    """The world after every update was made as the functions in Convex make it; or taken back."""
    table = {row.id: row for row in world.rows}
    for change in plan.values():
        if change["action"] != "update":
            assert (change["before"], change["after"]) == (None, None)
            continue
        before, after = (change["after"], change["before"]) if back else (change["before"], change["after"])
        row = table[before[DOCUMENT]]
        names = {*before, *after} - {DOCUMENT}
        assert {name: row.fields[name] for name in names if name in row.fields} == {
            name: value for name, value in before.items() if name != DOCUMENT
        }
        kept = {name: value for name, value in row.fields.items() if name not in names}
        written = {name: value for name, value in after.items() if name != DOCUMENT}
        table[row.id] = KnownRow(id=row.id, clerk_id=row.clerk_id, fields={**kept, **written}, rejected=row.rejected)
    return KnownWorld(users=world.users, rows=list(table.values()))


@given(world=worlds(), clear_nulls=st.booleans(), lines=st.integers(1, 5))
def test_any_world_is_planned_as_the_reference_says(world: KnownWorld, clear_nulls: bool, lines: int) -> None:
    reference = expected(world, clear_nulls=clear_nulls)
    listed = planned(world, clear_nulls=clear_nulls, list_skips=True, lines=lines)
    rows = rows_of(listed)
    assert {key: (row["action"], row["reason"]) for key, row in rows.items()} == reference.outcomes
    assert (listed.gone_from_clerk, listed.users) == (reference.gone, len(world.users))
    assert listed.of_nobody == sum(row.rejected == "no_clerk_id" for row in world.rows)
    after = loaded(world, rows)
    assert {row.id: row.fields for row in after.rows} == reference.table

    counted = planned(world, clear_nulls=clear_nulls, lines=lines)
    short = rows_of(counted)
    assert short == {key: row for key, row in rows.items() if row["action"] != "skip"}
    assert counted.skips == Counter(row["reason"] for row in rows.values() if row["action"] == "skip")


@given(world=worlds(), clear_nulls=st.booleans())
def test_after_a_load_there_is_nothing_to_do_and_the_undo_brings_everything_back(
    world: KnownWorld, clear_nulls: bool
) -> None:
    plan = rows_of(planned(world, clear_nulls=clear_nulls))
    after = loaded(world, plan)
    again = rows_of(planned(after, clear_nulls=clear_nulls))
    assert again == {key: row for key, row in plan.items() if row["action"] != "update"}
    assert list(loaded(after, plan, back=True).rows) == list(world.rows)


@given(world=worlds(), seed=st.integers(0, 999))
def test_nobody_depends_on_the_order_of_the_lists_nor_on_anybody_else(world: KnownWorld, seed: int) -> None:
    whole = rows_of(planned(world, list_skips=True))
    users, rows = list(world.users), list(world.rows)
    random.Random(seed).shuffle(users)
    random.Random(seed).shuffle(rows)
    assert rows_of(planned(KnownWorld(users=users, rows=rows), list_skips=True)) == whole
    for user in users[:1]:
        rest = KnownWorld(users=users[1:], rows=[row for row in rows if row.clerk_id != user.id])
        assert rows_of(planned(rest, list_skips=True)) == {key: row for key, row in whole.items() if key != user.id}


@given(world=worlds(), clear_nulls=st.booleans())
def test_an_update_is_no_larger_than_it_must_be(world: KnownWorld, clear_nulls: bool) -> None:
    """Every field in it differs; none is removed that is not there; without clearing none is removed at all."""
    for row in rows_of(planned(world, clear_nulls=clear_nulls)).values():
        if row["action"] == "update":
            before, after = row["before"], row["after"]
            names = {*before, *after} - {DOCUMENT}
            assert names
            missing = object()
            assert all(before.get(name, missing) != after.get(name, missing) for name in names)
            assert clear_nulls or after.keys() >= names
            assert None not in after.values()
