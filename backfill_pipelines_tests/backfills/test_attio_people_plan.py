"""The rules of `attio_people`, one by one and over random worlds, against a reference that was written apart."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backfill_pipelines.backfills.attio_people_plan import COUNTED_SKIPS, PeoplePlan, plan_people
from backfill_pipelines_tests.backfills.attio_people_reference import (
    KnownPerson,
    KnownUser,
    KnownWorld,
    Options,
    expected,
    loaded,
    outcomes_of,
)

Row = dict[str, Any]


def planned(world: KnownWorld, *, list_skips: bool = False, **options: bool) -> PeoplePlan:
    return plan_people(world.user_frames(), world.person_frames(), list_skips=list_skips, **options)


def rows_of(plan: PeoplePlan) -> dict[str, Row]:
    rows = [row for frame in plan.frames for row in frame.to_dict("records")]
    keys = [row["record_key"] for row in rows if "freed_from" not in (row["before"] or {})]
    assert [row["record_key"] for row in rows][: len(keys)] == sorted(keys)
    assert {row["target"] for row in rows} <= {"people"}
    return {row["record_key"]: row for row in rows}


def outcomes(world: KnownWorld, **options: bool) -> dict[str, tuple[str, str | None]]:
    return {
        key: (row["action"], row["reason"]) for key, row in rows_of(planned(world, list_skips=True, **options)).items()
    }


def world_of(*members: KnownUser | KnownPerson) -> KnownWorld:
    return KnownWorld(
        users=tuple(each for each in members if isinstance(each, KnownUser)),
        people=tuple(each for each in members if isinstance(each, KnownPerson)),
    )


def user(identifier: str = "u1", *verified: str, **fields: Any) -> KnownUser:
    """A user with verified addresses, the first one primary."""
    first = verified[0] if verified else None
    return KnownUser(**{"id": identifier, "primary": first, "verified": verified, **fields})


def person(identifier: str, *addresses: str, user_id: str | None = None) -> KnownPerson:
    return KnownPerson(id=identifier, addresses=addresses, user_ids=() if user_id is None else (user_id,))


# --- one rule at a time ----------------------------------------------------------------------------------------------


def test_a_user_nobody_knows_is_created_with_what_is_known_of_them() -> None:
    world = world_of(user("u1", " Ada@Example.com ", first_name=" Ada ", last_name=" "))
    (row,) = rows_of(planned(world)).values()
    assert (row["action"], row["before"]) == ("create", None)
    assert row["after"] == {"address": "Ada@Example.com", "first_name": "Ada", "last_name": None, "user_id": "u1"}


def test_a_person_without_an_id_gets_it_and_nothing_else() -> None:
    world = world_of(user("u1", "ADA@example.com"), person("p1", "ada@example.com"))
    (row,) = rows_of(planned(world)).values()
    assert (row["action"], row["reason"]) == ("update", None)
    assert (row["before"], row["after"]) == (
        {"record_id": "p1", "user_id": None},
        {"record_id": "p1", "user_id": "u1"},
    )


def test_other_verified_addresses_count_only_where_the_primary_one_matches_nobody() -> None:
    ada = user("u1", "ada@example.com", "ada@home.test")
    assert outcomes(world_of(ada, person("p1", "ada@home.test"))) == {"u1": ("update", None)}
    both = world_of(ada, person("p1", "ada@home.test"), person("p2", "ada@example.com"))
    assert rows_of(planned(both))["u1"]["after"]["record_id"] == "p2"


def test_an_address_that_is_not_verified_matches_only_as_the_primary_one() -> None:
    claims = user("u1", primary="ada@example.com", verified=())
    assert outcomes(world_of(claims, person("p1", "ada@example.com"))) == {"u1": ("update", None)}


def test_without_a_primary_address_the_first_verified_one_is_it() -> None:
    ada = user("u1", primary=None, verified=("first@example.com", "second@example.com"))
    assert rows_of(planned(world_of(ada)))["u1"]["after"]["address"] == "first@example.com"
    world = world_of(ada, person("p1", "first@example.com"), person("p2", "second@example.com"))
    assert rows_of(planned(world))["u1"]["after"]["record_id"] == "p1"


def test_several_people_are_ambiguous() -> None:
    ada = user("u1", "ada@example.com", "ada@home.test", "ada@work.test")
    world = world_of(ada, person("p1", "ada@home.test"), person("p2", "ada@work.test", user_id="u1"))
    (row,) = rows_of(planned(world)).values()
    assert (row["action"], row["reason"], row["after"]) == ("conflict", "ambiguous_person", None)
    assert row["before"] == {"record_ids": ["p1", "p2"]}


def test_one_person_for_two_users_is_a_conflict_for_both_whoever_it_says_it_is() -> None:
    pair = (user("u1", "ada@example.com"), user("u2", "bo@example.com", "bo@home.test"))
    shared = ("conflict", "shared_person")
    for user_id in (None, "u1", "u9"):
        world = world_of(*pair, person("p1", "ada@example.com", "bo@home.test", user_id=user_id))
        assert outcomes(world) == {"u1": shared, "u2": shared}


def test_nobody_is_created_for_two_users() -> None:
    twins = (user("u1", "ada@example.com"), user("u2", primary="Ada@Example.com", verified=()))
    assert set(outcomes(world_of(*twins)).values()) == {("conflict", "shared_person")}


def test_a_person_of_another_user_is_left_unless_it_may_be_overwritten() -> None:
    world = world_of(user("u1", "ada@example.com"), person("p1", "ada@example.com", user_id="u9"))
    assert outcomes(world) == {"u1": ("conflict", "other_user_id")}
    (row,) = rows_of(planned(world, overwrite=True)).values()
    assert (row["action"], row["reason"], row["before"]["user_id"]) == ("update", "overwrites", "u9")


def test_who_has_the_id_already_is_skipped_and_only_counted() -> None:
    world = world_of(user("u1", "ada@example.com"), person("p1", "ada@example.com", user_id="u1"))
    plan = planned(world)
    assert (plan.skips, rows_of(plan)) == ({"already_set": 1}, {})
    assert rows_of(planned(world, list_skips=True))["u1"]["reason"] == "already_set"


def test_an_id_that_is_on_another_person_is_left_there() -> None:
    ada, stranger = user("u1", "ada@example.com"), person("p9", "elsewhere@home.test", user_id="u1")
    nobody_matched = planned(world_of(ada, stranger))
    assert nobody_matched.skips == {}, "it is reported, with its people"
    (row,) = rows_of(nobody_matched).values()
    assert (row["action"], row["reason"], row["before"]) == ("skip", "set_elsewhere", {"record_ids": ["p9"]})
    one_matched = rows_of(planned(world_of(ada, stranger, person("p1", "ada@example.com"))))["u1"]
    assert (one_matched["action"], one_matched["reason"]) == ("conflict", "id_on_other_person")
    assert one_matched["before"] == {"record_ids": ["p1", "p9"]}


def test_an_id_that_is_on_another_person_is_not_written_to_a_second_one_by_overwriting() -> None:
    world = world_of(
        user("u1", "ada@example.com"),
        person("p1", "ada@example.com", user_id="u9"),
        person("p9", "elsewhere@home.test", user_id="u1"),
    )
    assert outcomes(world) == {"u1": ("conflict", "other_user_id")}
    (row,) = rows_of(planned(world, overwrite=True)).values()
    assert (row["action"], row["reason"], row["after"]) == ("conflict", "id_on_other_person", None)
    assert row["before"] == {"record_ids": ["p1", "p9"]}


def test_an_id_that_is_overwritten_goes_to_its_user_by_the_same_plan_and_after_it() -> None:
    world = world_of(
        user("u1", "ada@example.com"),
        user("u2", "bo@example.com"),
        user("u3", "cy@example.com"),
        person("p1", "ada@example.com", user_id="u2"),
        person("p3", "cy@example.com", user_id="u1"),
    )
    rows = rows_of(planned(world, overwrite=True))
    assert [(key, row["action"], row["reason"]) for key, row in rows.items()] == [
        ("u3", "update", "overwrites"),
        ("u1", "update", "overwrites"),
        ("u2", "create", None),
    ]
    assert rows["u1"]["before"] == {"record_id": "p1", "user_id": "u2", "freed_from": ["p3"]}
    assert rows["u2"]["before"] == {"freed_from": ["p1"]}


def test_of_people_who_have_each_others_ids_nobody_is_the_first() -> None:
    world = world_of(
        user("u1", "ada@example.com"),
        user("u2", "bo@example.com"),
        person("p1", "ada@example.com", user_id="u2"),
        person("p2", "bo@example.com", user_id="u1"),
    )
    conflict = ("conflict", "id_on_other_person")
    assert outcomes(world, overwrite=True) == {"u1": conflict, "u2": conflict}


def test_a_person_with_several_ids_is_left_even_where_it_may_be_overwritten() -> None:
    odd = KnownPerson(id="p1", addresses=("ada@example.com",), user_ids=("u1", "u2"))
    assert outcomes(world_of(user("u1", "ada@example.com"), odd), overwrite=True) == {
        "u1": ("conflict", "several_user_ids")
    }


def test_users_without_an_address_are_skipped_and_those_with_none_that_is_one_rejected() -> None:
    world = world_of(
        user("u1"),
        user("u2", primary="not an address", verified=("ada@example.com",)),
        user("u3", primary="", verified=()),
        user("u4", rejected="malformed_email_addresses"),
    )
    assert outcomes(world) == {
        "u1": ("skip", "no_email"),
        "u2": ("reject", "invalid_email"),
        "u3": ("reject", "invalid_email"),
        "u4": ("reject", "malformed_email_addresses"),
    }


def test_banned_users_are_skipped_and_share_nobody_unless_they_are_asked_for() -> None:
    world = world_of(
        user("u1", "ada@example.com"),
        user("u2", "bo@example.com", "ada@example.com", banned=True),
        person("p1", "ada@example.com"),
    )
    assert outcomes(world) == {"u1": ("update", None), "u2": ("skip", "banned")}
    shared = ("conflict", "shared_person")
    assert outcomes(world, include_banned=True) == {"u1": shared, "u2": shared}


@pytest.mark.parametrize("overwrite", [False, True])
def test_counts_by_decision_and_skips_and_rows_say_the_same(*, overwrite: bool) -> None:
    world = world_of(
        user("u1", "ada@example.com"),
        user("u2", "bo@example.com"),
        user("u3"),
        person("p1", "ada@example.com", user_id="u9"),
    )
    plan = planned(world, overwrite=overwrite)
    rows = {key: (row["action"], row["reason"]) for key, row in rows_of(plan).items()}
    counted = Counter({(str(each.action), each.reason): n for each, n in plan.decisions.items()})
    assert (plan.source, counted) == (3, outcomes_of(rows, plan.skips))


# --- any world -------------------------------------------------------------------------------------------------------

ADDRESSES = ["a@x.test", "b@x.test", "c@x.test", "d@y.test", "e@y.test"]
SPELLINGS = [*ADDRESSES, "A@X.test", " b@X.TEST", "nonsense", ""]
USER_IDS = ["u1", "u2", "u3", "u4", "u5"]

users = st.lists(
    st.builds(
        KnownUser,
        id=st.sampled_from(USER_IDS),
        primary=st.none() | st.sampled_from(SPELLINGS),
        verified=st.lists(st.sampled_from(SPELLINGS), max_size=3).map(tuple),
        banned=st.sampled_from([False, False, False, True]),
        rejected=st.sampled_from([None, None, None, None, "malformed_created_at"]),
    ),
    max_size=5,
    unique_by=lambda each: each.id,
).map(tuple)
people = st.lists(
    st.builds(
        KnownPerson,
        id=st.sampled_from(["p1", "p2", "p3", "p4", "p5"]),
        addresses=st.lists(st.sampled_from(ADDRESSES), max_size=3, unique=True).map(tuple),
        user_ids=st.lists(st.sampled_from([*USER_IDS, "u9"]), max_size=2, unique=True).map(tuple),
    ),
    max_size=5,
    unique_by=lambda each: each.id,
).map(tuple)
worlds = st.builds(KnownWorld, users=users, people=people)
options = st.builds(Options, overwrite=st.booleans(), include_banned=st.booleans())


def asked(given_options: Options) -> dict[str, bool]:
    return {"overwrite": given_options.overwrite, "include_banned": given_options.include_banned}


@settings(max_examples=400, deadline=None)
@given(world=worlds, chosen=options)
@example(
    world=world_of(user("u1", "a@x.test", "b@x.test"), user("u2", "b@x.test"), person("p1", "b@x.test")),
    chosen=Options(),
)
def test_the_plan_of_any_world_is_that_of_the_reference(world: KnownWorld, chosen: Options) -> None:
    reference = expected(world, chosen)
    assert outcomes(world, **asked(chosen)) == reference.outcomes
    rows = rows_of(planned(world, **asked(chosen)))
    assert {k: r["after"]["record_id"] for k, r in rows.items() if r["action"] == "update"} == reference.written
    silent = {key for key, (_, reason) in reference.outcomes.items() if reason in COUNTED_SKIPS}
    assert rows.keys() == reference.outcomes.keys() - silent


@settings(max_examples=100, deadline=None)
@given(world=worlds, chosen=options, seed=st.integers(0, 1000))
def test_the_order_of_people_and_users_changes_nothing(world: KnownWorld, chosen: Options, seed: int) -> None:
    shuffled = random.Random(seed)
    other = replace(
        world,
        users=tuple(shuffled.sample(world.users, len(world.users))),
        people=tuple(shuffled.sample(world.people, len(world.people))),
    )
    plans = [planned(each, list_skips=True, **asked(chosen)) for each in (world, other)]
    assert list(rows_of(plans[0]).items()) == list(rows_of(plans[1]).items()), "what the plan hash is made of"


@settings(max_examples=200, deadline=None)
@given(world=worlds, chosen=options)
def test_after_a_load_nothing_is_left_to_write(world: KnownWorld, chosen: Options) -> None:
    after = outcomes(loaded(world, chosen), **asked(chosen))
    assert not {action for action, _ in after.values()} & {"create", "update"}


@settings(max_examples=200, deadline=None)
@given(world=worlds, chosen=options)
def test_no_load_gives_an_id_to_a_second_person(world: KnownWorld, chosen: Options) -> None:
    def people_of(known: KnownWorld) -> Counter[str]:
        return Counter(user_id for each in known.people for user_id in each.user_ids)

    before, after = people_of(world), people_of(loaded(world, chosen))
    assert {user_id for user_id, count in after.items() if count > max(1, before[user_id])} == set()


@settings(max_examples=200, deadline=None)
@given(world=worlds, chosen=options)
def test_no_person_is_written_to_twice_and_nobody_is_created_twice(world: KnownWorld, chosen: Options) -> None:
    rows = rows_of(planned(world, **asked(chosen))).values()
    updated = [row["after"]["record_id"] for row in rows if row["action"] == "update"]
    created = [row["after"]["address"].lower() for row in rows if row["action"] == "create"]
    assert (len(updated), len(created)) == (len(set(updated)), len(set(created)))
    held = {address for each in world.people for address in each.addresses}
    assert not held & set(created)
