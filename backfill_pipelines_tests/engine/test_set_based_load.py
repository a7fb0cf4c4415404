"""Loading set-based into a real `client_leads`: what is written, and what gives way to a record that moved."""

from __future__ import annotations

from typing import Any

import pytest

from backfill_pipelines.engine.plan import Action
from backfill_pipelines.errors import InterruptedRunError
from backfill_pipelines_tests.engine.client_leads_rows import LONG_AGO, WORKSPACE, ClientLeads, create, update

APPLIED = ("applied", None)
STALE = ("conflict", "stale")


def test_a_create_makes_the_row_as_planned_and_journals_its_id(leads: ClientLeads) -> None:
    run_id = leads.planned_and_loaded([create(1, first_name="Ada", interested_at="2024-05-01T10:00:00.000001+00:00")])

    (row,) = leads.rows()
    assert (row["lead_email"], row["first_name"], row["interested"]) == ("Lead1@example.com", "Ada", True)
    assert row["interested_at"].isoformat() == "2024-05-01T10:00:00.000001+00:00"
    journalled = leads.execute(
        "SELECT state, record_id, fingerprint IS NOT NULL, applied_at IS NOT NULL FROM backfill.change"
    )
    assert journalled == [("applied", str(row["id"]), True, True)]
    assert leads.outcomes(run_id) == [APPLIED]


def test_an_update_writes_the_planned_columns_and_updated_at_and_no_other(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com", first_name="Ada", notes="call back", pipeline_stage="won")

    leads.planned_and_loaded([update(row, company="Engines Ltd", interested=True)])

    after = leads.row(row["id"])
    assert after["updated_at"] > LONG_AGO
    assert after == row | {"company": "Engines Ltd", "interested": True, "updated_at": after["updated_at"]}


def test_a_planned_null_is_written_as_null(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com", company="Engines Ltd")
    leads.planned_and_loaded([update(row, company=None)])
    assert leads.row(row["id"])["company"] is None


def test_rows_that_are_no_create_or_update_are_never_executed(leads: ClientLeads) -> None:
    target, key, _, _, _, after = create(1)
    run_id = leads.planned_and_loaded(
        [
            (target, key, Action.CONFLICT, "reply_id_taken", None, after),
            (target, key, Action.REJECT, "invalid_email", None, after),
        ]
    )
    assert leads.rows() == []
    assert leads.outcomes(run_id) == [("planned", None), ("planned", None)]


def test_loading_a_plan_twice_changes_nothing_the_second_time(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.planned_and_loaded([create(1), update(row, company="Engines Ltd")])
    rows, outcomes = leads.rows(), leads.outcomes(run_id)

    leads.load(run_id)

    assert (leads.rows(), leads.outcomes(run_id)) == (rows, outcomes)


def test_a_limit_executes_the_first_rows_and_leaves_the_rest_planned(leads: ClientLeads) -> None:
    run_id = leads.plan([create(number) for number in range(5)])
    leads.load(run_id, limit=2)
    assert leads.outcomes(run_id) == [APPLIED] * 2 + [("planned", None)] * 3
    leads.load(run_id, limit=None)
    assert leads.outcomes(run_id) == [APPLIED] * 5


def test_a_load_that_is_asked_to_stop_keeps_whole_batches_and_goes_on_where_it_stopped(leads: ClientLeads) -> None:
    small = leads.in_batches_of(2)
    run_id = small.plan([create(number) for number in range(5)])
    seen: list[int] = []

    def stop_before_the_second_batch() -> None:
        seen.append(len(leads.rows()))
        if len(seen) == 2:
            raise InterruptedRunError("interrupted", "Stopped.")

    with pytest.raises(InterruptedRunError):
        small.load(run_id, safe_point=stop_before_the_second_batch)
    assert seen == [0, 2]
    assert leads.outcomes(run_id) == [APPLIED] * 2 + [("planned", None)] * 3

    small.load(run_id)
    assert leads.outcomes(run_id) == [APPLIED] * 5
    assert len(leads.rows()) == 5


# --- compare-and-set: whoever moved a record between plan and load has the last word ---------------------------------


@pytest.mark.parametrize(
    "moved",
    [
        pytest.param({"company": "Looms Inc"}, id="a planned column was changed"),
        pytest.param({"deleted_at": LONG_AGO}, id="the row was tombstoned"),
    ],
)
def test_an_update_gives_way_to_a_row_that_moved(leads: ClientLeads, moved: dict[str, Any]) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.plan([update(row, company="Engines Ltd", interested=True)])
    leads.change(row["id"], **moved)
    as_moved = leads.row(row["id"])

    leads.load(run_id)

    assert leads.outcomes(run_id) == [STALE]
    assert leads.row(row["id"]) == as_moved


def test_an_update_does_not_mind_a_change_of_a_column_that_it_leaves_alone(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.plan([update(row, company="Engines Ltd")])
    leads.change(row["id"], notes="rang twice", first_name="Ada")

    leads.load(run_id)

    after = leads.row(row["id"])
    assert (after["company"], after["notes"], after["first_name"]) == ("Engines Ltd", "rang twice", "Ada")


def test_an_update_of_a_row_that_was_deleted_is_stale_and_does_not_bring_it_back(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.plan([update(row, company="Engines Ltd")])
    leads.delete(row["id"])
    leads.load(run_id)
    assert (leads.outcomes(run_id), leads.rows()) == ([STALE], [])


@pytest.mark.parametrize("spelling", ["Lead1@example.com", "LEAD1@Example.com", "  lead1@example.com "])
def test_a_create_gives_way_to_a_row_that_came_up_for_the_lead_in_any_spelling(
    leads: ClientLeads, spelling: str
) -> None:
    run_id = leads.plan([create(1), create(2)])
    row = leads.insert(lead_email=spelling, notes="from the webhook")

    leads.load(run_id)

    assert leads.outcomes(run_id) == [STALE, APPLIED]
    assert leads.row(row["id"]) == row
    assert len(leads.rows()) == 2


def test_a_create_does_not_mind_the_same_address_of_another_workspace(leads: ClientLeads) -> None:
    leads.insert(lead_email="Lead1@example.com", workspace_name="Elsewhere")
    run_id = leads.planned_and_loaded([create(1)])
    assert leads.outcomes(run_id) == [APPLIED]
    assert {row["workspace_name"] for row in leads.rows()} == {WORKSPACE, "Elsewhere"}


def test_two_plan_rows_for_one_key_make_one_row_and_one_conflict(leads: ClientLeads) -> None:
    run_id = leads.planned_and_loaded([create(1), create(1, bison_reply_id=7), create(2)])
    assert sorted(leads.outcomes(run_id), key=str) == [APPLIED, APPLIED, STALE]
    assert len(leads.rows()) == 2


def test_two_plan_rows_for_one_record_make_one_update_and_one_conflict(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.planned_and_loaded([update(row, company="Engines Ltd"), update(row, company="Looms Inc")])
    assert sorted(leads.outcomes(run_id), key=str) == [APPLIED, STALE]


def test_a_row_whose_key_a_trigger_spells_anew_is_journalled_as_applied(own_leads: ClientLeads) -> None:
    own_leads.execute(
        "CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.lead_email := lower(NEW.lead_email); RETURN NEW; END $$"
    )
    own_leads.execute("CREATE TRIGGER tidy BEFORE INSERT ON client_leads FOR EACH ROW EXECUTE FUNCTION tidy()")

    run_id = own_leads.planned_and_loaded([create(1)])

    assert [row["lead_email"] for row in own_leads.rows()] == ["lead1@example.com"]
    assert own_leads.outcomes(run_id) == [APPLIED]
    assert own_leads.undo(run_id) == {None: 1}
    assert own_leads.rows() == []


def test_a_row_that_a_trigger_swallows_is_a_conflict(own_leads: ClientLeads) -> None:
    own_leads.execute("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
    own_leads.execute("CREATE TRIGGER swallow BEFORE INSERT ON client_leads FOR EACH ROW EXECUTE FUNCTION swallow()")
    run_id = own_leads.planned_and_loaded([create(1)])
    assert (own_leads.outcomes(run_id), own_leads.rows()) == ([STALE], [])
