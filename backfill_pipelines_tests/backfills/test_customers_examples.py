"""The rules of `customers` one by one: who belongs together, and which customer that is. Rows are in
test_customers_example_rows.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backfill_pipelines_tests.backfills.customers_reference import Name
from backfill_pipelines_tests.backfills.customers_reference_fields import Rules
from backfill_pipelines_tests.backfills.customers_worlds import Row, World, customer, job, lead

X, X_AGAIN, Y, Z = "(205) 555-0101", "+1 205.555.0101", "205-555-0102", "205-555-0103"
ADA, BO = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
ELSEWHERE = "00000000-0000-4000-8000-0000000000ff"
MAIL = "ann@example.com"


def planned(world: World) -> dict[str, tuple[str | None, str | None]]:
    """By lead: its customer, and the reason of its row."""
    decided = world.plan().decided()
    reference = world.reference()
    assert (decided.leads, decided.customers) == (reference.leads, reference.customers), "the reference says otherwise"
    return {key: (customer_id, reason) for key, (_, reason, customer_id) in decided.leads.items()}


def groups(*leads: Row, **others: Any) -> list[set[str]]:
    """Which leads share a customer, the first lead's first."""
    found: dict[str | None, set[str]] = {}
    for key, (customer_id, _) in planned(World(leads=leads, **others)).items():
        found.setdefault(customer_id, set()).add(key)
    return list(found.values())


def reasons(*leads: Row, **others: Any) -> list[str | None]:
    return [reason for _, reason in planned(World(leads=leads, **others)).values()]


def who(*leads: Row, **others: Any) -> list[str | None]:
    """The leads' customers."""
    return [customer_id for customer_id, _ in planned(World(leads=leads, **others)).values()]


def new(kind: str, value: str) -> str:
    return World().own_id((kind, value))


# --- by PSID


def test_leads_of_one_psid_are_one_customer_whatever_else_they_hold() -> None:
    assert groups(lead("a", psid="p1", phone=X), lead("b", psid=" p1\t", phone=Y, email=MAIL)) == [{"a", "b"}]


def test_a_psid_has_no_limit() -> None:
    leads = [lead(f"{number}", psid="p1") for number in range(5)]
    assert len(groups(*leads, rules=Rules(max_group_size=2))) == 1


# --- by phone


@pytest.mark.parametrize(
    "spelling",
    [
        X_AGAIN,
        "1-205-555-0101",
        "2055550101.0",
        "205 555 0101 ext 12",
        "(205) 555-0101 / 205-555-0199",
        "２０５５５５０１０１",
    ],
)
def test_one_phone_in_two_spellings_is_one_customer_of_type_phone(spelling: str) -> None:
    assert who(lead("a", phone=X), lead("b", phone=spelling)) == [new("phone", "2055550101")] * 2


def test_a_number_is_dialled_in_the_clients_region() -> None:
    leads = lead("a", phone="020 7946 0103"), lead("b", phone="+44 (0)20 7946 0103")
    assert len(groups(*leads, rules=Rules(region="GB"))) == 1
    assert len(groups(*leads, rules=Rules(region="US"))) == 2


@pytest.mark.parametrize("field", ["999000001234", "0009990001"])
def test_ten_to_fifteen_digits_group_though_no_plan_has_them(field: str) -> None:
    assert groups(lead("a", phone=field), lead("b", phone=f" {field[:4]}-{field[4:]} ")) == [{"a", "b"}]


@pytest.mark.parametrize("field", ["555-0134", "9" * 16, "9" * 10_000, "call me", X + " " * 30 + "x" * 30])
def test_too_few_digits_too_many_or_too_long_a_field_is_no_phone(field: str) -> None:
    assert groups(lead("a", phone=field), lead("b", phone=field)) == [{"a"}, {"b"}]


def test_another_countrys_ten_digits_are_no_number_of_ours() -> None:
    assert len(groups(lead("a", phone="+65 8234 5678"), lead("b", phone="(658) 234-5678"))) == 2


def test_a_lead_joins_the_one_psid_customer_that_has_its_phone() -> None:
    assert who(lead("a", psid="p1", phone=X), lead("b", phone=X_AGAIN)) == [new("psid", "p1")] * 2


def test_a_lead_joins_the_one_psid_customer_whose_own_row_has_its_phone() -> None:
    ours = customer(new("psid", "p1"), psid="p1", phone="2055550101", ours=True)
    assert who(lead("a", psid="p1"), lead("b", phone=X), customers=[ours]) == [new("psid", "p1")] * 2


def test_two_psids_with_one_phone_are_not_merged_and_its_leads_are_a_third_customer() -> None:
    world = World(leads=[lead("a", psid="p1", phone=X), lead("b", psid="p2", phone=X), lead("c", phone=X)])
    assert who(*world.leads) == [new("psid", "p1"), new("psid", "p2"), new("phone", "2055550101")]
    assert world.plan().decided().customers[new("phone", "2055550101")][1] == "shared_phone"


def test_two_psids_that_are_one_customer_are_one_holder_of_its_phone() -> None:
    leads = [lead("a", psid="p1", phone=X, customer_id=ADA), lead("b", psid="p2", phone=X, customer_id=ADA)]
    assert who(*leads, lead("c", phone=X), customers=[customer(ADA)])[2] == ADA


def test_a_customer_has_what_a_lead_has_that_was_linked_to_it_before() -> None:
    """Else the lead would take its customer along to the other PSID."""
    before = lead("a", psid="p1", customer_id=ADA), lead("b", phone=X, customer_id=ADA)
    assert who(*before, lead("c", psid="p2", phone=X), customers=[customer(ADA)])[2] == new("psid", "p2")


def test_a_second_psid_with_a_phone_gets_its_own_customer_also_in_a_later_run() -> None:
    world = World(leads=[lead("a", psid="p1", phone=X), lead("b", phone=X)])
    later = world.after(world.plan())
    later = replace(later, leads=[*later.leads, lead("c", psid="p2", phone=X), lead("d", phone=X)])
    assert [planned(later)[key][0] for key in "cd"] == [new("psid", "p2"), new("psid", "p1")]


# --- by email


def test_an_address_is_trimmed_and_in_lower_case_and_nothing_else() -> None:
    leads = [lead(each, email=each) for each in (MAIL, " ANN@Example.com ", "ann+x@example.com", "a.nn@example.com")]
    assert groups(*leads) == [{MAIL, " ANN@Example.com "}, {"a.nn@example.com"}, {"ann+x@example.com"}]
    assert who(leads[0])[0] == new("email", MAIL)


def test_a_lead_joins_the_one_customer_that_has_its_address_through_a_lead_that_joined_too() -> None:
    leads = lead("a", psid="p1", phone=X), lead("b", phone=X, email=MAIL), lead("c", email=MAIL)
    assert who(*leads) == [new("psid", "p1")] * 3


def test_where_two_customers_have_an_address_each_of_its_leads_is_an_individual() -> None:
    leads = [
        lead("a", phone=X, email=MAIL),
        lead("b", phone=Y, email=MAIL),
        lead("c", email=MAIL),
        lead("d", email=MAIL),
    ]
    assert reasons(*leads) == [None, None, "ambiguous_email", "ambiguous_email"]
    assert who(*leads)[2:] == [new("individual", "c"), new("individual", "d")]


@pytest.mark.parametrize("field", ["not-an-address", "nodot@localhost", "two@at@example.com", ""])
def test_what_is_no_address_groups_nothing(field: str) -> None:
    assert reasons(lead("a", email=field), lead("b", email=field)) == ["no_identifier"] * 2
    assert len(groups(lead("a", email=field), lead("b", email=field))) == 2


# --- guards

BLOCKED = Rules(
    blocked_emails=("test@test.com",),
    blocked_local_parts=("info",),
    blocked_domains=("mailbox.test",),
    blocked_phones=("000-000-0000", X),
)


@pytest.mark.parametrize("email", ["Test@test.com", "INFO@example.com", "ann@mailbox.test"])
def test_a_blocked_address_groups_nothing(email: str) -> None:
    leads = lead("a", email=email), lead("b", email=email)
    assert len(groups(*leads, rules=BLOCKED)) == 2
    assert reasons(*leads, rules=BLOCKED) == ["blocked_value"] * 2


@pytest.mark.parametrize("phone", ["0000000000", X_AGAIN])
def test_a_lead_with_a_blocked_phone_falls_to_its_address(phone: str) -> None:
    leads = lead("a", phone=phone, email=MAIL), lead("b", phone=phone)
    assert who(*leads, rules=BLOCKED) == [new("email", MAIL), new("individual", "b")]
    assert reasons(*leads, rules=BLOCKED) == ["blocked_value"] * 2


def test_a_value_shared_by_as_many_leads_as_allowed_groups_and_by_one_more_it_does_not() -> None:
    rules = Rules(max_group_size=2)
    leads = [lead("a", phone=X, email=MAIL), lead("b", phone=X), lead("c", phone=X_AGAIN)]
    assert who(*leads[:2], rules=rules) == [new("phone", "2055550101")] * 2
    assert who(*leads, rules=rules) == [new("email", MAIL), new("individual", "b"), new("individual", "c")]
    assert reasons(*leads, rules=rules) == ["oversized_group"] * 3


def test_only_leads_that_would_group_by_a_value_count_against_the_limit() -> None:
    with_psid = [lead(f"p{number}", psid="p1", phone=X) for number in range(3)]
    assert len(groups(*with_psid, lead("a", phone=X), rules=Rules(max_group_size=2))) == 1
    with_phone = [lead(f"x{number}", phone=Y, email=MAIL) for number in range(2)]
    assert len(groups(*with_phone, lead("a", email=MAIL), rules=Rules(max_group_size=2))) == 1


def test_the_strongest_reason_is_told() -> None:
    leads = [lead("a", phone=Y, email=MAIL), lead("b", phone=Z, email=MAIL), lead("c", phone=X, email=MAIL)]
    assert reasons(*leads, rules=BLOCKED)[2] == "ambiguous_email"
    oversized = [lead(each, phone=X, email="bo@example.com") for each in "ab"]
    assert reasons(*oversized, rules=replace(BLOCKED, max_group_size=1)) == ["oversized_group"] * 2
    assert reasons(lead("a", phone="0000000000"), rules=BLOCKED) == ["blocked_value"]


# --- customers that are there


def test_a_group_is_the_customer_that_has_its_key_or_is_recorded_for_it() -> None:
    ours = customer(new("psid", "p1"), ours=True)
    assert who(lead("a", psid="p1"), customers=[ours]) == [ours["id"]]
    recorded: dict[Name, str] = {("phone", "2055550101"): ADA}
    assert who(lead("a", phone=X), customers=[customer(ADA)], recorded=recorded) == [ADA]


def test_a_recorded_customer_that_is_gone_is_none() -> None:
    recorded: dict[Name, str] = {("psid", "p1"): ADA}
    assert who(lead("a", psid="p1"), recorded=recorded) == [new("psid", "p1")]
    there = [customer(new("psid", "p1"), ours=True)]
    assert who(lead("a", psid="p1"), recorded=recorded, customers=there) == [new("psid", "p1")]


def test_a_merge_redirects_and_one_into_a_customer_that_is_gone_does_not() -> None:
    mine = new("psid", "p1")
    assert who(lead("a", psid="p1"), customers=[customer(ADA)], merged={mine: BO, BO: ADA}) == [ADA]
    assert who(lead("a", psid="p1"), customers=[customer(mine, ours=True)], merged={mine: ADA}) == [mine]


def test_a_customer_whose_row_has_the_psid_is_found_and_of_two_neither() -> None:
    there = [customer(ADA, psid="p1"), customer(BO, psid=" p1")]
    assert who(lead("a", psid="p1"), customers=there[:1]) == [ADA]
    assert planned(World(leads=[lead("a", psid="p1")], customers=there))["a"] == (None, "ambiguous_existing")


@pytest.mark.parametrize("psid", [None, "p1"])
def test_a_humans_customer_is_found_by_phone_and_of_two_neither(psid: str | None) -> None:
    there = [customer(ADA, phone=X_AGAIN), customer(BO, phone=X)]
    assert who(lead("a", psid=psid, phone=X), customers=there[:1]) == [ADA]
    assert reasons(lead("a", psid=psid, phone=X), customers=there) == ["ambiguous_existing"]


def test_a_psids_phone_finds_no_customer_with_another_psid_on_its_row_or_by_its_leads() -> None:
    mine = lead("a", psid="p1", phone=X)
    assert reasons(mine, customers=[customer(ADA, phone=X, psid="p2")]) == ["ambiguous_existing"]
    assert who(mine, customers=[customer(ADA, phone=X, psid="p1")]) == [ADA]
    split = [lead("b", psid="p2", customer_id=ADA), lead("c", psid="p2", customer_id=BO)]
    assert reasons(mine, *split, customers=[customer(ADA, phone=X), customer(BO)])[0] == "ambiguous_existing"


def test_a_humans_customer_that_two_psids_claim_is_neithers_and_who_joins_them_waits_too() -> None:
    leads = lead("a", psid="p1", phone=X), lead("b", psid="p2", phone=X), lead("c", phone=X)
    assert reasons(*leads, customers=[customer(ADA, phone=X)]) == ["ambiguous_existing"] * 3


def test_a_lead_whose_phone_a_psid_and_a_humans_customer_have_waits_for_somebody_to_decide() -> None:
    leads = lead("a", psid="p1", phone=X, customer_id=BO), lead("b", phone=X)
    assert reasons(*leads, customers=[customer(ADA, phone=X), customer(BO)])[1] == "ambiguous_existing"


def test_a_humans_customer_is_found_by_email_and_of_two_neither() -> None:
    there = [customer(ADA, email="ANN@example.com"), customer(BO, email=MAIL)]
    for each in (lead("a", psid="p1", email=MAIL), lead("a", phone=X, email=MAIL), lead("a", email=MAIL)):
        assert who(each, customers=there[:1]) == [ADA]
        assert reasons(each, customers=there) == ["ambiguous_existing"]


def test_an_address_finds_no_customer_with_another_phone() -> None:
    there = [customer(ADA, email=MAIL, phone=Y)]
    assert reasons(lead("a", phone=X, email=MAIL), customers=there) == ["ambiguous_existing"]
    assert who(lead("a", email=MAIL), customers=there) == [ADA]
    assert who(lead("a", psid="p1", email=MAIL), customers=there) == [ADA]


def test_a_humans_customer_that_two_groups_claim_by_address_is_neithers_nor_a_thirds() -> None:
    leads = lead("a", psid="p1", email=MAIL), lead("b", psid="p2", email=MAIL), lead("c", phone=X, email=MAIL)
    assert reasons(*leads, customers=[customer(ADA, email=MAIL)]) == ["ambiguous_existing"] * 3


def test_a_humans_customer_that_two_groups_claim_by_phone_is_no_thirds_by_address() -> None:
    leads = lead("a", psid="p1", phone=X), lead("b", psid="p2", phone=X), lead("c", email=MAIL)
    assert reasons(*leads, customers=[customer(ADA, phone=X, email=MAIL)]) == ["ambiguous_existing"] * 3


def test_who_cannot_be_found_by_address_is_found_by_phone_all_the_same() -> None:
    leads = lead("a", psid="p1", phone=Y, email=MAIL), lead("b", phone=X)
    assert planned(World(leads=leads, customers=[customer(ADA, phone=X, email=MAIL)])) == {
        "a": (None, "ambiguous_existing"),
        "b": (ADA, None),
    }


def test_an_oversized_phone_finds_nobody() -> None:
    leads = [lead("a", phone=X, email=MAIL), lead("b", phone=X), lead("c", phone=X)]
    assert who(*leads, rules=Rules(max_group_size=2), customers=[customer(ADA, phone=X)])[0] == new("email", MAIL)


def test_customers_of_ours_are_not_found_by_phone_or_email() -> None:
    ours = customer(new("psid", "p9"), phone="2055550101", email=MAIL, ours=True)
    assert who(lead("a", psid="p1", phone=X, email=MAIL), customers=[ours]) == [new("psid", "p1")]


def test_a_customer_that_is_somebody_is_not_found_by_others() -> None:
    leads = lead("a", psid="p1", phone=X, customer_id=ADA), lead("b", psid="p2", phone=X)
    assert who(*leads, customers=[customer(ADA, phone=X)])[1] == new("psid", "p2")


# --- links that are there


def test_a_lead_that_is_linked_is_skipped_and_its_group_joins_its_customer() -> None:
    leads = lead("a", psid="p1", phone=X, customer_id=ADA), lead("b", psid="p1"), lead("c", phone=X)
    assert planned(World(leads=leads, customers=[customer(ADA)])) == {
        "a": (None, "already_linked"),
        "b": (ADA, None),
        "c": (ADA, None),
    }


def test_a_group_with_two_customers_is_split_and_changes_nothing() -> None:
    leads = [lead("a", psid="p1", customer_id=ADA), lead("b", psid="p1", customer_id=BO), lead("c", psid="p1", phone=X)]
    world = World(leads=[*leads, lead("d", phone=X)], customers=[customer(ADA), customer(BO)])
    assert [reason for _, reason in planned(world).values()] == ["already_linked"] * 2 + ["split_group"] * 2
    assert list(world.plan().written()) == []
    assert world.plan().decided().split_groups == set()
    assert replace(world, leads=leads[:2]).plan().decided().split_groups == {new("psid", "p1")}


def test_a_lead_that_joins_a_group_in_conflict_does_not_end_the_conflict_by_its_link() -> None:
    leads = [
        *(lead("a", psid="p1", phone=X), lead("b", psid="p2", phone=X), lead("c", psid="p1", email=MAIL)),
        lead("d", email=MAIL, customer_id=BO),
    ]
    there = [customer(ADA, phone=X), customer(BO)]
    assert reasons(*leads, customers=there) == ["ambiguous_existing"] * 3 + ["already_linked"]


def test_a_lead_that_is_linked_out_of_the_client_is_out_of_its_group() -> None:
    leads = lead("a", psid="p1", customer_id=ELSEWHERE), lead("b", psid="p1")
    assert reasons(*leads, strangers={ELSEWHERE: True}) == ["foreign_customer", None]
    assert reasons(*leads, strangers={ELSEWHERE: False}) == ["dangling_customer", None]
    assert who(*leads, strangers={ELSEWHERE: True}) == [None, new("psid", "p1")]


def test_a_customer_of_ours_that_people_deleted_is_made_again_for_the_leads_that_are_still_linked_to_it() -> None:
    world = World(leads=[lead("a", phone=X), lead("b", phone=X)], jobs=[job("j", "a"), job("k", "b")])
    world = world.after(world.plan())
    leads = [dict(world.leads[0]), {**world.leads[1], "customer_id": None}]
    jobs = [{**row, "customer_id": None} for row in world.jobs]
    deleted = replace(world, leads=leads, customers=[], jobs=jobs)
    assert planned(deleted) == {
        "a": (None, "dangling_customer"),
        "b": (new("phone", "2055550101"), None),
    }
    after = deleted.after(deleted.plan())
    assert after.customers[0]["lead_count"] == 2
    assert {row["customer_id"] for row in after.jobs} == {new("phone", "2055550101")}
    assert list(after.plan().written()) == []


def test_two_groups_that_are_one_customer_share_its_conflicts_only_with_those_who_have_their_values() -> None:
    """`p1` is found by its PSID, `p2` by a link; `p2` is split by who joins it, and so is who has its other phone."""
    leads = [
        *(lead("a", psid="p2", phone=X, customer_id=ADA), lead("b", psid="p2", phone=Y), lead("c", psid="p1")),
        *(lead("d", phone=X, customer_id=BO), lead("e", phone=Y)),
    ]
    there = [customer(ADA, psid="p1"), customer(BO)]
    assert planned(World(leads=leads, customers=there)) == {
        "a": (None, "already_linked"),
        "b": (None, "split_group"),
        "c": (ADA, None),
        "d": (None, "already_linked"),
        "e": (None, "split_group"),
    }


def test_an_address_that_is_looked_up_finds_nobody_by_a_phone_that_groups_nothing() -> None:
    leads = [lead("a", phone=X, email=MAIL), lead("b", phone=X), lead("c", phone=X)]
    there = [customer(ADA, phone=X_AGAIN), customer(BO, email=MAIL)]
    assert who(*leads, rules=Rules(max_group_size=2), customers=there)[0] == BO


def test_ten_digits_of_another_country_that_we_stored_are_read_back_with_their_plus() -> None:
    ours = customer(new("psid", "p1"), psid="p1", phone="6581234567", ours=True, lead_count=1)
    leads = [lead("a", psid="p1", customer_id=ours["id"]), lead("b", phone="+65 8123 4567")]
    assert who(*leads, customers=[ours]) == [None, ours["id"]]
