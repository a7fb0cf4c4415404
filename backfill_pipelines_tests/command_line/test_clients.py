"""`backfill clients`: the registry, a check of each access, and a token minted at a terminal."""

from __future__ import annotations

from backfill_pipelines_tests.backfills.agency import AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL, Document
from backfill_pipelines_tests.installation import Installation
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
