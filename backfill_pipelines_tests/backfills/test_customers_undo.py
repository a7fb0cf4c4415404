"""Taking runs of `customers` back: exactly what they did, and nothing that somebody has changed or come to need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from backfill_pipelines.backfills import customers_target
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.undo import UndoResult
from backfill_pipelines_tests.backfills.product_rig import Product, Row, fill_typical_client, succeeded, verified

ALL = 27
EVERYTHING_BUT_THE_AUDIT = ("Audit",)


@pytest.fixture
def before(product: Product) -> dict[str, dict[str, Row]]:
    fill_typical_client(product)
    return product.everything(but=EVERYTHING_BUT_THE_AUDIT)


@pytest.fixture
def run(product: Product, before: Mapping[str, Any]) -> Run:
    loaded = product.run()
    assert verified(loaded)["passed"]
    return loaded


def told(result: UndoResult) -> tuple[int, int, Mapping[str, int]]:
    assert succeeded(result.run)
    return result.undone, result.conflict, result.reasons


def unlinked(product: Product) -> bool:
    """Whether no lead and no job has a customer."""
    return not any(row["customer_id"] for table in ("Lead", "Job") for row in product.rows(table).values())


# --- exactly ----------------------------------------------------------------------------------------------------------


def test_undo_puts_every_row_back_as_it_was(product: Product, before: Mapping[str, Any], run: Run) -> None:
    assert told(product.undo(run)) == (ALL, 0, {})
    assert product.everything(but=EVERYTHING_BUT_THE_AUDIT) == before
    assert {state for state, _ in product.outcomes(run.id).values()} == {"undone"}
    assert product.query("SELECT * FROM backfill.customer_group") == []
    assert told(product.undo(run)) == (0, 0, {})


def test_a_dry_undo_changes_nothing_and_says_what_the_undo_then_does(product: Product, run: Run) -> None:
    product.execute("UPDATE \"Lead\" SET customer_id = NULL WHERE id = 'alone'")
    product.execute("UPDATE \"Customer\" SET name = 'Edited' WHERE name = 'Cy'")
    loaded, outcomes = product.everything(), product.outcomes(run.id)
    dry = told(product.undo(run, dry_run=True))
    assert (product.everything(), product.outcomes(run.id)) == (loaded, outcomes)
    assert dry == (ALL - 1, 1, {"changed_since": 1})
    assert product.query("SELECT count(*) AS n FROM backfill.customer_group") == [{"n": 1}]
    assert told(product.undo(run)) == dry
    assert told(product.undo(run, dry_run=True)) == (0, 1, {"changed_since": 1})


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp(3)"])
def test_times_that_are_missing_infinite_or_before_1970_come_back_too(product: Product, kind: str) -> None:
    for table in ("Lead", "Customer"):
        product.execute(f'ALTER TABLE "{table}" ALTER updated_at DROP NOT NULL, ALTER updated_at TYPE {kind}')
    times = (None, "infinity", "-infinity", "1901-02-03 04:05:06.789", "1970-01-01", "9999-12-31 23:59:59.999")
    for number, moment in enumerate(times):
        product.lead(f"lead {number}", psid=f"p-{number}", first_name="Kim", updated_at=moment)
        product.customer(psid=f"p-{number}", updated_at=moment)
    before = product.everything(but=EVERYTHING_BUT_THE_AUDIT)
    run = product.run()
    assert run.counts["applied"] == 2 * len(times)
    assert told(product.undo(run)) == (2 * len(times), 0, {})
    assert product.everything(but=EVERYTHING_BUT_THE_AUDIT) == before


def test_an_undone_run_is_planned_again_as_if_it_had_not_been(product: Product, run: Run) -> None:
    product.undo(run)
    again = product.run()
    assert (again.plan_hash, again.counts["applied"]) == (run.plan_hash, ALL)


def test_links_and_customers_of_other_clients_stay(product: Product, run: Run) -> None:
    fill_typical_client(product, of="bolt", prefix="b-")
    other = product.run("bolt")
    mine = {key: row for key, row in product.rows("Lead").items() if key.startswith("b-")}
    assert told(product.undo(run)) == (ALL, 0, {})
    assert {key: row for key, row in product.rows("Lead").items() if key.startswith("b-")} == mine
    assert told(product.undo(other)) == (ALL, 0, {})


# --- links that somebody has changed ----------------------------------------------------------------------------------


def test_links_that_somebody_has_changed_stay_theirs(product: Product, run: Run) -> None:
    theirs = product.customer(name="Theirs")
    for table, identifier in (("Lead", "mail-1"), ("Job", "job-1")):
        product.execute(
            f'UPDATE "{table}" SET customer_id = CAST(:to AS uuid) WHERE id = :id', to=theirs, id=identifier
        )
    product.execute("DELETE FROM \"Job\" WHERE id = 'job-4'")
    assert told(product.undo(run)) == (ALL - 2, 2, {"changed_since": 2})
    assert product.rows("Lead")["mail-1"]["customer_id"] == product.rows("Job")["job-1"]["customer_id"] == theirs
    assert len(product.rows("Customer")) == 2, "the two that people made"


def test_a_lead_that_was_edited_is_unlinked_and_keeps_the_time_of_it(product: Product, run: Run) -> None:
    product.execute("UPDATE \"Lead\" SET last_name = 'Dell', updated_at = now() WHERE id = 'alone'")
    edited = product.rows("Lead")["alone"]["updated_at"]
    assert told(product.undo(run)) == (ALL, 0, {})
    alone = product.rows("Lead")["alone"]
    assert (alone["customer_id"], alone["last_name"]) == (None, "Dell")
    assert alone["updated_at"] > edited


# --- customers that people made ---------------------------------------------------------------------------------------


def test_fields_are_emptied_only_where_they_hold_what_we_wrote(product: Product) -> None:
    theirs = product.customer(phone="2055550111")
    product.lead("kim", phone="2055550111", email="kim@example.com", first_name="Kim", psid="p-1")
    run = product.run()
    product.execute("UPDATE \"Customer\" SET email = 'kay@example.com'")
    assert told(product.undo(run)) == (1, 1, {"changed_since": 1})
    row = product.rows("Customer")[theirs]
    assert {name: row[name] for name in ("name", "phone", "email", "messenger_psid")} == {
        "name": None,
        "phone": "2055550111",
        "email": "kay@example.com",
        "messenger_psid": None,
    }


# --- customers that we made -------------------------------------------------------------------------------------------


def test_an_address_that_nobody_has_changed_goes_with_its_customer(product: Product, run: Run) -> None:
    kept, gone = product.customer_of("alone")["id"], product.customer_of("mail-1")["id"]
    for customer, updated in ((gone, "now()"), (kept, "now()"), (kept, "now() + interval '1 second'")):
        product.execute(
            'INSERT INTO "CustomerAddress" (customer_id, city, updated_at)'
            f" VALUES (CAST(:id AS uuid), 'Leeds', {updated})",
            id=customer,
        )
    assert told(product.undo(run)) == (ALL - 1, 1, {"in_use": 1})
    assert kept in product.rows("Customer")
    assert gone not in product.rows("Customer")
    assert [row["customer_id"] for row in product.rows("CustomerAddress").values()] == [kept, kept]
    assert unlinked(product), "leads are unlinked also where their customer stays"


POINTING = {
    "a foreign key": 'CREATE TABLE invoice AS SELECT id AS customer FROM "Customer" WHERE id = CAST(:id AS uuid);'
    'ALTER TABLE invoice ADD FOREIGN KEY (customer) REFERENCES "Customer" (id)',
    "one that would cascade": 'CREATE TABLE note AS SELECT id AS about FROM "Customer" WHERE id = CAST(:id AS uuid);'
    'ALTER TABLE note ADD FOREIGN KEY (about) REFERENCES "Customer" (id) ON DELETE CASCADE',
    "one that would be emptied": 'CREATE TABLE task AS SELECT id AS who FROM "Customer" WHERE id = CAST(:id AS uuid);'
    'ALTER TABLE task ADD FOREIGN KEY (who) REFERENCES "Customer" (id) ON DELETE SET NULL',
    "another customer": 'ALTER TABLE "Customer" ADD parent uuid REFERENCES "Customer" (id);'
    "UPDATE \"Customer\" SET parent = CAST(:id AS uuid) WHERE name = 'Fay Fir'",
    "a lead by hand": "INSERT INTO \"Lead\" (id, client_id, customer_id) VALUES ('by hand', '42', CAST(:id AS uuid))",
    "a job by hand": "INSERT INTO \"Job\" (id, customer_id) VALUES ('by hand', CAST(:id AS uuid))",
}


@pytest.mark.parametrize("what", POINTING)
def test_a_customer_that_something_points_to_stays(product: Product, run: Run, what: str) -> None:
    customer = product.customer_of("mail-1")["id"]
    for statement in POINTING[what].split(";"):
        product.execute(statement, **({"id": customer} if ":id" in statement else {}))
    assert told(product.undo(run)) == (ALL - 1, 1, {"in_use": 1})
    assert set(product.rows("Customer")) == {customer, _fay(product)}


def _fay(product: Product) -> str:
    return next(key for key, row in product.rows("Customer").items() if row["name"] == "Fay Fir")


OTHER_COLUMNS = (
    "notes text",
    "tier text NOT NULL DEFAULT '(none)'",
    "score numeric(10,2) NOT NULL DEFAULT 0",
    "balance int DEFAULT -1",
    "vip boolean NOT NULL DEFAULT false",
    "tags text[] DEFAULT '{}'",
    "code char(8) DEFAULT 'x'",
    "settings json NOT NULL DEFAULT '{}'",
    "place point",
    "stage mood DEFAULT 'ok'",
    "since timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP",
    "day date NOT NULL DEFAULT CURRENT_DATE",
    "made_by text DEFAULT CURRENT_USER",
    "token uuid NOT NULL DEFAULT gen_random_uuid()",
    "number bigint GENERATED ALWAYS AS IDENTITY",
    "serial_number bigserial",
    "label text GENERATED ALWAYS AS (coalesce(name, 'nobody')) STORED",
)


EDITS = (
    "name = 'Cyd'",
    "phone = '2055550199'",
    "email = NULL",
    "messenger_psid = 'p-9'",
    "metadata = metadata || '{\"vip\": true}'",
    "metadata = metadata - 'groupKey'",
    "metadata = NULL",
    "metadata = '[1]'",
    "metadata = '5'",
    "notes = 'call after 5'",
    "tier = 'gold'",
    "score = 0.5",
    "balance = 0",
    "balance = NULL",
    "vip = true",
    "tags = '{a}'",
    "code = 'y'",
    "settings = '{\"a\": 1}'",
    "place = '(1,2)'",
    "stage = 'bad'",
)


def test_a_customer_stays_that_somebody_has_edited_in_any_column(product: Product) -> None:
    product.execute("CREATE TYPE mood AS ENUM ('ok', 'bad')")
    product.execute(f'ALTER TABLE "Customer" {", ".join("ADD " + column for column in OTHER_COLUMNS)}')
    product.execute('ALTER TABLE "Customer" ADD COLUMN "100% of %s" text DEFAULT \'50%\'')
    product.execute('ALTER TABLE "Customer" ALTER metadata DROP NOT NULL')
    for number in range(len(EDITS) + 1):
        product.lead(f"lead {number}", email=f"person{number}@example.com")
    run = product.run()
    edited = {}
    for number, edit in enumerate(EDITS):
        edited[str(product.customer_of(f"lead {number}")["id"])] = edit
        product.execute(
            f'UPDATE "Customer" SET {edit} WHERE id = (SELECT customer_id FROM "Lead" WHERE id = :id)',
            id=f"lead {number}",
        )
    assert told(product.undo(run)) == (2 * (len(EDITS) + 1) - len(EDITS), len(EDITS), {"changed_since": len(EDITS)})
    assert {edited.get(each) for each in product.rows("Customer")} == set(EDITS)
    assert unlinked(product)


def test_a_customer_that_a_trigger_keeps_costs_only_its_own_row(product: Product, run: Run) -> None:
    product.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF OLD.name = 'Cy' THEN RAISE EXCEPTION 'no'; END IF; RETURN OLD; END $$"
    )
    product.execute('CREATE TRIGGER keep BEFORE DELETE ON "Customer" FOR EACH ROW EXECUTE FUNCTION keep()')
    assert told(product.undo(run)) == (ALL - 1, 1, {"changed_since": 1})
    assert {row["name"] for row in product.rows("Customer").values()} == {"Cy", "Fay Fir"}
    assert unlinked(product)


# --- several runs -----------------------------------------------------------------------------------------------------


def second_run(product: Product) -> Run:
    """A lead and a job more, of a customer that the first run has made, and a person more."""
    product.lead("late", phone="2055550122", psid="")
    product.job("late job", "late")
    product.lead("later", email="gil@example.com")
    run = product.run()
    assert (verified(run)["passed"], run.counts["applied"]) == (True, 5)
    return run


def test_runs_undone_newest_first_leave_nothing(product: Product, before: Mapping[str, Any], run: Run) -> None:
    newer = second_run(product)
    counted = product.customer_of("late")["id"]
    assert told(product.undo(newer)) == (5, 0, {})
    metadata = product.rows("Customer")[counted]["metadata"]
    assert (metadata["leadCount"], metadata["multipleLeads"]) == (3, True)
    assert told(product.undo(run)) == (ALL, 0, {})
    assert product.rows("Customer") == before["Customer"]
    assert unlinked(product)


def test_an_older_run_undone_under_a_newer_one_leaves_what_the_newer_one_holds(product: Product, run: Run) -> None:
    newer = second_run(product)
    held = product.customer_of("late")["id"]
    assert told(product.undo(run)) == (ALL - 1, 1, {"in_use": 1})
    assert {key for key, row in product.rows("Lead").items() if row["customer_id"]} == {"late", "later"}
    assert product.rows("Lead")["late"]["customer_id"] == held
    assert told(product.undo(newer)) == (5, 0, {})
    assert held in product.rows("Customer"), "the older run has made it"
    assert told(product.undo(run)) == (1, 0, {})
    assert set(product.rows("Customer")) == {_fay(product)}


def test_a_count_of_leads_that_a_later_run_has_moved_is_nobodys_edit(product: Product, run: Run) -> None:
    second_run(product)
    for table in ("Job", "Lead"):
        product.execute(f"UPDATE \"{table}\" SET customer_id = NULL WHERE id LIKE 'late%'")
    assert told(product.undo(run)) == (ALL, 0, {})


def test_a_run_after_an_undo_that_left_something_goes_on_with_what_is_there(product: Product, run: Run) -> None:
    kept = product.customer_of("mail-1")["id"]
    product.execute("UPDATE \"Customer\" SET name = 'Cyd' WHERE name = 'Cy'")
    assert told(product.undo(run))[1] == 1
    again = product.run()
    assert verified(again)["passed"]
    assert product.customer_of("mail-2")["id"] == kept
    assert product.customer_of("mail-2")["name"] == "Cyd"


# --- tables that are too large for it ---------------------------------------------------------------------------------


def test_an_undo_that_would_take_hours_names_the_index_that_is_missing(
    product: Product, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(customers_target, "_MOST_ROWS_READ", 8)
    product.execute('ANALYZE "Lead", "Job"')
    loaded = product.everything(but=EVERYTHING_BUT_THE_AUDIT)
    for table in ("Lead", "Job"):
        refused = product.undo(run).run
        assert (refused.state, refused.error_code) == (State.FAILED, "missing_index")
        (statement,) = [part.strip() for part in (refused.error_message or "").split("; ") if "CREATE INDEX" in part]
        assert f'"{table}" ("customer_id")' in statement
        product.execute(
            statement.removeprefix("which has no index on customer_id")
            .removeprefix("run: ")
            .replace("CONCURRENTLY ", "")
        )
    assert product.everything(but=EVERYTHING_BUT_THE_AUDIT) == loaded
    assert told(product.undo(run)) == (ALL, 0, {})
