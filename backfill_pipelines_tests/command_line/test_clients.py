"""`backfill clients`: the registry, a check of each access, and a token minted at a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from backfill_pipelines_tests.backfills.agency import AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL, Document
from backfill_pipelines_tests.backfills.hydration_rig import (
    ACME,
    BOLT,
    CLIENT_IDS,
    LOCATIONS,
    SEARCH,
    TOKENS,
    Hydration,
    Serve,
    contact,
    location,
)
from backfill_pipelines_tests.installation import Installation, Outcome
from backfill_pipelines_tests.terminal import terminal


def spoiled(document: Document) -> None:
    """A token that nobody knows, one of another workspace, and one whose variable is not set."""
    by_key = {client["key"]: client["email_bison"] for client in document["clients"]}
    by_key[AMBER]["token"] = by_key[CAFE]["token"]
    by_key[BIRCHWOOD]["token"] = "999|nobodyhasthistoken"
    by_key[CEDAR]["token"] = "${BISON_TOKEN_CEDAR}"


def test_clients_lists_the_registry_and_calls_nobody(installation: Installation) -> None:
    listed = installation("clients", "--json")
    assert listed.exit_code == 0
    entry = {"key": AMBER, "kind": "client", "uses": ["email_bison", "leads"], "checks": {}}
    assert entry in listed.document["clients"]
    assert [each["key"] for each in listed.document["clients"]] == [AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL]
    assert all(key in installation("clients").stdout for key in (AMBER, DOVETAIL))
    assert installation.agency.server.requests == []


def test_check_calls_each_vendor_once_and_is_0_where_all_answer(installation: Installation) -> None:
    checked = installation("clients", "--check", "--json")
    assert checked.exit_code == 0
    assert {each["key"]: each["checks"] for each in checked.document["clients"]} == {
        key: {"email_bison": "ok"} for key in (AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL)
    }
    assert len(installation.agency.server.requests) == 5


def test_check_says_what_is_wrong_with_each_access(installation: Installation) -> None:
    installation.write_registry(spoiled)
    checked = installation("clients", "--check", "--json")
    assert checked.exit_code == 1
    answers = {each["key"]: each["checks"]["email_bison"] for each in checked.document["clients"]}
    assert answers[AMBER].endswith("[wrong_workspace]")
    assert answers[BIRCHWOOD].endswith("[unauthorized]")
    assert f"Client {CEDAR}: environment variable BISON_TOKEN_CEDAR is not set" in answers[CEDAR]
    assert answers[CEDAR].endswith("[missing_variable]")
    assert (answers[CAFE], answers[DOVETAIL]) == ("ok", "ok")
    shown = installation("clients", "--check")
    assert shown.exit_code == 1
    assert "[wrong_workspace]" in "".join(shown.stdout.split())


def test_a_token_is_minted_at_a_terminal_and_it_opens_its_own_workspace(installation: Installation) -> None:
    with terminal() as screen:
        minted = installation.start("clients", "mint-token", CAFE, at=screen).ended()
    assert minted.exit_code == 0
    token = screen.shown().splitlines()[0].strip()
    assert "Shown once." in screen.shown()

    def edit(document: Document) -> None:
        document["clients"] = [client for client in document["clients"] if client["key"] == CAFE]
        document["clients"][0]["email_bison"]["token"] = token

    installation.write_registry(edit)
    checked = installation("clients", "--check", "--json")
    assert checked.document["clients"][0]["checks"] == {"email_bison": "ok"}
    assert token not in checked.stdout


# --- GoHighLevel -----------------------------------------------------------------------------------------------------


@pytest.fixture
def product(serve: Serve) -> Hydration:
    """Two clients with a location each."""
    return serve(location(known=[contact("ada", "ada@example.com")]), location(BOLT, missing_scope=403))


def checks_of(outcome: Outcome) -> dict[str, dict[str, str]]:
    return {each["key"]: each["checks"] for each in outcome.document["clients"]}


def with_sections(product: Hydration, sections: dict[str, dict[str, str]]) -> None:
    """Change the clients' GoHighLevel sections in the registry, by client."""

    def edit(document: Document) -> None:
        for client in document["clients"]:
            client["gohighlevel"] |= sections.get(client["key"], {})

    product.edit = edit
    product.registry()


def test_locations_are_listed_without_a_call_and_checked_with_one_each(
    installation: Installation, product: Hydration
) -> None:
    listed = installation("clients", "--json")
    entry = {"key": ACME, "kind": "client", "uses": ["gohighlevel", "leads"], "checks": {}}
    assert (listed.exit_code, listed.document["clients"][0], product.seen()) == (0, entry, 0)
    checked = installation("clients", "--check", "--json")
    assert (checked.exit_code, checks_of(checked)) == (0, {key: {"gohighlevel": "ok"} for key in (ACME, BOLT)})
    assert [product.calls(key) for key in (ACME, BOLT)] == [{SEARCH: 1}] * 2
    shown = installation("clients", "--check")
    assert (shown.exit_code, shown.stdout.count("gohighlevel: ok")) == (0, 2)


@pytest.mark.parametrize(
    ("section", "code", "words"),
    [
        ({"token": "pit-unknown"}, "unauthorized", f"does not accept the token of location {LOCATIONS[ACME]}"),
        ({"token": TOKENS[BOLT]}, "forbidden_location", f"does not open GoHighLevel location {LOCATIONS[ACME]}"),
        (
            {"location_id": "locElsewhere"},
            "forbidden_location",
            "does not open GoHighLevel location locElsewhere",
        ),
        ({"token": "${GHL_TOKEN}"}, "missing_variable", "environment variable GHL_TOKEN is not set"),
    ],
    ids=["a wrong token", "a token of another location", "another location", "no token"],
)
def test_check_says_what_is_wrong_with_a_location_and_checks_the_others(
    installation: Installation, product: Hydration, section: dict[str, str], code: str, words: str
) -> None:
    installation.told_to_nobody.add("pit-unknown")
    with_sections(product, {ACME: section})
    checked = installation("clients", "--check", "--json")
    answer = checks_of(checked)[ACME]["gohighlevel"]
    assert (checked.exit_code, checks_of(checked)[BOLT]) == (1, {"gohighlevel": "ok"})
    assert words in answer
    assert answer.endswith(f" [{code}]")
    assert "ada@example.com" not in checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "ghl_scope_missing"}, "missing_scope"),
        ({"kind": "status", "status": 200}, "malformed_response"),
        ({"kind": "status", "status": 502}, "vendor_unavailable"),
    ],
    ids=str,
)
def test_check_says_what_is_wrong_with_the_vendor_s_answers(
    installation: Installation, product: Hydration, fault: dict[str, Any], code: str
) -> None:
    product.fault(workspace=BOLT, **fault)
    checked = installation("clients", "--check", "--json")
    assert (checked.exit_code, checks_of(checked)[ACME]) == (1, {"gohighlevel": "ok"})
    assert checks_of(checked)[BOLT]["gohighlevel"].endswith(f" [{code}]")


def from_database(product: Hydration, *keys: str) -> None:
    """These clients are rows of the product's table, with their locations and keys; only the others are in the file."""
    for key in keys:
        product.execute(
            'UPDATE "Client" SET ghl_location_id = :location, ghl_private_key = :token WHERE id = :id',
            id=CLIENT_IDS[key],
            location=LOCATIONS[key],
            token=TOKENS[key],
        )

    def edit(document: Document) -> None:
        document["clients_from_database"] = True
        document["clients"] = [client for client in document["clients"] if client["key"] not in keys]

    product.edit = edit
    product.registry()


def test_clients_of_the_database_are_listed_without_a_call_and_checked_as_all_others(
    installation: Installation, product: Hydration
) -> None:
    from_database(product, BOLT)
    listed = installation("clients", "--json")
    uses = {each["key"]: each["uses"] for each in listed.document["clients"]}
    assert (listed.exit_code, uses) == (0, {key: ["gohighlevel", "leads"] for key in (ACME, BOLT)})
    assert (BOLT in installation("clients").stdout, product.seen()) == (True, 0)
    checked = installation("clients", "--check", "--json")
    assert (checked.exit_code, checks_of(checked)) == (0, {key: {"gohighlevel": "ok"} for key in (ACME, BOLT)})
    product.execute("UPDATE \"Client\" SET ghl_private_key = 'pit-rotated-away' WHERE name = :key", key=BOLT)
    installation.told_to_nobody.add("pit-rotated-away")
    checked = installation("clients", "--check", "--json")
    assert (checked.exit_code, checks_of(checked)[ACME]) == (1, {"gohighlevel": "ok"})
    assert checks_of(checked)[BOLT]["gohighlevel"].endswith(" [unauthorized]")


def test_a_registry_of_the_database_s_clients_alone_is_enough_for_a_run(
    installation: Installation, product: Hydration
) -> None:
    from_database(product, ACME, BOLT)
    product.lead("a", email="ada@example.com")
    done = installation("run", "lead_hydration", "--all", "--json")
    assert (done.exit_code, sorted(done.partitions)) == (0, [ACME, BOLT])
    assert product.known("a")["ghl_contact_id"] == "ada"
    product.execute('UPDATE "Client" SET ghl_private_key = NULL WHERE name = :key', key=BOLT)
    assert list(installation("run", "lead_hydration", "--all", "--json").partitions) == [ACME]
    installation.refused("unknown_client", "run", "lead_hydration", "--client", BOLT)


def test_clients_of_a_database_that_cannot_be_read_are_one_sentence(
    installation: Installation, product: Hydration
) -> None:
    from_database(product, BOLT)
    product.execute('ALTER TABLE "Client" DROP ghl_private_key')
    for check in ((), ("--check",)):
        assert "ghl_private_key" in installation.refused("missing_column", "clients", *check)
    assert product.seen() == 0


def test_a_registry_that_takes_no_client_from_a_database_is_listed_without_one(
    installation: Installation, product: Hydration
) -> None:
    installation.environ["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:9/none"
    assert installation("clients", "--json").exit_code == 0
    assert product.seen() == 0
