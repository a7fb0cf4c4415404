"""`backfill run lead_hydration` with keys, locations and answers it cannot work with: one sentence, the others go on.

The sentence tells what to correct and nobody's data: every call is held against the tokens and a canary in each value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from backfill_pipelines_tests.backfills.hydration_rig import (
    ACME,
    BOLT,
    LOCATIONS,
    TOKENS,
    Document,
    Hydration,
    Serve,
    contact,
    location,
)
from backfill_pipelines_tests.installation import Installation

RUN = ("run", "lead_hydration", "--client", ACME, "--json")
ALL = ("run", "lead_hydration", "--all", "--json")
CANARY = "kanarienvogel"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """What is wrong with the first client: in its section of the registry, or with the vendor's answers to it."""

    code: str
    words: tuple[str, ...]
    alone: int
    """The exit code where nobody else is asked for: 3 where somebody has to correct something."""
    section: dict[str, str] | None = None
    fault: dict[str, object] | None = None


MISTAKES = {
    "a key that is wrong": Mistake(
        code="unauthorized",
        words=("does not accept the token", LOCATIONS[ACME], "HTTP 401", "registry"),
        alone=3,
        section={"token": f"pit-{CANARY}"},
    ),
    "a key without the scope": Mistake(
        code="missing_scope",
        words=("contacts.readonly", LOCATIONS[ACME], "HTTP 403"),
        alone=3,
        fault={"kind": "ghl_scope_missing"},
    ),
    "a key of another location": Mistake(
        code="forbidden_location",
        words=("another location's", LOCATIONS[ACME], "HTTP 403", "location_id or token"),
        alone=3,
        section={"token": TOKENS[BOLT]},
    ),
    "a location that does not exist": Mistake(
        code="unknown_location",
        words=("has no location locNowhere", "HTTP 404", "location_id"),
        alone=3,
        section={"location_id": "locNowhere"},
    ),
    "a variable that is not set": Mistake(
        code="missing_variable", words=("GHL_TOKEN_ACME is not set",), alone=3, section={"token": "${GHL_TOKEN_ACME}"}
    ),
    "a page of HTML that says 200": Mistake(
        code="malformed_response", words=("GoHighLevel",), alone=1, fault={"kind": "status", "status": 200}
    ),
    "a page of HTML that says 502": Mistake(
        code="vendor_unavailable", words=("GoHighLevel", "502"), alone=1, fault={"kind": "status", "status": 502}
    ),
    "connections that break off": Mistake(
        code="vendor_unavailable", words=("GoHighLevel",), alone=1, fault={"kind": "reset"}
    ),
    "more than one contact of another location": Mistake(
        code="foreign_contact", words=(LOCATIONS[ACME], "2 contacts"), alone=1, fault={"kind": "foreign_contacts"}
    ),
}


@pytest.fixture
def product(installation: Installation, serve: Serve) -> Hydration:
    """Two clients with a lead each that can be found."""
    installation.told_to_nobody.add(CANARY)
    known = [contact(name, f"{CANARY}.{name}@example.com", first_name=f"{CANARY} {name}") for name in ("ada", "bo")]
    served = serve(location(known=known, unknown_location=404, missing_scope=403), location(BOLT, known=known))
    served.lead("a", email=f"{CANARY}.ada@example.com")
    served.lead("b", of=BOLT, email=f"{CANARY}.bo@example.com")
    return served


def edited(product: Hydration, edit: Callable[[Document], None] | None) -> None:
    product.edit = edit
    product.registry()


def make(product: Hydration, mistake: Mistake) -> None:
    if mistake.section is not None:
        section = mistake.section
        edited(product, lambda document: document["clients"][0]["gohighlevel"].update(section))
    if mistake.fault is not None:
        product.fault(workspace=ACME, **mistake.fault)


def correct(product: Hydration) -> None:
    edited(product, None)
    product.server.clear_faults()


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_one_client_s_mistake_is_one_sentence_and_the_other_client_goes_on(
    installation: Installation, product: Hydration, mistake: Mistake
) -> None:
    before = product.leads()["a"]
    make(product, mistake)
    alone = installation(*RUN)
    assert (alone.exit_code, alone.partitions[ACME]["error_code"]) == (mistake.alone, mistake.code)
    both = installation(*ALL, "--verbose")
    assert (both.exit_code, both.partitions[ACME]["error_code"]) == (1, mistake.code)
    for outcome in (alone, both):
        failed = outcome.partitions[ACME]
        sentence = failed["error_message"]
        assert not [word for word in mistake.words if word not in sentence], sentence
        assert (sentence[-1], "\n" in sentence, "<" in sentence) == (".", False, False), sentence
        assert (failed["state"], failed["counts"]["applied"], failed["parked_until"]) == ("failed", 0, None)
    assert product.leads()["a"] == before
    assert both.partitions[BOLT]["state"] == "succeeded"
    assert product.known("b")["ghl_contact_id"] == "bo"


@pytest.mark.parametrize("mistake", ["a key that is wrong", "a page of HTML that says 502"])
def test_a_run_after_the_mistake_is_corrected_does_the_rest(
    installation: Installation, product: Hydration, mistake: str
) -> None:
    make(product, MISTAKES[mistake])
    assert installation(*ALL).exit_code == 1
    correct(product)
    assert installation(*RUN).exit_code == 0
    assert product.known("a")["ghl_contact_id"] == "ada"


def test_without_json_the_sentence_is_a_line_with_its_code_and_the_client_is_run_again_alone(
    installation: Installation, product: Hydration
) -> None:
    make(product, MISTAKES["a key that is wrong"])
    told = installation("run", "lead_hydration", "--all")
    assert told.exit_code == 1
    (line,) = (line for line in told.stdout.splitlines() if line.startswith(f"failed {ACME}: "))
    assert line.endswith(" [unauthorized]")
    assert f"again:   backfill run lead_hydration --client {ACME}\n" in told.stdout
    codes = {each["partition_key"]: each["error_code"] for each in installation("status", "--json").document["runs"]}
    assert codes == {ACME: "unauthorized", BOLT: None}


def test_mistakes_of_everybody_are_3(installation: Installation, product: Hydration) -> None:
    def edit(document: Document) -> None:
        document["clients"][0]["gohighlevel"]["token"] = f"pit-{CANARY}"
        document["clients"][1]["gohighlevel"]["token"] = "${GHL_TOKEN_BOLT}"

    edited(product, edit)
    both = installation(*ALL)
    assert both.exit_code == 3
    assert [each["error_code"] for each in both.document["partitions"]] == ["unauthorized", "missing_variable"]


def test_a_host_that_nobody_reaches_fails_everybody_with_a_sentence_and_is_1(
    installation: Installation, product: Hydration
) -> None:
    edited(product, lambda document: document["vendors"]["gohighlevel"].update(base_url="http://127.0.0.1:9"))
    both = installation(*ALL)
    assert both.exit_code == 1
    for failed in both.partitions.values():
        assert (failed["state"], failed["error_code"]) == ("failed", "vendor_unavailable")
        assert "GoHighLevel" in failed["error_message"]
    assert product.seen() == 0
    correct(product)
    assert installation(*ALL).exit_code == 0


def test_a_client_without_a_location_is_no_partition_and_named_it_is_a_mistake(
    installation: Installation, product: Hydration
) -> None:
    edited(product, lambda document: document["clients"][0].pop("gohighlevel"))
    assert "gohighlevel" in installation.refused("missing_section", *RUN)
    assert list(installation(*ALL).partitions) == [BOLT]
