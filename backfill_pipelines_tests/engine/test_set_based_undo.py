"""Taking a set-based load back: exactly what we wrote, and nothing that anybody has touched since."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy

from backfill_pipelines.engine.retention import delete_personal_values
from backfill_pipelines_tests.engine.client_leads_rows import LONG_AGO, ClientLeads, create, update

UNDONE = ("undone", None)
KEPT = ("applied", "changed_since")


def contents(leads: ClientLeads) -> dict[str, dict[str, Any]]:
    return {row["lead_email"]: row for row in leads.rows()}


def test_undo_restores_the_table_to_the_microsecond(leads: ClientLeads) -> None:
    rows = [
        leads.insert(lead_email=f"{number}@example.com", company=None, bison_reply_id=number) for number in range(5)
    ]
    before = contents(leads)
    run_id = leads.planned_and_loaded(
        [
            *(create(number) for number in range(100, 105)),
            *(update(row, company="Engines Ltd", interested=True, bison_reply_id=50 + n) for n, row in enumerate(rows)),
        ]
    )
    assert contents(leads) != before

    assert leads.in_batches_of(3).undo(run_id) == {None: 10}

    assert contents(leads) == before
    assert set(leads.outcomes(run_id)) == {UNDONE}


def test_a_second_undo_finds_nothing_more_to_do(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.planned_and_loaded([create(1), update(row, company="Engines Ltd")])
    leads.undo(run_id)
    before = contents(leads)
    assert leads.undo(run_id) == {}
    assert contents(leads) == before


def test_undo_takes_back_only_what_was_applied(leads: ClientLeads) -> None:
    leads.insert(lead_email="lead1@example.com", notes="the webhook's own")
    run_id = leads.planned_and_loaded([create(1), create(2)])
    assert leads.undo(run_id) == {None: 1}
    assert leads.outcomes(run_id) == [("conflict", "stale"), UNDONE]
    assert list(contents(leads)) == ["lead1@example.com"]


@pytest.mark.parametrize(
    "change",
    [
        {"notes": "rang twice"},
        {"pipeline_stage": "won"},
        {"company": "Looms Inc"},
        {"deleted_at": LONG_AGO},
        {"lead_email": "other@example.com"},
        {"first_name": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_created_row_that_anybody_has_changed_stays_and_is_reported(
    leads: ClientLeads, change: dict[str, Any]
) -> None:
    run_id = leads.planned_and_loaded([create(1), create(2)])
    row = leads.named("Lead1@example.com")
    leads.change(row["id"], **change)
    changed = leads.row(row["id"])

    assert leads.undo(run_id) == {None: 1, "changed_since": 1}

    assert leads.rows() == [changed]
    assert leads.outcomes(run_id) == [KEPT, UNDONE]


def test_a_touch_of_updated_at_alone_is_no_change(leads: ClientLeads) -> None:
    run_id = leads.planned_and_loaded([create(1)])
    leads.change(leads.named("Lead1@example.com")["id"], updated_at=LONG_AGO)
    assert leads.undo(run_id) == {None: 1}


def test_a_column_added_since_is_no_change_while_it_is_empty(own_leads: ClientLeads) -> None:
    run_id = own_leads.planned_and_loaded([create(1)])
    own_leads.execute("ALTER TABLE client_leads ADD airtable_id text")
    assert own_leads.undo(run_id) == {None: 1}


def test_each_column_of_an_update_goes_back_only_where_it_still_holds_what_we_wrote(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com", first_name=None, company="Old Ltd", interested=False)
    run_id = leads.planned_and_loaded([update(row, first_name="Ada", company="Engines Ltd", interested=True)])
    leads.change(row["id"], company="Looms Inc", notes="spoke to them")

    assert leads.undo(run_id) == {"changed_since": 1}

    after = leads.row(row["id"])
    assert after["updated_at"] > LONG_AGO
    assert after == row | {"company": "Looms Inc", "notes": "spoke to them", "updated_at": after["updated_at"]}
    assert leads.undo(run_id) == {"changed_since": 1}
    assert leads.row(row["id"]) == after


def test_a_row_that_somebody_has_put_back_by_hand_counts_as_undone(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com", company="Old Ltd")
    run_id = leads.planned_and_loaded([update(row, company="Engines Ltd")])
    leads.change(row["id"], company="Old Ltd")
    by_hand = leads.row(row["id"])
    assert leads.undo(run_id) == {None: 1}
    assert leads.row(row["id"]) == by_hand


def test_updated_at_does_not_go_back_past_somebody_elses_change(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.planned_and_loaded([update(row, company="Engines Ltd")])
    leads.execute("UPDATE client_leads SET notes = 'rang', updated_at = clock_timestamp()")
    touched = leads.row(row["id"])
    assert leads.undo(run_id) == {None: 1}
    after = leads.row(row["id"])
    assert (after["company"], after["notes"]) == (None, "rang")
    assert after["updated_at"] > touched["updated_at"]


def test_a_row_deleted_meanwhile_is_undone_where_we_made_it_and_reported_where_we_changed_it(
    leads: ClientLeads,
) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.planned_and_loaded([create(1), update(row, company="Engines Ltd")])
    leads.execute("DELETE FROM client_leads")
    assert leads.undo(run_id) == {None: 1, "changed_since": 1}
    assert leads.outcomes(run_id) == [UNDONE, KEPT]
    assert leads.rows() == []


def test_undoing_a_run_after_a_later_one_takes_back_only_what_the_later_one_left(leads: ClientLeads) -> None:
    first = leads.planned_and_loaded([create(1), create(2)])
    row = leads.named("Lead1@example.com")
    second = leads.planned_and_loaded([update(row, company="Engines Ltd")])

    assert leads.undo(first) == {None: 1, "changed_since": 1}
    assert [row["lead_email"] for row in leads.rows()] == ["Lead1@example.com"]

    assert leads.undo(second) == {None: 1}
    assert leads.undo(first) == {None: 1}
    assert leads.rows() == []


@pytest.mark.parametrize(
    "action", ["NO ACTION", "NO ACTION DEFERRABLE INITIALLY DEFERRED", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"]
)
def test_a_created_row_that_others_refer_to_stays_and_is_reported(own_leads: ClientLeads, action: str) -> None:
    own_leads.execute(
        "CREATE TABLE note (id int PRIMARY KEY, body text, lead_id uuid"
        f" REFERENCES client_leads (id) ON DELETE {action})"
    )
    run_id = own_leads.planned_and_loaded([create(number) for number in range(9)])
    row = own_leads.named("Lead4@example.com")
    own_leads.execute("INSERT INTO note VALUES (1, 'call back on Monday', %s)", (row["id"],))

    assert own_leads.in_batches_of(4).undo(run_id, dry_run=True) == {None: 8, "changed_since": 1}
    assert own_leads.in_batches_of(4).undo(run_id) == {None: 8, "changed_since": 1}

    assert own_leads.rows() == [row]
    assert own_leads.execute("SELECT body, lead_id FROM note") == [("call back on Monday", row["id"])]
    own_leads.execute("DELETE FROM note")
    assert own_leads.undo(run_id) == {None: 1}


def test_an_update_whose_undo_the_database_refuses_stays_and_can_be_undone_to_the_microsecond_later(
    own_leads: ClientLeads,
) -> None:
    row = own_leads.insert(lead_email="a@example.com", company="Old Ltd")
    run_id = own_leads.planned_and_loaded([update(row, company="Engines Ltd")])
    own_leads.execute("ALTER TABLE client_leads ADD CONSTRAINT new_rule CHECK (company <> 'Old Ltd')")
    assert own_leads.undo(run_id) == {"changed_since": 1}
    own_leads.execute("ALTER TABLE client_leads DROP CONSTRAINT new_rule")
    assert own_leads.undo(run_id) == {None: 1}
    assert own_leads.row(row["id"]) == row


def test_a_dry_run_tells_the_same_counts_and_changes_nothing(leads: ClientLeads) -> None:
    rows = [leads.insert(lead_email=f"{number}@example.com") for number in range(4)]
    run_id = leads.planned_and_loaded(
        [*(create(number) for number in range(6)), *(update(row, company="Engines Ltd") for row in rows)]
    )
    leads.change(leads.named("Lead3@example.com")["id"], notes="rang")
    leads.change(rows[2]["id"], company="Looms Inc")
    before, outcomes = contents(leads), leads.outcomes(run_id)
    small = leads.in_batches_of(3)

    told = small.undo(run_id, dry_run=True)

    assert (contents(leads), leads.outcomes(run_id)) == (before, outcomes)
    assert told == {None: 8, "changed_since": 2}
    assert small.undo(run_id) == told


def test_values_that_were_forgotten_make_a_change_one_that_cannot_be_undone(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.planned_and_loaded([create(1), update(row, company="Engines Ltd")])
    leads.execute(
        "INSERT INTO backfill.run (id, backfill, partition_key, mode, state, started_at)"
        " VALUES (%s, 'client_leads', 'harbour', 'load', 'succeeded', now() - interval '91 days')",
        (run_id,),
    )
    assert delete_personal_values(leads.engine, older_than_days=90)["change"] == 2
    before = contents(leads)
    assert leads.undo(run_id) == {"forgotten": 2}
    assert contents(leads) == before


def test_a_retried_undo_batch_counts_its_rows_once(own_leads: ClientLeads) -> None:
    run_id = own_leads.planned_and_loaded([create(number) for number in range(3)])
    own_leads.execute("CREATE SEQUENCE attempts")
    own_leads.execute(
        "CREATE FUNCTION lose_the_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('attempts') = 1 THEN RAISE 'deadlock' USING ERRCODE = '40P01'; END IF; RETURN NULL; END $$"
    )
    # Deferred: it fires when the rows are counted already.
    own_leads.execute(
        "CREATE CONSTRAINT TRIGGER lose_the_first AFTER DELETE ON client_leads DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION lose_the_first()"
    )
    assert own_leads.undo(run_id) == {None: 3}
    assert own_leads.rows() == []


@pytest.fixture
def prisma_leads(database: sqlalchemy.Engine) -> ClientLeads:
    """The same table as Prisma makes it: text ids, camel case, times without a zone and to the millisecond."""
    leads = ClientLeads(
        engine=database,
        schema="crm",
        name='Client "Leads"',
        renamed={
            "workspace_name": "workspaceName",
            "lead_email": 'lead"Email',
            "first_name": "first name",
            "bison_reply_id": "bisonReplyId",
            "bison_instance": "bisonInstance",
            "interested_at": "interestedAt",
            "updated_at": "updatedAt",
            "created_at": "createdAt",
            "deleted_at": "deletedAt",
        },
    )
    leads.execute("CREATE SCHEMA crm")
    leads.execute(
        '''
        CREATE TABLE crm."Client ""Leads""" (
            id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
            "workspaceName" varchar(80) NOT NULL, "lead""Email" varchar(254), "first name" varchar(20), company text,
            interested boolean NOT NULL DEFAULT false, "interestedAt" timestamp(3), "bisonReplyId" bigint,
            "bisonInstance" text, notes text, "deletedAt" timestamp(3),
            "createdAt" timestamp(3) NOT NULL DEFAULT now(), "updatedAt" timestamp(3) NOT NULL DEFAULT now(),
            UNIQUE ("lead""Email", "workspaceName")
        )
        '''
    )
    return leads


def test_another_schema_other_names_and_coarser_times_load_and_undo_exactly(prisma_leads: ClientLeads) -> None:
    row = prisma_leads.insert(lead_email="a@example.com", company="Old Ltd", interested_at=LONG_AGO)
    run_id = prisma_leads.planned_and_loaded(
        [
            create(1, first_name="Ada", interested_at="2024-05-01T10:00:00.123456+00:00"),
            update(row, company="Engines Ltd", interested_at="2019-05-01T10:00:00.987654+00:00"),
        ]
    )
    assert prisma_leads.outcomes(run_id) == [("applied", None)] * 2
    assert prisma_leads.named("Lead1@example.com")["interested_at"].isoformat() == "2024-05-01T10:00:00.123000"
    assert prisma_leads.row(row["id"])["company"] == "Engines Ltd"

    assert prisma_leads.undo(run_id) == {None: 2}
    assert prisma_leads.rows() == [row]


@pytest.mark.parametrize(
    "definition",
    [
        "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "bigserial PRIMARY KEY",
        "text PRIMARY KEY DEFAULT upper(gen_random_uuid()::text) || '%s 100%'",
    ],
)
def test_whatever_makes_its_ids_a_table_is_loaded_and_undone(own_leads: ClientLeads, definition: str) -> None:
    own_leads.execute("ALTER TABLE client_leads DROP COLUMN id")
    own_leads.execute(f"ALTER TABLE client_leads ADD COLUMN id {definition}")
    run_id = own_leads.planned_and_loaded([create(1), create(2)])
    (row, _) = own_leads.rows()
    second = own_leads.planned_and_loaded([update(row, company="Engines Ltd")])
    assert [*own_leads.outcomes(run_id), *own_leads.outcomes(second)] == [("applied", None)] * 3
    assert own_leads.undo(second) == {None: 1}
    assert own_leads.undo(run_id) == {None: 2}
    assert own_leads.rows() == []
