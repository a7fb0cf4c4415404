"""What a wrong token, a wrong location or a wrong address come to: one clear sentence each."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from backfill_pipelines.errors import BackfillError, ErrorCategory
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation, build_gohighlevel_location
from backfill_pipelines.vendors.gohighlevel import ContactPage, GoHighLevel
from backfill_pipelines_tests.sandbox.gohighlevel_rig import LOCATION, ask_at, location, running_gohighlevel
from backfill_pipelines_tests.vendors.scripted_server import ScriptedServer, answer

CONFIGURATION, TRANSIENT, DATA = ErrorCategory.CONFIGURATION, ErrorCategory.TRANSIENT, ErrorCategory.DATA
CANARY = "canary value of a body"


async def first_page(ghl: GoHighLevel) -> ContactPage:
    async with aclosing(ghl.scan()) as pages:
        return await anext(pages)


async def resumed(ghl: GoHighLevel) -> ContactPage:
    async with aclosing(ghl.scan({"after": [1, "cUnknown00000000000"]})) as pages:
        return await anext(pages)


def refusal(ask: Callable[[], Any]) -> BackfillError:
    with pytest.raises(BackfillError) as caught:
        ask()
    text = str(caught.value)
    assert CANARY not in text + repr(caught.value) + repr(caught.value.__cause__)
    assert "pit-" not in text
    assert text.endswith(".")
    assert "\n" not in text
    return caught.value


def without_scope() -> GoHighLevelLocation:
    return GoHighLevelLocation(seed=3, location_id=LOCATION, token="pit-a", contacts=20, scopes=["contacts.write"])


def test_an_unknown_token_is_a_matter_of_configuration() -> None:
    with running_gohighlevel(location(20)) as rig:
        error = refusal(lambda: rig.ask(first_page, token="pit-unknown"))
        assert (error.code, error.category, rig.calls()) == ("unauthorized", CONFIGURATION, 1)


@pytest.mark.parametrize("question", [first_page, lambda ghl: ghl.total(), lambda ghl: ghl.contact("c1")])
def test_a_token_without_the_scope_says_which_one_to_give(question: Any) -> None:
    with running_gohighlevel(without_scope()) as rig:
        error = refusal(lambda: rig.ask(question))
        assert (error.code, error.category) == ("missing_scope", CONFIGURATION)
        assert "contacts.readonly" in str(error)


def test_a_missing_scope_may_be_said_with_a_403() -> None:
    forbidden = answer(403, {"statusCode": 403, "message": f"not authorized for this scope {CANARY}"})
    for question in (first_page, lambda ghl: ghl.contact("c1")):
        with ScriptedServer(forbidden) as server:
            error = refusal(lambda server=server, question=question: ask_at(server.url, question))
        assert error.code == "missing_scope"


def test_the_token_of_another_location_is_told_from_an_unknown_token() -> None:
    other = build_gohighlevel_location(3, "locAnother0000000001", "pit-another", contacts=20)
    with running_gohighlevel(location(20), other) as rig:
        error = refusal(lambda: rig.ask(first_page, token="pit-another"))
    assert (error.code, error.category) == ("forbidden_location", CONFIGURATION)
    assert LOCATION in str(error)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_location_that_does_not_exist_is_unknown_with_each_status(status: int) -> None:
    with running_gohighlevel(location(20, unknown_location=status)) as rig:
        for question in (first_page, lambda ghl: ghl.total()):
            error = refusal(lambda question=question: rig.ask(question, location_id="locNowhere"))
            assert (error.code, error.category) == ("unknown_location", CONFIGURATION)
            assert "locNowhere" in str(error)


def test_a_position_that_the_vendor_does_not_know_any_more_asks_for_a_fresh_scan() -> None:
    with running_gohighlevel(location(20)) as rig:
        error = refusal(lambda: rig.ask(resumed))
    assert (error.code, error.category) == ("cursor_refused", DATA)
    assert "--fresh" in str(error)


@pytest.mark.parametrize(
    ("status", "code"), [(200, "malformed_response"), (502, "vendor_unavailable"), (503, "vendor_unavailable")]
)
def test_a_page_of_html_with_any_status_is_one_sentence(status: int, code: str) -> None:
    html = f"<html><body>{CANARY}</body></html>".encode()
    for question in (first_page, lambda ghl: ghl.contact("c1"), lambda ghl: ghl.by_email("a@crm.example.com")):
        with ScriptedServer(answer(status, html)) as server:
            error = refusal(lambda server=server, question=question: ask_at(server.url, question))
        assert (error.code, error.category) == (code, TRANSIENT)
        assert "base_url" in str(error)


def test_a_hiccup_is_not_noticed() -> None:
    faults = [{"kind": "status", "status": 502, "nth": 1}, {"kind": "reset", "nth": 2}, {"kind": "cut_body", "nth": 3}]
    with running_gohighlevel(location(20), faults=faults) as rig:
        assert len(rig.ask(first_page).rows) == 20
        assert rig.calls() == 4


def test_a_host_that_cannot_be_reached_is_one_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    error = refusal(lambda: ask_at(f"http://127.0.0.1:{port}", first_page))
    assert (error.code, error.category) == ("vendor_unavailable", TRANSIENT)
    assert "no connection" in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500])
def test_nothing_of_a_body_is_in_an_error(status: int) -> None:
    body = {"statusCode": status, "message": [CANARY], "error": CANARY}
    with ScriptedServer(answer(status, body)) as server:
        refusal(lambda: ask_at(server.url, first_page))
