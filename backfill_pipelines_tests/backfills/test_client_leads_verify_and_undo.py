"""Source against target after somebody has been at the table, and taking a run back."""

from __future__ import annotations

from typing import Any

import pytest

from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines_tests.backfills.agency import AMBER, CAFE, Agency, failure, succeeded


def result(run: Run) -> dict[str, Any]:
    assert succeeded([run])
    assert run.verification is not None
    return {name: run.verification[name] for name in ("missing", "extra", "different", "explained", "passed")}


EQUAL = {"missing": 0, "extra": 0, "different": 0, "explained": 0, "passed": True}


def everything(agency: Agency) -> list[dict[str, Any]]:
    return agency.query("SELECT * FROM client_leads ORDER BY id")


@pytest.fixture
def loaded(agency: Agency) -> Run:
    run = agency.run(CAFE)
    assert result(run) == EQUAL
    return run


# --- verify -----------------------------------------------------------------------------------------------------------


def test_what_people_own_and_what_is_newer_than_the_source_makes_no_difference(agency: Agency, loaded: Run) -> None:
    agency.execute(
        "UPDATE client_leads SET notes = 'x', pipeline_stage = 'y', first_name = 'Changed', company = 'Changed',"
        " lead_email = ' ' || upper(lead_email), interested_at = '2001-01-01', bison_reply_id = bison_reply_id + 100000"
    )
    assert result(agency.verify(CAFE)) == EQUAL


def test_a_row_that_the_database_refused_is_missing(agency: Agency) -> None:
    address = min(agency.oracle(CAFE))
    agency.execute(f"ALTER TABLE client_leads ADD CHECK (lead_email <> '{address}')")
    run = agency.run(CAFE)
    assert run.counts["failed"] == 1
    assert result(run) == result(agency.verify(CAFE)) == {**EQUAL, "missing": 1, "passed": False}


def add_row(email: str, interested: bool) -> str:
    return (
        "INSERT INTO client_leads (workspace_name, lead_email, interested)"
        f" SELECT workspace_name, {email}, {interested} FROM client_leads WHERE id = :id"
    )


MISSING = (
    "DELETE FROM client_leads WHERE id = :id",
    "UPDATE client_leads SET workspace_name = 'Another' WHERE id = :id",
    "UPDATE client_leads SET lead_email = NULL WHERE id = :id",
)
DIFFERENT = (
    "UPDATE client_leads SET interested = false WHERE id = :id",
    "UPDATE client_leads SET interested_at = '9999-12-31' WHERE id = :id",
    "UPDATE client_leads SET interested_at = NULL WHERE id = :id",
    "UPDATE client_leads SET bison_reply_id = 1 WHERE id = :id",
    "UPDATE client_leads SET bison_reply_id = NULL WHERE id = :id",
    "UPDATE client_leads SET last_name = ' ' WHERE id = :id",
)
EXPLAINED = ("UPDATE client_leads SET deleted_at = now() WHERE id = :id", add_row("upper(lead_email) || ' '", True))
EXTRA = (add_row("'walk-in@example.com'", True),)
NO_MATTER = (add_row("'silent@example.com'", False), add_row("NULL", True))


def test_verification_sees_what_somebody_did_to_each_row(agency: Agency, loaded: Run) -> None:
    rows = agency.query("SELECT id, bison_reply_id AS reply FROM client_leads WHERE last_name > '' ORDER BY id")
    reply_ids: dict[tuple[str, ...], set[str]] = {}
    for kind in (MISSING, DIFFERENT, EXPLAINED, EXTRA, NO_MATTER):
        touched = [rows.pop() for _ in kind]
        reply_ids[kind] = {str(row["reply"]) for row in touched}
        for statement, row in zip(kind, touched, strict=True):
            agency.execute(statement, id=row["id"])
    before = everything(agency)
    run = agency.verify(CAFE)
    assert result(run) == {
        "missing": len(MISSING),
        "different": len(DIFFERENT),
        "explained": len(EXPLAINED),
        "extra": len(EXTRA),
        "passed": False,
    }
    assert everything(agency) == before
    (walk_in,) = agency.query("SELECT id FROM client_leads WHERE lead_email = 'walk-in@example.com'")
    assert run.verification is not None
    assert {name: set(ids) for name, ids in run.verification["examples"].items()} == {
        "missing_reply_ids": reply_ids[MISSING],
        "different_reply_ids": reply_ids[DIFFERENT],
        "extra_row_ids": {str(walk_in["id"])},
    }
    assert run.verification["figures"]["source leads"] == len(agency.oracle(CAFE))


def test_a_reply_that_lost_its_mark_leaves_an_extra_row_that_is_no_error(agency: Agency, loaded: Run) -> None:
    row = max(agency.rows(CAFE).values(), key=lambda each: each["bison_reply_id"])
    for reply in agency.bison.state.world.client(CAFE)[1].replies:
        if reply.lead_id == row["bison_lead_id"] or reply.id == row["bison_reply_id"]:
            agency.bison.state.mark(CAFE, reply.id, interested=False)
    found = result(agency.verify(CAFE))
    assert found["extra"] == len(set(agency.rows(CAFE)) - set(agency.oracle(CAFE))) >= 1
    assert found == {**EQUAL, "extra": found["extra"]}
    again = agency.run(CAFE)
    assert (again.counts["applied"], len(agency.rows(CAFE))) == (0, loaded.counts["create"])


def test_a_verification_of_another_clients_data_fails_and_says_why(agency: Agency, loaded: Run) -> None:
    agency.server.add_faults([{"kind": "wrong_workspace", "serve": AMBER, "workspace": CAFE, "path": "/replies"}])
    run = agency.verify(CAFE)
    assert failure(run) == (State.FAILED, "foreign_rows", False)
    assert run.verification is None


def test_a_verification_leaves_no_trace_for_the_next_run(agency: Agency, loaded: Run) -> None:
    agency.bison.state.add_reply(CAFE)
    assert result(agency.verify(CAFE))["passed"] is False
    run = agency.run(CAFE)
    assert run.counts["applied"] == 1
    assert result(agency.verify(CAFE))["passed"] is True


# --- undo -------------------------------------------------------------------------------------------------------------


def with_webhook_rows(agency: Agency) -> list[dict[str, Any]]:
    """Half of the leads have a row, as far as the webhook fills one."""
    for position, (email, row) in enumerate(agency.oracle(CAFE).items()):
        if position % 2:
            agency.execute(
                "INSERT INTO client_leads (workspace_name, lead_email, bison_lead_id, notes, updated_at)"
                " VALUES (:name, :email, :lead, 'by hand', '2026-01-01T00:00:00.123456Z')",
                name=row["workspace_name"],
                email=email.upper(),
                lead=row["bison_lead_id"],
            )
    return everything(agency)


def test_undo_restores_the_table_exactly(agency: Agency) -> None:
    before = with_webhook_rows(agency)
    run = agency.run(CAFE)
    assert run.counts["create"] > 0
    assert run.counts["update"] > 0
    assert everything(agency) != before
    undone = agency.undo(run)
    assert (undone.undone, undone.conflict) == (run.counts["applied"], 0)
    assert everything(agency) == before
    assert succeeded([agency.run(CAFE)])
    assert set(agency.rows(CAFE)) == set(agency.oracle(CAFE))


def test_undo_leaves_what_people_have_changed_since(agency: Agency) -> None:
    with_webhook_rows(agency)
    run = agency.run(CAFE)
    created, updated = (
        next(row["record_id"] for row in agency.changes(run.id) if row["action"] == action)
        for action in ("create", "update")
    )
    agency.execute("UPDATE client_leads SET notes = 'called' WHERE id = CAST(:id AS uuid)", id=created)
    agency.execute(
        "UPDATE client_leads SET phone = '555-0100', interested = true WHERE id = CAST(:id AS uuid)", id=updated
    )
    undone = agency.undo(run)
    assert undone.undone + undone.conflict == run.counts["applied"]
    rows = {str(row["id"]): row for row in everything(agency)}
    assert rows[created]["notes"] == "called"
    assert (rows[updated]["phone"], rows[updated]["interested"], rows[updated]["bison_reply_id"]) == (
        "555-0100",
        False,
        None,
    )


def test_an_undone_run_is_planned_again_as_if_it_had_not_been(agency: Agency) -> None:
    first = agency.run(CAFE)
    agency.undo(first)
    second = agency.run(CAFE)
    assert second.plan_hash == first.plan_hash
    assert agency.rows(CAFE) == agency.oracle(CAFE)
