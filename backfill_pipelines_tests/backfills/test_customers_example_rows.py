"""The rules of `customers` one by one: the fields of a customer, jobs, metadata and figures."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from backfill_pipelines_tests.backfills.customers_reference_fields import Rules
from backfill_pipelines_tests.backfills.customers_worlds import Row, World, customer, job, lead

X, X_AGAIN, Y = "(205) 555-0101", "+1 205.555.0101", "205-555-0102"
ADA, BO = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
MAIL = "ann@example.com"


def customers_of(world: World) -> dict[str, tuple[str, str | None, dict[str, Any]]]:
    """The plan's rows for customers: action, reason, fields."""
    decided = world.plan().decided()
    assert decided.customers == world.reference().customers, "the reference says otherwise"
    return decided.customers


def the_new_one(*leads: Row, **others: Any) -> dict[str, Any]:
    ((_, _, fields),) = customers_of(World(leads=leads, **others)).values()
    return fields


def new(kind: str, value: str) -> str:
    return World().own_id((kind, value))


# --- fields of a new customer


def test_each_field_comes_from_the_newest_lead_that_has_a_value() -> None:
    fields = the_new_one(
        lead("a", psid="p1", phone=X, email="old@example.com", first_name="Ann", created_at=1),
        lead("b", psid="p1", phone=Y, email=MAIL, first_name="Anna", last_name=" Quill ", created_at=2),
        lead("c", psid="p1", phone="call me", email="nobody", first_name=" ", created_at=3),
    )
    shown = [fields[name] for name in ("name", "phone", "email", "messenger_psid")]
    assert shown == ["Anna Quill", "2055550102", MAIL, "p1"]


def test_of_leads_of_one_moment_the_last_by_id_is_the_newest() -> None:
    assert the_new_one(lead("b", psid="p1", first_name="Bo"), lead("a", psid="p1", first_name="Ann"))["name"] == "Bo"


def test_a_customer_without_a_name_has_its_newest_company_or_none() -> None:
    old, young = lead("a", psid="p1", company_name="Umber"), lead("b", psid="p1", company_name="Quill", created_at=1)
    assert the_new_one(old, young)["name"] == "Quill"
    assert the_new_one(old, young, lead("c", psid="p1", last_name="Lark", created_at=-1))["name"] == "Lark"
    assert the_new_one(lead("a", psid="p1"))["name"] is None


def test_blocked_and_oversized_values_are_fields_only_where_they_are_somebodys() -> None:
    rules = Rules(blocked_phones=(X,), blocked_local_parts=("ann",))
    fields = the_new_one(lead("a", psid="p1", phone=X_AGAIN, email=MAIL), rules=rules)
    assert (fields["phone"], fields["email"]) == (None, None)


@pytest.mark.parametrize(
    ("field", "digits", "e164"),
    [
        ("205 555 0101 x7", "2055550101", "+12055550101"),
        ("+44 (0)20 7946 0958", "442079460958", "+442079460958"),
        ("999000001234", "999000001234", "999000001234"),
        ("+65 8234 5678", "6582345678", "+6582345678"),
    ],
)
def test_a_phone_is_stored_as_digits_or_as_e164(field: str, digits: str, e164: str) -> None:
    assert the_new_one(lead("a", phone=field))["phone"] == digits
    assert the_new_one(lead("a", phone=field), rules=Rules(phone_format="e164"))["phone"] == e164


def test_what_is_stored_is_read_back_as_what_it_was() -> None:
    """The ten digits of an American number are another number in London."""
    rules = Rules(region="GB")
    world = World(leads=[lead("a", psid="p1", phone="+1 205 617 8807")], rules=rules)
    world = world.after(world.plan())
    later = replace(world, leads=[*world.leads, lead("b", phone="+44 20 5617 8807"), lead("c", phone="+12056178807")])
    customer_ids = {key: told[2] for key, told in later.plan().decided().leads.items()}
    assert customer_ids["c"] == new("psid", "p1")
    assert customer_ids["b"] not in (None, new("psid", "p1"))


# --- one phone, one customer


def test_of_two_customers_that_want_a_phone_the_one_with_the_oldest_lead_gets_it() -> None:
    made = customers_of(
        World(
            leads=[
                *(lead("a", psid="p1", phone=X, created_at=2), lead("b", psid="p2", phone=X_AGAIN, created_at=1)),
                lead("c", psid="p1", created_at=0),
            ]
        )
    )
    assert [(made[new("psid", psid)][1], made[new("psid", psid)][2]["phone"]) for psid in ("p1", "p2")] == [
        ("shared_phone", None),
        (None, "2055550101"),
    ]


@pytest.mark.parametrize("phone_format", ["digits", "e164"])
def test_a_phone_that_an_existing_customer_holds_in_whatever_spelling_is_nobody_elses(phone_format: str) -> None:
    leads = lead("a", psid="p1", phone=X, customer_id=ADA), lead("b", psid="p2", phone=X)
    for there in (customer(ADA, phone=X_AGAIN), customer(ADA, phone="2055550101", ours=True, lead_count=1)):
        rules = Rules(phone_format=phone_format)
        made = customers_of(World(leads=leads, customers=[there], rules=rules))
        assert made[new("psid", "p2")][1:] == ("shared_phone", {**made[new("psid", "p2")][2], "phone": None})


def test_a_customer_that_holds_another_phone_already_takes_none_from_a_new_one() -> None:
    leads = lead("a", psid="p1", phone=X), lead("b", psid="p2", phone=X, created_at=1)
    made = customers_of(World(leads=leads, customers=[customer(ADA, psid="p1", phone=Y)]))
    assert made[new("psid", "p2")][2]["phone"] == "2055550101"


def test_a_customer_that_gains_no_lead_takes_no_phone_either() -> None:
    leads = lead("a", psid="p1", phone=X, customer_id=ADA), lead("b", psid="p2", phone=X, created_at=1)
    made = customers_of(World(leads=leads, customers=[customer(ADA)]))
    assert made.keys() == {new("psid", "p2")}
    assert made[new("psid", "p2")][2]["phone"] == "2055550101"


def test_a_phone_that_somebody_holds_by_whom_it_is_none_is_not_taken_either() -> None:
    there = customer(ADA, phone="6581234567")
    rules = Rules(blocked_phones=("6581234567",))
    ((told, reason, fields),) = customers_of(
        World(leads=[lead("a", phone="+65 8123 4567")], customers=[there], rules=rules)
    ).values()
    assert (told, reason, fields["phone"]) == ("create", "shared_phone", None)


def test_a_phone_that_another_client_holds_is_not_taken_where_the_table_has_it_once() -> None:
    made = customers_of(World(leads=[lead("a", phone=X)], phones_held_elsewhere=frozenset({"2055550101"})))
    assert made[new("phone", "2055550101")][1:] == (
        "shared_phone",
        {"phone": None, "email": None, "name": None, "messenger_psid": None}
        | {"groupType": "phone", "leadCount": 1, "multipleLeads": False},
    )


@pytest.mark.parametrize(("unique_email", "told"), [(True, (None, "shared_email")), (False, (MAIL, None))])
def test_an_address_is_given_once_only_where_the_table_says_so(
    unique_email: bool, told: tuple[str | None, str | None]
) -> None:
    leads = lead("a", phone=X, email=MAIL), lead("b", phone=Y, email=MAIL)
    made = customers_of(World(leads=leads, unique_email=unique_email))
    assert made[new("phone", "2055550101")][2]["email"] == MAIL
    assert (made[new("phone", "2055550102")][2]["email"], made[new("phone", "2055550102")][1]) == told


# --- customers that are there


def test_of_a_humans_customer_only_what_is_empty_is_filled_and_its_metadata_stays() -> None:
    there = customer(ADA, phone=X_AGAIN, email=" ", name="Ann Q.")
    made = customers_of(World(leads=[lead("a", phone=X, email=MAIL, first_name="Ann")], customers=[there]))
    assert made == {ADA: ("update", None, {"email": MAIL})}


def test_an_update_compares_with_what_the_plan_saw() -> None:
    there = customer(ADA, phone=X, updated_at=77)
    world = World(leads=[replace_time(lead("a", phone=X, email=MAIL), 99)], customers=[there], jobs=[job("j", "a")])
    before = {target: row for target, _, _, row, _ in world.plan().written()}
    assert before == {
        "Customer": {"email": None, "updated_at": 77},
        "Lead": {"customer_id": None, "updated_at": 99},
        "Job": {"customer_id": None},
    }


def replace_time(row: Row, updated_at: int) -> Row:
    return {**row, "updated_at": updated_at}


def test_a_customer_that_gets_no_lead_is_left_alone() -> None:
    assert customers_of(World(leads=[lead("a", phone=X, customer_id=ADA)], customers=[customer(ADA)])) == {}


def test_the_count_of_leads_follows_later_runs_for_customers_of_ours_alone() -> None:
    leads = lead("a", psid="p1", customer_id=new("psid", "p1")), lead("b", psid="p1")
    ours = customer(new("psid", "p1"), psid="p1", ours=True, lead_count=1)
    assert customers_of(World(leads=leads, customers=[ours]))[ours["id"]] == ("update", None, {"lead_count": 2})
    people = lead("a", psid="p1", customer_id=ADA), lead("b", psid="p1")
    assert customers_of(World(leads=people, customers=[customer(ADA, psid="p1")])) == {}


def test_a_reused_customer_is_remembered_by_its_groups_key() -> None:
    world = World(leads=[lead("a", phone=X), lead("b", phone=X)], customers=[customer(ADA, phone=X)])
    noted = [after.get("group_key") for target, _, _, _, after in world.plan().written() if target == "Lead"]
    assert noted == [world.keys.hash("phone", "2055550101"), None]
    assert world.after(world.plan()).recorded == {("phone", "2055550101"): ADA}


# --- jobs


def test_a_job_gets_the_customer_that_its_lead_has_or_gets() -> None:
    leads = lead("a", psid="p1"), lead("b", psid="p2", customer_id=ADA)
    jobs = [job("1", "a"), job("2", "b"), job("3", "b", ADA), job("4", "b", BO), job("5", "a", ADA)]
    assert World(leads=leads, customers=[customer(ADA)], jobs=jobs).plan().decided().jobs == {
        "1": ("update", None, new("psid", "p1")),
        "2": ("update", None, ADA),
        "3": ("skip", "already_linked", None),
        "4": ("conflict", "job_mismatch", None),
        "5": ("conflict", "job_mismatch", None),
    }


def test_a_job_of_a_lead_without_a_customer_waits_and_one_that_is_linked_is_a_mismatch() -> None:
    world = World(
        leads=[lead("a", phone=X)],
        customers=[customer(ADA, phone=X), customer(BO, phone=X_AGAIN)],
        jobs=[job("1", "a"), job("2", "a", ADA)],
    )
    assert world.plan().decided().jobs == {
        "1": ("skip", "lead_without_customer", None),
        "2": ("conflict", "job_mismatch", None),
    }


def test_jobs_of_a_split_groups_linked_leads_get_their_leads_customer() -> None:
    world = World(
        leads=[lead("a", psid="p1", customer_id=ADA), lead("b", psid="p1", customer_id=BO), lead("c", psid="p1")],
        customers=[customer(ADA), customer(BO)],
        jobs=[job("1", "a"), job("2", "b"), job("3", "c")],
    )
    assert [told[2] for told in world.plan().decided().jobs.values()] == [ADA, BO, None]


# --- what a customer of ours says of itself


def test_metadata_shows_type_and_count_and_a_keyed_hash_instead_of_the_phone() -> None:
    world = World(leads=[lead("a", phone=X), lead("b", phone=X)])
    ((_, identifier, _, _, after), *_) = world.plan().written()
    group_key = after["metadata"].pop("groupKey")
    assert after["metadata"] == {
        "groupType": "phone",
        "leadCount": 2,
        "multipleLeads": True,
        "createdBy": "backfill_pipelines.customers",
    }
    assert re.fullmatch(r"[0-9a-f]{32,}", group_key)
    assert after["client_id"] == world.client_id
    assert UUID(identifier).version == 5
    assert identifier == world.keys.customer_id(group_key)


def test_the_same_person_of_two_clients_is_two_customers() -> None:
    world = World(leads=[lead("a", psid="p1", phone=X, email=MAIL)])
    other = replace(world, client_id="43")
    assert not customers_of(world).keys() & customers_of(other).keys()


def test_the_figures_count_groups_customers_leads_and_jobs() -> None:
    world = World(
        leads=[
            *(lead("a", psid="p1", phone=X), lead("b", phone=X), lead("c", phone=Y, customer_id=ADA)),
            *(lead("d", email=MAIL), lead("e"), lead("f", psid="p2", customer_id=BO)),
        ],
        customers=[customer(ADA)],
        jobs=[job("1", "a"), job("2", "c", ADA), job("3", "f")],
        strangers={BO: True},
    )
    plan = world.plan()
    assert plan.source == 9
    assert dict(plan.figures) | world.reference().figures == dict(plan.figures)
    assert {name: plan.figures[name] for name in world.reference().figures} == {
        "groups": {"psid": 1, "phone": 1, "email": 1, "individual": 1},
        "leads_total": 6,
        "customers_created": 3,
        "customers_reused": 1,
        "leads_linked": 4,
        "leads_already_linked": 1,
        "jobs_linked": 1,
        "jobs_already_linked": 1,
    }


def test_a_client_without_leads_has_an_empty_plan() -> None:
    plan = World(customers=[customer(ADA, phone=X)]).plan()
    assert (list(plan.rows), plan.source, plan.figures["leads_total"]) == ([], 0, 0)
