"""Merging customers on Postgres: what is written, what a later backfill makes of it, what undo leaves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event

from backfill_pipelines.backfills.customers_manual_run import merge_customers
from backfill_pipelines.engine.ledger import Mode, Request, State
from backfill_pipelines.engine.retention import delete_personal_values
from backfill_pipelines.engine.runtime import lock_name
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines_tests.backfills.customers_decisions import (
    data,
    forgotten,
    give_customers_columns_of_the_products_own,
    id_of,
    merge,
    two_customers,
)
from backfill_pipelines_tests.backfills.product_rig import ACME, BOLT, Product, succeeded, verified


def test_a_merge_moves_leads_and_jobs_fills_what_is_empty_and_deletes_the_other(product: Product) -> None:
    ada, bo = two_customers(product)
    before = data(product)
    dry = merge(product, ada, bo, dry_run=True)
    assert (dry.mode, dry.counts["update"], dry.counts["applied"]) == (Mode.PLAN, 4, 0)
    assert data(product) == before
    assert forgotten(product)

    run = merge(product, ada, bo)
    assert succeeded(run)
    assert run.details["plan_hash"] == dry.details["plan_hash"]
    assert (run.counts["update"], run.counts["applied"], run.counts["conflict"]) == (4, 4, 0)
    (customer,) = product.rows("Customer").values()
    assert {name: customer[name] for name in ("id", "name", "phone", "email", "messenger_psid")} == {
        "id": ada,
        "name": "Ada",
        "phone": "2055550122",
        "email": "bo@example.com",
        "messenger_psid": "p-1",
    }
    assert (customer["metadata"]["leadCount"], customer["metadata"]["multipleLeads"]) == (2, True)
    assert product.together() == {frozenset({"ada", "bo"})}
    assert {row["customer_id"] for row in product.rows("Job").values()} == {ada}
    audit = product.audits()[-1]
    assert {name: audit[name] for name in ("command", "from_customer", "into_customer", "leads_linked", "mode")} == {
        "command": "merge",
        "from_customer": bo,
        "into_customer": ada,
        "leads_linked": 1,
        "mode": "load",
    }
    assert audit["plan_hash"] == dry.details["plan_hash"]


def test_what_a_customer_has_is_not_overwritten_by_a_merge(product: Product) -> None:
    one = product.customer(name="Fay", phone="(205) 555-0144", email="  ")
    other = product.customer(name="Fay Fir", phone="2055550155", email="fay@example.com", metadata="{}")
    product.lead("fay", phone="2055550155", customer_id=other)
    assert succeeded(merge(product, one, other))
    (customer,) = product.rows("Customer").values()
    assert (customer["name"], customer["phone"], customer["email"]) == ("Fay", "(205) 555-0144", "fay@example.com")
    assert customer["metadata"] == {}


def test_undo_of_a_merge_leaves_everything_as_it_was_and_nothing_remembered(product: Product) -> None:
    give_customers_columns_of_the_products_own(product)
    ada, bo = two_customers(product)
    product.execute(
        'UPDATE "Customer" SET "credit %" = 123456789012345678.100000000001, tags = ARRAY[\'a,b\', NULL]'
        " WHERE id = CAST(:id AS uuid)",
        id=bo,
    )
    before = product.query('SELECT t::text FROM "Customer" AS t ORDER BY id'), data(product)
    run = merge(product, ada, bo)
    assert list(product.rows("Customer")) == [ada]
    undone = product.undo(run)
    assert (undone.undone, undone.conflict) == (4, 0)
    assert (product.query('SELECT t::text FROM "Customer" AS t ORDER BY id'), data(product)) == before
    assert forgotten(product)
    assert product.undo(run).undone == 0
    again = product.run()
    assert (again.counts["create"], again.counts["update"], verified(again)["passed"]) == (0, 0, True)


def test_a_later_backfill_keeps_to_a_merge(product: Product) -> None:
    ada, bo = two_customers(product)
    assert succeeded(merge(product, ada, bo))
    for run in (product.run(), product.run()):
        assert (run.counts["create"], run.counts["update"], run.counts["conflict"]) == (0, 0, 0)
    product.lead("psid", psid="p-1")
    product.lead("phone", phone="+1 205 555 0122")
    product.lead("mail", email="bo@example.com")
    last = product.run()
    assert verified(last)["passed"]
    assert product.together() == {frozenset({"ada", "bo", "psid", "phone", "mail"})}
    assert product.rows("Customer")[ada]["metadata"]["leadCount"] == 5


def test_a_group_whose_leads_are_gone_comes_back_to_the_customer_it_was_merged_into(product: Product) -> None:
    ada, bo = two_customers(product)
    assert succeeded(merge(product, ada, bo))
    product.execute("DELETE FROM \"Job\" WHERE lead_id = 'bo'")
    product.execute("DELETE FROM \"Lead\" WHERE id = 'bo'")
    product.execute('UPDATE "Customer" SET phone = NULL, email = NULL')
    product.lead("bo-again", phone="205 555 0122")
    assert succeeded(product.run())
    assert product.together() == {frozenset({"ada", "bo-again"})}


def test_merges_follow_each_other(product: Product) -> None:
    ada, bo = two_customers(product)
    product.lead("cy", email="cy@example.com")
    assert succeeded(product.run())
    cy = id_of(product, "cy")
    first, second = merge(product, bo, cy), merge(product, ada, bo)
    assert succeeded(first, second)
    product.execute("UPDATE \"Lead\" SET customer_id = NULL WHERE id = 'cy'")
    assert succeeded(product.run())
    assert product.together() == {frozenset({"ada", "bo", "cy"})}


def test_a_time_that_was_none_or_of_all_time_is_the_same_after_undo(product: Product) -> None:
    ada, bo = two_customers(product)
    for table in ("Customer", "Lead"):
        product.execute(f'ALTER TABLE "{table}" ALTER updated_at DROP NOT NULL')
        product.execute(f'UPDATE "{table}" SET updated_at = NULL')
    product.execute("UPDATE \"Lead\" SET updated_at = '-infinity' WHERE id = 'ada'")
    times = (
        'SELECT id::text, updated_at::text FROM "Customer" UNION ALL SELECT id, updated_at::text FROM "Lead" ORDER BY 1'
    )
    before = product.query(times)
    run = merge(product, ada, bo)
    assert (succeeded(run), run.counts["applied"]) == (True, 4)
    assert product.undo(run).conflict == 0
    assert product.query(times) == before


def test_undo_of_an_older_run_under_a_merge_says_what_the_merge_holds(product: Product) -> None:
    product.lead("ada", psid="p-1", first_name="Ada")
    product.lead("bo", phone="205-555-0122")
    nothing = data(product)
    first = product.run()
    second = merge(product, id_of(product, "ada"), id_of(product, "bo"))
    older = product.undo(first)
    assert (older.undone, dict(older.reasons)) == (1, {"changed_since": 2, "in_use": 1})
    assert product.undo(second).conflict == 0
    assert product.undo(first).conflict == 0
    after = data(product)
    assert after["Customer"] == {}
    assert {lead: row["customer_id"] for lead, row in after["Lead"].items()} == {"ada": None, "bo": None}
    assert nothing["Lead"].keys() == after["Lead"].keys()


def test_a_customer_that_something_else_points_to_stays_and_is_taken_for_the_other(product: Product) -> None:
    ada, bo = two_customers(product)
    product.execute(
        'INSERT INTO "CustomerAddress" (customer_id, line1) VALUES (CAST(:id AS uuid), :line)', id=bo, line="1 Elm St"
    )
    before = data(product)
    run = merge(product, ada, bo)
    assert (run.state, run.counts["conflict"], run.reasons) == (State.SUCCEEDED, 1, {"in_use": 1})
    assert {row["id"]: row["phone"] for row in product.rows("Customer").values()} == {ada: None, bo: "2055550122"}
    assert product.customer_of("bo")["email"] == "bo@example.com", "of an address there may be two"
    product.execute("UPDATE \"Lead\" SET customer_id = NULL WHERE id = 'bo'")
    product.lead("bo-again", phone="205 555 0122")
    assert succeeded(product.run())
    assert id_of(product, "bo-again") == ada
    with pytest.raises(ConfigurationError, match="merged into"):
        merge(product, bo, ada)
    product.execute("DELETE FROM \"Lead\" WHERE id = 'bo-again'")
    product.execute("UPDATE \"Lead\" SET customer_id = CAST(:id AS uuid) WHERE id = 'bo'", id=ada)
    assert product.undo(run).conflict == 0
    after = data(product)
    assert forgotten(product)
    assert {lead: row["customer_id"] for lead, row in after["Lead"].items()} == {
        lead: row["customer_id"] for lead, row in before["Lead"].items()
    }


def test_a_job_of_another_customers_lead_is_reported_and_left(product: Product) -> None:
    ada, bo = two_customers(product)
    product.lead("cy", email="cy@example.com")
    product.job("of-cy", "cy", customer_id=bo)
    assert succeeded(product.run())
    run = merge(product, ada, bo)
    assert run.reasons == {"in_use": 1, "job_mismatch": 1}
    assert product.rows("Job")["of-cy"]["customer_id"] == bo
    assert product.rows("Job")["bo-job"]["customer_id"] == ada


@pytest.mark.parametrize("deferrable", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_value_taken_meanwhile_keeps_a_deleted_customer_away_and_its_leads_where_they_are(
    product: Product, deferrable: str
) -> None:
    ada, bo = two_customers(product)
    for table in ("Lead", "Job"):  # as many products have it: nothing else keeps a link from leading nowhere
        product.execute(f'ALTER TABLE "{table}" DROP CONSTRAINT "{table}_customer_id_fkey"')
    product.execute('ALTER TABLE "Customer" DROP CONSTRAINT "Customer_client_id_phone_key"')
    product.execute(f'ALTER TABLE "Customer" ADD UNIQUE (client_id, phone) {deferrable}')
    run = merge(product, ada, bo)
    product.execute('UPDATE "Customer" SET phone = NULL')
    taker = product.customer(name="Dee", phone="2055550122")
    undone = product.undo(run)
    assert dict(undone.reasons) == {"changed_since": 3}
    assert product.together() == {frozenset({"ada", "bo"})}
    product.execute('UPDATE "Customer" SET phone = NULL WHERE id = CAST(:id AS uuid)', id=taker)
    assert product.undo(run).conflict == 0
    assert product.together() == {frozenset({"ada"}), frozenset({"bo"})}
    assert id_of(product, "bo") == bo


def test_a_merge_is_nothing_that_a_later_run_goes_on_with_or_loads(product: Product) -> None:
    ada, bo = two_customers(product)
    dry = merge(product, ada, bo, dry_run=True)
    assert (dry.planned_at, dry.plan_hash, dry.resumable) == (None, None, False)
    product.lead("cy", email="cy@example.com")
    assert succeeded(product.run())
    assert len(product.rows("Customer")) == 3


def test_what_a_run_left_as_a_conflict_explains_a_verification_after_a_merge_too(product: Product) -> None:
    ada, bo = two_customers(product)
    for name in ("Fay", "Gus"):
        product.customer(name=name, email="both@example.com")
    product.lead("nobody-knows", email="both@example.com")
    assert verified(product.run())["explained"] == 1
    assert succeeded(merge(product, ada, bo))
    assert verified(product.verify()) == {
        "equal": 2,
        "missing": 0,
        "extra": 0,
        "different": 0,
        "explained": 1,
        "passed": True,
    }


def test_a_merge_whose_values_retention_has_blanked_stands_and_is_remembered(product: Product) -> None:
    ada, bo = two_customers(product)
    run = merge(product, ada, bo)
    product.execute("UPDATE backfill.run SET started_at = started_at - interval '400 days'")
    delete_personal_values(product.database, older_than_days=30)
    before = data(product)
    undone = product.undo(run)
    assert (undone.undone, dict(undone.reasons)) == (0, {"forgotten": 4})
    assert data(product) == before
    assert not forgotten(product)


def test_a_process_that_died_over_a_merge_is_not_in_the_way_of_the_next_run(product: Product) -> None:
    two_customers(product)
    product.lead("cy", email="cy@example.com")
    with product.runtime() as runtime:
        request = Request(backfill="customers", partition_key=ACME, mode=Mode.LOAD, options={"command": "merge"})
        runtime.ledger.open_side_run(request, now=datetime.now(UTC))
    run = product.run()
    assert (run.options, verified(run)["passed"]) == ({}, True)
    assert len(product.together()) == 3


# --- what cannot be done ---------------------------------------------------------------------------------------------


def refused_at_once(product: Product, code: str, into: str, gone: str) -> None:
    before, runs = data(product), product.query("SELECT count(*) AS n FROM backfill.run")
    with pytest.raises(ConfigurationError) as caught:
        merge(product, into, gone)
    assert caught.value.code == code
    assert (data(product), product.query("SELECT count(*) AS n FROM backfill.run")) == (before, runs)


def test_a_merge_of_what_is_not_two_customers_of_one_client_is_refused(product: Product) -> None:
    ada, bo = two_customers(product)
    elsewhere = product.customer(of=BOLT, name="Elsewhere")
    refused_at_once(product, "same_customer", ada, ada.upper())
    refused_at_once(product, "unknown_customer", ada, str(uuid4()))
    refused_at_once(product, "invalid_customer_id", "ada@example.com", bo)
    refused_at_once(product, "different_clients", ada, elsewhere)
    product.edit = lambda document: document["clients"].pop(0)
    refused_at_once(product, "unknown_client", ada, bo)
    product.edit = None
    merge(product, ada, bo)
    refused_at_once(product, "already_merged", ada, bo)


def test_a_merge_that_would_move_nothing_and_delete_nothing_is_refused(product: Product) -> None:
    ada, _ = two_customers(product)
    empty = product.customer(name="Empty")
    product.execute('INSERT INTO "CustomerAddress" (customer_id) VALUES (CAST(:id AS uuid))', id=empty)
    assert merge(product, ada, empty).error_code == "nothing_to_merge"
    assert forgotten(product)


def test_a_merge_waits_for_nobody_who_is_at_work_on_the_client(product: Product) -> None:
    ada, bo = two_customers(product)
    with product.runtime() as other:
        assert other.locks.try_acquire(lock_name("customers", ACME))
        run = merge(product, ada, bo)
    assert (run.state, run.error_code) == (State.REFUSED, "already_running")
    assert len(product.rows("Customer")) == 2


def test_a_refusal_of_the_database_leaves_nothing_half_done(product: Product) -> None:
    ada, bo = two_customers(product)
    product.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no %', OLD.id; END $$"
    )
    product.execute('CREATE TRIGGER t BEFORE DELETE ON "Customer" FOR EACH ROW EXECUTE FUNCTION refuse()')
    before = data(product)
    run = merge(product, ada, bo)
    assert (run.state, run.error_code, run.resumable) == (State.FAILED, "target_refused", False)
    assert data(product) == before
    assert forgotten(product)
    audit = product.audits()[-1]
    assert (audit["succeeded"], audit["error_codes"]) == (False, ["target_refused"])


def test_a_role_that_may_not_delete_is_told_before_anything_is_written(product: Product) -> None:
    ada, bo = two_customers(product)
    product.execute("CREATE ROLE keeper_of_customers NOLOGIN")
    try:
        for statement in (
            "GRANT ALL ON SCHEMA backfill TO keeper_of_customers",
            "GRANT ALL ON ALL TABLES IN SCHEMA backfill TO keeper_of_customers",
            "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO keeper_of_customers",
        ):
            product.execute(statement)
        with product.runtime() as runtime:

            @event.listens_for(runtime.engine, "begin")
            def become(connection: Any) -> None:
                connection.exec_driver_sql("SET LOCAL ROLE keeper_of_customers")

            run = runtime.run(merge_customers(runtime, into=ada, gone=bo, dry_run=False))
        assert (run.state, run.error_code) == (State.FAILED, "missing_privilege")
        assert len(product.rows("Customer")) == 2
    finally:
        product.execute("DROP OWNED BY keeper_of_customers")
        product.execute("DROP ROLE keeper_of_customers")
