"""Email Bison's answers in every shape that its documentation leaves open, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from backfill_pipelines.errors import BackfillError, ConfigurationError, ErrorCategory
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.vendors.email_bison import EmailBison, ForeignRecordError, connect, requests_quota
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import AmbiguousWriteError, ForbiddenError, RetryBudget, open_http_client
from backfill_pipelines_tests.vendors.scripted_server import Behaviour, Received, ScriptedServer, answer, reset
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

Answer = TypeVar("Answer")
TOKEN = SecretStr("31|a-token-of-the-test")
FOREIGN = "This action is unauthorized. The api key does not match the workspace the record is on."


def ask(base_url: str, question: Callable[[EmailBison], Awaitable[Answer]], *, token: SecretStr = TOKEN) -> Answer:
    """Ask one thing and close everything again."""

    async def asked() -> Answer:
        clock = InstantClock()
        quota = requests_quota("bison.test", per_minute=None, store=InMemoryQuotaStore(clock), clock=clock)
        async with open_http_client() as http, quota:
            bison = connect(http, base_url=base_url, token=token, quota=quota, retry_budget=RetryBudget(), clock=clock)
            return await question(bison)

    return asyncio.run(asked())


def scripted(
    question: Callable[[EmailBison], Awaitable[Answer]], *script: Behaviour
) -> tuple[Answer | BackfillError, list[Received]]:
    """What came of it, an error of ours included, and the requests it took."""
    with ScriptedServer(*script) as server:
        try:
            result: Answer | BackfillError = ask(f"{server.url}/api", question)
        except BackfillError as error:
            result = error
        return result, server.received


def code_of(result: object) -> tuple[str, ErrorCategory]:
    assert isinstance(result, BackfillError)
    assert str(result)
    return result.code, result.category


def said(message: str) -> dict[str, Any]:
    return {"data": {"success": False, "message": message}}


def page_body(*rows: Any, **meta: Any) -> dict[str, Any]:
    return {"data": list(rows), "meta": {"current_page": 1, "last_page": 4, "total": 46, **meta}}


# --- who am I ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "user",
    [
        {"team": {"id": 17}},
        {"workspace": {"id": 17}},
        {"team": {"id": 17}, "workspace": {"id": 17}},
        {"team": {"id": 17}, "workspace": None},
        {"team": [], "workspace": {"id": 17, "name": "Umber"}},
    ],
)
def test_the_current_workspace_is_named_by_team_or_by_workspace(user: dict[str, Any]) -> None:
    found, requests = scripted(lambda bison: bison.current_workspace(), answer(200, {"data": {"id": 1, **user}}))
    assert found == 17
    assert [(each.method, each.path) for each in requests] == [("GET", "/api/users")]
    assert requests[0].headers["authorization"] == "Bearer 31|a-token-of-the-test"
    assert requests[0].headers["accept"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"id": 1, "team": {"id": 17}, "workspace": {"id": 18}}},
        {"data": {"id": 1}},
        {"data": {"id": 1, "team": None, "workspace": {}}},
        {"data": {"team": {"id": "17"}}},
        {"data": {"team": {"id": True}}},
        {"data": {"team": {"id": 0}}},
        {"data": {"team": 17, "team_id": 17}},
        {"data": []},
        {"team": {"id": 17}},
        [],
        None,
    ],
)
def test_anything_but_exactly_one_workspace_proves_nothing(body: Any) -> None:
    found, _ = scripted(lambda bison: bison.current_workspace(), answer(200, body if body is not None else b"null"))
    assert code_of(found) == ("workspace_unproven", ErrorCategory.DATA)


# --- pages ------------------------------------------------------------------------------------------------------------


def test_a_page_is_asked_for_by_number_with_all_its_filters() -> None:
    body = page_body({"id": 5, "interested": True}, {"id": 4, "interested": True}, last_page=9, total=130)
    found, requests = scripted(
        lambda bison: bison.page("/replies", number=3, filters={"status": "interested", "folder": "all"}),
        answer(200, body),
    )
    assert (found.number, found.last_page, found.total) == (3, 9, 130)  # type: ignore[union-attr]
    assert [row["id"] for row in found.rows] == [5, 4]  # type: ignore[union-attr]
    assert requests[0].path == "/api/replies?status=interested&folder=all&page=3"


def test_an_empty_list_has_one_page() -> None:
    body = page_body(last_page=0, total=0)
    found, _ = scripted(lambda bison: bison.page("/campaigns", number=1), answer(200, body))
    assert (found.rows, found.last_page, found.total) == ([], 1, 0)  # type: ignore[union-attr]


def test_raw_control_characters_in_a_text_are_read() -> None:
    raw = json.dumps(page_body({"id": 5, "subject": "PLACE"})).encode().replace(b"PLACE", b"bell\x07 line\nend")
    found, _ = scripted(lambda bison: bison.page("/replies", number=1), answer(200, raw))
    assert found.rows[0]["subject"] == "bell\x07 line\nend"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"id": 5}, "meta": {"total": 1, "last_page": 1}},
        {"data": [{"id": 5}]},
        {"data": [{"id": 5}], "meta": {"total": 1}},
        {"data": [{"id": 5}], "meta": {"last_page": 1}},
        {"data": [{"id": 5}], "meta": {"total": "1", "last_page": 1}},
        {"data": [{"id": 5}], "meta": {"total": -1, "last_page": 1}},
        page_body("5"),
        page_body({"uuid": "9f7a"}),
        page_body({"id": None}),
        page_body({"id": "5"}),
        page_body({"id": 2**63}),
        [{"id": 5}],
    ],
)
def test_a_page_that_is_not_whole_is_not_used(body: Any) -> None:
    found, _ = scripted(lambda bison: bison.page("/replies", number=1), answer(200, body))
    assert code_of(found) == ("malformed_response", ErrorCategory.TRANSIENT)


# --- single records ---------------------------------------------------------------------------------------------------


def test_a_record_that_the_workspace_does_not_have_is_none() -> None:
    missing = answer(
        404, {"data": {"success": False, "message": "Record not found.", "record_not_found": {"lead": "7"}}}
    )
    assert scripted(lambda bison: bison.record("/leads/7"), missing)[0] is None


def test_the_vendors_own_word_that_a_record_is_foreign_is_kept_apart_from_other_refusals() -> None:
    foreign, _ = scripted(lambda bison: bison.record("/leads/7"), answer(403, said(FOREIGN)))
    assert isinstance(foreign, ForeignRecordError)
    assert code_of(foreign) == ("foreign_rows", ErrorCategory.DATA)
    other, _ = scripted(lambda bison: bison.record("/leads/7"), answer(403, said("This action is unauthorized.")))
    assert isinstance(other, ForbiddenError)


@pytest.mark.parametrize("body", [{"data": {"id": 8}}, {"data": {"email": "x"}}, {"data": [{"id": 7}]}, {"id": 7}, []])
def test_another_record_than_the_one_asked_for_is_not_used(body: Any) -> None:
    found, _ = scripted(lambda bison: bison.record("/leads/7"), answer(200, body))
    assert code_of(found) == ("malformed_response", ErrorCategory.TRANSIENT)


# --- switching and minting --------------------------------------------------------------------------------------------


def test_a_switch_names_the_team_and_is_sent_again_when_its_answer_is_lost() -> None:
    done = answer(200, {"data": {"name": "Umber"}})
    found, requests = scripted(lambda bison: bison.switch_workspace(17), reset, done)
    assert found is None
    assert [(each.method, each.path) for each in requests] == [("POST", "/api/workspaces/v1.1/switch-workspace")] * 2
    assert {each.body for each in requests} == {b'{"team_id":17}'}


@pytest.mark.parametrize(
    ("status", "body"), [(403, said("no")), (404, said("Record not found.")), (422, {"errors": {}})]
)
def test_a_refused_switch_is_a_matter_of_configuration(status: int, body: dict[str, Any]) -> None:
    found, _ = scripted(lambda bison: bison.switch_workspace(17), answer(status, body))
    assert isinstance(found, ConfigurationError)
    assert found.code == "switch_refused"
    assert "workspace 17" in str(found)


def test_a_token_that_nobody_knows_is_not_called_a_refused_switch() -> None:
    found, _ = scripted(lambda bison: bison.switch_workspace(17), answer(401, {"message": "Unauthenticated."}))
    assert code_of(found) == ("unauthorized", ErrorCategory.CONFIGURATION)


@pytest.mark.parametrize("body", [said("Multiple workspaces detected in same session"), {"data": None}, {}, []])
def test_a_switch_that_is_not_confirmed_counts_as_none(body: Any) -> None:
    found, _ = scripted(lambda bison: bison.switch_workspace(17), answer(200, body))
    assert code_of(found) == ("malformed_response", ErrorCategory.TRANSIENT)


def test_a_minted_token_shows_itself_to_nobody_and_is_never_minted_twice() -> None:
    minted = answer(201, {"data": {"id": 39, "name": "backfill", "plain_text_token": "39|canary"}})
    found, requests = scripted(lambda bison: bison.mint_token(17, name="backfill"), minted)
    assert found.get_secret_value() == "39|canary"  # type: ignore[union-attr]
    assert "canary" not in repr(found)
    assert requests[0].path == "/api/workspaces/v1.1/17/api-tokens"
    assert json.loads(requests[0].body) == {"name": "backfill"}
    lost, requests = scripted(lambda bison: bison.mint_token(17, name="backfill"), reset, minted)
    assert isinstance(lost, AmbiguousWriteError)
    assert len(requests) == 1


@pytest.mark.parametrize("body", [{"data": {"id": 39}}, {"data": {"plain_text_token": ""}}, {"data": []}, {}])
def test_an_answer_without_the_minted_token_is_no_token(body: Any) -> None:
    found, _ = scripted(lambda bison: bison.mint_token(17, name="backfill"), answer(201, body))
    assert code_of(found)[0] == "malformed_response"


def test_no_error_holds_a_value_of_the_answer_or_the_token() -> None:
    for status in (400, 401, 403, 404, 409, 422, 500):
        body = {"message": "canary", "errors": {"email": ["canary@example.com"]}, "data": {"message": "canary"}}
        found, _ = scripted(lambda bison: bison.page("/replies", number=1), answer(status, body))
        assert isinstance(found, BackfillError)
        assert "canary" not in f"{found!r} {found} {found.__dict__!r}"
        assert "a-token-of-the-test" not in f"{found!r} {found} {found.__dict__!r}"


# --- against the stateful fake ----------------------------------------------------------------------------------------


def test_an_admin_mints_a_token_that_opens_one_workspace_and_switches_nobody() -> None:
    world = build_email_bison_world(seed=7, clients=2, interested_replies=[4, 4])
    bison = EmailBisonSandbox(world)
    instance, workspace = world.client(world.client_keys()[0])
    with SandboxServer([bison]) as server:
        url = server.account_urls("email-bison")[instance.name]
        before = bison.state.current_team(instance.name)
        admin = SecretStr(instance.admin_token)
        own = ask(url, lambda api: api.mint_token(workspace.id, name="backfill"), token=admin)
        assert ask(url, lambda api: api.current_workspace(), token=own) == workspace.id
        assert bison.state.current_team(instance.name) == before
        ask(url, lambda api: api.switch_workspace(workspace.id), token=admin)
        assert ask(url, lambda api: api.current_workspace(), token=admin) == workspace.id
        page = ask(url, lambda api: api.page("/replies", number=1, filters={"status": "interested"}), token=own)
        assert page.total == 4
