"""What `customers` finds in the user's tables: customers that people made, links of all kinds, names and types."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from backfill_pipelines.database import bulk
from backfill_pipelines_tests.backfills.product_rig import (
    ACME,
    BOLT,
    DRY_RUN,
    Product,
    fill_typical_client,
    succeeded,
    verified,
)

PHONE, EMAIL, PSID = "2055550111", "kim@example.com", "p-1"


# --- customers that people made ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lead", "theirs"),
    [
        ({"psid": f" {PSID} "}, {"psid": PSID}),
        ({"phone": f"+1 {PHONE}", "psid": PSID}, {"phone": "(205) 555-0111"}),
        ({"phone": PHONE}, {"phone": "205.555.0111 ext 7"}),
        ({"email": EMAIL.upper()}, {"email": f" {EMAIL.title()}"}),
        ({"email": EMAIL, "phone": PHONE}, {"email": EMAIL}),
    ],
    ids=str,
)
def test_a_customer_that_people_made_is_found_and_filled_where_it_is_empty(
    product: Product, lead: dict[str, Any], theirs: dict[str, Any]
) -> None:
    found = product.customer(**theirs, metadata='{"vip": true}')
    before = product.rows("Customer")[found]
    product.lead("kim", **lead, first_name="Kim", last_name="Kay")
    run = product.run()
    assert verified(run)["passed"]
    after = product.customer_of("kim")
    assert (after["id"], len(product.rows("Customer"))) == (found, 1)
    filled = {"name": "Kim Kay", "phone": None, "email": None, "messenger_psid": None}
    filled |= {"phone": PHONE} if "phone" in lead else {}
    filled |= {"email": EMAIL} if "email" in lead else {}
    filled |= {"messenger_psid": PSID} if "psid" in lead else {}
    kept = {name: before[name] for name in filled if before[name] is not None}
    assert {name: after[name] for name in filled} == filled | kept
    assert after["metadata"] == {"vip": True}, "what we know of it is none of its metadata"
    assert after["updated_at"] != before["updated_at"]
    assert product.run().counts["applied"] == 0


def test_a_customer_that_people_made_is_found_again_when_its_phone_has_changed(product: Product) -> None:
    found = product.customer(phone=PHONE)
    product.lead("kim", phone=PHONE)
    product.run()
    product.execute("UPDATE \"Customer\" SET phone = '2055550199'")
    product.execute('UPDATE "Lead" SET customer_id = NULL')
    product.run()
    assert product.customer_of("kim")["id"] == found


@pytest.mark.parametrize("value", [{"phone": PHONE}, {"email": EMAIL}, {"psid": PSID}], ids=str)
def test_two_of_them_with_one_value_are_nobodys_to_choose_from(product: Product, value: dict[str, str]) -> None:
    product.execute('ALTER TABLE "Customer" DROP CONSTRAINT "Customer_client_id_phone_key"')
    for _ in range(2):
        product.customer(**value)
    product.lead("kim", **value)
    product.lead("kit", **value)
    product.job("job", "kim")
    before = product.everything(but=("Audit",))
    run = product.run()
    assert succeeded(run)
    assert product.everything(but=("Audit",)) == before
    assert (run.counts["conflict"], run.reasons) == (2, {"ambiguous_existing": 2, "lead_without_customer": 1})
    assert run.verification is not None
    assert (run.verification["explained"], run.verification["passed"]) == (2, True)
    assert product.run(steps=DRY_RUN).counts["create"] == 0


def test_an_empty_text_is_as_empty_as_null(product: Product) -> None:
    product.customer(phone=PHONE, name="", email="  ")
    product.lead("kim", phone=PHONE, email=EMAIL, first_name=" ", last_name="Kay ", psid="")
    run = product.run()
    assert succeeded(run)
    filled = product.customer_of("kim")
    assert (filled["name"], filled["email"], filled["messenger_psid"]) == ("Kay", EMAIL, None)
    product.undo(run)
    (row,) = product.rows("Customer").values()
    assert (row["name"], row["email"]) == ("", "  ")


# --- links that are there ---------------------------------------------------------------------------------------------


def test_leads_that_are_linked_keep_their_customer_and_the_rest_of_the_group_joins_it(product: Product) -> None:
    theirs = product.customer(name="By hand")
    product.lead("linked", phone=PHONE, customer_id=theirs)
    product.lead("joins", phone=PHONE)
    product.lead("on its own", email=EMAIL, customer_id=theirs)
    product.job("linked already", "linked", customer_id=theirs)
    product.job("follows", "joins")
    run = product.run()
    assert product.together() == {frozenset({"linked", "joins", "on its own"})}
    assert run.reasons == {"already_linked": 3}
    assert (run.details["leads_already_linked"], run.details["jobs_already_linked"]) == (2, 1)
    assert product.rows("Job")["follows"]["customer_id"] == theirs
    assert verified(run)["passed"]


def test_a_group_that_is_linked_to_two_customers_stays_as_it_is(product: Product) -> None:
    one, other = product.customer(name="One"), product.customer(name="Other")
    product.lead("first", phone=PHONE, customer_id=one)
    product.lead("second", phone=PHONE, customer_id=other)
    product.lead("third", phone=PHONE)
    product.job("of first", "first")
    product.job("of third", "third")
    run = product.run()
    assert run.reasons["split_group"] == 1
    assert product.rows("Lead")["third"]["customer_id"] is None
    jobs = product.rows("Job")
    assert (jobs["of first"]["customer_id"], jobs["of third"]["customer_id"]) == (one, None)
    assert verified(run) == {"equal": 2, "missing": 0, "extra": 0, "different": 0, "explained": 1, "passed": True}
    product.execute("DELETE FROM \"Job\" WHERE lead_id = 'third'")
    product.execute("DELETE FROM \"Lead\" WHERE id = 'third'")
    again = product.run()
    assert (again.counts["conflict"], again.reasons["split_group"]) == (1, 1), "told even where no lead is left over"


def test_links_that_lead_out_of_the_client_are_told_by_name_and_left(product: Product) -> None:
    product.execute('ALTER TABLE "Lead" DROP CONSTRAINT "Lead_customer_id_fkey"')
    foreign = product.customer(of=BOLT, phone=PHONE)
    dangling = str(uuid4())
    product.lead("foreign", phone=PHONE, customer_id=foreign)
    product.lead("dangling", phone=PHONE, customer_id=dangling)
    product.lead("clean", phone=PHONE)
    product.job("of foreign", "foreign")
    run = product.run()
    assert product.outcomes(run.id)["Lead", "foreign"] == ("planned", "foreign_customer")
    assert product.outcomes(run.id)["Lead", "dangling"] == ("planned", "dangling_customer")
    leads = product.rows("Lead")
    assert (leads["foreign"]["customer_id"], leads["dangling"]["customer_id"]) == (foreign, dangling)
    clean = product.customer_of("clean")
    assert (clean["client_id"], clean["phone"], clean["metadata"]["leadCount"]) == ("42", PHONE, 1)
    assert product.rows("Job")["of foreign"]["customer_id"] is None
    assert verified(run) == {"equal": 1, "missing": 0, "extra": 0, "different": 0, "explained": 2, "passed": True}


def test_a_customer_of_ours_that_people_deleted_is_made_again_with_all_its_leads(product: Product) -> None:
    product.execute('ALTER TABLE "Lead" DROP CONSTRAINT "Lead_customer_id_fkey"')
    product.lead("kim", phone=PHONE)
    product.lead("kit", phone=PHONE)
    product.job("of kim", "kim")
    product.run()
    made = product.customer_of("kim")["id"]
    product.execute('UPDATE "Job" SET customer_id = NULL')
    product.execute('DELETE FROM "Customer"')
    product.execute("UPDATE \"Lead\" SET customer_id = NULL WHERE id = 'kit'")
    run = product.run()
    assert verified(run)["passed"]
    again = product.customer_of("kim")
    assert (again["id"], again["metadata"]["leadCount"]) == (made, 2)
    assert product.rows("Job")["of kim"]["customer_id"] == made
    assert product.run().counts["applied"] == 0


def test_a_job_of_another_customer_than_its_lead_is_told_and_left(product: Product) -> None:
    theirs = product.customer(name="By hand")
    product.lead("kim", phone=PHONE)
    product.job("elsewhere", "kim", customer_id=theirs)
    run = product.run()
    assert product.outcomes(run.id)["Job", "elsewhere"] == ("planned", "job_mismatch")
    assert product.rows("Job")["elsewhere"]["customer_id"] == theirs
    assert verified(run) == {"equal": 1, "missing": 0, "extra": 0, "different": 0, "explained": 1, "passed": True}


def test_jobs_without_a_lead_are_in_no_plan(product: Product) -> None:
    product.execute('ALTER TABLE "Job" DROP CONSTRAINT "Job_lead_id_fkey"')
    product.lead("kim", phone=PHONE)
    product.job("no lead", None)
    product.job("dangling", "nobody")
    run = product.run()
    assert (run.counts["source"], {row["target"] for row in product.changes(run.id)}) == (1, {"Customer", "Lead"})
    assert verified(run)["passed"]


# --- what holds a phone or an address only once -----------------------------------------------------------------------

KEYS = {
    "client and phone": "ADD UNIQUE (client_id, phone)",
    "phone": "ADD UNIQUE (phone)",
    "email": "ADD UNIQUE (email)",
    "client and email": "ADD UNIQUE (client_id, email)",
    "both": "ADD UNIQUE (phone), ADD UNIQUE (email)",
    "none": "ADD CHECK (true)",
}


@pytest.mark.parametrize("key", KEYS)
def test_a_unique_key_is_never_broken_by_a_plan(product: Product, key: str) -> None:
    product.execute('ALTER TABLE "Customer" DROP CONSTRAINT "Customer_client_id_phone_key"')
    product.execute(f'ALTER TABLE "Customer" {KEYS[key]}')
    for of in (ACME, BOLT):
        for number in (1, 2):
            product.lead(f"{of}-{number}", of=of, psid=f"p-{number}", phone=PHONE, email=EMAIL)
    runs = [product.run(of) for of in (ACME, BOLT)]
    assert [(run.counts["failed"], run.counts["conflict"], run.counts["applied"]) for run in runs] == [(0, 0, 4)] * 2
    assert len(product.together()) == 4
    customers = {each: product.customer_of(each) for each in ("acme-1", "acme-2", "bolt-1", "bolt-2")}
    phones = [customers[each]["phone"] for each in customers]
    assert phones == ([PHONE, None, None, None] if key in ("phone", "both") else [PHONE, None] * 2)
    emails = [customers[each]["email"] for each in customers]
    expected = {
        "email": [EMAIL, None, None, None],
        "both": [EMAIL, None, None, None],
        "client and email": [EMAIL, None] * 2,
    }
    assert emails == expected.get(key, [EMAIL] * 4)
    assert all(verified(run)["passed"] for run in runs)
    assert [product.run(of).counts["applied"] for of in (ACME, BOLT)] == [0, 0]


# --- other names, other types -----------------------------------------------------------------------------------------


def renamed(product: Product, names: dict[str, tuple[str, dict[str, str]]], *, schema: str = "public") -> None:
    """Rename tables and columns, as a product has them that was not made for us, and say so in the registry."""
    if schema != "public":
        product.execute(f'CREATE SCHEMA "{schema}"')
    tables: dict[str, Any] = {}
    for logical, (name, columns) in names.items():
        for column, actual in columns.items():
            product.execute(f'ALTER TABLE "{logical}" RENAME "{column}" TO {_quoted(actual)}')
        if name != logical:
            product.execute(f'ALTER TABLE "{logical}" RENAME TO {_quoted(name)}')
        if schema != "public":
            product.execute(f'ALTER TABLE {_quoted(name)} SET SCHEMA "{schema}"')
        tables[logical] = {"name": name, "columns": columns} | ({"schema": schema} if schema != "public" else {})

    def edit(document: dict[str, Any]) -> None:
        document["tables"] = tables

    product.edit = edit


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


PRISMA = {"client_id": "clientId", "created_at": "createdAt", "updated_at": "updatedAt"}


def test_a_product_of_prismas_names_and_times(product: Product) -> None:
    fill_typical_client(product)
    for table in ("Lead", "Customer"):
        for column in ("created_at", "updated_at"):
            product.execute(f'ALTER TABLE "{table}" ALTER {column} TYPE timestamp(3)')
    before = product.everything(but=("Audit",))
    link = {"customer_id": "customerId"}
    renamed(
        product,
        {
            "Lead": ("lead", {**PRISMA, **link, "messenger_psid": "messengerPsid", "first_name": "firstName"}),
            "Job": ("Job", {"lead_id": "leadId", **link}),
            "Customer": ("CustomerProfile", {**PRISMA, "messenger_psid": "messengerPsid", "metadata": "meta"}),
            "CustomerAddress": ("Address", link),
            "Audit": ("AuditLog", {"created_at": "createdAt", "payload": "details"}),
            "Client": ("Tenant", {"id": "tenantId"}),
        },
        schema="Crm App",
    )
    run = product.run()
    assert verified(run)["passed"]
    assert (run.counts["applied"], run.counts["conflict"]) == (27, 0)
    assert product.run().counts["applied"] == 0
    assert verified(product.verify())["passed"]
    undone = product.undo(run)
    assert (undone.undone, undone.conflict) == (27, 0)
    kept = product.query('SELECT id, "updatedAt", "customerId" FROM "Crm App".lead ORDER BY id')
    assert [(row["id"], row["updatedAt"].isoformat(timespec="milliseconds"), row["customerId"]) for row in kept] == [
        (row["id"], row["updated_at"], None) for row in before["Lead"].values()
    ]


def test_names_with_quotes_spaces_and_braces(product: Product) -> None:
    fill_typical_client(product)
    odd = {"client_id": 'the "client"', "phone": "phone; --", "customer_id": "cust:id {x}", "metadata": "it's"}
    renamed(
        product,
        {
            "Lead": ('le"ad {}', {name: odd[name] for name in ("client_id", "phone", "customer_id")}),
            "Job": ("Job; --", {"customer_id": odd["customer_id"]}),
            "Customer": ("Customer {0}", {name: odd[name] for name in ("client_id", "phone", "metadata")}),
            "CustomerAddress": ("Address {name}", {"customer_id": odd["customer_id"]}),
            "Audit": ("Audit'", {"payload": "pay'load"}),
        },
    )
    run = product.run()
    assert verified(run)["passed"]
    assert run.counts["applied"] == 27
    assert verified(product.verify())["passed"]
    assert product.undo(run).undone == 27
    assert len(product.query('SELECT id FROM "Customer {0}"')) == 1


@pytest.mark.parametrize("kind", ["uuid", "bigint", "character varying(40)"])
def test_ids_of_leads_and_jobs_of_another_type(product: Product, kind: str) -> None:
    product.execute('ALTER TABLE "Job" DROP CONSTRAINT "Job_lead_id_fkey"')
    for table, column in (("Lead", "id"), ("Job", "id"), ("Job", "lead_id")):
        product.execute(f'ALTER TABLE "{table}" ALTER {column} TYPE {kind} USING NULL::{kind}')
    product.execute('ALTER TABLE "Job" ADD FOREIGN KEY (lead_id) REFERENCES "Lead" (id)')
    ids: list[Any] = [str(uuid4()) for _ in range(3)] if kind == "uuid" else [9, 10, 11]
    for identifier in ids:
        product.lead(identifier, phone=PHONE)
    product.job(ids[0], ids[1])
    run = product.run()
    assert verified(run)["passed"]
    assert product.together() == {frozenset(map(str, ids))}
    assert product.run().counts["applied"] == 0
    assert product.undo(run).undone == run.counts["applied"] == 5


def test_numbers_and_domains_where_others_have_texts(product: Product) -> None:
    product.execute("CREATE DOMAIN contact AS varchar(300) CHECK (VALUE <> '')")
    product.execute("CREATE DOMAIN moment AS timestamp")
    for table, column, kind in (
        ("Lead", "phone", "bigint"),
        ("Lead", "messenger_psid", "numeric"),
        ("Customer", "phone", "contact"),
        ("Customer", "messenger_psid", "varchar(40)"),
        ("Customer", "updated_at", "moment"),
        ("Lead", "created_at", "date"),
    ):
        product.execute(f'ALTER TABLE "{table}" ALTER {column} TYPE {kind} USING NULL::{kind}')
    product.lead("kim", phone=int(PHONE), psid=17)
    product.lead("kit", phone=int(PHONE))
    run = product.run()
    assert verified(run)["passed"]
    assert product.together() == {frozenset({"kim", "kit"})}
    assert (product.customer_of("kim")["phone"], product.customer_of("kim")["messenger_psid"]) == (PHONE, "17")
    assert product.run().counts["applied"] == 0
    assert product.undo(run).undone == 3


def test_leads_are_read_block_by_block_whatever_their_ids_are(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "_FETCH_ROWS", 2)
    ids = [
        "100% sure",
        "it's",
        '"quoted"',
        "back\\slash",
        "tab\tand\nline",
        "%(client_id)s",
        "{0}",
        "Ωμέγα",
        "王",
        "",
        " ",
    ]
    for identifier in ids:
        product.lead(identifier, phone=PHONE)
        product.job(f"job of {identifier}", identifier)
    run = product.run()
    assert verified(run)["passed"]
    assert product.together() == {frozenset(ids)}
    assert (run.details["leads_linked"], run.details["jobs_linked"]) == (len(ids), len(ids))
    assert product.undo(run).undone == run.counts["applied"]
    assert product.together() == set()
