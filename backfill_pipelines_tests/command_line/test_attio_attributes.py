"""`backfill attio create-attributes`: makes what the Attio backfills write to, once, and says what it did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backfill_pipelines.command_line.attio import create_attributes
from backfill_pipelines.command_line.failures import UsageError
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.sandbox.attio import AttioSandbox
from backfill_pipelines.sandbox.attio_data import build_attio_workspace
from backfill_pipelines.sandbox.attio_records import COMPANIES, PEOPLE
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.vendors.attio_records import ATTRIBUTE_SCOPES

BARE = build_attio_workspace(seed=1, key="bare", custom_attributes=False)
READY = build_attio_workspace(seed=2, key="ready")


class Shop:
    """Two workspaces in a registry; the second has its attributes already."""

    def __init__(self, vendor: AttioSandbox, server: SandboxServer, folder: Path, capture: Any) -> None:
        self.vendor = vendor
        self.server = server
        self.path = folder / "clients.yaml"
        self._capture = capture
        self.write(BARE.token, READY.token)

    def write(self, *tokens: str) -> None:
        keys = ("bare", "ready")
        document = {
            "workspaces": [
                *({"key": key, "attio": {"api_key": token}} for key, token in zip(keys, tokens, strict=True)),
                {"key": "without", "clerk": {"secret_key": "sk_test_x"}},
            ],
            "vendors": {"attio": {"base_url": self.server.account_urls("attio")["api"]}},
        }
        self.path.write_text(json.dumps(document), encoding="utf-8")

    def __call__(self, *keys: str) -> tuple[int, dict[str, Any]]:
        """The exit code, and the answers by workspace."""
        self._capture.readouterr()
        code = create_attributes(list(keys), all_workspaces=not keys, as_json=True)
        printed = self._capture.readouterr().out
        assert not [token for token in (BARE.token, READY.token) if token in printed]
        return code, {each.pop("key"): each for each in json.loads(printed)["workspaces"]}

    def made(self) -> int:
        return sum(each.method == "POST" for each in self.server.requests)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Shop]:
    with ExitStack() as stack:
        vendor = AttioSandbox([BARE, READY])
        server = stack.enter_context(SandboxServer([vendor]))
        monkeypatch.setenv("BACKFILL_CLIENTS", str(tmp_path / "clients.yaml"))
        yield Shop(vendor, server, tmp_path, capfd)


CREATED = {"people.user_id": "created", "companies.org_id": "created"}
EXISTS = {"people.user_id": "exists", "companies.org_id": "exists"}


def test_what_is_missing_is_made_and_what_is_there_is_left(shop: Shop) -> None:
    assert shop() == (0, {"bare": {"attributes": CREATED, "errors": []}, "ready": {"attributes": EXISTS, "errors": []}})
    tables = shop.vendor.state.workspaces["bare"].tables
    for attribute in (tables[PEOPLE].attributes["user_id"], tables[COMPANIES].attributes["org_id"]):
        assert (attribute.type, attribute.multiselect, attribute.unique, attribute.required) == (
            "text",
            False,
            False,
            False,
        )
    assert shop.made() == 2


def test_asked_again_it_makes_nothing(shop: Shop) -> None:
    shop("bare")
    assert shop("bare") == (0, {"bare": {"attributes": EXISTS, "errors": []}})
    assert shop.made() == 2


def test_two_workspaces_with_one_key_get_them_once(shop: Shop) -> None:
    shop.write(BARE.token, BARE.token)
    code, answers = shop()
    assert (code, answers["bare"]["attributes"], answers["ready"]["attributes"]) == (0, CREATED, EXISTS)


def test_a_lost_reply_leaves_one_and_the_next_call_finds_it(shop: Shop) -> None:
    shop.server.add_faults([{"kind": "lost_reply", "method": "POST", "nth": 1}])
    code, answers = shop("bare")
    assert (code, [each["code"] for each in answers["bare"]["errors"]]) == (1, ["ambiguous_write"])
    assert shop("bare")[1]["bare"]["attributes"] == {"people.user_id": "exists", "companies.org_id": "created"}


def test_one_that_cannot_hold_an_id_is_named_and_the_others_are_made(shop: Shop) -> None:
    shop.vendor.state.workspaces["ready"].alter_attribute(PEOPLE, "user_id", archived=True)
    code, answers = shop()
    assert code == 1
    assert answers["bare"]["attributes"] == CREATED
    assert answers["ready"]["attributes"] == {"people.user_id": "unusable", "companies.org_id": "exists"}
    (error,) = answers["ready"]["errors"]
    assert error["code"] == "attribute_archived"
    assert "people.user_id" in error["message"]


def test_a_key_that_may_not_make_them_or_is_dead_stops_no_other_workspace(shop: Shop) -> None:
    shop.vendor.state.set_scopes(BARE.token, ["object_configuration:read", "record_permission:read-write"])
    code, answers = shop()
    assert (code, answers["ready"]["attributes"]) == (1, EXISTS)
    (error,) = answers["bare"]["errors"]
    assert error["code"] == "missing_scopes"
    assert ATTRIBUTE_SCOPES[0] in error["message"]
    shop.vendor.state.revoke(BARE.token)
    assert [each["code"] for each in shop()[1]["bare"]["errors"]] == ["token_inactive"]
    assert shop.made() == 0


def test_a_key_that_may_only_read_is_enough_where_nothing_is_missing(shop: Shop) -> None:
    shop.vendor.state.set_scopes(READY.token, ["object_configuration:read"])
    assert shop("ready") == (0, {"ready": {"attributes": EXISTS, "errors": []}})


def test_the_workspaces_are_chosen_as_for_a_run(shop: Shop) -> None:
    with pytest.raises(UsageError):
        create_attributes([], all_workspaces=False, as_json=True)
    with pytest.raises(ConfigurationError, match="attio section"):
        create_attributes(["without"], all_workspaces=False, as_json=True)
    with pytest.raises(ConfigurationError, match="nobody"):
        create_attributes(["nobody"], all_workspaces=False, as_json=True)
    assert shop.server.requests == []


def test_at_a_terminal_it_is_a_line_for_each(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    shop.vendor.state.workspaces["ready"].alter_attribute(COMPANIES, "org_id", type="number")
    assert create_attributes([], all_workspaces=True, as_json=False) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "bare: people.user_id created"
    assert lines[-1].endswith("[attribute_not_text]")
