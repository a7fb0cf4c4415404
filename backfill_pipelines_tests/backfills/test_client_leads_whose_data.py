"""Nothing is written unless the workspace is proven: every way in which another client's data could come in.

Five clients once showed the identical total of 162,179 leads because requests returned another workspace's data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from backfill_pipelines.engine.ledger import State
from backfill_pipelines.engine.verify import compare_partitions
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox, UsersAnswer
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines_tests.backfills.agency import (
    AMBER,
    BACKFILL,
    BIRCHWOOD,
    CAFE,
    DOVETAIL,
    UNHURRIED,
    Agency,
    Document,
    Edit,
    failure,
    succeeded,
)


def entry(document: Document, key: str) -> Any:
    return next(client["email_bison"] for client in document["clients"] if client["key"] == key)


def of(key: str, **values: Any) -> Edit:
    """The client's section with other values; None takes one away."""

    def edit(document: Document) -> None:
        section = entry(document, key)
        section.update(values)
        for name in [name for name, value in section.items() if value is None]:
            del section[name]

    return edit


def foreign_replies(agency: Agency, run_id: Any) -> set[int]:
    """The ids that a hard stop has left in the ledger."""
    changes = agency.changes(run_id)
    assert {(row["action"], row["reason"], row["state"]) for row in changes} <= {("reject", "foreign_rows", "planned")}
    return {int(row["record_key"].removeprefix("reply ")) for row in changes}


# --- who am I ---------------------------------------------------------------------------------------------------------


def test_a_token_of_another_workspace_writes_nothing(agency: Agency) -> None:
    other = agency.bison.state.world.client(CAFE)[1]
    agency.edit = of(AMBER, token=other.token)
    run = agency.run(AMBER)
    assert failure(run) == (State.FAILED, "wrong_workspace", False)
    assert f"client {AMBER} belongs to workspace {other.id}" in (run.error_message or "")
    assert (agency.written(), agency.landed(AMBER)) == (0, [])
    assert [each.path for each in agency.server.requests] == ["/users"]


def test_a_workspace_that_changes_while_it_is_read_writes_nothing_and_is_forgotten(agency: Agency) -> None:
    with agency.bison.state.lock:
        tokens = agency.bison.state.instances["main"].tokens
    mine = agency.bison.state.world.client(DOVETAIL)[1].token

    def reissue() -> None:
        tokens[mine] = tokens[mine]._replace(workspace_id=agency.workspace_of(CAFE))

    agency.server.after(Trigger(path="/leads/*", workspace=DOVETAIL), reissue)
    assert failure(agency.run(DOVETAIL)) == (State.FAILED, "wrong_workspace", False)
    assert (agency.written(), agency.landed(DOVETAIL)) == (0, [])


@contextmanager
def answering(agency: Agency, world: EmailBisonWorld, users_answer: UsersAnswer) -> Iterator[Agency]:
    """The same agency at a vendor whose `/users` answers differently."""
    bison = EmailBisonSandbox(world, rate_limit=UNHURRIED, users_answer=users_answer)
    with SandboxServer([bison]) as server:
        agency.bison, agency.server = bison, server
        yield agency


def test_users_may_name_the_workspace_by_either_name(agency: Agency, world: EmailBisonWorld) -> None:
    with answering(agency, world, "workspace"):
        assert succeeded([agency.run(DOVETAIL)])
        assert agency.rows(DOVETAIL) == agency.oracle(DOVETAIL)


def test_users_that_name_no_workspace_prove_nothing(agency: Agency, world: EmailBisonWorld) -> None:
    with answering(agency, world, "neither"):
        assert failure(agency.run(DOVETAIL)) == (State.FAILED, "workspace_unproven", False)
        assert agency.written() == 0


def test_users_that_name_where_the_tokens_owner_stands_prove_nothing(agency: Agency, world: EmailBisonWorld) -> None:
    with answering(agency, world, "owner_team"):
        assert failure(agency.run(DOVETAIL)) == (State.FAILED, "wrong_workspace", False)
        assert agency.written() == 0


# --- whose rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/replies", "*"])
def test_replies_of_another_registered_workspace_stop_the_client_and_nobody_else_later(
    agency: Agency, path: str
) -> None:
    agency.server.add_faults([{"kind": "wrong_workspace", "serve": CAFE, "workspace": AMBER, "path": path}])
    run = agency.run(AMBER)
    assert failure(run) == (State.FAILED, "foreign_rows", False)
    assert CAFE in (run.error_message or "")
    assert foreign_replies(agency, run.id) <= set(agency.bison.state.interested_ids(CAFE))
    assert foreign_replies(agency, run.id)
    assert (agency.written(), agency.landed(AMBER)) == (0, [])

    agency.server.clear_faults()
    assert succeeded(agency.run_all(CAFE, AMBER))
    assert (agency.rows(CAFE), agency.rows(AMBER)) == (agency.oracle(CAFE), agency.oracle(AMBER))


def test_one_foreign_reply_on_a_late_page_is_enough(agency: Agency) -> None:
    agency.server.add_faults(
        [{"kind": "wrong_workspace", "serve": CAFE, "workspace": AMBER, "path": "/replies", "nth": 2}]
    )
    run = agency.run(AMBER)
    assert failure(run)[1] == "foreign_rows"
    assert (agency.written(), agency.landed(AMBER)) == (0, [])


def test_an_ignored_filter_stops_the_client(agency: Agency) -> None:
    agency.server.add_faults([{"kind": "ignore_status_filter", "workspace": AMBER}])
    assert failure(agency.run(AMBER)) == (State.FAILED, "filter_not_honoured", False)
    assert (agency.written(), agency.landed(AMBER)) == (0, [])


def test_a_lead_that_the_vendor_calls_foreign_stops_the_client_and_its_replies_are_noted(agency: Agency) -> None:
    agency.server.add_faults([{"kind": "wrong_workspace", "serve": CAFE, "workspace": AMBER, "path": "/leads*"}])
    run = agency.run(AMBER)
    assert failure(run) == (State.FAILED, "foreign_rows", False)
    assert (agency.written(), agency.landed(AMBER)) == (0, [])
    noted = foreign_replies(agency, run.id)
    replies = agency.bison.state.world.client(AMBER)[1].replies
    leads = {each.lead_id for each in replies if each.id in noted}
    assert len(leads) == 1
    assert noted == {each.id for each in replies if each.lead_id in leads and each.interested}


# --- what cannot be known ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "${BISON_TOKEN_CAFE}", "99|" + "x" * 40])
def test_a_neighbour_without_a_usable_token_weakens_the_proof(agency: Agency, token: str | None) -> None:
    agency.edit = of(CAFE, token=token)
    run = agency.run(AMBER)
    assert succeeded([run])
    assert run.warnings == ["proof_partial"]
    assert agency.rows(AMBER) == agency.oracle(AMBER)
    assert not [each for each in agency.server.requests if each.method != "GET"]


def test_a_neighbour_whose_lists_were_read_today_does_not_weaken_it(agency: Agency) -> None:
    agency.run(CAFE)
    agency.edit = of(CAFE, token=None)
    agency.execute("UPDATE backfill.bison_workspace_record SET landed_at = now() - interval '23 hours'")
    assert agency.run(AMBER).warnings == []
    agency.execute("UPDATE backfill.bison_workspace_record SET landed_at = now() - interval '25 hours'")
    assert agency.run(AMBER).warnings == ["proof_partial"]


def test_a_client_on_another_instance_weakens_nothing_whatever_is_wrong_with_it(agency: Agency) -> None:
    def edit(document: Document) -> None:
        document["email_bison"]["second"]["base_url"] = "${BISON_SECOND_URL}"
        of(BIRCHWOOD, token=None)(document)

    agency.edit = edit
    runs = agency.run_all(AMBER, BIRCHWOOD)
    assert succeeded([runs[AMBER]])
    assert runs[AMBER].warnings == []
    assert failure(runs[BIRCHWOOD]) == (State.FAILED, "missing_variable", False)


def test_a_client_without_any_token_is_told_to_get_one(agency: Agency) -> None:
    def edit(document: Document) -> None:
        of(AMBER, token=None)(document)
        del document["email_bison"]["main"]["admin_token"]

    agency.edit = edit
    assert failure(agency.run(AMBER)) == (State.FAILED, "no_token", False)
    assert agency.server.requests == []


def test_replies_of_deleted_campaigns_count_under_an_own_token_and_are_told(agency: Agency) -> None:
    workspace = agency.bison.state.world.client(AMBER)[1]
    campaigns, senders = {each.id for each in workspace.campaigns}, {each.id for each in workspace.sender_emails}
    unknown = [
        each
        for each in workspace.replies
        if each.interested
        and (each.campaign_id not in campaigns if each.campaign_id is not None else each.sender_email_id not in senders)
    ]
    assert unknown
    run = agency.run(AMBER)
    assert run.reasons["unknown_campaign"] == len(unknown)
    assert agency.rows(AMBER) == agency.oracle(AMBER)


# --- landed for another client ----------------------------------------------------------------------------------------


def mixed_up(agency: Agency) -> None:
    """Amber has been filled with the café's leads, and nothing could tell: the café's lists were unknown."""
    agency.edit = of(CAFE, token=None)
    agency.server.add_faults([{"kind": "wrong_workspace", "serve": CAFE, "workspace": AMBER, "path": "*"}])
    run = agency.run(AMBER)
    assert succeeded([run])
    assert run.warnings == ["proof_partial"]
    agency.server.clear_faults()
    agency.execute("DELETE FROM backfill.bison_workspace_record")
    agency.edit = of(AMBER, token=None)


def test_replies_that_were_landed_for_another_client_stop_this_one(agency: Agency) -> None:
    mixed_up(agency)
    run = agency.run(CAFE)
    assert failure(run) == (State.FAILED, "foreign_rows", False)
    assert AMBER in (run.error_message or "")
    assert foreign_replies(agency, run.id) == set(agency.bison.state.interested_ids(CAFE))
    assert (agency.rows(CAFE), agency.landed(CAFE)) == ({}, [])


def test_accepting_moved_replies_moves_them_and_leaves_the_other_clients_rows_alone(agency: Agency) -> None:
    mixed_up(agency)
    rows = agency.rows(AMBER)
    run = agency.run(CAFE, accept_moved=True)
    assert succeeded([run])
    assert agency.landed(AMBER) == []
    assert set(agency.landed(CAFE)) == set(agency.bison.state.interested_ids(CAFE))
    assert agency.rows(AMBER) == rows
    assert run.reasons["reply_id_taken"] == len(rows)


def test_undoing_the_mix_up_frees_the_replies(agency: Agency) -> None:
    mixed_up(agency)
    (wrong,) = agency.query("SELECT id FROM backfill.run")
    with agency.runtime() as runtime:
        found = runtime.ledger.get(wrong["id"])
    assert found is not None
    assert agency.undo(found).conflict == 0
    assert succeeded([agency.run(CAFE, accept_moved=True)])
    assert agency.rows(CAFE) == agency.oracle(CAFE)


def test_a_sender_that_moves_takes_its_replies_along_once_that_is_accepted(agency: Agency) -> None:
    agency.run_all(AMBER, CAFE)
    with agency.bison.state.lock:
        old, new = (agency.bison.state.client(key)[1] for key in (AMBER, CAFE))
        reply = next(
            each for each in old.replies.values() if each.interested and each.lead_id is None and each.sender_email_id
        )
        new.sender_emails[reply.sender_email_id or 0] = old.sender_emails.pop(reply.sender_email_id or 0)
        del old.replies[reply.id]
        new.put_reply(reply)
    assert failure(agency.run(CAFE)) == (State.FAILED, "foreign_rows", False)
    assert failure(agency.run(CAFE)) == (State.FAILED, "foreign_rows", False)
    assert succeeded([agency.run(CAFE, accept_moved=True)])
    assert reply.id in agency.landed(CAFE)
    assert reply.id not in agency.landed(AMBER)


def test_two_workspaces_with_one_total_and_one_newest_reply_are_both_marked(agency: Agency) -> None:
    mixed_up(agency)
    agency.run_all(CAFE, accept_moved=True)
    agency.edit = None
    agency.run_all(DOVETAIL, BIRCHWOOD)
    with agency.runtime() as runtime:
        compare_partitions(runtime, BACKFILL)
        marked = {run.partition_key: run for run in runtime.ledger.newest_verifications(BACKFILL.name)}
    assert {key for key, run in marked.items() if "same_as_other_workspace" in run.warnings} == {AMBER, CAFE}
    passed = {key: run.verification["passed"] for key, run in marked.items() if run.verification}
    assert passed == {AMBER: False, CAFE: False, DOVETAIL: True, BIRCHWOOD: True}


def test_a_client_that_was_stopped_and_the_one_that_has_its_rows_are_both_marked(agency: Agency) -> None:
    mixed_up(agency)
    assert agency.run(CAFE).error_code == "foreign_rows"
    with agency.runtime() as runtime:
        compare_partitions(runtime, BACKFILL)
        marked = {run.partition_key: run for run in runtime.ledger.newest_verifications(BACKFILL.name)}
    for key in (AMBER, CAFE):
        assert "same_as_other_workspace" in marked[key].warnings
        assert marked[key].verification is not None
        assert marked[key].verification["passed"] is False


def test_only_equal_figures_of_one_instance_are_suspicious_and_failed_runs_count_too(agency: Agency) -> None:
    run = agency.run(DOVETAIL)
    one, other = {"instance": "a", "source_total": 3, "newest_reply_id": 9}, {"instance": "b", "source_total": 3}
    figures = {
        "first": one,
        "second": one,
        "other-instance": {**one, "instance": "b"},
        "other-total": {**one, "source_total": 4},
        "other-reply": {**one, "newest_reply_id": 8},
        "empty": {**other, "source_total": 0},
        "empty-too": {**other, "source_total": 0},
        "never-read": {},
    }
    runs = [replace(run, partition_key=key, details=details, verification=None) for key, details in figures.items()]
    assert BACKFILL.compare_partitions(runs) == dict.fromkeys(["first", "second"], "same_as_other_workspace")
