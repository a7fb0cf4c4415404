"""The table: what others have written into it, what they write meanwhile, and what it must be like."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, make_url, text

from backfill_pipelines.engine.ledger import State
from backfill_pipelines.engine.partition_run import Steps
from backfill_pipelines_tests.backfills.agency import (
    AMBER,
    BIRCHWOOD,
    CAFE,
    CEDAR,
    DOVETAIL,
    DRY_RUN,
    Agency,
    Document,
    failure,
    succeeded,
)

LOAD_ONLY = Steps(extract=False, plan=False)
EVERYBODY = (AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL)
Row = dict[str, Any]


def webhook(agency: Agency, key: str, email: str | None, **values: Any) -> None:
    """A row as the webhook writes it."""
    row = {"workspace_name": agency.name_of(key), "lead_email": email, **values}
    columns, places = ", ".join(row), ", ".join(f":{name}" for name in row)
    agency.execute(f"INSERT INTO client_leads ({columns}) VALUES ({places})", **row)


def everything(agency: Agency) -> list[Row]:
    return agency.query("SELECT * FROM client_leads ORDER BY id")


# --- what is there before ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spell", [str.upper, str.title, lambda email: f"  {email}\t", lambda email: f"{email}\u00a0"])
def test_a_row_that_the_webhook_spelled_otherwise_is_updated_and_keeps_its_spelling(agency: Agency, spell: Any) -> None:
    email, expected = next(iter(agency.oracle(DOVETAIL).items()))
    webhook(agency, DOVETAIL, spell(email), first_name="Kept", pipeline_stage="Met", notes="call after 5")
    run = agency.run(DOVETAIL)
    assert succeeded([run])
    assert run.counts["update"] == 1
    (row,) = [row for row in everything(agency) if row["lead_email"] == spell(email)]
    assert (row["first_name"], row["pipeline_stage"], row["notes"]) == ("Kept", "Met", "call after 5")
    assert (row["interested"], row["bison_reply_id"]) == (True, expected["bison_reply_id"])
    assert agency.written() == len(agency.oracle(DOVETAIL))
    again = agency.run(DOVETAIL)
    assert (again.counts["create"], again.counts["update"]) == (0, 0)


def test_rows_without_an_address_and_deleted_ones_stay_as_they_are(agency: Agency) -> None:
    email = next(iter(agency.oracle(DOVETAIL)))
    webhook(agency, DOVETAIL, None, interested=True)
    webhook(agency, DOVETAIL, None, interested=False)
    webhook(agency, DOVETAIL, email.upper(), deleted_at="2026-01-01", interested=False)
    before = everything(agency)
    run = agency.run(DOVETAIL)
    assert succeeded([run])
    assert run.reasons["tombstoned"] == 1
    assert [row for row in everything(agency) if row["id"] in {each["id"] for each in before}] == before
    assert run.verification is not None
    assert (run.verification["explained"], run.verification["extra"], run.verification["passed"]) == (1, 0, True)


def test_a_reply_that_another_clients_row_holds_is_a_conflict_and_the_rest_is_loaded(agency: Agency) -> None:
    email, row = next(iter(agency.oracle(CAFE).items()))
    values = {"bison_reply_id": row["bison_reply_id"], "bison_instance": agency.host_of(CAFE)}
    webhook(agency, DOVETAIL, "someone@example.com", **values)
    run = agency.run(CAFE)
    assert succeeded([run])
    assert run.reasons["reply_id_taken"] == 1
    assert agency.rows(CAFE) == {key: each for key, each in agency.oracle(CAFE).items() if key != email}
    assert run.verification is not None
    assert (run.verification["explained"], run.verification["passed"]) == (1, True)


@pytest.mark.parametrize("deferrable", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_where_reply_ids_are_unique_over_all_instances_equal_ones_are_conflicts(
    agency: Agency, deferrable: str
) -> None:
    agency.execute("ALTER TABLE client_leads DROP CONSTRAINT client_leads_bison_instance_bison_reply_id_key")
    agency.execute(f"ALTER TABLE client_leads ADD UNIQUE (bison_reply_id) {deferrable}")
    for _ in range(2):
        assert succeeded(agency.run_all(*EVERYBODY))
    ids = [row["bison_reply_id"] for row in everything(agency)]
    assert len(set(ids)) == len(ids)
    wanted = {row["bison_reply_id"] for key in EVERYBODY for row in agency.oracle(key).values()}
    assert set(ids) == wanted
    assert len(ids) < sum(len(agency.oracle(key)) for key in EVERYBODY)


def test_two_instances_loaded_at_once_under_such_a_key_lose_only_what_is_taken(agency: Agency) -> None:
    # Neither plan can see the other's rows: the database refuses, and one bad row never takes its batch with it.
    agency.execute("ALTER TABLE client_leads ADD UNIQUE (bison_reply_id) DEFERRABLE INITIALLY DEFERRED")
    assert succeeded(agency.run_all(*EVERYBODY, steps=DRY_RUN))
    runs = agency.run_all(*EVERYBODY, steps=LOAD_ONLY)
    assert succeeded(runs)
    ids = [row["bison_reply_id"] for key in EVERYBODY for row in agency.oracle(key).values()]
    taken = len(ids) - len(set(ids))
    assert taken
    assert sum(run.reasons.get("reply_id_taken", 0) for run in runs.values()) == taken
    assert agency.written() == len(set(ids))


def test_a_year_that_no_calendar_has_is_left_alone_and_stops_nobody_else(agency: Agency) -> None:
    email = next(iter(agency.oracle(CAFE)))
    webhook(agency, CAFE, email, interested_at="20240-05-01", interested=True)
    run = agency.run(CAFE)
    assert succeeded([run])
    assert run.reasons["stale"] == 1
    assert agency.written() == len(agency.oracle(CAFE))
    (row,) = agency.query("SELECT extract(year FROM max(interested_at)) AS year FROM client_leads")
    assert row["year"] == 20240


def test_a_table_with_columns_keys_and_triggers_of_its_own(agency: Agency) -> None:
    for statement in (
        (
            "ALTER TABLE client_leads ADD airtable_id text, ADD premium boolean NOT NULL DEFAULT false,"
            " ADD custom_variables jsonb, ADD bison_reply_uuid uuid, ALTER interested DROP NOT NULL"
        ),
        "CREATE UNIQUE INDEX ON client_leads (airtable_id) WHERE airtable_id IS NOT NULL",
        "CREATE UNIQUE INDEX ON client_leads (bison_reply_id, bison_instance) WHERE bison_reply_id IS NOT NULL",
        (
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN NEW.updated_at = clock_timestamp(); RETURN NEW; END'"
        ),
        "CREATE TRIGGER touch BEFORE UPDATE ON client_leads FOR EACH ROW EXECUTE FUNCTION touch()",
    ):
        agency.execute(statement)
    email = next(iter(agency.oracle(CAFE)))
    webhook(agency, CAFE, email, interested=None, airtable_id="rec1", premium=True)
    assert succeeded([agency.run(CAFE)])
    assert agency.rows(CAFE) == agency.oracle(CAFE)
    before = everything(agency)
    assert agency.run(CAFE).counts["applied"] == 0
    assert everything(agency) == before


def test_the_table_may_have_other_names(agency: Agency) -> None:
    agency.execute("CREATE SCHEMA crm")
    agency.execute("ALTER TABLE client_leads SET SCHEMA crm")
    agency.execute('ALTER TABLE crm.client_leads RENAME TO "ClientLead"')
    agency.execute('ALTER TABLE crm."ClientLead" RENAME lead_email TO "leadEmail"')

    def edit(document: Document) -> None:
        override = {"name": "ClientLead", "schema": "crm", "columns": {"lead_email": "leadEmail"}}
        document["tables"] = {"client_leads": override}

    agency.edit = edit
    assert succeeded([agency.run(DOVETAIL)])
    stored = agency.query('SELECT "leadEmail" AS email FROM crm."ClientLead"')
    assert {row["email"].strip().lower() for row in stored} == set(agency.oracle(DOVETAIL))


# --- what others write between plan and load --------------------------------------------------------------------------


def test_what_the_webhook_writes_between_plan_and_load_stands_and_the_next_run_settles(agency: Agency) -> None:
    created, respelled, moved, gone, *_ = agency.oracle(CAFE)
    for email in (moved, gone):
        webhook(agency, CAFE, email)
    assert succeeded([agency.run(CAFE, steps=DRY_RUN)])
    webhook(agency, CAFE, created, first_name="Webhook", interested=True)
    webhook(agency, CAFE, f" {respelled.upper()}\u00a0", first_name="Webhook")
    agency.execute("UPDATE client_leads SET interested_at = '2020-01-01' WHERE lead_email = :email", email=moved)
    agency.execute("UPDATE client_leads SET deleted_at = now() WHERE lead_email = :email", email=gone)
    before = everything(agency)

    run = agency.run(CAFE, steps=LOAD_ONLY)
    assert succeeded([run])
    assert run.reasons["stale"] == 4
    assert run.counts["conflict"] == 4
    assert [row for row in everything(agency) if row["id"] in {each["id"] for each in before}] == before

    again = agency.run(CAFE)
    assert succeeded([again])
    assert (again.counts["create"], again.counts["update"], again.counts["applied"]) == (0, 3, 3)
    rows = agency.rows(CAFE)
    assert set(rows) == set(agency.oracle(CAFE))
    assert {rows[email]["first_name"] for email in (created, respelled)} == {"Webhook"}
    assert rows[moved]["interested_at"].year == 2020
    assert agency.run(CAFE).counts["applied"] == 0


def test_the_webhooks_uncommitted_insert_is_waited_for_and_not_doubled(agency: Agency) -> None:
    email = next(iter(agency.oracle(DOVETAIL).values()))["lead_email"]
    assert succeeded([agency.run(DOVETAIL, steps=DRY_RUN)])
    with agency.database.connect() as in_flight, ThreadPoolExecutor(1) as threads:
        in_flight.execute(
            text("INSERT INTO client_leads (workspace_name, lead_email, notes) VALUES (:name, :email, 'theirs')"),
            {"name": agency.name_of(DOVETAIL), "email": email},
        )
        loading = threads.submit(agency.run, DOVETAIL, steps=LOAD_ONLY)
        while not agency.query("SELECT 1 FROM pg_locks WHERE NOT granted") and not loading.done():
            pass
        in_flight.commit()
        run = loading.result()
    assert succeeded([run])
    assert run.reasons == {**run.reasons, "stale": 1}
    assert agency.written() == len(agency.oracle(DOVETAIL))
    assert succeeded([agency.run(DOVETAIL)])
    assert agency.rows(DOVETAIL) == agency.oracle(DOVETAIL)


# --- what the table must be like --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("ALTER TABLE client_leads RENAME TO leads_of_clients", "missing_table", "client_leads"),
        ("ALTER TABLE client_leads DROP COLUMN phone", "missing_column", "phone"),
        (
            "ALTER TABLE client_leads DROP CONSTRAINT client_leads_lead_email_workspace_name_key",
            "missing_unique_key",
            "ADD UNIQUE (lead_email, workspace_name)",
        ),
        (
            (
                "ALTER TABLE client_leads DROP CONSTRAINT client_leads_lead_email_workspace_name_key,"
                " ADD UNIQUE (lead_email, workspace_name) DEFERRABLE"
            ),
            "missing_unique_key",
            "ADD UNIQUE (lead_email, workspace_name)",
        ),
        ("ALTER TABLE client_leads ADD owner text NOT NULL", "unfilled_column", "owner"),
    ],
)
def test_a_table_that_does_not_fit_is_told_before_anything_is_asked_for(
    agency: Agency, statement: str, code: str, said: str
) -> None:
    agency.execute(statement)
    run = agency.run(DOVETAIL)
    assert failure(run) == (State.FAILED, code, False)
    assert said in (run.error_message or "")
    assert agency.server.requests == []


@pytest.fixture
def role(agency: Agency, administration: Engine) -> Iterator[str]:
    """A role of the server that may use our own schema and nothing else."""
    name = f"role_{uuid.uuid4().hex[:12]}"
    agency.execute(f"CREATE ROLE {name} LOGIN")
    agency.execute(f"GRANT USAGE ON SCHEMA backfill TO {name}")
    agency.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA backfill TO {name}")
    yield name
    agency.execute(f"DROP OWNED BY {name}")
    with administration.connect() as connection:
        connection.execute(text(f"DROP ROLE {name}"))


def run_as(agency: Agency, role: str) -> Any:
    url = make_url(agency.database_url.get_secret_value()).set(username=role)
    return agency.run(DOVETAIL, url=SecretStr(url.render_as_string(hide_password=False)))


def test_a_role_that_may_only_read_is_told_what_it_lacks(agency: Agency, role: str) -> None:
    agency.execute(f"GRANT SELECT ON client_leads TO {role}")
    run = run_as(agency, role)
    assert failure(run) == (State.FAILED, "missing_privilege", False)
    assert "GRANT INSERT" in (run.error_message or "")
    assert (agency.server.requests, agency.written()) == ([], 0)


def test_a_role_that_row_level_security_blinds_does_not_create_everything_again(agency: Agency, role: str) -> None:
    assert succeeded([agency.run(DOVETAIL)])
    agency.execute(f"GRANT SELECT, INSERT, UPDATE ON client_leads TO {role}")
    agency.execute("ALTER TABLE client_leads ENABLE ROW LEVEL SECURITY")
    agency.execute(f"CREATE POLICY mine ON client_leads TO {role} USING (pipeline_stage = 'x') WITH CHECK (true)")
    before = everything(agency)
    assert failure(run_as(agency, role)) == (State.FAILED, "row_level_security", False)
    assert everything(agency) == before
    agency.execute(f"CREATE POLICY everything ON client_leads TO {role} USING (true) WITH CHECK (true)")
    assert succeeded([run_as(agency, role)])
    assert everything(agency) == before
