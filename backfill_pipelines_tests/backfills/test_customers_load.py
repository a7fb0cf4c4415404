"""Loading while others write: what they have done stays, what is left is done, and every row's fate is written down."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from backfill_pipelines.backfills import customers_target
from backfill_pipelines.engine import set_based
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines_tests.backfills.product_rig import (
    DRY_RUN,
    LOAD_ONLY,
    Product,
    failure,
    fill_typical_client,
    succeeded,
    verified,
)
from backfill_pipelines_tests.chaos.gate import gate
from backfill_pipelines_tests.installation import wait_until

PHONE = "2055550111"


@pytest.fixture
def filled(product: Product) -> Product:
    fill_typical_client(product)
    return product


@contextmanager
def while_running(product: Product) -> Iterator[tuple[Connection, Future[Run]]]:
    """A run in a thread, beside somebody's open transaction that it will have to wait for."""
    with product.database.connect() as theirs, ThreadPoolExecutor(1) as threads:
        theirs.execute(text("SELECT FROM \"Lead\" WHERE id = 'psid-2' FOR UPDATE"))
        running = threads.submit(product.run)
        try:
            wait_until(lambda: running.done() or bool(product.query("SELECT FROM pg_locks WHERE NOT granted")))
            yield theirs, running
        finally:
            theirs.rollback()


# --- between the plan and its load ------------------------------------------------------------------------------------


def test_a_lead_that_somebody_linked_since_the_plan_stays_theirs_and_its_job_follows_it(filled: Product) -> None:
    dry = filled.run(steps=DRY_RUN)
    theirs = filled.customer(name="Theirs")
    filled.execute("UPDATE \"Lead\" SET customer_id = CAST(:id AS uuid) WHERE id = 'psid-2'", id=theirs)
    loaded = filled.run(steps=LOAD_ONLY)
    assert succeeded(loaded)
    outcomes = filled.outcomes(dry.id)
    assert (outcomes["Lead", "psid-2"], outcomes["Job", "job-1"]) == (("conflict", "stale"), ("conflict", "stale"))
    assert (loaded.counts["conflict"], loaded.counts["applied"], loaded.reasons["stale"]) == (2, 25, 2)
    assert filled.rows("Lead")["psid-2"]["customer_id"] == theirs
    assert filled.rows("Job")["job-1"]["customer_id"] is None
    assert loaded.details["leads_linked"] == 13, "what was written, not what was planned"
    again = filled.run()
    assert filled.rows("Job")["job-1"]["customer_id"] == theirs
    assert again.reasons["split_group"] == 1, "two customers of one PSID, which only a person can sort out"


@pytest.mark.parametrize("deferrable", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_customer_that_somebody_made_since_the_plan_keeps_its_phone_and_gets_the_leads_next_time(
    filled: Product, deferrable: str
) -> None:
    filled.execute('ALTER TABLE "Customer" DROP CONSTRAINT "Customer_client_id_phone_key"')
    filled.execute(f'ALTER TABLE "Customer" ADD UNIQUE (client_id, phone) {deferrable}')
    filled.run(steps=DRY_RUN)
    theirs = filled.customer(name="Theirs", phone="2055550122")
    loaded = filled.run(steps=LOAD_ONLY)
    assert succeeded(loaded)
    stale = {key for key, told in filled.outcomes(loaded.id).items() if told == ("conflict", "stale")}
    assert {key for target, key in stale if target == "Lead"} == {"phone-1", "phone-2", "joins-phone"}
    assert (len(stale), loaded.reasons["value_taken"]) == (3, 1)
    assert (loaded.counts["applied"], loaded.counts["failed"]) == (23, 0)
    assert filled.rows("Customer")[theirs]["name"] == "Theirs"
    assert verified(filled.run())["passed"]
    assert {filled.rows("Lead")[each]["customer_id"] for each in ("phone-1", "phone-2", "joins-phone")} == {theirs}


def test_a_field_that_somebody_filled_since_the_plan_stays_theirs(filled: Product) -> None:
    dry = filled.run(steps=DRY_RUN)
    filled.execute("UPDATE \"Customer\" SET email = 'theirs@example.com' WHERE name = 'Fay Fir'")
    filled.run(steps=LOAD_ONLY)
    fay = filled.customer_of("known")
    assert fay["email"] == "theirs@example.com"
    assert filled.outcomes(dry.id)["Customer", fay["id"]] == ("conflict", "stale")


def test_a_customer_that_is_gone_since_the_plan_takes_only_its_own_leads_with_it(filled: Product) -> None:
    dry = filled.run(steps=DRY_RUN)
    filled.execute("DELETE FROM \"Customer\" WHERE name = 'Fay Fir'")
    loaded = filled.run(steps=LOAD_ONLY)
    outcomes = filled.outcomes(dry.id)
    assert (outcomes["Lead", "known"], outcomes["Job", "job-4"]) == (("conflict", "stale"), ("conflict", "stale"))
    assert (loaded.counts["conflict"], loaded.counts["applied"]) == (3, 24)
    assert verified(filled.run())["passed"]


def test_a_lead_that_is_gone_or_went_to_another_client_since_the_plan_is_a_conflict(filled: Product) -> None:
    dry = filled.run(steps=DRY_RUN)
    filled.execute("DELETE FROM \"Lead\" WHERE id = 'alone'")
    filled.execute("UPDATE \"Lead\" SET client_id = :other WHERE id = 'role'", other=filled.client("bolt"))
    loaded = filled.run(steps=LOAD_ONLY)
    outcomes = filled.outcomes(dry.id)
    assert {outcomes["Lead", each] for each in ("alone", "role")} == {("conflict", "stale")}
    assert filled.rows("Lead")["role"]["customer_id"] is None
    assert (loaded.verification or {})["extra"] == 2, "customers that we made and that no lead has"


def test_a_count_of_leads_that_somebody_turned_into_a_text_is_set_right(filled: Product) -> None:
    filled.run()
    filled.execute(
        "UPDATE \"Customer\" SET metadata = metadata || '{\"leadCount\": \"many\"}' WHERE metadata->>'leadCount' = '2'"
    )
    again = filled.run()
    assert (again.counts["conflict"], again.counts["applied"]) == (0, 1)
    assert filled.customer_of("mail-1")["metadata"]["leadCount"] == 2


# --- while the run is at it -------------------------------------------------------------------------------------------


def test_what_moves_between_plan_and_load_of_one_run_is_planned_again(filled: Product) -> None:
    with gate(filled.database, before="INSERT", of="backfill.change") as shut, ThreadPoolExecutor(1) as threads:
        running = threads.submit(filled.run)
        shut.wait_until_reached()
        theirs = filled.customer(name="Theirs")
        filled.execute("UPDATE \"Lead\" SET customer_id = CAST(:id AS uuid) WHERE id = 'mail-1'", id=theirs)
        filled.lead("new", phone="2055550122")
        shut.open()
        run = running.result()
    assert verified(run)["passed"]
    assert (run.counts["conflict"], run.counts["failed"]) == (0, 0)
    assert {filled.rows("Lead")[each]["customer_id"] for each in ("mail-1", "mail-2")} == {theirs}
    assert {filled.rows("Job")[each]["customer_id"] for each in ("job-2", "job-3")} == {theirs}
    assert frozenset({"phone-1", "phone-2", "joins-phone", "new"}) in filled.together()
    assert (run.details["leads_total"], run.details["leads_linked"]) == (15, 14)
    states = {(row["action"], row["state"]) for row in filled.changes(run.id)}
    assert states == {("create", "applied"), ("update", "applied")}


def test_a_lead_that_somebody_has_locked_is_waited_for(filled: Product) -> None:
    with while_running(filled) as (theirs, running):
        assert not running.done()
        theirs.execute(text("UPDATE \"Lead\" SET last_name = 'Oak' WHERE id = 'psid-2'"))
        theirs.commit()
        run = running.result()
    assert verified(run)["passed"]
    assert (run.counts["applied"], filled.rows("Lead")["psid-2"]["last_name"]) == (27, "Oak")


def test_a_lead_that_somebody_links_while_it_is_waited_for_stays_theirs(filled: Product) -> None:
    customer = filled.customer(name="Theirs", psid="p-1")
    with while_running(filled) as (theirs, running):
        theirs.execute(
            text("UPDATE \"Lead\" SET customer_id = CAST(:id AS uuid) WHERE id = 'psid-2'"), {"id": customer}
        )
        theirs.commit()
        run = running.result()
    assert verified(run)["passed"]
    assert run.counts["failed"] == 0
    assert {filled.rows("Lead")[each]["customer_id"] for each in ("psid-1", "psid-2", "joins-psid")} == {customer}
    assert filled.rows("Job")["job-1"]["customer_id"] == customer


def test_a_lock_that_is_held_for_too_long_fails_the_run_with_nothing_written_and_the_next_goes_on(
    filled: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(customers_target, "_LITTLE_PATIENCE", text("SET LOCAL lock_timeout = '20ms'"))
    monkeypatch.setattr(set_based, "_ATTEMPTS", 2)
    before = filled.everything(but=("Audit",))
    with filled.database.connect() as theirs:
        theirs.execute(text("SELECT FROM \"Lead\" WHERE id = 'psid-2' FOR UPDATE"))
        run = filled.run()
    assert failure(run) == (State.FAILED, "target_busy")
    assert filled.everything(but=("Audit",)) == before
    (audit,) = filled.audits()
    assert (audit["succeeded"], audit["error_codes"], audit["leads_linked"]) == (False, ["target_busy"], 0)
    again = filled.run()
    assert verified(again)["passed"]
    assert (again.id, again.plan_hash, again.counts["applied"]) == (run.id, run.plan_hash, 27)
    (audit,) = filled.audits()
    assert (audit["succeeded"], audit["error_codes"], audit["leads_linked"]) == (True, [], 14)


def test_clients_load_side_by_side_while_others_edit_leads(filled: Product) -> None:
    fill_typical_client(filled, of="bolt", prefix="b-")
    stop = False

    def edit() -> int:
        rounds = 0
        while not stop:
            with suppress(OperationalError):  # where two wait for each other, one of them gives way
                filled.execute("UPDATE \"Lead\" SET company_name = :name WHERE id < 'n'", name=f"Company {rounds}")
                rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as threads:
        editing = threads.submit(edit)
        try:
            runs = filled.run_all("acme", "bolt")
        finally:
            stop = True
        assert editing.result() > 0
    assert all(verified(run)["passed"] for run in runs.values())
    assert [run.counts["applied"] for run in runs.values()] == [27, 27]
    assert all(row["customer_id"] for row in filled.rows("Lead").values())


# --- rows that the table refuses --------------------------------------------------------------------------------------

REFUSING = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF NEW.id::text IN ('mail-1', 'family-3', 'job-4') THEN RAISE EXCEPTION 'not %', NEW; END IF; RETURN NEW; END $$"
)


def test_refused_rows_are_told_one_by_one_and_all_others_are_written(filled: Product) -> None:
    filled.execute(REFUSING)
    for table in ("Lead", "Job"):
        filled.execute(f'CREATE TRIGGER refuse BEFORE UPDATE ON "{table}" FOR EACH ROW EXECUTE FUNCTION refuse()')
    run = filled.run()
    outcomes = filled.outcomes(run.id)
    failed = {key for key, (state, _) in outcomes.items() if state == "failed"}
    assert failed == {("Lead", "mail-1"), ("Lead", "family-3"), ("Job", "job-4")}
    assert {outcomes[key] for key in failed} == {("failed", "sqlstate_p0001")}
    stale = {key for key, (state, _) in outcomes.items() if state == "conflict"}
    assert stale == {("Job", "job-2"), ("Job", "job-3")}, "the jobs of a lead that has no customer"
    assert {state for state, _ in outcomes.values()} == {"applied", "failed", "conflict"}
    assert len(outcomes) == 27
    assert (run.counts["applied"], run.counts["failed"], run.counts["conflict"]) == (22, 3, 2)
    assert run.details["leads_linked"] == 12
    for table in ("Lead", "Job"):
        filled.execute(f'DROP TRIGGER refuse ON "{table}"')
    assert verified(filled.run())["passed"]
    assert all(row["customer_id"] for table in ("Lead", "Job") for row in filled.rows(table).values())


def test_a_table_that_refuses_everything_fails_the_run_and_keeps_the_plan(filled: Product) -> None:
    filled.execute("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN SELECT no_such_thing(); END'")
    filled.execute('CREATE TRIGGER refuse BEFORE UPDATE ON "Lead" FOR EACH ROW EXECUTE FUNCTION refuse()')
    before = filled.everything(but=("Audit",))
    run = filled.run()
    assert failure(run) == (State.FAILED, "target_refused")
    assert filled.everything(but=("Audit",)) == before
    assert {row["state"] for row in filled.changes(run.id)} == {"planned"}
    (audit,) = filled.audits()
    assert (audit["error_codes"], audit["counts"]["applied"], audit["customers_created"]) == (["target_refused"], 0, 0)
