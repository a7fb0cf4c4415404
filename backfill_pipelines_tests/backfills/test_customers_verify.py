"""The questions that are asked after every run: each one broken once, asked by the verification and in plain SQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg import sql
from sqlalchemy import text

from backfill_pipelines.backfills.customers_tables import read_tables
from backfill_pipelines.backfills.customers_verify import LAST_AUDIT, QUESTIONS, question
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.engine.ledger import State
from backfill_pipelines_tests.backfills.product_rig import (
    ACME,
    BOLT,
    CLIENT_IDS,
    Product,
    failure,
    fill_typical_client,
    succeeded,
    verified,
)

SCRIPT = Path(__file__).parents[2] / "docs" / "sql" / "customers_validation.sql"
HEADER = """\
-- What must hold of leads, jobs and customers of one client, to be asked with psql at any time; reads only.
--
--   psql "$DATABASE_URL" -v client_id=42 -f docs/sql/customers_validation.sql
--
-- client_id is the id in "Client". Each question lists the ids that break it: no rows is what you want, but for
-- the last two, which are for review. `backfill verify customers` asks the same. Names are the default ones; where the
-- registry's tables: says otherwise, change them here.
"""


@pytest.fixture
def loaded(product: Product) -> Product:
    fill_typical_client(product)
    assert verified(product.run())["passed"]
    return product


def new_lead(product: Product) -> str:
    return product.lead("new")


def unlinked_job(product: Product) -> str:
    product.execute("UPDATE \"Job\" SET customer_id = NULL WHERE id = 'job-1'")
    return "job-1"


def job_of_somebody_else(product: Product) -> str:
    product.execute(
        "UPDATE \"Job\" SET customer_id = CAST(:id AS uuid) WHERE id = 'job-1'", id=product.customer_of("alone")["id"]
    )
    return "job-1"


def lead_of_another_clients_customer(product: Product) -> str:
    return product.lead("strays", customer_id=product.customer(of=BOLT))


def lead_of_no_customer(product: Product) -> str:
    product.execute('ALTER TABLE "Lead" DROP CONSTRAINT "Lead_customer_id_fkey"')
    return product.lead("strays", customer_id=uuid4())


def one_phone_twice(product: Product) -> str:
    product.execute('ALTER TABLE "Customer" DROP CONSTRAINT "Customer_client_id_phone_key"')
    product.customer(name="By hand", phone="2055550111")
    return str(product.customer_of("psid-1")["id"])


def nobodys_customer(product: Product) -> str:
    customer = product.customer_of("alone")["id"]
    product.execute("DELETE FROM \"Lead\" WHERE id = 'alone'")
    return str(customer)


def many_leads(product: Product) -> str:
    customer = product.customer_of("mail-1")["id"]
    for number in range(4):
        product.lead(f"many {number}", customer_id=customer)
    return str(customer)


FAILING: dict[str, tuple[Callable[[Product], str], str]] = {
    "leads_without_customer": (new_lead, "missing"),
    "jobs_without_customer": (unlinked_job, "missing"),
    "jobs_of_another_customer": (job_of_somebody_else, "different"),
    "leads_of_a_foreign_customer": (lead_of_another_clients_customer, "different"),
    "customers_with_one_phone": (one_phone_twice, "different"),
    "created_customers_without_leads": (nobodys_customer, "extra"),
}


# --- backfill verify --------------------------------------------------------------------------------------------------


def test_after_a_run_all_is_in_order_and_verifying_writes_nothing(loaded: Product) -> None:
    before = loaded.everything()
    run = loaded.verify()
    assert verified(run) == {"equal": 14, "missing": 0, "extra": 0, "different": 0, "explained": 0, "passed": True}
    assert run.verification is not None
    assert run.verification["examples"] == {}
    assert loaded.everything() == before


@pytest.mark.parametrize("name", FAILING)
def test_each_rule_that_is_broken_is_told_by_id(loaded: Product, name: str) -> None:
    break_it, figure = FAILING[name]
    broken = break_it(loaded)
    run = loaded.verify()
    found = verified(run)
    assert not found["passed"]
    assert {each: found[each] for each in ("missing", "extra", "different")} == {
        **dict.fromkeys(("missing", "extra", "different"), 0),
        figure: 1,
    }
    assert (run.verification or {})["examples"] == {name: [broken]}


def test_a_lead_of_a_customer_that_does_not_exist_is_told(loaded: Product) -> None:
    broken = lead_of_no_customer(loaded)
    assert (loaded.verify().verification or {})["examples"] == {"leads_of_a_foreign_customer": [broken]}


def test_a_large_group_is_listed_for_review_and_fails_nothing(loaded: Product) -> None:
    large = many_leads(loaded)
    run = loaded.verify()
    assert verified(run)["passed"]
    assert run.warnings == ["large_groups"]
    assert (run.verification or {})["examples"] == {"large_groups": [large]}
    assert loaded.run().warnings == ["large_groups"]


def test_a_run_that_the_audit_does_not_know_fails_the_verification(loaded: Product) -> None:
    (entry,) = loaded.audits()
    loaded.execute('DELETE FROM "Audit"')
    run = loaded.verify()
    assert not verified(run)["passed"]
    assert (run.verification or {})["examples"] == {"runs_without_audit": [entry["run_id"]]}
    assert verified(loaded.run())["passed"]
    assert verified(loaded.verify())["passed"], "only the newest run counts"


def test_what_the_newest_plan_left_alone_is_explained_and_what_came_since_is_not(product: Product) -> None:
    product.execute('ALTER TABLE "Customer" DROP CONSTRAINT "Customer_client_id_phone_key"')
    for _ in range(2):
        product.customer(phone="2055550111")
    product.lead("doubtful", phone="2055550111")
    run = product.run()
    figures = (run.verification or {})["figures"]
    assert figures["left alone: ambiguous_existing"] == 1
    explained = {"equal": 0, "missing": 0, "extra": 0, "different": 0, "explained": 1, "passed": True}
    assert verified(product.verify()) == explained
    product.lead("new", phone="2055550111")
    assert verified(product.verify()) == explained | {"missing": 1, "passed": False}


def test_jobs_of_no_client_are_counted_once_over_all_clients(product: Product) -> None:
    product.execute('ALTER TABLE "Job" DROP CONSTRAINT "Job_lead_id_fkey"')
    for key in (ACME, BOLT):
        product.lead(f"lead of {key}", of=key)
    product.job("no lead", None)
    product.job("dangling", "nobody")
    product.job("as it should be", "lead of acme")
    assert succeeded(*product.run_all(ACME, BOLT).values())
    counted = {key: (product.verify(key).verification or {})["figures"].get("no_lead") for key in (ACME, BOLT)}
    assert counted == {ACME: 2, BOLT: None}


def test_a_verification_of_tables_that_do_not_fit_fails_with_a_sentence(loaded: Product) -> None:
    loaded.execute('ALTER TABLE "Job" RENAME TO elsewhere')
    assert failure(loaded.verify()) == (State.FAILED, "missing_table")


# --- the same in plain SQL --------------------------------------------------------------------------------------------


def rendered(product: Product) -> str:
    """The script, made of the questions with the default names."""
    client = sql.SQL(":'client_id'")
    parts = [HEADER]
    with product.database.connect() as connection:
        tables = read_tables(connection, product.registry())
        for name, (words, query) in {**QUESTIONS, "last_audit": LAST_AUDIT}.items():
            statement = question(query, tables, client).as_string(driver_connection(connection)).strip()
            parts.append(f"-- {name}: {words}\n{_plain(statement)};\n")
    return "\n".join(parts)


def _plain(statement: str) -> str:
    """Without the quotes that nobody needs to type, nor the schema."""
    return re.sub(r'"([a-z_]+)"', r"\1", statement.replace('"public".', ""))


def test_the_script_for_psql_asks_what_the_command_asks(product: Product) -> None:
    assert SCRIPT.read_text(encoding="utf-8") == rendered(product), "render it anew: see this test"


def answers(product: Product) -> dict[str, list[str]]:
    """What the script's questions list, asked one by one as psql would ask them."""
    found: dict[str, list[str]] = {}
    for name, body in re.findall(r"^-- (\w+): .*\n((?:(?!--).+\n)+)", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE):
        literal = "'" + CLIENT_IDS[ACME].replace("'", "''") + "'"
        with product.database.connect() as connection:
            rows = connection.execute(text(body.rstrip().rstrip(";").replace(":'client_id'", literal)))
            found[name] = [str(row[0]) for row in rows]
    return found


def test_the_scripts_questions_find_what_breaks_each_rule(loaded: Product) -> None:
    (entry,) = loaded.audits()
    assert answers(loaded) == {**{name: [] for name in QUESTIONS}, "last_audit": [entry["run_id"]]}
    for name, (break_it, _) in FAILING.items():
        broken = break_it(loaded)
        assert answers(loaded)[name] == [broken]
        _restore(loaded)
    large = many_leads(loaded)
    assert answers(loaded)["large_groups"] == [large]


def _restore(product: Product) -> None:
    """As after the first run: the tables anew, and a run."""
    product.execute('TRUNCATE "Lead", "Job", "Customer", "Audit", "CustomerAddress"')
    fill_typical_client(product)
    assert verified(product.run())["passed"]
