"""Tables that do not fit, roles that may not, values that nobody expects: a sentence before anything is written, or a
row that is counted and left out."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, make_url, text

from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines_tests.backfills.product_rig import (
    Product,
    failure,
    fill_typical_client,
    succeeded,
    verified,
)

PHONE = "2055550111"


@pytest.fixture
def filled(product: Product) -> Product:
    fill_typical_client(product)
    return product


def refused(product: Product, code: str, *said: str) -> None:
    """A run that ends with one sentence and nothing written anywhere in the user's tables."""
    before = everything(product)
    run = product.run()
    assert failure(run) == (State.FAILED, code), run.error_message
    assert not [words for words in said if words not in (run.error_message or "")], run.error_message
    assert everything(product) == before
    assert product.changes(run.id) == []


def everything(product: Product) -> list[Any]:
    """Every row of the user's tables, whatever they are called."""
    names = product.query("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    return [product.query(f'SELECT ctid::text, xmin::text FROM "{each["name"]}" ORDER BY 1') for each in names]


# --- the tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["Lead", "Job", "Customer", "Audit"])
def test_a_table_that_is_missing_is_named(filled: Product, table: str) -> None:
    filled.execute(f'ALTER TABLE "{table}" RENAME TO elsewhere')
    refused(filled, "missing_table", table)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("Lead", "messenger_psid"),
        ("Job", "customer_id"),
        ("Customer", "metadata"),
        ("Audit", "payload"),
        ("Client", "id"),
    ],
)
def test_a_column_that_is_missing_is_named(filled: Product, table: str, column: str) -> None:
    filled.execute(f'ALTER TABLE "{table}" RENAME {column} TO elsewhere')
    refused(filled, "missing_column", table, column)


def test_a_product_without_addresses_and_clients_has_customers_all_the_same(filled: Product) -> None:
    filled.execute('DROP TABLE "CustomerAddress"')
    filled.execute('DROP TABLE "Client" CASCADE')
    run = filled.run()
    assert verified(run)["passed"]
    undone = filled.undo(run)
    assert (undone.undone, undone.conflict, len(filled.rows("Customer"))) == (27, 0, 1)


@pytest.mark.parametrize(
    ("table", "column", "kind"),
    [
        ("Customer", "id", "text"),
        ("Customer", "metadata", "json"),
        ("Customer", "metadata", "text"),
        ("Customer", "phone", "bigint"),
        ("Customer", "email", "text[]"),
        ("Lead", "customer_id", "text"),
        ("Lead", "created_at", "text"),
        ("Lead", "updated_at", "bigint"),
        ("Customer", "updated_at", "text"),
        ("Job", "customer_id", "text"),
        ("Job", "lead_id", "bigint"),
        ("Audit", "payload", "text"),
    ],
)
def test_a_column_of_a_type_that_does_not_fit_is_named(product: Product, table: str, column: str, kind: str) -> None:
    product.client("acme")
    for constraint in product.query(
        "SELECT conrelid::regclass::text AS name, conname FROM pg_constraint WHERE contype = 'f'"
    ):
        product.execute(f'ALTER TABLE {constraint["name"]} DROP CONSTRAINT "{constraint["conname"]}"')
    product.execute(f'ALTER TABLE "{table}" ALTER {column} DROP DEFAULT')
    product.execute(f'ALTER TABLE "{table}" ALTER {column} TYPE {kind} USING NULL::{kind}')
    refused(product, "wrong_type", table, column)


@pytest.mark.parametrize("kind", ["bigint", "uuid"])
def test_client_ids_of_another_type_are_no_matter(product: Product, kind: str) -> None:
    client_id = str(uuid.uuid4()) if kind == "uuid" else "42"
    for table in ("Lead", "Customer"):
        product.execute(f'ALTER TABLE "{table}" DROP CONSTRAINT "{table}_client_id_fkey"')
    for table, column in (("Client", "id"), ("Lead", "client_id"), ("Customer", "client_id")):
        product.execute(f'ALTER TABLE "{table}" ALTER {column} TYPE {kind} USING NULL::{kind}')
    product.execute('INSERT INTO "Client" (id, name) VALUES (CAST(:id AS text)::' + kind + ", 'Acme')", id=client_id)

    def edit(document: dict[str, Any]) -> None:
        document["clients"] = [{"key": "acme", "name": "Acme", "leads": {"client_id": client_id}}]

    product.edit = edit
    product.execute(
        "INSERT INTO \"Lead\" (id, client_id, phone) VALUES ('kim', CAST(:id AS text)::" + kind + ", '2055550111')",
        id=client_id,
    )
    run = product.run()
    assert verified(run)["passed"]
    assert str(product.customer_of("kim")["client_id"]) == client_id
    assert product.run().counts["applied"] == 0
    assert (product.undo(run).undone, product.rows("Customer")) == (2, {})


@pytest.mark.parametrize(
    ("table", "statement", "named"),
    [
        ("Customer", "ADD tier text NOT NULL", "tier"),
        ("Audit", "ADD actor text NOT NULL", "actor"),
        ("Audit", 'ALTER id DROP DEFAULT, DROP CONSTRAINT "Audit_pkey"', "id"),
    ],
)
def test_a_required_column_that_we_do_not_fill_is_named(
    filled: Product, table: str, statement: str, named: str
) -> None:
    filled.execute(f'TRUNCATE "{table}" CASCADE')
    filled.execute(f'ALTER TABLE "{table}" {statement}')
    refused(filled, "unfilled_column", table, named)


@pytest.mark.parametrize("client_id", ["43", "it's", "x" * 10_000])
def test_a_client_that_the_product_does_not_know_is_told(filled: Product, client_id: str) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["clients"] = [{"key": "acme", "name": "Acme", "leads": {"client_id": client_id}}]

    filled.edit = edit
    refused(filled, "unknown_client_id", "leads: client_id")


def test_an_audit_that_refuses_our_row_fails_the_run_and_says_where_the_load_stands(filled: Product) -> None:
    filled.execute("ALTER TABLE \"Audit\" ADD CHECK (action <> 'backfill_customers')")
    run = filled.run()
    assert failure(run) == (State.FAILED, "audit_refused")
    assert '"Audit"' in (run.error_message or "")
    assert run.counts["applied"] == 27
    assert (filled.verify().verification or {})["examples"] == {"runs_without_audit": [str(run.id)]}


# --- the role ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def role(product: Product, administration: Engine) -> Iterator[str]:
    """A role of the server that may use our own schema and nothing else."""
    name = f"role_{uuid.uuid4().hex[:12]}"
    product.execute(f"CREATE ROLE {name} LOGIN")
    product.execute(f"GRANT USAGE ON SCHEMA backfill TO {name}")
    product.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA backfill TO {name}")
    product.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
    yield name
    product.execute(f"DROP OWNED BY {name}")
    with administration.connect() as connection:
        connection.execute(text(f"DROP ROLE {name}"))


def url_of(product: Product, role: str) -> SecretStr:
    url = make_url(product.database_url.get_secret_value()).set(username=role)
    return SecretStr(url.render_as_string(hide_password=False))


def run_as(product: Product, role: str) -> Run:
    return product.run(url=url_of(product, role))


@pytest.mark.parametrize(
    ("privilege", "table"),
    [
        ("SELECT", "Lead"),
        ("UPDATE", "Lead"),
        ("UPDATE", "Job"),
        ("INSERT", "Customer"),
        ("UPDATE", "Customer"),
        ("INSERT", "Audit"),
        ("SELECT", "Client"),
    ],
)
def test_a_privilege_that_is_missing_is_named(filled: Product, role: str, privilege: str, table: str) -> None:
    filled.execute(f'REVOKE {privilege} ON "{table}" FROM {role}')
    before = filled.everything()
    run = run_as(filled, role)
    assert failure(run) == (State.FAILED, "missing_privilege")
    assert f'{privilege} on "{table}"' in (run.error_message or "")
    assert filled.everything() == before


def test_undo_without_the_privilege_to_delete_changes_nothing_and_says_so(filled: Product, role: str) -> None:
    run = run_as(filled, role)
    assert succeeded(run)
    filled.execute(f'REVOKE DELETE ON "Customer" FROM {role}')
    before = filled.everything(but=("Audit",))
    undone = filled.undo(run, url=url_of(filled, role))
    assert (undone.run.state, undone.run.error_code) == (State.FAILED, "target_refused")
    assert filled.everything(but=("Audit",)) == before
    filled.execute(f'GRANT DELETE ON "Customer" TO {role}')
    assert filled.undo(run, url=url_of(filled, role)).undone == 27


@pytest.mark.parametrize("table", ["Lead", "Customer", "Job"])
def test_a_role_that_row_level_security_blinds_does_nothing(filled: Product, role: str, table: str) -> None:
    filled.execute(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY')
    filled.execute(f"CREATE POLICY mine ON \"{table}\" TO {role} USING (id::text > 'm') WITH CHECK (true)")
    before = filled.everything()
    run = run_as(filled, role)
    assert failure(run) == (State.FAILED, "row_level_security")
    assert table in (run.error_message or "")
    assert filled.everything() == before
    filled.execute(f'CREATE POLICY everything ON "{table}" TO {role} USING (true) WITH CHECK (true)')
    assert verified(run_as(filled, role))["passed"]


# --- values -----------------------------------------------------------------------------------------------------------


def test_texts_that_nobody_expects_are_no_identifiers_and_no_harm(product: Product) -> None:
    odd = [
        "9" * 10_000,
        '\'); DROP TABLE "Lead"; --',
        "\\x00",
        "%s %(id)s {}",
        "\t\r\n",
        "🐦" * 70,
        "\u202e5550111",
        "\x01\x7f",
    ]
    for number, value in enumerate(odd):
        product.lead(f"phone {number}", phone=value)
        product.lead(f"mail {number}", email=value)
        product.lead(f"name {number}", first_name=value, last_name=value, company_name=value)
    run = product.run()
    assert verified(run)["passed"]
    assert len(product.together()) == 3 * len(odd)
    for row in product.rows("Customer").values():
        assert (row["phone"], row["email"]) == (None, None)
    stored = {row["name"] for row in product.rows("Customer").values()}
    assert {f"{value} {value}" for value in odd if value.strip() == value} <= stored
    assert (product.run().counts["applied"], product.undo(run).conflict) == (0, 0)


def test_ids_with_quotes_and_letters_of_every_script_are_ids(product: Product) -> None:
    ids = ["it's", '"q"', "Ωμέγα", "王小明", "🐦", "a\\b", "tab\there", "line\nbreak", "100%", "x" * 2_000]
    for identifier in ids:
        product.lead(identifier, psid=f"p {identifier}")
        product.job(identifier, identifier)
    run = product.run()
    assert verified(run)["passed"]
    assert product.together() == {frozenset({each}) for each in ids}
    assert product.run().counts["applied"] == 0
    assert product.undo(run).undone == 3 * len(ids)


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ('ALTER TABLE "Customer" ALTER messenger_psid TYPE varchar(20)', "sqlstate_22001"),
        ('ALTER TABLE "Customer" ADD CHECK (length(messenger_psid) < 20)', "sqlstate_23514"),
        # 3,000 digits that do not compress, in a btree's key of at most 2,700 bytes.
        ('CREATE INDEX ON "Customer" (messenger_psid)', "sqlstate_54000"),
    ],
)
def test_a_row_that_the_table_refuses_is_counted_and_the_rest_is_loaded(filled: Product, limit: str, code: str) -> None:
    filled.execute(limit)
    filled.execute(
        "UPDATE \"Lead\" SET messenger_psid = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 250) AS n)"
        " WHERE id = 'alone'"
    )
    run = filled.run()
    assert (run.counts["failed"], run.counts["conflict"], run.counts["applied"]) == (2, 0, 25)
    assert (run.reasons[code], run.reasons["customer_not_written"]) == (1, 1)
    assert [key for key, row in filled.rows("Lead").items() if row["customer_id"] is None] == ["alone"]
    assert run.verification is not None
    assert (run.verification["missing"], run.verification["passed"]) == (1, False), "nobody has decided to leave it"
    assert filled.run().counts["applied"] == 0


@pytest.mark.parametrize(
    "key", ["lower(email)", "client_id, lower(email)", "lower(btrim(email))", "lower(email::varchar)"]
)
def test_a_unique_key_over_addresses_in_lower_case_is_one_over_addresses(product: Product, key: str) -> None:
    product.execute(f'CREATE UNIQUE INDEX ON "Customer" ({key})')
    for number in (1, 2):
        product.lead(f"lead {number}", psid=f"p-{number}", email="kim@example.com")
    product.lead("other", email="other@example.com")
    run = product.run()
    assert (run.counts["failed"], run.counts["conflict"], run.counts["applied"]) == (0, 0, 6)
    assert run.reasons == {"shared_email": 1}
    assert verified(run)["passed"]


def test_an_address_that_another_client_has_in_capitals_stays_there_where_it_is_unique(product: Product) -> None:
    product.execute('CREATE UNIQUE INDEX ON "Customer" (lower(email))')
    product.customer(of="bolt", email="Kim@Example.com")
    product.lead("kim", email="kim@example.com")
    run = product.run()
    assert (run.counts["conflict"], run.reasons) == (0, {"shared_email": 1})
    assert product.customer_of("kim")["email"] is None


def test_a_unique_key_that_no_plan_can_know_costs_only_the_row_that_breaks_it(product: Product) -> None:
    product.execute('CREATE UNIQUE INDEX ON "Customer" (client_id, name)')
    for number in (1, 2):
        product.lead(f"lead {number}", psid=f"p-{number}", first_name="Kim", last_name="Ash")
    product.lead("other", email="other@example.com")
    run = product.run()
    assert (run.counts["failed"], run.counts["conflict"], run.counts["applied"]) == (0, 2, 4)
    assert run.reasons == {"value_taken": 1, "stale": 1}
    assert len(product.together()) == 2


def test_a_phone_that_is_unique_over_all_clients_stays_with_whom_has_it(product: Product) -> None:
    product.execute('ALTER TABLE "Customer" ADD UNIQUE (phone)')
    product.customer(of="bolt", phone=PHONE)
    product.lead("kim", phone=PHONE)
    run = product.run()
    assert (run.counts["conflict"], run.reasons) == (0, {"shared_phone": 1})
    assert product.customer_of("kim")["phone"] is None
