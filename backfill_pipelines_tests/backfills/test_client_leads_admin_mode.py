"""With only the instance's admin token, whose workspace is state of its user: everybody's switch is everybody's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backfill_pipelines.engine.ledger import State
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld, Reply, Workspace
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines_tests.backfills.agency import (
    AMBER,
    BIRCHWOOD,
    CAFE,
    CEDAR,
    DOVETAIL,
    Agency,
    Document,
    failure,
    succeeded,
)
from backfill_pipelines_tests.sandbox.client_leads_oracle import expected_client_leads

SWITCH = "/workspaces/v1.1/switch-workspace"


@pytest.fixture(autouse=True)
def admin_only(agency: Agency) -> None:
    agency.admin_only = True


def is_known(reply: Reply, workspace: Workspace) -> bool:
    if reply.campaign_id is not None:
        return reply.campaign_id in {each.id for each in workspace.campaigns}
    return reply.sender_email_id in {each.id for each in workspace.sender_emails}


def known_world(world: EmailBisonWorld) -> EmailBisonWorld:
    """The world without the replies whose campaign (or sender) is not in their workspace's lists."""
    return world._replace(
        instances=tuple(
            instance._replace(
                workspaces=tuple(
                    each._replace(replies=tuple(reply for reply in each.replies if is_known(reply, each)))
                    for each in instance.workspaces
                )
            )
            for instance in world.instances
        )
    )


def oracle(agency: Agency, key: str) -> dict[str, dict[str, Any]]:
    expected = expected_client_leads(known_world(agency.bison.state.snapshot()), key)
    return {email: {**row, "bison_instance": agency.host_of(key)} for email, row in expected.rows.items()}


def switches(agency: Agency) -> int:
    return sum(each.path == SWITCH for each in agency.server.requests)


def test_all_clients_of_both_instances_are_read_one_after_the_other(agency: Agency) -> None:
    runs = agency.run_all(AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL)
    assert succeeded(runs)
    for key, run in runs.items():
        assert run.warnings == []
        assert agency.rows(key) == oracle(agency, key)
        workspace = agency.bison.state.world.client(key)[1]
        unknown = [each for each in workspace.replies if each.interested and not is_known(each, workspace)]
        assert run.reasons.get("unknown_campaign", 0) == len(unknown)
        rejected = {row["record_key"] for row in agency.changes(run.id) if row["reason"] == "unknown_campaign"}
        assert rejected == {f"reply {each.id}" for each in unknown}


def test_every_page_lies_between_two_answers_that_name_the_workspace(agency: Agency) -> None:
    assert succeeded(agency.run_all(AMBER, CAFE))
    log = [each for each in agency.server.requests if each.call.account == "main"]
    for before, each, after in zip(log, log[1:], log[2:], strict=False):
        if each.method == "GET" and each.path != "/users":
            assert {before.path, after.path} == {"/users"}
            assert before.call.client == each.call.client == after.call.client


class Waiting:
    """Progress that tells when somebody waits for the instance."""

    def __init__(self) -> None:
        self.seen = threading.Event()

    def report(self, partition_key: str, step: str, done: int, total: int | None) -> None:
        if step == "waiting for the instance":
            self.seen.set()


def test_two_processes_do_not_read_one_instance_at_once(agency: Agency) -> None:
    progress, overlapped = Waiting(), threading.Event()

    def hold() -> None:
        if progress.seen.wait(30):
            overlapped.set()

    agency.server.after(Trigger(path="/replies", nth=1), hold)
    with (
        agency.runtime() as first,
        agency.runtime(progress=progress) as second,
        ThreadPoolExecutor(2) as threads,
    ):
        started = threads.submit(agency.run_in, first, AMBER)
        while not agency.server.requests and not started.done():
            pass  # the first one has the lock once it sends anything
        runs = [threads.submit(agency.run_in, second, CAFE).result(), started.result()]
    assert overlapped.is_set()
    assert all(succeeded(each) for each in runs)
    for key in (AMBER, CAFE):
        assert agency.rows(key) == oracle(agency, key)
        pages = agency.reply_pages(key)
        assert pages == sorted(set(pages)), "a page was thrown away: somebody else switched meanwhile"


# --- other sessions of the user ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/replies", "/leads", "/leads/*", "/campaigns", "/sender-emails", "/users", SWITCH])
def test_a_switch_by_somebody_else_costs_a_page_and_nothing_more(agency: Agency, path: str) -> None:
    switch = {"kind": "switch_workspace", "team": agency.workspace_of(CAFE), "account": "main", "path": path}
    if path != SWITCH:
        switch["workspace"] = AMBER
    agency.server.add_faults([{**switch, "nth": 1}, {**switch, "nth": 3}])
    run = agency.run(AMBER)
    assert succeeded([run])
    assert any(each.faults for each in agency.server.requests)
    assert run.warnings == []
    assert agency.rows(AMBER) == oracle(agency, AMBER)
    assert agency.written() == len(oracle(agency, AMBER))


def test_somebody_who_keeps_switching_ends_the_partition_after_five_answers_in_a_row(agency: Agency) -> None:
    agency.run(CAFE)  # the lists of all workspaces are known from here on
    agency.server.add_faults(
        [{"kind": "switch_workspace", "team": agency.workspace_of(CAFE), "workspace": AMBER, "path": "/replies"}]
    )
    before = agency.written()
    run = agency.run(AMBER)
    assert failure(run) == (State.FAILED, "workspace_contended", True)
    assert agency.written() == before
    assert agency.reply_pages(AMBER) == [1] * 15  # in each of the three attempts of a run

    agency.server.clear_faults()
    again = agency.run(AMBER)
    assert succeeded([again])
    assert again.id == run.id
    assert agency.rows(AMBER) == oracle(agency, AMBER)


def test_a_switch_that_does_not_happen_ends_the_partition_before_it_reads_anything(agency: Agency) -> None:
    agency.server.add_faults([{"kind": "switch_workspace", "team": 1, "account": "main", "path": SWITCH}])
    assert failure(agency.run(AMBER)) == (State.FAILED, "workspace_contended", True)
    assert {each.path for each in agency.server.requests} == {SWITCH, "/users"}
    assert agency.written() == 0


def test_a_workspace_that_the_admin_may_not_enter_is_told_by_its_id(agency: Agency) -> None:
    def edit(document: Document) -> None:
        next(client for client in document["clients"] if client["key"] == AMBER)["email_bison"]["workspace_id"] = 999

    agency.edit = edit
    run = agency.run(AMBER)
    assert failure(run) == (State.FAILED, "switch_refused", False)
    assert "workspace 999" in (run.error_message or "")


def test_an_api_user_token_in_place_of_the_admins_is_refused(agency: Agency) -> None:
    def edit(document: Document) -> None:
        document["email_bison"]["main"]["admin_token"] = agency.bison.state.world.client(CAFE)[1].token

    agency.edit = edit
    assert failure(agency.run(AMBER)) == (State.FAILED, "switch_refused", False)


# --- what the checks before and after a page cannot see ---------------------------------------------------------------


def switched_invisibly(agency: Agency, path: str) -> None:
    """To the café's workspace and back, between two checks, for every request to that path."""
    agency.server.add_faults([{"kind": "wrong_workspace", "serve": CAFE, "workspace": AMBER, "path": path}])


def without_the_cafe(document: Document) -> None:
    document["clients"] = [client for client in document["clients"] if client["key"] != CAFE]


def test_an_invisible_switch_to_a_registered_workspace_stops_the_partition(agency: Agency) -> None:
    switched_invisibly(agency, "/replies")
    assert failure(agency.run(AMBER)) == (State.FAILED, "foreign_rows", False)
    assert (agency.written(), agency.landed(AMBER)) == (0, [])


def test_to_an_unregistered_one_too_once_the_vendor_says_whose_a_lead_is(agency: Agency) -> None:
    agency.edit = without_the_cafe
    switched_invisibly(agency, "/replies")
    assert failure(agency.run(AMBER)) == (State.FAILED, "foreign_rows", False)
    assert (agency.written(), agency.landed(AMBER)) == (0, [])


def test_and_where_nobody_says_it_every_reply_is_rejected(agency: Agency) -> None:
    agency.edit = without_the_cafe
    switched_invisibly(agency, "/[rl]e*")
    run = agency.run(AMBER)
    assert succeeded([run])
    assert run.reasons["unknown_campaign"] == len(agency.bison.state.interested_ids(CAFE))
    assert agency.written() == 0


def test_a_client_with_a_token_of_its_own_beside_one_without(agency: Agency) -> None:
    def edit(document: Document) -> None:
        client = next(client for client in document["clients"] if client["key"] == AMBER)
        client["email_bison"]["token"] = agency.bison.state.world.client(AMBER)[1].token

    agency.edit = edit
    runs = agency.run_all(AMBER, CAFE)
    assert succeeded(runs)
    assert agency.rows(AMBER) == agency.oracle(AMBER)
    assert agency.rows(CAFE) == oracle(agency, CAFE)
    assert switches(agency) >= 1
