"""What `lead_hydration` makes of wrong keys, foreign locations, malformed contacts and a vendor that answers nonsense:
one sentence, nothing written, the others go on."""

from __future__ import annotations

from typing import Any

import pytest

from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines_tests.backfills.hydration_rig import (
    ACME,
    BOLT,
    CLIENT_IDS,
    LOCATIONS,
    SEARCH,
    SHOW,
    TOKENS,
    Document,
    Hydration,
    Serve,
    contact,
    failure,
    location,
    succeeded,
    verified,
)


@pytest.fixture
def product(serve: Serve) -> Hydration:
    """Two clients with a lead each that can be found."""
    known = [contact(name, f"{name}@example.com", first_name=name.title()) for name in ("ada", "bo", "cy")]
    served = serve(location(known=known, foreign_ids=["theirs", "theirs2"]), location(BOLT, known=known[1:]))
    served.lead("a", email="ada@example.com")
    served.lead("b", of=BOLT, email="bo@example.com")
    return served


def entry(product: Hydration, **changes: Any) -> None:
    """Change the first client's section in the registry."""

    def edit(document: Document) -> None:
        document["clients"][0]["gohighlevel"] |= changes

    product.edit = edit


def refused(product: Hydration, code: str, *words: str) -> Run:
    """The first client's run must fail with this code and a sentence with these words, and the second one's not."""
    before = product.leads()["a"]
    runs = product.run_all(ACME, BOLT)
    run = runs[ACME]
    assert failure(run) == (State.FAILED, code)
    sentence = run.error_message or ""
    assert not [word for word in words if word not in sentence], sentence
    assert not [token for token in TOKENS.values() if token in sentence]
    assert "\n" not in sentence
    assert product.leads()["a"] == before
    assert succeeded(runs[BOLT])
    assert product.known("b")["ghl_contact_id"] == "bo"
    return run


# --- keys and locations ----------------------------------------------------------------------------------------------


def test_a_key_that_is_wrong(product: Hydration) -> None:
    entry(product, token="pit-unknown")
    refused(product, "unauthorized", "token", LOCATIONS[ACME])


def test_a_key_without_the_scope(product: Hydration) -> None:
    product.fault("ghl_scope_missing", workspace=ACME)
    refused(product, "missing_scope", "contacts.readonly")


def test_a_key_of_another_location(serve: Serve) -> None:
    product = serve(location(known=[contact("ada", "ada@example.com")]), location(BOLT))
    product.lead("a", email="ada@example.com")
    entry(product, token=TOKENS[BOLT])
    run = product.run()
    assert failure(run) == (State.FAILED, "forbidden_location")
    assert "ghl_contact_id" not in product.known("a")


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "unknown_location"), (404, "unknown_location"), (422, "unknown_location"), (403, "forbidden_location")],
)
def test_a_location_that_does_not_exist(serve: Serve, status: int, code: str) -> None:
    product = serve(location(unknown_location=status))
    product.lead("a", email="ada@example.com")
    entry(product, location_id="locNowhere")
    assert failure(product.run()) == (State.FAILED, code)


def test_a_client_that_the_product_does_not_know(product: Hydration) -> None:
    def edit(document: Document) -> None:
        document["clients"][0]["leads"] = {"client_id": "nobody"}

    product.edit = edit
    refused(product, "unknown_client_id", "leads: client_id")


def test_a_variable_that_is_not_set(product: Hydration) -> None:
    entry(product, token="${GHL_TOKEN_ACME}")
    refused(product, "missing_variable", "GHL_TOKEN_ACME")


def test_a_table_without_a_column(product: Hydration) -> None:
    product.execute('ALTER TABLE "Lead" DROP company_name')
    assert failure(product.run()) == (State.FAILED, "missing_column")
    assert product.seen() == 0


# --- answers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 502])
def test_pages_of_html(product: Hydration, status: int) -> None:
    product.fault("status", status=status, workspace=ACME)
    refused(product, "malformed_response" if status == 200 else "vendor_unavailable")


@pytest.mark.parametrize("kind", ["truncated_json", "cut_body", "reset"])
def test_answers_that_break_off(product: Hydration, kind: str) -> None:
    product.fault(kind, workspace=ACME)
    run = product.run()
    assert run.state is State.FAILED
    assert run.error_category == "transient"
    product.server.clear_faults()
    assert succeeded(product.run())
    assert product.known("a")["ghl_contact_id"] == "ada"


@pytest.mark.parametrize("kind", ["truncated_json", "cut_body", "reset"])
def test_one_answer_that_breaks_off_is_asked_for_again(product: Hydration, kind: str) -> None:
    product.fault(kind, workspace=ACME, nth=1)
    assert succeeded(product.run())
    assert product.known("a")["ghl_contact_id"] == "ada"


def test_a_host_that_does_not_answer(product: Hydration) -> None:
    def edit(document: Document) -> None:
        document["vendors"]["gohighlevel"]["base_url"] = "http://127.0.0.1:9"

    product.edit = edit
    assert failure(product.run()) == (State.FAILED, "vendor_unavailable")


# --- contacts that cannot be used ------------------------------------------------------------------------------------


def test_a_malformed_contact_is_one_reject_and_the_others_are_used(product: Hydration) -> None:
    product.state().alter_contact("cy", phone=5550100)
    run = product.run()
    assert succeeded(run)
    assert (run.counts["reject"], run.reasons) == (1, {"malformed_contact": 1})
    assert product.known("a")["ghl_contact_id"] == "ada"
    assert verified(run)["passed"]


def test_a_malformed_contact_that_a_lead_names_is_one_reject_too(product: Hydration) -> None:
    product.state().alter_contact("cy", additionalEmails="none")
    product.lead("c", contact="cy")
    run = product.run()
    assert (run.counts["reject"], product.outcomes(run.id)["c"]) == (1, ("reject", "malformed_contact"))


def test_a_contact_without_an_id_is_one_reject_however_often_it_is_read(product: Hydration) -> None:
    product.state().alter_contact("cy", id=None)
    for _ in range(2):
        run = product.run()
        assert run.reasons["malformed_contact"] == 1
    assert product.known("a")["ghl_contact_id"] == "ada"


def test_null_names_are_everyday(serve: Serve) -> None:
    product = serve(location(known=[contact("ada", "ada@example.com", last_name="Ash")]))
    product.lead("a", email="ada@example.com")
    run = product.run()
    assert (run.counts["reject"], run.counts["applied"]) == (0, 1)
    assert product.known("a") == {"ghl_contact_id": "ada", "email": "ada@example.com", "last_name": "Ash"}


# --- whose data it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("habit", ["forbidden", "unauthorized", "served"])
def test_one_contact_of_another_location_is_that_lead_s_conflict(serve: Serve, habit: str) -> None:
    product = serve(location(known=[contact("ada", "ada@example.com")], foreign_ids=["theirs"], foreign_contact=habit))
    product.lead("a", email="ada@example.com")
    product.lead("x", contact="theirs")
    product.lead("y", contact="theirs")
    run = product.run()
    assert succeeded(run)
    outcomes = product.outcomes(run.id)
    assert outcomes["x"] == outcomes["y"] == ("conflict", "foreign_contact")
    assert product.known("x") == {"ghl_contact_id": "theirs"}
    assert product.known("a")["ghl_contact_id"] == "ada"


def test_two_contacts_of_another_location_stop_the_client(product: Hydration) -> None:
    product.lead("x", contact="theirs")
    product.lead("y", contact="theirs2")
    run = refused(product, "foreign_contact", "2 contacts", LOCATIONS[ACME])
    assert product.outcomes(run.id) == {
        "theirs": ("conflict", "foreign_contact"),
        "theirs2": ("conflict", "foreign_contact"),
    }
    assert product.landed() == {}, "what came from a foreign location is not kept"
    product.execute("UPDATE \"Lead\" SET ghl_contact_id = NULL WHERE id = 'y'")
    assert succeeded(product.run())


@pytest.mark.parametrize(("path", "field"), [(SEARCH, "locationId"), (SHOW, "locationId")])
def test_rows_that_say_they_are_another_location_s_stop_the_client(product: Hydration, path: str, field: str) -> None:
    for name in ("ada", "cy"):
        product.state().alter_contact(name, **{field: "elsewhere"})
    refused(product, "foreign_contact")


def test_a_single_row_of_another_location_is_told_and_not_used(product: Hydration) -> None:
    product.state().alter_contact("cy", locationId="elsewhere")
    product.lead("c", email="cy@example.com")
    run = product.run()
    assert succeeded(run)
    assert product.outcomes(run.id)["cy"] == ("conflict", "foreign_contact")
    assert product.outcomes(run.id)["c"] == ("reject", "not_found")


def test_a_client_without_a_location_has_no_partition(product: Hydration) -> None:
    def edit(document: Document) -> None:
        del document["clients"][0]["gohighlevel"]

    product.edit = edit
    assert product.registry().partition_keys("client", ["gohighlevel", "leads"]) == [BOLT]
    assert failure(product.run()) == (State.FAILED, "missing_section")
    assert CLIENT_IDS[ACME]
