"""Rows that the database refuses: each fails alone, with a code, whatever else is in its batch."""

from __future__ import annotations

from typing import Any

import pytest

from backfill_pipelines.errors import DataError, TransientError
from backfill_pipelines_tests.engine.client_leads_rows import ClientLeads, create, update

APPLIED = ("applied", None)
TAKEN = ("conflict", "reply_id_taken")
INCOMPRESSIBLE = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(3000))
RAISES = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NEW; END $$"
REFUSES = "CREATE TRIGGER refuse BEFORE INSERT ON client_leads FOR EACH ROW EXECUTE FUNCTION refuse()"


@pytest.mark.parametrize(
    ("preparation", "bad", "code"),
    [
        pytest.param(
            ["ALTER TABLE client_leads ALTER company TYPE varchar(10)"],
            {"company": "12345678901"},
            "sqlstate_22001",
            id="a value too long for its column",
        ),
        pytest.param(
            ["ALTER TABLE client_leads ADD CHECK (company <> 'bad')"],
            {"company": "bad"},
            "sqlstate_23514",
            id="a broken check constraint",
        ),
        pytest.param(
            ["ALTER TABLE client_leads ALTER first_name SET NOT NULL"],
            {"first_name": None},
            "sqlstate_23502",
            id="nothing in a column that wants something",
        ),
        pytest.param(
            [RAISES.format("IF NEW.company = 'bad' THEN RAISE 'not %', NEW.company; END IF;"), REFUSES],
            {"company": "bad"},
            "sqlstate_p0001",
            id="a trigger that raises",
        ),
        pytest.param(
            [
                RAISES.format("IF NEW.company = 'bad' THEN RAISE 'no' USING ERRCODE = 'U0042'; END IF;"),
                REFUSES,
            ],
            {"company": "bad"},
            "sqlstate_u0042",
            id="a trigger that raises a code of its own",
        ),
        pytest.param(
            [], {"bison_reply_id": "1180591620717411303424"}, "sqlstate_22003", id="a number too large for its column"
        ),
        pytest.param([], {"interested_at": "yesterday-ish"}, "sqlstate_22007", id="a time that is none"),
        pytest.param([], {"lead_email": INCOMPRESSIBLE}, "sqlstate_54000", id="a value too long for its index"),
    ],
)
def test_one_bad_row_of_a_thousand_fails_alone(
    own_leads: ClientLeads, preparation: list[str], bad: dict[str, Any], code: str
) -> None:
    for statement in preparation:
        own_leads.execute(statement)
    rows = [create(number, first_name="Ada") for number in range(1000)]
    rows[617] = create(617, **({"first_name": "Ada"} | bad))

    run_id = own_leads.planned_and_loaded(rows)

    outcomes = own_leads.outcomes(run_id)
    assert outcomes.pop(617) == ("failed", code)
    assert set(outcomes) == {APPLIED}
    assert len(own_leads.rows()) == 999


def test_a_bad_update_fails_alone(own_leads: ClientLeads) -> None:
    own_leads.execute("ALTER TABLE client_leads ALTER company TYPE varchar(10)")
    rows = [own_leads.insert(lead_email=f"{number}@example.com") for number in range(8)]
    run_id = own_leads.planned_and_loaded(
        [update(row, company="much too long" if number == 5 else "fine") for number, row in enumerate(rows)]
    )
    outcomes = own_leads.outcomes(run_id)
    assert outcomes.pop(5) == ("failed", "sqlstate_22001")
    assert set(outcomes) == {APPLIED}


def test_the_text_of_a_refusal_is_journalled_nowhere(own_leads: ClientLeads) -> None:
    own_leads.execute(RAISES.format("RAISE 'canary-%', NEW.lead_email;"))
    own_leads.execute(REFUSES)
    own_leads.planned_and_loaded([create(1)])
    (error_code,) = own_leads.execute("SELECT error_code FROM backfill.change")[0]
    assert error_code == "sqlstate_p0001"


# --- a reply id that another row holds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "constraints",
    [
        pytest.param([], id="the product's deferrable key over instance and id"),
        pytest.param(
            ["ALTER TABLE client_leads ADD UNIQUE (bison_reply_id) DEFERRABLE INITIALLY DEFERRED"],
            id="a deferrable key over the id alone",
        ),
        pytest.param(["ALTER TABLE client_leads ADD UNIQUE (bison_reply_id)"], id="an immediate key over the id alone"),
        pytest.param(
            ["CREATE UNIQUE INDEX ON client_leads (bison_reply_id) WHERE deleted_at IS NULL"], id="a partial index"
        ),
    ],
)
def test_a_reply_id_that_another_row_holds_is_a_conflict_of_that_row_alone(
    own_leads: ClientLeads, constraints: list[str]
) -> None:
    for statement in constraints:
        own_leads.execute(statement)
    holder = own_leads.insert(lead_email="holder@example.com", bison_instance="mail.example.com", bison_reply_id=3)
    mover = own_leads.insert(lead_email="mover@example.com")

    run_id = own_leads.planned_and_loaded(
        [
            *(create(number) for number in range(6)),
            update(mover, bison_instance="mail.example.com", bison_reply_id=3),
        ]
    )

    outcomes = own_leads.outcomes(run_id)
    assert [outcomes.pop(6), outcomes.pop(3)] == [TAKEN, TAKEN]
    assert set(outcomes) == {APPLIED}
    assert own_leads.row(holder["id"]) == holder
    assert own_leads.row(mover["id"]) == mover


def test_two_new_rows_with_one_reply_id_make_one_row_and_one_conflict(leads: ClientLeads) -> None:
    run_id = leads.planned_and_loaded([create(1), create(2, bison_reply_id=1), create(3)])
    assert leads.outcomes(run_id) == [APPLIED, TAKEN, APPLIED]


def test_a_reply_id_that_an_update_of_the_same_plan_gives_up_is_free_for_a_create(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com", bison_instance="mail.example.com", bison_reply_id=1)
    run_id = leads.planned_and_loaded([create(1), update(row, bison_reply_id=9)])
    assert leads.outcomes(run_id) == [APPLIED, APPLIED]


def test_another_broken_unique_key_makes_the_row_stale(own_leads: ClientLeads) -> None:
    own_leads.execute("CREATE UNIQUE INDEX ON client_leads (lower(lead_email))")
    own_leads.insert(lead_email="LEAD1@example.com", workspace_name="Elsewhere")
    run_id = own_leads.planned_and_loaded([create(1), create(2)])
    assert own_leads.outcomes(run_id) == [("conflict", "stale"), APPLIED]


# --- where the whole target is the matter, not a row ------------------------------------------------------------------


def test_a_broken_trigger_stops_the_load_with_one_sentence_and_blames_no_row(own_leads: ClientLeads) -> None:
    own_leads.execute(RAISES.format("NEW.no_such_column := 1;"))
    own_leads.execute(REFUSES)
    run_id = own_leads.plan([create(number) for number in range(4)])
    with pytest.raises(DataError, match="SQLSTATE 42703") as caught:
        own_leads.load(run_id)
    assert caught.value.code == "target_refused"
    assert set(own_leads.outcomes(run_id)) == {("planned", None)}


def test_ids_that_a_trigger_changes_stop_the_load_since_the_journal_could_not_name_the_rows(
    own_leads: ClientLeads,
) -> None:
    own_leads.execute(RAISES.format("NEW.id := gen_random_uuid();"))
    own_leads.execute(REFUSES)
    run_id = own_leads.plan([create(1), create(2)])
    with pytest.raises(DataError) as caught:
        own_leads.load(run_id)
    assert caught.value.code == "target_refused"
    assert own_leads.rows() == []
    assert own_leads.outcomes(run_id) == [("planned", None)] * 2


def test_a_statement_time_limit_is_met_by_smaller_batches(own_leads: ClientLeads) -> None:
    own_leads.execute(RAISES.format("PERFORM pg_sleep(0.02);"))
    own_leads.execute(REFUSES)
    target = own_leads.target()
    (name,) = own_leads.execute("SELECT current_database()")[0]
    own_leads.execute(f'ALTER DATABASE "{name}" SET statement_timeout = 200')
    own_leads.engine.dispose()
    run_id = own_leads.plan([create(number) for number in range(20)])
    own_leads.load(run_id, target=target)
    assert set(own_leads.outcomes(run_id)) == {APPLIED}


def test_a_single_row_past_the_time_limit_may_pass_another_time(own_leads: ClientLeads) -> None:
    own_leads.execute(RAISES.format("PERFORM pg_sleep(60);"))
    own_leads.execute(REFUSES)
    target = own_leads.target()
    (name,) = own_leads.execute("SELECT current_database()")[0]
    own_leads.execute(f'ALTER DATABASE "{name}" SET statement_timeout = 100')
    own_leads.engine.dispose()
    run_id = own_leads.plan([create(1)])
    with pytest.raises(TransientError, match="57014"):
        own_leads.load(run_id, target=target)
    assert own_leads.outcomes(run_id) == [("planned", None)]
