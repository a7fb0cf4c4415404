"""Splitting customers on Postgres: what is written, what a later backfill makes of it, what undo leaves."""

from __future__ import annotations

import orjson
import pytest

from backfill_pipelines.engine.ledger import State
from backfill_pipelines_tests.backfills.customers_decisions import (
    a_household,
    data,
    forgotten,
    give_customers_columns_of_the_products_own,
    id_of,
    merge,
    remembered,
    split,
)
from backfill_pipelines_tests.backfills.product_rig import Product, succeeded, verified

NAME = "Canary Quillfeather"


def test_a_split_gives_leads_and_their_jobs_a_customer_of_their_own(product: Product) -> None:
    household = a_household(product)
    before = data(product)
    dry = split(product, household, "ada", name=NAME, dry_run=True)
    assert (dry.counts["create"], dry.counts["update"], dry.counts["applied"]) == (1, 3, 0)
    assert data(product) == before
    assert forgotten(product)

    run = split(product, household, "ada", name=NAME)
    assert succeeded(run)
    new = product.customer_of("ada")
    assert (new["id"], new["name"], new["email"]) == (run.details["new_customer"], NAME, None)
    assert new["phone"] is None, "the other one has it"
    assert run.reasons == {"shared_phone": 1}
    metadata = new["metadata"]
    assert {name: metadata[name] for name in ("groupType", "leadCount", "multipleLeads", "createdBy", "runId")} == {
        "groupType": "split",
        "leadCount": 1,
        "multipleLeads": False,
        "createdBy": "backfill_pipelines.customers",
        "runId": str(run.id),
    }
    assert len(metadata["groupKey"]) == 32
    old = product.rows("Customer")[household]
    assert (old["phone"], old["metadata"]["leadCount"], old["metadata"]["multipleLeads"]) == ("2055550122", 1, False)
    assert {job: row["customer_id"] for job, row in product.rows("Job").items()} == {
        "ada-job": new["id"],
        "bo-job": household,
    }
    told = orjson.dumps([product.audits(), product.query("SELECT * FROM backfill.run")], default=str).decode()
    assert NAME not in told
    assert product.audits()[-1]["command"] == "split"
    assert verified(product.verify())["passed"]


def test_the_new_customer_has_what_only_its_own_leads_have(product: Product) -> None:
    product.lead("one", psid="p-1", phone="2055550122", email="one@example.com", first_name="Ada")
    product.lead("two", psid="p-1", phone="2055550133", email="info@example.com", company_name="Elm Ltd")
    product.lead("three", psid="p-1", phone="2055550122", email="three@example.com")
    product.lead("later", psid="p-1", phone="2055550144", email="one@example.com", first_name="Zoe")
    assert succeeded(product.run())
    customer = id_of(product, "one")
    product.execute(
        "UPDATE \"Customer\" SET phone = '(205) 555-0144', email = NULL WHERE id = CAST(:id AS uuid)", id=customer
    )
    product.customer(name="Holder", email="three@example.com")
    assert succeeded(split(product, customer, "two", "three", "later"))
    new = product.customer_of("two")
    # 0144 stands in the old customer's row, 0122 with the lead it keeps, three@ with somebody else; info@ is nobody's.
    assert (new["name"], new["phone"], new["email"], new["messenger_psid"]) == ("Zoe", "2055550133", None, None)


def test_a_later_backfill_keeps_to_a_split(product: Product) -> None:
    product.lead("ada", phone="205-555-0122", email="ada@example.com")
    product.lead("bo", phone="205-555-0122", email="bo@example.com")
    product.lead("ada-too", phone="205-555-0122")
    assert succeeded(product.run())
    household = id_of(product, "ada")
    assert succeeded(split(product, household, "bo"))
    for run in (product.run(), product.run()):
        assert (run.counts["create"], run.counts["update"], run.counts["conflict"]) == (0, 0, 0)
    product.lead("phone-of-both", phone="+12055550122")
    product.execute("UPDATE \"Customer\" SET email = 'ada@example.com' WHERE id = CAST(:id AS uuid)", id=household)
    product.lead("mail-of-bo", email="BO@example.com")
    product.lead("mail-of-ada", email="ada@example.com")
    assert verified(product.run())["passed"]
    assert product.together() == {
        frozenset({"ada", "ada-too", "phone-of-both", "mail-of-ada"}),
        frozenset({"bo", "mail-of-bo"}),
    }
    assert product.customer_of("bo")["metadata"]["leadCount"] == 2


def test_undo_of_a_split_leaves_everything_as_it_was_and_a_backfill_acts_as_before(product: Product) -> None:
    give_customers_columns_of_the_products_own(product)
    household = a_household(product)
    before = data(product)
    run = split(product, household, "bo")
    undone = product.undo(run)
    assert (undone.undone, undone.conflict) == (4, 0)
    assert data(product) == before
    assert forgotten(product)
    product.lead("new", phone="205 555 0122")
    assert succeeded(product.run())
    assert product.together() == {frozenset({"ada", "bo", "new"})}


def test_a_split_can_be_made_again_after_its_undo_and_after_a_merge(product: Product) -> None:
    household = a_household(product)
    first = split(product, household, "bo")
    product.undo(first)
    second = split(product, household, "bo")
    assert second.details["new_customer"] == first.details["new_customer"]
    assert succeeded(merge(product, household, second.details["new_customer"]))
    third = split(product, household, "bo")
    assert third.details["new_customer"] != first.details["new_customer"], "that one is remembered as merged"
    product.lead("mail-of-bo", email="bo@example.com")
    product.execute('UPDATE "Customer" SET email = NULL WHERE id = CAST(:id AS uuid)', id=household)
    assert succeeded(product.run())
    assert product.together() == {frozenset({"ada"}), frozenset({"bo", "mail-of-bo"})}


def test_leads_that_were_split_off_and_merged_elsewhere_stay_there(product: Product) -> None:
    household = a_household(product)
    product.lead("cy", psid="p-9")
    assert succeeded(product.run())
    cy = id_of(product, "cy")
    separate = split(product, household, "bo")
    moved = merge(product, cy, separate.details["new_customer"])
    product.lead("phone-of-both", phone="205 555 0122")
    run = product.run()
    assert (run.counts["conflict"], verified(run)["passed"]) == (0, True)
    assert product.together() == {frozenset({"ada", "phone-of-both"}), frozenset({"bo", "cy"})}
    product.undo(moved)
    (memory,) = remembered(product)["customer_split"]
    assert (memory["lead_id"], memory["customer_id"], memory["run_id"]) == (
        "bo",
        separate.details["new_customer"],
        separate.id,
    )


def test_a_lead_split_off_twice_is_what_the_first_split_made_of_it_once_the_second_is_undone(product: Product) -> None:
    product.lead("extra", phone="205 555 0122")
    household = a_household(product)
    first = split(product, household, "ada", "bo")
    second = split(product, first.details["new_customer"], "bo")
    assert {row["customer_id"] for row in remembered(product)["customer_split"]} == {
        first.details["new_customer"],
        second.details["new_customer"],
    }
    assert product.undo(second).conflict == 0
    assert {(row["lead_id"], row["run_id"]) for row in remembered(product)["customer_split"]} == {
        ("ada", first.id),
        ("bo", first.id),
    }
    assert product.undo(first).conflict == 0
    assert forgotten(product)
    assert product.together() == {frozenset({"extra", "ada", "bo"})}


def test_a_lead_that_somebody_moves_meanwhile_stays_theirs(product: Product) -> None:
    """As a trigger of the product may: between what was read and what is written."""
    household = a_household(product)
    other = product.customer(name="Other")
    product.execute(
        "CREATE FUNCTION move_bo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" UPDATE \"Lead\" SET customer_id = '{other}' WHERE id = 'bo'; RETURN NULL; END $$"
    )
    product.execute('CREATE TRIGGER t AFTER INSERT ON "Customer" FOR EACH STATEMENT EXECUTE FUNCTION move_bo()')
    run = split(product, household, "bo")
    assert run.counts["conflict"] == 2
    assert run.reasons["stale"] == 2
    assert id_of(product, "bo") == other
    assert remembered(product)["customer_split"] == []


@pytest.mark.parametrize(
    ("leads", "code"),
    [
        (("bo", "cy", "nobody's"), "unknown_leads"),
        ((), "no_leads"),
        (("ada", "bo", "ada"), "all_leads"),
    ],
)
def test_a_split_of_what_is_not_some_of_the_customers_leads_is_refused(
    product: Product, leads: tuple[str, ...], code: str
) -> None:
    household = a_household(product)
    product.lead("cy", email="cy@example.com")
    assert succeeded(product.run())
    before = product.everything()
    run = split(product, household, *leads)
    assert (run.state, run.error_code, run.error_category) == (State.FAILED, code, "configuration")
    assert "nobody" not in (run.error_message or "")
    assert product.everything() == before
    assert forgotten(product)
    assert product.changes(run.id) == []
    assert succeeded(product.run())


def test_a_run_and_a_split_after_it_are_undone_in_any_order(product: Product) -> None:
    for lead in ("ada", "bo"):
        product.lead(lead, phone="(205) 555-0122", first_name=lead.title())
    before = data(product)
    run = product.run()
    household = id_of(product, "ada")
    newer = split(product, household, "ada", name=NAME)
    older = product.undo(run)
    assert older.reasons["in_use"] == 1, "the lead that was split off goes back there"
    assert household in product.rows("Customer")
    assert product.undo(newer).conflict == 0
    assert product.undo(run).conflict == 0
    assert data(product) == before
