"""`backfill customers merge|split|why` and `backfill undo NAME --client KEY` as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.engine.runtime import lock_name
from backfill_pipelines_tests.backfills.customers_decisions import a_household, data, forgotten, id_of, two_customers
from backfill_pipelines_tests.backfills.product_rig import ACME, BOLT, Product, succeeded
from backfill_pipelines_tests.installation import Installation
from backfill_pipelines_tests.terminal import terminal

NAME = "Canary Quillfeather"
VALUES = ("bo@example.com", "2055550122", "205-555-0122", "0122")
RUN = {
    *("key", "run_id", "state", "plan_hash", "counts", "reasons", "warnings", "error_code", "error_message"),
    *("parked_until", "details", "verification"),
}


@pytest.fixture
def product(installation: Installation, product_tables: Engine, database_url: SecretStr, tmp_path: Path) -> Product:
    """A product with leads in the user's database, and a registry of its two clients in the user's folder."""
    made = Product(database=product_tables, database_url=database_url, folder=tmp_path)
    assert installation.folder == tmp_path
    made.registry()
    return made


def test_a_merge_is_previewed_made_shown_and_taken_back(installation: Installation, product: Product) -> None:
    ada, bo = two_customers(product)
    before = data(product)
    dry = installation("customers", "merge", "--into", ada, "--from", bo, "--dry-run", "--json")
    assert (dry.exit_code, data(product)) == (2, before)
    done = installation("customers", "merge", "--into", ada, "--from", bo, "--json")
    assert done.exit_code == 0
    assert set(done.document) == {"backfill", "command", "mode", "partitions"}
    assert (done.document["backfill"], done.document["command"], done.document["mode"]) == (
        "customers",
        "merge",
        "load",
    )
    run = done.partitions[ACME]
    assert set(run) == RUN
    assert run["plan_hash"] == dry.partitions[ACME]["plan_hash"]
    assert (run["counts"]["applied"], run["details"]["customers_deleted"]) == (4, 1)

    shown = installation("show", run["run_id"], "--json")
    assert [change["target"] for change in shown.document["changes"]] == ["Customer", "Customer", "Lead", "Job"]
    as_text = installation("show", run["run_id"])
    for outcome in (dry, done, shown, as_text):
        assert not [value for value in VALUES if value in outcome.stdout + outcome.stderr]

    undone = installation("undo", run["run_id"], "--json")
    assert (undone.exit_code, undone.partitions[ACME]["undone"]) == (0, 4)
    assert data(product) == before
    assert installation("undo", run["run_id"]).exit_code == 0


def test_a_merge_tells_people_what_it_did_and_what_next(installation: Installation, product: Product) -> None:
    ada, bo = two_customers(product)
    dry = installation("customers", "merge", "--into", ada, "--from", bo, "--dry-run")
    expected = "0 customers made, 1 customers deleted, 1 leads moved, 1 jobs moved"
    assert (dry.exit_code, f"acme: merge (dry run): {expected}" in dry.stdout, "undo:" in dry.stdout) == (
        2,
        True,
        False,
    )
    done = installation("customers", "merge", "--into", ada, "--from", bo)
    assert f"acme: merge: {expected}\ncustomer: {ada}\n" in done.stdout
    assert "undo:    backfill undo " in done.stdout


def test_a_customer_that_has_to_stay_is_exit_code_1(installation: Installation, product: Product) -> None:
    ada, bo = two_customers(product)
    product.execute('INSERT INTO "CustomerAddress" (customer_id) VALUES (CAST(:id AS uuid))', id=bo)
    done = installation("customers", "merge", "--into", ada, "--from", bo)
    assert done.exit_code == 1
    assert "reasons: in_use 1" in done.stdout
    assert "something else points to it" in done.stdout


def test_a_split_takes_lists_and_a_name_that_stands_nowhere_else(installation: Installation, product: Product) -> None:
    product.lead("cy", phone="205-555-0122")
    product.lead("it's ünïque", phone="205-555-0122")
    household = a_household(product)
    arguments = ("--customer", household, "--leads", "ada, bo", "--leads", "it's ünïque", "--name", NAME)
    dry = installation("customers", "split", *arguments, "--dry-run", "--json")
    done = installation("customers", "split", *arguments, "--json")
    assert (dry.exit_code, done.exit_code) == (2, 0)
    assert product.together() == {frozenset({"ada", "bo", "it's ünïque"}), frozenset({"cy"})}
    assert product.customer_of("bo")["name"] == NAME
    assert NAME not in dry.stdout + dry.stderr + done.stdout + done.stderr
    kept = product.query("SELECT r::text AS run FROM backfill.run AS r") + product.audits()
    assert not [row for row in kept if NAME in str(row)]
    assert installation("undo", done.partitions[ACME]["run_id"]).exit_code == 0
    assert forgotten(product)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("merge", "--into", "{ada}", "--from", "{ada}"), "same_customer"),
        (("merge", "--into", "{ada}", "--from", "canary@example.com"), "invalid_customer_id"),
        (("merge", "--into", "5f0c3f1e-6d0f-4b7a-9c55-3a1d5be7c9aa", "--from", "{ada}"), "unknown_customer"),
        (("merge", "--into", "{ada}"), "usage"),
        (("why", "ada", "canary"), "unknown_lead"),
        (("why", "ada", "bo", "--reveal"), "no_terminal"),
        (("why", "ada", "bo", "--reveal", "--json"), "no_terminal"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_3(
    installation: Installation, product: Product, arguments: tuple[str, ...], code: str
) -> None:
    ada, _ = two_customers(product)
    before = product.everything()
    told = installation.refused(code, "customers", *(each.format(ada=ada) for each in arguments))
    assert "canary" not in told
    assert product.everything() == before


def test_a_split_of_other_leads_is_exit_code_3(installation: Installation, product: Product) -> None:
    ada, _ = two_customers(product)
    done = installation("customers", "split", "--customer", ada, "--leads", "bo", "--json")
    assert (done.exit_code, done.partitions[ACME]["error_code"]) == (3, "unknown_leads")
    assert len(product.rows("Customer")) == 2


def test_a_merge_of_a_client_at_work_is_exit_code_1(installation: Installation, product: Product) -> None:
    ada, bo = two_customers(product)
    with product.runtime() as other:
        assert other.locks.try_acquire(lock_name("customers", ACME))
        done = installation("customers", "merge", "--into", ada, "--from", bo, "--json")
    assert (done.exit_code, done.partitions[ACME]["state"]) == (1, "refused")


# --- why -------------------------------------------------------------------------------------------------------------


def test_why_says_what_two_leads_share_and_masks_it(installation: Installation, product: Product) -> None:
    a_household(product)
    answer = installation("customers", "why", "ada", "bo", "--json")
    assert answer.exit_code == 0
    document = answer.document
    assert (document["same"], document["decided_by"], document["shared"]) == (True, "phone", ["phone"])
    assert [each["id"] for each in document["leads"]] == ["ada", "bo"]
    assert document["leads"][0]["customer_id"] == id_of(product, "ada")
    assert document["leads"][0]["linked_by"]["command"] == "run"
    values = {each["value"] for lead in document["leads"] for each in lead["identifiers"]}
    assert values == {None, "•••"}
    as_text = installation("customers", "why", "ada", "bo")
    assert as_text.stdout.startswith("The same customer: They have the same phone, which exactly one customer has.\n")
    assert "  phone    ••• (used)\n" in as_text.stdout
    for outcome in (answer, as_text):
        assert not [value for value in VALUES if value in outcome.stdout + outcome.stderr]


def test_why_reveals_values_at_a_terminal_and_nothing_that_a_terminal_obeys(
    installation: Installation, product: Product
) -> None:
    product.lead("ada", phone="205-555-0122", psid="\x1b]0;evil\x07")
    product.lead("bo", phone="(205) 555-0122")
    with terminal() as screen:
        done = installation.start("customers", "why", "ada", "bo", "--reveal", at=screen).ended()
    assert done.exit_code == 0
    assert "(205) 555-0122 (used)" in screen.shown()
    assert "\\x1b]0;evil\\x07 (used)" in screen.shown()
    assert "•••" not in screen.shown()


# --- undo of all that a client's runs did ----------------------------------------------------------------------------


def test_undo_of_a_client_takes_all_its_runs_back_newest_first(installation: Installation, product: Product) -> None:
    untouched = data(product)
    product.lead("elsewhere", of=BOLT, phone="2055550122")
    product.lead("ada", psid="p-1")
    product.lead("bo", phone="205-555-0122", email="bo@example.com")
    clean = data(product)
    first = product.run()
    other = product.run(BOLT)
    merged = installation(
        "customers", "merge", "--into", id_of(product, "ada"), "--from", id_of(product, "bo"), "--json"
    )
    product.lead("new", phone="205-555-0122")
    second = product.run()
    assert succeeded(first, other, second)
    ids = [str(second.id), merged.partitions[ACME]["run_id"], str(first.id)]
    before = data(product)

    dry = installation("undo", "customers", "--client", ACME, "--dry-run", "--json")
    assert (dry.exit_code, dry.document["dry_run"], dry.document["backfill"]) == (2, True, "customers")
    assert [run["run_id"] for run in dry.partitions[ACME]["runs"]] == ids
    assert dry.partitions[ACME]["conflict"] > 0, "each run by itself, under those that are newer"
    assert data(product) == before

    done = installation("undo", "customers", "--client", ACME, "--json")
    assert done.exit_code == 0
    partition = done.partitions[ACME]
    assert [run["run_id"] for run in partition["runs"]] == ids
    assert (partition["conflict"], partition["reasons"], partition["state"]) == (0, {}, "succeeded")
    assert partition["undone"] == sum(run["undone"] for run in partition["runs"]) > 0
    product.execute("DELETE FROM \"Lead\" WHERE id = 'new'")
    after = data(product)
    assert {lead: row["customer_id"] for lead, row in after["Lead"].items() if lead != "elsewhere"} == {
        "ada": None,
        "bo": None,
    }
    assert after["Lead"]["ada"] == clean["Lead"]["ada"]
    assert [row["client_id"] for row in after["Customer"].values()] == ["it's 43"], "another client's are not touched"
    assert untouched["Customer"] == {}
    assert forgotten(product)

    again = installation("undo", "customers", "--client", ACME, "--json")
    assert (again.exit_code, again.partitions[ACME]["undone"], again.partitions[ACME]["runs"]) == (0, 0, [])
    assert "nothing to undo for acme" in installation("undo", "customers", "--client", ACME).stdout
    assert installation("undo", "customers", "--client", ACME, "--dry-run").exit_code == 0


def test_undo_of_a_client_leaves_what_somebody_has_changed_and_says_so(
    installation: Installation, product: Product
) -> None:
    two_customers(product)
    product.execute("UPDATE \"Customer\" SET name = 'Bo Birch' WHERE phone IS NOT NULL")
    done = installation("undo", "customers", "--client", ACME)
    assert done.exit_code == 1
    assert "somebody has changed since" in done.stdout
    assert [row["name"] for row in product.rows("Customer").values()] == ["Bo Birch"]


def test_undo_stops_at_a_run_that_cannot_be_undone_to_its_end(installation: Installation, product: Product) -> None:
    two_customers(product)
    with product.runtime() as other:
        assert other.locks.try_acquire(lock_name("customers", ACME))
        done = installation("undo", "customers", "--client", ACME, "--json")
    assert (done.exit_code, done.partitions[ACME]["state"], done.partitions[ACME]["undone"]) == (1, "refused", 0)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("customers",), "no_client"),
        (("client_leads",), "no_client"),
        (("5f0c3f1e-6d0f-4b7a-9c55-3a1d5be7c9aa", "--client", ACME), "unexpected_client"),
        (("customers", "--client", "nobody"), "unknown_client"),
        (("frobnicate",), "unknown_run"),
    ],
)
def test_undo_of_what_there_is_not_is_a_usage_error(
    installation: Installation, product: Product, arguments: tuple[str, ...], code: str
) -> None:
    del product
    installation.refused(code, "undo", *arguments)
