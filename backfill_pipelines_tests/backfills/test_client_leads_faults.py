"""What a broken vendor does to a run: what passes is waited for, what does not is told by its code, nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest

from backfill_pipelines.engine.ledger import State
from backfill_pipelines_tests.backfills.agency import AMBER, CAFE, DOVETAIL, Agency, Document, failure, succeeded

Fault = dict[str, Any]


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        ({"kind": "status", "status": 500}, "/replies"),
        ({"kind": "status", "status": 500}, "/users"),
        ({"kind": "status", "status": 200}, "/replies"),
        ({"kind": "reset"}, "/replies"),
        ({"kind": "reset"}, "/leads*"),
        ({"kind": "truncated_json"}, "/leads*"),
        ({"kind": "cut_body"}, "/replies"),
    ],
    ids=str,
)
def test_a_fault_that_passes_is_not_seen_in_the_result(agency: Agency, fault: Fault, path: str) -> None:
    agency.server.add_faults([{**fault, "workspace": DOVETAIL, "path": path, "count": 2}])
    assert succeeded([agency.run(DOVETAIL)])
    assert sum(len(each.faults) for each in agency.server.requests) == 2
    assert agency.rows(DOVETAIL) == agency.oracle(DOVETAIL)


@pytest.mark.parametrize(
    "fault", [{"kind": "lost_reply", "count": 1}, {"kind": "slow_body", "seconds": 0.2, "count": 1}]
)
def test_neither_is_an_answer_that_is_lost_or_comes_slowly(agency: Agency, fault: Fault) -> None:
    agency.server.add_faults([{**fault, "workspace": DOVETAIL, "path": "/replies"}])
    assert succeeded([agency.run(DOVETAIL)])
    assert agency.rows(DOVETAIL) == agency.oracle(DOVETAIL)


def test_a_refusal_for_being_one_too_many_is_waited_for(agency: Agency) -> None:
    agency.server.add_faults(
        [{"kind": "rate_limited", "retry_after": 1, "workspace": DOVETAIL, "path": "/replies", "count": 1}]
    )
    assert succeeded([agency.run(DOVETAIL)])
    assert [each.status for each in agency.requests(DOVETAIL, "/replies")] == [429, 200]
    assert agency.rows(DOVETAIL) == agency.oracle(DOVETAIL)


def test_a_lost_answer_to_a_switch_is_no_reason_to_fail(agency: Agency) -> None:
    agency.admin_only = True
    agency.server.add_faults([{"kind": "lost_reply", "method": "POST", "count": 2}])
    assert succeeded([agency.run(DOVETAIL)])
    assert agency.rows(DOVETAIL) == agency.oracle(DOVETAIL)


@pytest.mark.parametrize(
    ("fault", "code", "resumable"),
    [
        ({"kind": "status", "status": 502}, "vendor_unavailable", True),
        ({"kind": "status", "status": 200}, "malformed_response", True),
        ({"kind": "truncated_json"}, "malformed_response", True),
        ({"kind": "reset"}, "vendor_unavailable", True),
        ({"kind": "status", "status": 403}, "forbidden", False),
        ({"kind": "status", "status": 404}, "not_found", False),
        ({"kind": "status", "status": 302}, "unexpected_redirect", False),
        ({"kind": "status", "status": 422}, "rejected_request", False),
        ({"kind": "expired_token"}, "unauthorized", False),
    ],
)
def test_a_fault_that_stays_is_told_by_its_code_and_writes_nothing(
    agency: Agency, fault: Fault, code: str, resumable: bool
) -> None:
    agency.server.add_faults([{**fault, "workspace": AMBER, "path": "/replies", "nth": 2, "count": 1_000}])
    run = agency.run(AMBER)
    assert failure(run) == (State.FAILED, code, resumable)
    assert run.error_message
    assert agency.written() == 0
    assert bool(agency.landed(AMBER)) is resumable

    agency.server.clear_faults()
    again = agency.run(AMBER)
    assert succeeded([again])
    assert (again.id == run.id) is resumable
    assert agency.rows(AMBER) == agency.oracle(AMBER)


def test_a_revoked_token_fails_its_client_alone_and_keeps_what_was_landed_before(agency: Agency) -> None:
    agency.run_all(AMBER, CAFE)
    landed = agency.landed(CAFE)
    agency.bison.state.revoke(agency.bison.state.world.client(CAFE)[1].token)
    runs = agency.run_all(AMBER, CAFE, DOVETAIL)
    assert failure(runs[CAFE]) == (State.FAILED, "unauthorized", False)
    assert succeeded([runs[AMBER], runs[DOVETAIL]])
    assert runs[DOVETAIL].warnings == []
    assert agency.landed(CAFE) == landed


def test_a_token_with_a_line_break_is_told_before_anything_is_sent(agency: Agency) -> None:
    def edit(document: Document) -> None:
        document["clients"][0]["email_bison"]["token"] = "31|abc\ndef"

    agency.edit = edit
    assert failure(agency.run(AMBER)) == (State.FAILED, "invalid_token", False)
    assert agency.server.requests == []
