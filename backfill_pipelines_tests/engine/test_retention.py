"""Forgetting personal values after the time that the registry allows, and nothing else."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from backfill_pipelines.engine.retention import delete_personal_values
from backfill_pipelines_tests.engine.client_leads_rows import ClientLeads, create, update

NOTHING = dict.fromkeys(
    (
        "change",
        "bison_reply",
        "bison_lead",
        "clerk_user",
        "attio_person",
        "convex_user",
        "ghl_contact",
        "ghl_lookup",
    ),
    0,
)


def record_run(leads: ClientLeads, *, days_ago: int, run_id: UUID | None = None, key: str = "kim") -> None:
    leads.execute(
        "INSERT INTO backfill.run (id, backfill, partition_key, mode, state, started_at)"
        " VALUES (%s, 'client_leads', %s, 'load', 'succeeded', now() - make_interval(days => %s))",
        (run_id or uuid4(), key, days_ago),
    )


def land(leads: ClientLeads, key: str = "kim") -> None:
    leads.execute(
        "INSERT INTO backfill.bison_reply (partition_key, reply_id, instance, known, from_name, from_email_address)"
        " VALUES (%s, 7, 'mail.example.com', true, 'Ada', 'ada@example.com')",
        (key,),
    )
    leads.execute(
        "INSERT INTO backfill.bison_lead (partition_key, lead_id, known, email)"
        " VALUES (%s, 3, true, 'ada@example.com')",
        (key,),
    )


def test_an_old_runs_values_are_blanked_and_what_happened_stays(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="old@example.com")
    run_id = leads.planned_and_loaded([create(1, first_name="Ada"), update(row, company="Engines Ltd")])
    record_run(leads, days_ago=91, run_id=run_id)
    before = leads.rows()

    assert delete_personal_values(leads.engine, older_than_days=90) == NOTHING | {"change": 2}

    kept = leads.execute(
        "SELECT record_key, before, after, fingerprint, error_code, state, action, record_id IS NOT NULL,"
        " applied_at IS NOT NULL FROM backfill.change ORDER BY seq"
    )
    forgotten = ("forgotten", None, None, None, "forgotten", "applied")
    assert kept == [(*forgotten, "create", True, True), (*forgotten, "update", True, True)]
    assert leads.rows() == before


def test_what_is_young_enough_stays_as_it_is(leads: ClientLeads) -> None:
    run_id = leads.planned_and_loaded([create(1)])
    record_run(leads, days_ago=89, run_id=run_id)
    land(leads)
    assert delete_personal_values(leads.engine, older_than_days=90) == NOTHING
    assert leads.undo(run_id) == {None: 1}


def test_forgetting_again_finds_nothing_more(leads: ClientLeads) -> None:
    record_run(leads, days_ago=91, run_id=leads.planned_and_loaded([create(1)]))
    land(leads)
    assert delete_personal_values(leads.engine, older_than_days=90) == NOTHING | {
        "change": 1,
        "bison_reply": 1,
        "bison_lead": 1,
    }
    assert delete_personal_values(leads.engine, older_than_days=90) == NOTHING


def test_a_partition_without_a_recent_run_loses_what_it_landed_but_for_the_ids(leads: ClientLeads) -> None:
    land(leads, "kim")
    land(leads, "lee")
    record_run(leads, days_ago=91, key="kim")
    record_run(leads, days_ago=91, key="lee")
    record_run(leads, days_ago=1, key="lee")

    assert delete_personal_values(leads.engine, older_than_days=90) == NOTHING | {"bison_reply": 1, "bison_lead": 1}

    replies = leads.execute(
        "SELECT partition_key, reply_id, from_name, from_email_address FROM backfill.bison_reply ORDER BY 1"
    )
    assert replies == [("kim", 7, None, None), ("lee", 7, "Ada", "ada@example.com")]
    assert leads.execute("SELECT partition_key FROM backfill.bison_lead") == [("lee",)]


@pytest.mark.parametrize("days", [0, 1])
def test_a_plan_that_may_still_be_loaded_is_not_forgotten(leads: ClientLeads, days: int) -> None:
    """A run that was parked for a day: begun long ago, planned a moment ago."""
    run_id = leads.plan([create(1)])
    record_run(leads, days_ago=2, run_id=run_id)
    with leads.engine.begin() as connection:
        connection.execute(text("UPDATE backfill.run SET planned_at = now() - interval '23 hours'"))
    assert delete_personal_values(leads.engine, older_than_days=days)["change"] == 0
    leads.load(run_id)
    assert leads.outcomes(run_id) == [("applied", None)]


def test_a_workspace_without_a_recent_run_loses_the_people_it_landed(leads: ClientLeads) -> None:
    for key, days_ago in (("acme", 91), ("bolt", 1)):
        record_run(leads, days_ago=days_ago, key=key)
        leads.execute(
            "INSERT INTO backfill.clerk_user (partition_key, user_id, sweep, primary_email, verified_emails, banned)"
            " VALUES (%s, 'user_1', 1, 'ada@example.com', '[]', false)",
            (key,),
        )
        leads.execute(
            "INSERT INTO backfill.attio_person (partition_key, record_id, addresses, user_ids)"
            """ VALUES (%s, 'r', '["ada@example.com"]', '[]')""",
            (key,),
        )
        leads.execute(
            "INSERT INTO backfill.convex_user (partition_key, document_id, fields)"
            """ VALUES (%s, 'd', '{"email": "ada@example.com"}')""",
            (key,),
        )
    expected = NOTHING | {"clerk_user": 1, "attio_person": 1, "convex_user": 1}
    assert delete_personal_values(leads.engine, older_than_days=90) == expected
    for table in ("clerk_user", "attio_person", "convex_user"):
        assert leads.execute(f"SELECT partition_key FROM backfill.{table}") == [("bolt",)]


def test_a_client_without_a_recent_run_loses_the_contacts_that_it_landed(leads: ClientLeads) -> None:
    for key, days_ago in (("kim", 91), ("lee", 1)):
        record_run(leads, days_ago=days_ago, key=key)
        leads.execute(
            "INSERT INTO backfill.ghl_contact (partition_key, contact_id, sweep, email, additional_emails,"
            " names_lowercased) VALUES (%s, 'c1', 1, 'ada@example.com', '[]', false)",
            (key,),
        )
        leads.execute("INSERT INTO backfill.ghl_lookup VALUES (%s, 'ada@example.com', 1, 'searched')", (key,))
    deleted = delete_personal_values(leads.engine, older_than_days=90)
    assert (deleted["ghl_contact"], deleted["ghl_lookup"]) == (1, 1)
    for table in ("ghl_contact", "ghl_lookup"):
        assert leads.execute(f"SELECT partition_key FROM backfill.{table}") == [("lee",)]
        leads.execute(f"DELETE FROM backfill.{table}")
