"""Which organization is a company's main one, and what the plan says of it: rule by rule, and against a reference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings

from backfill_pipelines.backfills.attio_company_orgs_choice import Choices, Landed, Rules, choose
from backfill_pipelines.backfills.attio_company_orgs_plan import CompanyPlan, compare, plan_companies
from backfill_pipelines.engine.plan import PLAN_COLUMNS
from backfill_pipelines_tests.backfills.company_orgs_worlds import RULES, WORLDS, Person, World, expected, frames

ANY_SIZE = Rules(min_members=1)
HOW_IT_WAS_DECIDED = {"only_org", "most_members", "most_members_here", "oldest_org"}


def person(user_id: str, address: str, *, verified: bool = True, **fields: Any) -> Person:
    return Person(user_id, ((address, verified),), **fields)


def rows_of(parts: Iterable[pd.DataFrame]) -> list[dict[str, Any]]:
    return [dict(zip(PLAN_COLUMNS, row, strict=True)) for part in parts for row in part.itertuples(index=False)]


def planned(world: World, rules: Rules = ANY_SIZE, *, store_skips: bool = True) -> dict[str, dict[str, Any]]:
    plan = plan_companies(choose(world.landed(), rules), store_skips=store_skips, shown=20)
    return {row["record_key"]: row for row in rows_of(plan.frames)}


def reason_of(world: World, rules: Rules = ANY_SIZE) -> str:
    """Of the world's one company."""
    [row] = planned(world, rules).values()
    return str(row["reason"])


ACME = World(
    companies={"acme": (("acme.example",), None)},
    people=[person("ada", "ada@acme.example"), person("bob", "bob@acme.example"), person("eve", "eve@elsewhere.test")],
    organizations={"big": (9, 200), "small": (2, 100)},
    memberships=[("ada", "small"), ("bob", "small"), ("ada", "big"), ("eve", "big")],
)


# --- which organization ----------------------------------------------------------------------------------------------


def test_the_organization_with_the_most_members_in_all_is_chosen_though_fewer_are_from_the_company() -> None:
    row = planned(ACME)["acme"]
    assert (row["target"], row["action"], row["reason"]) == ("companies", "update", "most_members")
    assert row["after"] == {"record_id": "acme", "org_id": "big"}
    assert row["before"] == {
        "record_id": "acme",
        "org_id": None,
        "candidates": [
            {"org_id": "big", "members": 9, "members_here": 1},
            {"org_id": "small", "members": 2, "members_here": 2},
        ],
    }


def test_of_equally_large_ones_that_with_more_members_from_the_company_is_chosen() -> None:
    row = planned(replace(ACME, organizations={"big": (2, 100), "small": (2, 200)}))["acme"]
    assert (row["reason"], row["after"]["org_id"]) == ("most_members_here", "small")


def test_then_the_oldest_is_chosen_and_of_the_same_age_the_one_with_the_first_id() -> None:
    even = replace(ACME, memberships=[("ada", "small"), ("bob", "big")])
    row = planned(replace(even, organizations={"big": (2, 200), "small": (2, 100)}))["acme"]
    assert (row["reason"], row["after"]["org_id"]) == ("oldest_org", "small")
    row = planned(replace(even, organizations={"big": (2, 100), "small": (2, 100)}))["acme"]
    assert (row["reason"], row["after"]["org_id"]) == ("oldest_org", "big")


def test_a_user_of_two_domains_of_a_company_counts_once() -> None:
    world = replace(
        ACME,
        companies={"acme": (("acme.example", "acme.test"), None)},
        people=[Person("ada", (("ada@acme.example", True), ("ada@acme.test", True))), person("bob", "bob@acme.test")],
        organizations={"first": (2, 200), "second": (2, 100)},
        memberships=[("ada", "first"), ("bob", "second")],
    )
    assert planned(world)["acme"]["after"]["org_id"] == "second"


def test_no_more_than_five_candidates_are_shown() -> None:
    names = [f"org-{number}" for number in range(7)]
    world = replace(
        ACME,
        organizations={name: (10 - number, 1) for number, name in enumerate(names)},
        memberships=[("ada", name) for name in names],
    )
    assert [each["org_id"] for each in planned(world)["acme"]["before"]["candidates"]] == names[:5]


# --- who counts ------------------------------------------------------------------------------------------------------


def test_a_primary_address_counts_unverified_and_another_one_only_verified() -> None:
    primary = [person("ada", "ada@acme.example", verified=False)]
    assert reason_of(replace(ACME, people=primary)) == "most_members"
    second = [Person("ada", (("ada@private.test", True), ("ada@acme.example", False)))]
    assert reason_of(replace(ACME, people=second)) == "no_users"
    verified = [Person("ada", (("ada@private.test", True), ("ada@acme.example", True)))]
    assert reason_of(replace(ACME, people=verified)) == "most_members"
    without_primary = [Person("ada", (("ada@acme.example", True),), primary=False)]
    assert reason_of(replace(ACME, people=without_primary)) == "most_members"


def test_banned_users_count_only_when_that_is_asked_for() -> None:
    banned = replace(ACME, people=[person("ada", "ada@acme.example", banned=True)])
    assert reason_of(banned) == "no_users"
    assert reason_of(banned, Rules(min_members=1, include_banned=True)) == "most_members"


def test_parent_and_subdomain_as_two_companies_both_match_and_share_the_organization() -> None:
    world = World(
        companies={"parent": (("acme.example",), None), "branch": (("eu.acme.example",), None)},
        people=[person("ada", "ada@eu.acme.example")],
        organizations={"org": (1, 1)},
        memberships=[("ada", "org")],
    )
    rows = planned(world)
    assert {key: (row["action"], row["reason"]) for key, row in rows.items()} == {
        "branch": ("update", "shared_org"),
        "parent": ("update", "shared_org"),
    }


def test_a_domain_that_two_companies_share_is_both_ones() -> None:
    world = replace(ACME, companies={"one": (("acme.example",), None), "two": (("ACME.example.",), None)})
    assert [(row["reason"], row["after"]["org_id"]) for row in planned(world).values()] == [("shared_org", "big")] * 2


def test_an_organization_of_a_company_that_keeps_another_id_is_not_shared() -> None:
    world = replace(ACME, companies={"one": (("acme.example",), None), "two": (("acme.example",), "org_before")})
    assert {key: row["reason"] for key, row in planned(world).items()} == {"one": "most_members", "two": "already_set"}


# --- why nothing is done ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domains", "org_id", "reason"),
    [
        ((), None, "no_domain"),
        (("co.uk",), None, "no_domain"),
        (("gmail.com", "WEB.de"), None, "free_mail_domain"),
        (("quiet.example",), None, "no_users"),
        (("acme.example",), "org_before", "already_set"),
        ((), "org_before", "already_set"),
    ],
)
def test_a_skipped_company_says_why(domains: tuple[str, ...], org_id: str | None, reason: str) -> None:
    world = replace(ACME, companies={"acme": (domains, org_id)})
    [row] = planned(world).values()
    assert (row["action"], row["reason"], row["after"]) == ("skip", reason, None)


def test_people_without_an_organization_are_no_orgs() -> None:
    assert reason_of(replace(ACME, memberships=[("eve", "big")])) == "no_orgs"


def test_an_organization_below_the_least_number_of_members_is_no_companys() -> None:
    assert reason_of(ACME, Rules(min_members=9)) == "most_members"
    assert reason_of(ACME, Rules(min_members=10)) == "below_min_members"
    assert reason_of(replace(ACME, organizations={"big": (0, 1), "small": (0, 1)})) == "below_min_members"


def test_skips_are_counted_without_rows_unless_they_are_stored() -> None:
    world = replace(ACME, companies={**ACME.companies, "mail": (("gmail.com",), None), "none": ((), None)})
    plan = plan_companies(choose(world.landed(), ANY_SIZE), store_skips=False, shown=20)
    assert [row["record_key"] for row in rows_of(plan.frames)] == ["acme"]
    assert plan.skips == {"free_mail_domain": 1, "no_domain": 1}
    assert set(planned(world)) == {"acme", "mail", "none"}


# --- what could not be read ------------------------------------------------------------------------------------------


def test_rows_that_could_not_be_read_are_rejected_with_their_codes() -> None:
    landed = ACME.landed()
    rejected = Landed(
        companies=[
            *landed.companies,
            *frames(("record_id", "rejected", "domains", "org_id"), [("c", "x", [], None)], 1),
        ],
        users=[
            *landed.users,
            *frames(
                ("user_id", "rejected", "banned", "primary_email", "verified_emails"),
                [("u", "malformed_email_addresses", False, None, [])],
                1,
            ),
        ],
        organizations=[
            *landed.organizations,
            *frames(
                ("organization_id", "rejected", "created_at", "members_count"),
                [("o", "malformed_members_count", None, None)],
                1,
            ),
        ],
        memberships=[
            *landed.memberships,
            *frames(("organization_id", "rejected", "user_id"), [("unreadable 4", "malformed_organization", "")], 1),
        ],
        memberships_complete=True,
    )
    rows = rows_of(plan_companies(choose(rejected, ANY_SIZE), store_skips=False, shown=20).frames)
    assert [(row["target"], row["record_key"], row["action"], row["reason"]) for row in rows] == [
        ("companies", "acme", "update", "most_members"),
        ("companies", "c", "reject", "x"),
        ("clerk_organizations", "o", "reject", "malformed_members_count"),
        ("clerk_users", "u", "reject", "malformed_email_addresses"),
        ("clerk_memberships", "unreadable 4", "reject", "malformed_organization"),
    ]


def test_where_a_candidates_number_of_members_is_unknown_nothing_is_chosen() -> None:
    row = planned(replace(ACME, organizations={"small": (2, 100)}))["acme"]
    assert (row["action"], row["reason"], row["after"]) == ("conflict", "unknown_organization", None)
    assert [each["org_id"] for each in row["before"]["candidates"]] == ["small"]


def test_where_memberships_are_missing_nothing_is_chosen_among_several_organizations() -> None:
    row = planned(replace(ACME, memberships_complete=False))["acme"]
    assert (row["action"], row["reason"], row["after"]) == ("conflict", "memberships_incomplete", None)
    assert [each["org_id"] for each in row["before"]["candidates"]] == ["big", "small"]


def test_where_memberships_are_missing_a_company_with_one_organization_gets_it() -> None:
    world = replace(ACME, memberships=[("ada", "small"), ("bob", "small")], memberships_complete=False)
    row = planned(world)["acme"]
    assert (row["action"], row["reason"], row["after"]["org_id"]) == ("update", "only_org", "small")


# --- against the reference -------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(WORLDS, RULES)
def test_every_company_of_any_world_gets_what_the_reference_says(world: World, rules: Rules) -> None:
    found = {
        key: ("update" if row["reason"] in HOW_IT_WAS_DECIDED else row["reason"], (row["after"] or {}).get("org_id"))
        for key, row in planned(world, rules).items()
    }
    assert found == expected(world, rules)


@settings(max_examples=100, deadline=None)
@given(WORLDS, RULES)
def test_the_plan_does_not_depend_on_the_order_in_which_anything_was_landed(world: World, rules: Rules) -> None:
    reverse = World(
        dict(reversed(world.companies.items())),
        list(reversed(world.people)),
        dict(reversed(world.organizations.items())),
        list(reversed(world.memberships)),
        world.memberships_complete,
    )
    assert list(planned(world, rules).values()) == list(planned(reverse, rules).values())
    assert list(planned(world, rules)) == sorted(world.companies)


@settings(max_examples=100, deadline=None)
@given(WORLDS, RULES)
def test_once_it_is_loaded_the_plan_has_nothing_to_do_and_everything_compares_equal(world: World, rules: Rules) -> None:
    rows = planned(world, rules)
    loaded = replace(
        world,
        companies={
            key: (domains, org_id or (rows[key]["after"] or {}).get("org_id"))
            for key, (domains, org_id) in world.companies.items()
        },
    )
    assert {row["action"] for row in planned(loaded, rules).values()} <= {"skip", "conflict"}
    comparison = compare(choose(loaded.landed(), rules), written={}, left_alone={})
    assert not comparison.missing
    assert not comparison.different
    assert not comparison.explained
    assert comparison.equal >= sum(row["action"] == "update" for row in rows.values())


# --- the comparison --------------------------------------------------------------------------------------------------


def choices(**org_ids: str | None) -> Choices:
    """Companies at one domain, whose main organization is `big`."""
    return choose(
        replace(ACME, companies={key: (("acme.example",), org_id) for key, org_id in org_ids.items()}).landed(),
        ANY_SIZE,
    )


def test_a_company_without_its_id_is_missing_and_one_that_was_left_as_a_conflict_is_explained() -> None:
    comparison = compare(choices(a=None, b=None, c="big"), written={}, left_alone={"b": "stale"})
    assert (comparison.equal, comparison.missing, comparison.explained) == (1, ["a"], 1)


def test_another_id_than_we_wrote_is_different_and_one_that_was_there_before_is_kept() -> None:
    comparison = compare(choices(a="small", b="small", c=None), written={"a": "big", "c": "big"}, left_alone={})
    assert (comparison.different, comparison.set_otherwise, comparison.missing) == (["a"], ["b"], ["c"])


def test_what_we_wrote_is_right_though_another_organization_has_become_the_main_one() -> None:
    comparison = compare(choices(a="small"), written={"a": "small"}, left_alone={})
    assert (comparison.equal, comparison.different) == (1, [])


# --- size ------------------------------------------------------------------------------------------------------------


def test_ten_thousand_users_at_one_domain_and_as_many_companies_are_looked_at_once() -> None:
    many = 10_000
    world = World(
        companies={f"company-{number:05}": (("acme.example",), None) for number in range(many)},
        people=[person(f"user-{number}", f"u{number}@acme.example") for number in range(many)],
        organizations={f"org-{number}": (number + 1, 1) for number in range(many)},
        memberships=[(f"user-{number}", f"org-{number}") for number in range(many)],
    )
    plan: CompanyPlan = plan_companies(choose(world.landed(rows_a_frame=5_000), ANY_SIZE), store_skips=False, shown=20)
    assert (plan.updates, plan.shared_orgs) == (many, 1)
    assert {row["after"]["org_id"] for row in rows_of(plan.frames)} == {f"org-{many - 1}"}
