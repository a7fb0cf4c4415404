"""Whole runs of `customers` on Postgres: the first, the second, a dry one, parts of one, several clients at once."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from backfill_pipelines.engine.ledger import Mode, State
from backfill_pipelines.engine.partition_run import Steps
from backfill_pipelines.engine.runtime import lock_name
from backfill_pipelines_tests.backfills.product_rig import (
    ACME,
    BOLT,
    CLIENT_IDS,
    DRY_RUN,
    LOAD_ONLY,
    OURS,
    TABLES,
    Product,
    failure,
    fill_typical_client,
    succeeded,
    verified,
)
from backfill_pipelines_tests.installation import wait_until

TOGETHER = {
    frozenset({"psid-1", "psid-2", "joins-psid"}),
    frozenset({"phone-1", "phone-2", "joins-phone"}),
    frozenset({"mail-1", "mail-2"}),
    *(frozenset({each}) for each in ("alone", "role", "family-1", "family-2", "family-3", "known")),
}
DETAILS = {
    "groups": {"psid": 3, "phone": 3, "email": 1, "individual": 2},
    "leads_total": 14,
    "customers_created": 8,
    "customers_reused": 1,
    "leads_linked": 14,
    "leads_already_linked": 0,
    "jobs_linked": 4,
    "jobs_already_linked": 0,
    "jobs_total": 4,
}
ALL_IN_ORDER = {"equal": 14, "missing": 0, "extra": 0, "different": 0, "explained": 0, "passed": True}


def versions(product: Product) -> list[dict[str, Any]]:
    """What changes with any write to a row, even one that writes what is there."""
    return [
        row
        for table in TABLES[:-1]
        for row in product.query(f'SELECT id::text, xmin::text, ctid::text FROM "{table}" ORDER BY id::text')
    ]


def writes(product: Product) -> list[dict[str, Any]]:
    """What Postgres has counted of writes to the tables, once every session has ended and handed in its count."""
    product.database.dispose()
    others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    wait_until(lambda: not product.query(others))
    return product.query(
        "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables"
        " WHERE relname IN ('Customer', 'CustomerAddress', 'Lead', 'Job') ORDER BY 1"
    )


def test_a_first_run_gives_every_lead_its_customer_and_every_job_its_leads(product: Product) -> None:
    fill_typical_client(product)
    run = product.run()
    assert verified(run) == ALL_IN_ORDER
    assert product.together() == TOGETHER
    assert run.details == DETAILS
    assert {name: run.counts[name] for name in ("source", "create", "update", "applied", "failed", "conflict")} == {
        "source": 18,
        "create": 8,
        "update": 14 + 4 + 1,
        "applied": 27,
        "failed": 0,
        "conflict": 0,
    }
    assert run.reasons == {"blocked_value": 1, "no_identifier": 1, "shared_phone": 2}
    leads = product.rows("Lead")
    for job in product.rows("Job").values():
        assert job["customer_id"] == leads[job["lead_id"]]["customer_id"]
    ada = product.customer_of("joins-psid")
    assert {name: ada[name] for name in ("client_id", "name", "phone", "email", "messenger_psid")} == {
        "client_id": CLIENT_IDS[ACME],
        "name": "Ada Ash",
        "phone": "2055550111",
        "email": "ada.ash@example.com",
        "messenger_psid": "p-1",
    }
    metadata = ada["metadata"]
    assert {name: metadata[name] for name in ("groupType", "leadCount", "multipleLeads", "createdBy", "runId")} == {
        "groupType": "psid",
        "leadCount": 3,
        "multipleLeads": True,
        "createdBy": OURS,
        "runId": str(run.id),
    }
    assert set(metadata) - {"groupType", "leadCount", "multipleLeads", "createdBy", "runId"} == {
        "groupKey",
        "createdAt",
    }
    assert product.customer_of("role")["email"] is None, "a role's mailbox is nobody's address"
    phones = [row["phone"] for row in product.rows("Customer").values() if row["phone"] is not None]
    assert len(phones) == len(set(phones))


def test_what_people_made_is_only_filled_where_it_is_empty(product: Product) -> None:
    fill_typical_client(product)
    product.run()
    fay = product.customer_of("known")
    assert (fay["name"], fay["phone"], fay["email"], fay["metadata"]) == (
        "Fay Fir",
        "(205) 555-0144",
        "fay@example.com",
        {},
    )


def test_a_second_run_writes_no_row(product: Product) -> None:
    fill_typical_client(product)
    first = product.run()
    before, counted = versions(product), writes(product)
    assert {row["relname"]: row["n_tup_upd"] for row in counted if row["relname"] != "Customer"} == {
        "CustomerAddress": 0,
        "Lead": 14,
        "Job": 4,
    }
    second = product.run()
    assert verified(second) == ALL_IN_ORDER
    assert second.id != first.id
    assert (versions(product), writes(product)) == (before, counted)
    assert (second.counts["create"], second.counts["update"], second.counts["applied"]) == (0, 0, 0)
    assert second.counts["skip"] == second.reasons["already_linked"] == 14 + 4
    assert product.changes(second.id) == []
    nothing_new = {"customers_created": 0, "leads_linked": 0, "jobs_linked": 0}
    assert second.details == DETAILS | nothing_new | {
        "customers_reused": 9,
        "leads_already_linked": 14,
        "jobs_already_linked": 4,
    }


def test_a_dry_run_writes_nothing_and_plans_what_the_run_then_does(product: Product) -> None:
    fill_typical_client(product)
    before = product.everything()
    dry = product.run(steps=DRY_RUN)
    assert succeeded(dry)
    assert product.everything() == before
    assert (dry.mode, dry.details) == (Mode.PLAN, DETAILS)
    assert {row["state"] for row in product.changes(dry.id)} == {"planned"}
    real = product.run()
    assert real.plan_hash == dry.plan_hash
    assert real.counts["applied"] == dry.counts["create"] + dry.counts["update"]
    assert product.together() == TOGETHER
    assert product.run(steps=DRY_RUN).counts["applied"] == 0


def test_the_plan_does_not_depend_on_the_order_of_rows(product: Product) -> None:
    fill_typical_client(product)
    first = product.run(steps=DRY_RUN)
    for table in ("Job", "Lead", "Customer"):
        product.execute(f'CREATE TABLE kept AS SELECT * FROM "{table}"')
        product.execute('ALTER TABLE "Job" DROP CONSTRAINT IF EXISTS "Job_lead_id_fkey"')
        product.execute(f'DELETE FROM "{table}"')
        product.execute(f'INSERT INTO "{table}" SELECT * FROM kept ORDER BY md5(id::text)')
        product.execute("DROP TABLE kept")
    assert product.run(steps=DRY_RUN).plan_hash == first.plan_hash


def test_max_records_writes_so_many_rows_and_the_next_runs_the_rest(product: Product) -> None:
    fill_typical_client(product)
    first = product.run(max_records=5)
    assert succeeded(first)
    assert (first.counts["applied"], product.together()) == (5, set()), "customers come before their leads"
    written = [first.counts["applied"]]
    while (run := product.run(max_records=9)).counts["applied"]:
        assert run.counts["applied"] <= 9
        written.append(run.counts["applied"])
    assert sum(written) == 27
    assert product.together() == TOGETHER
    assert verified(product.verify()) == ALL_IN_ORDER


def test_the_target_alone_loads_the_newest_stored_plan(product: Product) -> None:
    fill_typical_client(product)
    assert failure(product.run(steps=LOAD_ONLY)) == (State.FAILED, "no_plan")
    dry = product.run(steps=DRY_RUN)
    product.lead("too late", phone="205 555 0111")
    loaded = product.run(steps=LOAD_ONLY)
    assert succeeded(loaded)
    assert (loaded.id, loaded.mode, loaded.plan_hash) == (dry.id, Mode.LOAD, dry.plan_hash)
    assert loaded.counts["applied"] == 27
    assert product.together() == TOGETHER
    assert loaded.verification is not None
    assert (loaded.verification["missing"], loaded.verification["passed"]) == (1, False)
    before = versions(product)
    again = product.run(steps=LOAD_ONLY)
    assert (again.id, again.counts["applied"]) == (dry.id, 27)
    assert versions(product) == before


def test_the_plan_alone_then_the_rest_is_a_run(product: Product) -> None:
    fill_typical_client(product)
    assert succeeded(product.run(steps=Steps(plan=False, load=False)))
    assert verified(product.run()) == ALL_IN_ORDER


def test_clients_never_meet(product: Product) -> None:
    fill_typical_client(product)
    fill_typical_client(product, of=BOLT, prefix="b-")
    runs = product.run_all(ACME, BOLT)
    assert succeeded(*runs.values())
    assert product.together() == TOGETHER | {frozenset(f"b-{each}" for each in group) for group in TOGETHER}
    customers = product.rows("Customer")
    for lead in product.rows("Lead").values():
        assert customers[lead["customer_id"]]["client_id"] == lead["client_id"]
    keys = {row["metadata"].get("groupKey") for row in customers.values()}
    assert len(keys) == 8 + 8 + 1, "one person of two clients has two keys, so that nobody can join them"
    assert runs[ACME].details == runs[BOLT].details == DETAILS


def test_a_run_of_one_client_leaves_the_others_rows_alone(product: Product) -> None:
    fill_typical_client(product)
    fill_typical_client(product, of=BOLT, prefix="b-")
    before = {table: product.rows(table) for table in TABLES}
    product.run(BOLT)
    for table in ("Customer", "Lead", "Job"):
        mine = {
            key: row for key, row in before[table].items() if row.get("client_id", "42") == "42" and key[:2] != "b-"
        }
        assert mine
        assert {key: product.rows(table)[key] for key in mine} == mine


def test_a_client_without_a_lead_is_done_at_once(product: Product) -> None:
    product.client(ACME)
    run = product.run()
    assert verified(run) == ALL_IN_ORDER | {"equal": 0}
    assert (run.counts["source"], product.rows("Customer")) == (0, {})


def test_leads_that_come_later_join_and_are_counted(product: Product) -> None:
    fill_typical_client(product)
    product.run()
    before = product.customer_of("phone-1")
    product.lead("late", phone="2055550122", first_name="Bob", last_name="Birch")
    run = product.run()
    assert verified(run) == ALL_IN_ORDER | {"equal": 15}
    after = product.customer_of("late")
    assert after["id"] == before["id"]
    assert (after["metadata"]["leadCount"], after["metadata"]["runId"]) == (4, before["metadata"]["runId"])
    assert after["name"] == before["name"], "what is filled stays"
    assert run.counts["applied"] == 2


def test_a_second_psid_with_a_known_phone_gets_its_own_customer_whenever_it_comes(product: Product) -> None:
    product.lead("first", psid="one", phone="2055550122")
    product.run()
    product.lead("second", psid="two", phone="2055550122")
    run = product.run()
    assert product.together() == {frozenset({"first"}), frozenset({"second"})}
    assert product.customer_of("second")["phone"] is None
    assert run.reasons == {"already_linked": 1, "shared_phone": 1}
    assert verified(run)["passed"]


def test_a_run_is_refused_while_another_works_on_the_client(product: Product) -> None:
    fill_typical_client(product)
    with product.runtime() as other:
        assert other.locks.try_acquire(lock_name("customers", ACME))
        run = product.run()
        other.locks.release(lock_name("customers", ACME))
    assert failure(run) == (State.REFUSED, "already_running")
    assert (product.together(), product.audits()) == (set(), [])


# --- settings ---------------------------------------------------------------------------------------------------------


def with_settings(product: Product, defaults: dict[str, Any], **of_clients: dict[str, Any]) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["defaults"] = {"customers": defaults}
        for client in document["clients"]:
            if client["key"] in of_clients:
                client["customers"] = of_clients[client["key"]]

    product.edit = edit


def test_phones_are_stored_in_the_form_that_the_registry_asks_for(product: Product) -> None:
    with_settings(product, {"phone_format": "e164"}, bolt={"phone_format": "digits"})
    for key in (ACME, BOLT):
        product.lead(f"{key}-us", of=key, phone="(205) 555-0111")
        product.lead(f"{key}-gb", of=key, phone="+44 20 7946 0958")
        product.lead(f"{key}-odd", of=key, phone="555 555 5555 55")
    product.run_all(ACME, BOLT)
    stored = {
        key: [product.customer_of(f"{key}-{each}")["phone"] for each in ("us", "gb", "odd")] for key in CLIENT_IDS
    }
    assert stored == {
        ACME: ["+12055550111", "+442079460958", "555555555555"],
        BOLT: ["2055550111", "442079460958", "555555555555"],
    }
    assert product.run(ACME).counts["applied"] == 0


def test_a_value_that_more_leads_share_than_max_group_size_groups_nothing(product: Product) -> None:
    with_settings(product, {"max_group_size": 2})
    for number in range(3):
        product.lead(f"office-{number}", phone="2055550111", email=f"person{number}@example.com")
    for number in range(3):
        product.lead(f"list-{number}", email="team@example.com")
    product.lead("pair-1", phone="2055550122")
    product.lead("pair-2", phone="2055550122")
    run = product.run()
    assert product.together() == {
        frozenset({"pair-1", "pair-2"}),
        *(frozenset({f"{kind}-{number}"}) for kind in ("office", "list") for number in range(3)),
    }
    assert run.reasons == {"oversized_group": 6, "shared_phone": 2}
    assert verified(run)["passed"]


def test_a_clients_blocked_values_come_on_top_of_the_defaults(product: Product) -> None:
    blocked = {"phones": ["205-555-0111"], "domains": ["Shared.Example.com"]}
    with_settings(product, {"blocked": {"local_parts": ["front-desk"]}}, acme={"blocked": blocked})
    for key in (ACME, BOLT):
        for number in (1, 2):
            product.lead(f"{key}-phone-{number}", of=key, phone="+1 205 555 0111")
            product.lead(f"{key}-domain-{number}", of=key, email="x@shared.example.com")
            product.lead(f"{key}-desk-{number}", of=key, email="front-desk@example.com")
    product.run_all(ACME, BOLT)
    pairs = {group for group in product.together() if len(group) == 2}
    assert pairs == {frozenset({f"bolt-{kind}-1", f"bolt-{kind}-2"}) for kind in ("phone", "domain")}
    assert product.customer_of("acme-phone-1")["phone"] is None


# --- what is told -----------------------------------------------------------------------------------------------------


def test_verbose_lists_every_group_by_ids_alone(product: Product, caplog: pytest.LogCaptureFixture) -> None:
    fill_typical_client(product)
    product.lead("ambiguous", phone="(205) 555-0166")
    for _ in range(2):
        product.execute('ALTER TABLE "Customer" DROP CONSTRAINT IF EXISTS "Customer_client_id_phone_key"')
        product.customer(name="Gus", phone="2055550166")
    with caplog.at_level(logging.INFO, logger="backfill_pipelines"):
        product.run()
    told = [record.getMessage() for record in caplog.records if ", type " in record.getMessage()]
    ada = product.customer_of("psid-1")
    assert f"acme: customer {ada['id']}, type psid, 3 leads, as usual" in told
    assert "acme: customer none, type phone, 1 leads, ambiguous_existing" in told
    assert any(line.endswith("type phone, 1 leads, shared_phone") for line in told)
    assert any(line.endswith("type individual, 1 leads, blocked_value") for line in told)
    assert len(told) == 10
    personal = ("5550111", "5550122", "5550133", "5550144", "5550166", "@", "Ash", "p-1")
    assert not [line for line in told if any(value in line for value in personal)]
