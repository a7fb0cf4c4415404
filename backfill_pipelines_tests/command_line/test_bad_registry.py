"""A registry that cannot be used, as `backfill run` tells of it: one sentence with the place, and nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backfill_pipelines_tests.backfills.agency import AMBER, CAFE, Document
from backfill_pipelines_tests.installation import Installation

RUN = ("run", "client_leads", "--all")
CANARY = "7|canaryTokenThatMustNotShow"


def test_no_file_at_all_says_where_to_begin(installation: Installation) -> None:
    (installation.folder / "clients.yaml").unlink()
    told = installation.refused("registry_missing", *RUN)
    assert str(installation.folder / "clients.yaml") in told
    assert "docs/clients.example.yaml" in told
    installation.environ["BACKFILL_CLIENTS"] = "elsewhere/agency.yaml"
    assert "elsewhere/agency.yaml" in installation.refused("registry_missing", *RUN)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("clients:\n  - key: a\n name: b", "registry_invalid", "line 3: this is not valid YAML"),
        ("clients: []\nvendors: {hubspot: {}}", "unknown_vendor", "line 2: vendors has an unknown vendor, hubspot"),
        ("clients:\n- {key: a, name: A, email_bisson: {}}", "unknown_key", "did you mean email_bison?"),
        ("clients:\n- {key: 'kim,wallace', name: A}", "invalid_key", "line 2: key of"),
        ("clients:\n- {key: Kim, name: A}", "invalid_key", "such as kim"),
        ("clients:\n- {key: kim, name: A, email_bison: {instance: main}}", "missing_key", "line 2: email_bison"),
        (f"clients:\n- {{key: a, name: A, email_bison: {{token, '{CANARY}'}}}}", "unknown_key", "line 2"),
        (f"email_bison: {{main: {{base_url: '{CANARY}'}}}}", "registry_invalid", "base_url must be an address"),
        ("clients: []", "no_partitions", "has no client for client_leads; add one"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_line_and_key(
    installation: Installation, text: str, code: str, words: str
) -> None:
    (installation.folder / "clients.yaml").write_text(text, encoding="utf-8")
    told = installation.refused(code, *RUN)
    assert words in told
    assert CANARY not in told


def test_two_clients_with_one_workspace_are_told_both(installation: Installation) -> None:
    def edit(document: Document) -> None:
        by_key = {client["key"]: client["email_bison"] for client in document["clients"]}
        by_key[CAFE]["workspace_id"] = by_key[AMBER]["workspace_id"]

    with pytest.raises(Exception, match="workspace of client"):
        installation.write_registry(edit)
    told = installation.refused("duplicate_workspace", *RUN)
    assert f"workspace_id of client {CAFE} is the Email Bison workspace of client {AMBER} too" in told


def test_two_clients_with_one_name_are_told_both(installation: Installation) -> None:
    def edit(document: Document) -> None:
        by_key = {client["key"]: client for client in document["clients"]}
        by_key[CAFE]["name"] = by_key[AMBER]["name"]

    with pytest.raises(Exception, match="name of client"):
        installation.write_registry(edit)
    told = installation.refused("duplicate_name", *RUN)
    assert f"name of client {CAFE} is the name of client {AMBER} too" in told


def test_a_file_that_may_not_be_read_is_told_with_the_reason(installation: Installation, tmp_path: Path) -> None:
    installation.environ["BACKFILL_CLIENTS"] = str(tmp_path)
    assert "cannot be read (Is a directory)" in installation.refused("registry_unreadable", *RUN)


def unset_token(document: Document) -> None:
    for client in document["clients"]:
        if client["key"] == CAFE:
            client["email_bison"]["token"] = "${BISON_TOKEN_CAFE}"


def test_an_unset_variable_stops_its_client_alone(installation: Installation) -> None:
    installation.write_registry(unset_token)
    assert "BISON_TOKEN_CAFE" not in os.environ
    both = installation("run", "client_leads", "--client", AMBER, "--client", CAFE, "--json")
    assert both.exit_code == 1, "others ran"
    assert both.partitions[AMBER]["state"] == "succeeded"
    failed = both.partitions[CAFE]
    assert (failed["state"], failed["error_code"]) == ("failed", "missing_variable")
    assert f"Client {CAFE}: environment variable BISON_TOKEN_CAFE is not set" in failed["error_message"]
    alone = installation("run", "client_leads", "--client", CAFE, "--json")
    assert (alone.exit_code, alone.partitions[CAFE]["error_code"]) == (3, "missing_variable")
    assert installation("verify", "client_leads", "--client", CAFE, "--json").exit_code == 3
    token = installation.agency.bison.state.world.client(CAFE)[1].token
    installation.environ["BISON_TOKEN_CAFE"] = f" {token}\n"
    assert installation("run", "client_leads", "--client", CAFE, "--json").exit_code == 0
