"""Whole runs of `lead_hydration`: what is written, what is compared, and what is left alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from backfill_pipelines.backfills.lead_hydration import LeadHydrationOptions
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.sandbox.gohighlevel_data import LocationHabits
from backfill_pipelines.sandbox.gohighlevel_leads import LocationOfLeads, build_location_for_leads
from backfill_pipelines.sandbox.leads_and_jobs import SeededClient
from backfill_pipelines.sandbox.leads_filling import fill_clients
from backfill_pipelines_tests.backfills.hydration_rig import (
    ACME,
    BOLT,
    CLIENT_IDS,
    DRY_RUN,
    EXTRACT_ONLY,
    LOAD_ONLY,
    LOCATIONS,
    SEARCH,
    SHOW,
    TOKENS,
    UNLIMITED,
    Document,
    Hydration,
    Row,
    Serve,
    contact,
    counts,
    location,
    succeeded,
    verified,
)

PLANNED = {
    "by_id": {("update", None), ("skip", "nothing_to_fill")},
    "gone": {("reject", "contact_gone")},
    "by_email": {("update", None)},
    "by_additional_email": {("update", None)},
    "ambiguous": {("conflict", "ambiguous_contact")},
    "not_found": {("reject", "not_found")},
    "without_key": {("skip", "no_key")},
}
ADA = contact("ada", "ada@example.com", phone="(205) 555-0111", first_name="Ada", company_name="Ash & Co")


def seeded(
    *, leads: int = 600, seed: int = 3, contacts: int | None = None, **habits: Any
) -> tuple[SeededClient, LocationOfLeads]:
    """A client's leads, and its location."""
    client = SeededClient(CLIENT_IDS[ACME], leads=leads, jobs=0, seed=seed)
    built = build_location_for_leads(
        client.leads(),
        seed=seed,
        location_id=LOCATIONS[ACME],
        token=TOKENS[ACME],
        key=ACME,
        contacts=contacts,
        habits=LocationHabits(**{"index_lag_seconds": 0.0, **habits}),
    )
    return client, built


def fill(product: Hydration, client: SeededClient) -> None:
    with product.database.begin() as connection:
        fill_clients(driver_connection(connection), [client])


def fields(row: Row) -> tuple[str | None, ...]:
    return tuple(row[name] for name in ("phone", "email", "first_name", "last_name", "company_name"))


@pytest.mark.parametrize("names", ["both", "lower_case"])
def test_every_lead_of_a_seeded_client_comes_to_what_its_location_holds(serve: Serve, names: str) -> None:
    client, built = seeded(search_names=names)
    product = serve(built.location)
    fill(product, client)
    product.configure(store_skips=True)
    before = product.leads()
    run = product.run()
    assert succeeded(run)
    after, outcomes = product.leads(), product.outcomes(run.id)
    contacts = {each.id: each for each in built.location.seeded_contacts()}
    kinds = Counter()
    for identifier, outcome in built.outcomes.items():
        if identifier not in outcomes:
            assert all(fields(before[identifier])), "complete, so not looked at"
            continue
        kinds[outcome.kind] += 1
        assert outcomes[identifier] in PLANNED[outcome.kind], identifier
        row = after[identifier]
        if outcome.contact_id is None:
            assert row == before[identifier]
            continue
        assert row["ghl_contact_id"] == outcome.contact_id
        found = contacts[outcome.contact_id]
        for name in ("first_name", "last_name", "company_name"):
            assert row[name] == (before[identifier][name] or getattr(found, name))
    assert kinds.keys() == PLANNED.keys(), "the world has every kind of lead"
    assert run.details["gohighlevel"]["way"] == "scan"
    assert run.details["linked"] == kinds["by_email"] + kinds["by_additional_email"]
    assert (run.counts["source"], run.details["eligible"]) == (sum(kinds.values()),) * 2
    assert verified(run)["passed"]
    assert verified(product.verify())["passed"]
    # Again: nothing is left to do.
    again = product.run()
    assert succeeded(again)
    assert (again.counts["update"], again.counts["applied"]) == (0, 0)
    assert product.leads() == after


@pytest.mark.parametrize("equality", ["any", "primary"])
def test_every_lead_that_is_looked_up_comes_to_the_same_or_is_left_to_a_person(serve: Serve, equality: str) -> None:
    client, built = seeded(leads=150, contacts=9_000, email_equality=equality)
    product = serve(built.location)
    fill(product, client)
    product.configure(store_skips=True)
    run = product.run()
    assert succeeded(run)
    assert run.details["gohighlevel"]["way"] == "look_ups"
    outcomes, after = product.outcomes(run.id), product.leads()
    unproven = {("conflict", "unproven_contact")}
    left = {"by_additional_email": unproven, "ambiguous": PLANNED["ambiguous"] | unproven}
    planned = PLANNED | ({} if equality == "any" else left)
    for identifier, outcome in built.outcomes.items():
        assert outcomes.get(identifier) in {None, *planned[outcome.kind]}, identifier
        if outcomes.get(identifier) == ("update", None):
            assert after[identifier]["ghl_contact_id"] == outcome.contact_id
    kinds = {built.outcomes[identifier].kind for identifier in outcomes}
    assert kinds == PLANNED.keys(), "the world has every kind of lead"
    assert verified(run)["passed"]


def test_the_log_names_who_was_not_found_by_id_alone(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    product.lead("lead-17", email="nobody@example.com", first_name="Nobody")
    with caplog.at_level("INFO"):
        assert succeeded(product.run())
    (line,) = [each for each in caplog.messages if "lead-17" in each]
    assert line == "acme: no contact was found for leads lead-17"


def test_a_dry_run_writes_nothing_and_plans_what_the_run_does(serve: Serve) -> None:
    client, built = seeded(leads=200)
    product = serve(built.location)
    fill(product, client)
    before = product.leads()
    dry = product.run(steps=DRY_RUN)
    assert succeeded(dry)
    assert product.leads() == before
    done = product.run()
    assert dry.plan_hash == done.plan_hash
    assert (dry.counts["update"], done.counts["applied"]) == (done.counts["update"],) * 2
    assert dry.details["completeness"] == done.details["completeness"], "what was planned is what came"
    assert dry.details["filled"] == done.details["filled"]


def test_a_stored_plan_is_loaded_and_verified_without_asking_again(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    before = product.seen()
    run = product.run(steps=LOAD_ONLY)
    assert (counts(run), verified(run)["passed"]) == ({"source": 1, "update": 1, "applied": 1}, True)
    assert product.seen() == before
    assert product.known("a")["ghl_contact_id"] == "ada"


def test_what_was_landed_alone_is_planned_without_asking_again(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    assert succeeded(product.run(steps=EXTRACT_ONLY))
    before = product.seen()
    assert counts(product.run())["update"] == 1
    assert product.seen() > before, "a run of all steps reads anew"


def test_the_details_tell_how_complete_leads_were_and_are(serve: Serve) -> None:
    product = serve(location(known=[ADA, contact("bo", "bo@example.com")]))
    product.lead("a", email="ada@example.com", last_name="Own")
    product.lead("b", email="nobody@example.com", phone="+12055550122")
    product.lead("c", contact="bo")
    product.lead(
        "full", contact="x", email="f@example.com", phone="1", first_name="F", last_name="F", company_name="F Ltd"
    )
    run = product.run()
    assert succeeded(run)
    assert run.counts["source"] == 3
    assert run.details["filled"] == {"phone": 1, "email": 1, "first_name": 1, "last_name": 0, "company_name": 1}
    assert (run.details["linked"], run.details["not_found"]) == (1, 1)
    assert run.details["completeness"] == {
        "records": 4,
        "before": {
            "phone": 0.5,
            "email": 0.75,
            "first_name": 0.25,
            "last_name": 0.5,
            "company_name": 0.25,
            "ghl_contact_id": 0.5,
        },
        "after": {
            "phone": 0.75,
            "email": 1.0,
            "first_name": 0.5,
            "last_name": 0.5,
            "company_name": 0.5,
            "ghl_contact_id": 0.75,
        },
    }
    day = run.details["gohighlevel"]["day"]
    assert run.details["gohighlevel"]["calls"] == product.calls().total() <= day["used"] < day["of"]


def test_the_share_that_is_left_to_others_is_a_setting(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    product.configure(reserve=0.25)
    assert product.run().details["gohighlevel"]["day"]["of"] == UNLIMITED.daily * 3 // 4


def test_updated_at_moves_with_what_is_written_and_not_without(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    product.lead("b", email="nobody@example.com")
    before = product.leads()
    assert succeeded(product.run())
    after = product.leads()
    assert after["a"]["updated_at"] > before["a"]["updated_at"]
    assert after["b"] == before["b"]


def test_phones_are_stored_in_the_form_that_the_registry_says(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.configure(phone_format="digits")
    product.lead("a", email="ada@example.com")
    assert succeeded(product.run())
    assert product.known("a")["phone"] == "2055550111"


def test_a_table_under_other_names_is_filled_too(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    product.execute('ALTER TABLE "Lead" RENAME ghl_contact_id TO "ghlContactId"')
    product.execute('ALTER TABLE "Lead" RENAME TO "CrmLead"')

    def edit(document: Document) -> None:
        document["tables"] = {"Lead": {"name": "CrmLead", "columns": {"ghl_contact_id": "ghlContactId"}}}

    product.edit = edit
    assert verified(product.run())["passed"]
    assert product.query('SELECT "ghlContactId" AS id, first_name FROM "CrmLead"') == [
        {"id": "ada", "first_name": "Ada"}
    ]


def test_a_run_may_stop_after_so_many_leads_and_the_next_one_goes_on(serve: Serve) -> None:
    known = [contact(f"c{n}", f"lead{n}@example.com") for n in range(5)]
    product = serve(location(known=known))
    for number in range(5):
        product.lead(f"l{number}", email=f"lead{number}@example.com")
    assert product.run(max_records=2).counts["applied"] == 2
    assert len([row for row in product.leads().values() if row["ghl_contact_id"]]) == 2
    assert product.run().counts["applied"] == 3


# --- people work meanwhile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "meanwhile",
    [
        {"phone": "theirs"},
        {"first_name": "Theirs"},
        {"ghl_contact_id": "theirs"},
        {"email": "else@example.com"},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_lead_that_moved_since_the_plan_is_left_alone(serve: Serve, meanwhile: dict[str, Any]) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    product.edit_lead("a", **meanwhile)
    before = product.leads()
    run = product.run(steps=LOAD_ONLY)
    assert succeeded(run)
    assert product.leads() == before
    assert (run.counts["conflict"], run.reasons["stale"]) == (1, 1)
    assert verified(run)["passed"], "left as a conflict, it explains itself"


def test_what_people_change_elsewhere_in_the_lead_does_not_hinder(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    product.edit_lead("a", last_name="Theirs")
    assert product.run(steps=LOAD_ONLY).counts["applied"] == 1
    assert product.known("a") | {"last_name": "Theirs"} == product.known("a")


def test_a_lead_that_moved_to_another_client_is_left_alone(serve: Serve) -> None:
    product = serve(location(known=[ADA]), location(BOLT))
    product.lead("a", email="ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    product.edit_lead("a", client_id=product.client(BOLT))
    assert product.run(steps=LOAD_ONLY).reasons["stale"] == 1
    assert "ghl_contact_id" not in product.known("a")


def test_a_link_that_the_table_allows_once_is_a_conflict_of_that_lead_alone(serve: Serve) -> None:
    product = serve(location(known=[ADA, contact("bo", "bo@example.com")]))
    product.execute('CREATE UNIQUE INDEX one_lead_a_contact ON "Lead" (client_id, ghl_contact_id)')
    product.lead("a", email="ada@example.com")
    product.lead("a2", email="Ada@example.com")
    product.lead("b", email="bo@example.com")
    run = product.run()
    assert (run.counts["applied"], run.reasons["contact_taken"]) == (2, 1)
    assert product.known("b")["ghl_contact_id"] == "bo"


# --- verification ----------------------------------------------------------------------------------------------------


def test_a_verification_names_what_could_be_filled_and_is_not(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    run = product.verify()
    assert verified(run) == {"equal": 0, "missing": 1, "extra": 0, "different": 0, "explained": 0, "passed": False}
    assert run.verification is not None
    assert run.verification["examples"]["missing_lead_ids"] == ["a"]
    assert succeeded(product.run())
    assert verified(product.verify())["passed"]
    product.edit_lead("a", phone=None)
    assert verified(product.verify())["missing"] == 1


def test_a_field_that_does_not_hold_what_was_written_is_different(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    product.execute(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.first_name := upper(NEW.first_name); RETURN NEW; END';"
    )
    product.execute('CREATE TRIGGER shout BEFORE UPDATE ON "Lead" FOR EACH ROW EXECUTE FUNCTION shout()')
    run = product.run()
    assert verified(run) == {"equal": 0, "missing": 0, "extra": 0, "different": 1, "explained": 0, "passed": False}
    assert run.verification is not None
    assert run.verification["examples"]["different_lead_ids"] == ["a"]


def test_what_people_write_over_it_later_is_no_difference(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", email="ada@example.com")
    assert succeeded(product.run())
    product.edit_lead("a", first_name="Adele")
    run = product.verify()
    assert verified(run)["passed"]
    assert run.verification is not None
    assert run.verification["figures"]["changed since"] == 1


# --- side by side ----------------------------------------------------------------------------------------------------


def test_a_location_that_fails_does_not_keep_the_others_from_going_on(serve: Serve) -> None:
    product = serve(location(known=[ADA]), location(BOLT, known=[contact("bo", "bo@example.com")]))
    product.lead("a", email="ada@example.com")
    product.lead("b", of=BOLT, email="bo@example.com")
    product.fault("status", status=502, workspace=ACME)
    runs = product.run_all(ACME, BOLT)
    assert (runs[ACME].state, runs[ACME].error_code) == (State.FAILED, "vendor_unavailable")
    assert succeeded(runs[BOLT])
    assert product.known("b")["ghl_contact_id"] == "bo"
    product.server.clear_faults()
    assert succeeded(product.run())
    assert product.known("a")["ghl_contact_id"] == "ada"


def test_a_client_with_nothing_to_look_for_makes_no_call(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.lead("a", phone="+12055550111")
    run = product.run()
    assert verified(run) == {"equal": 0, "missing": 0, "extra": 0, "different": 0, "explained": 1, "passed": True}
    assert (run.reasons, run.details["gohighlevel"]["way"]) == ({"no_key": 1}, "none")
    assert product.seen() == 0


def test_a_client_without_a_lead_is_done(serve: Serve) -> None:
    product = serve(location(known=[ADA]))
    product.client(ACME)
    assert verified(product.run())["passed"]


def test_how_many_locations_are_at_work_is_said_by_the_run_then_the_registry_then_a_hundred(serve: Serve) -> None:
    product = serve(location())
    registry = product.registry()
    assert LeadHydrationOptions().partitions_at_once(registry) == 100
    assert LeadHydrationOptions(concurrency=3).partitions_at_once(registry) == 3
    product.edit = lambda document: document.update(defaults={"max_parallel_clients": 7})
    assert LeadHydrationOptions().partitions_at_once(product.registry()) == 7


def test_contacts_that_the_location_no_longer_has_are_forgotten(serve: Serve) -> None:
    product = serve(location(known=[ADA, contact("bo", "bo@example.com")]))
    product.lead("a", email="ada@example.com")
    assert succeeded(product.run())
    assert product.landed().keys() == {"ada", "bo"}
    product.state().delete_contacts(["bo"])
    product.lead("b", email="bo@example.com")
    assert product.run().reasons["not_found"] == 1
    assert product.landed().keys() == {"ada"}
    assert product.calls() == {SEARCH: 4, SHOW: 0} or product.calls() == {SEARCH: 4}
