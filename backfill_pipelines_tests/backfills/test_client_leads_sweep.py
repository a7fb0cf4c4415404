"""Reading pages that shift while they are read, going on after an interruption, and asking for no more than needed."""

from __future__ import annotations

import threading
from collections import Counter
from urllib.parse import parse_qs

import pytest

from backfill_pipelines.backfills import client_leads_source
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines_tests.backfills.agency import AMBER, BIRCHWOOD, CAFE, DOVETAIL, Agency, failure, succeeded

PAGES_AHEAD = 4


def last_page(agency: Agency, key: str) -> int:
    return -(-len(agency.bison.state.interested_ids(key)) // 15)


# --- pages that shift -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "nth"),
    [("add_reply", 1), ("add_reply", 3), ("unmark_newest", 2), ("unmark_newest", 3), ("mark_newest", 2)],
)
def test_a_change_while_paging_means_another_sweep_and_the_final_world(agency: Agency, change: str, nth: int) -> None:
    agency.server.add_faults([{"kind": change, "workspace": AMBER, "path": "/replies", "nth": nth}])
    run = agency.run(AMBER)
    assert succeeded([run])
    assert agency.rows(AMBER) == agency.oracle(AMBER)
    assert agency.landed(AMBER) == sorted(agency.bison.state.interested_ids(AMBER))
    assert agency.reply_pages(AMBER).count(1) == 2


def test_a_change_after_the_last_page_is_the_next_runs(agency: Agency) -> None:
    before = agency.oracle(AMBER)
    last = last_page(agency, AMBER)
    agency.server.add_faults([{"kind": "mark_newest", "workspace": AMBER, "path": "/replies", "nth": last}])
    assert succeeded([agency.run(AMBER)])
    assert agency.rows(AMBER) == before
    assert succeeded([agency.run(AMBER)])
    assert agency.rows(AMBER) == agency.oracle(AMBER) != before


def test_changes_in_several_sweeps_are_followed_until_one_is_quiet(agency: Agency) -> None:
    for nth in (2, 6, 10):
        agency.server.add_faults([{"kind": "add_reply", "workspace": AMBER, "path": "/replies", "nth": nth}])
    assert succeeded([agency.run(AMBER)])
    assert agency.rows(AMBER) == agency.oracle(AMBER)
    assert 2 <= agency.reply_pages(AMBER).count(1) <= 4


@pytest.mark.parametrize("key", [AMBER, DOVETAIL])
def test_a_source_that_never_stands_still_is_given_up_after_five_sweeps(agency: Agency, key: str) -> None:
    agency.server.add_faults([{"kind": "total_drift", "workspace": key, "path": "/replies"}])
    assert failure(agency.run(key)) == (State.FAILED, "unstable_source", False)
    assert agency.reply_pages(key).count(1) == 5
    assert (agency.written(), agency.landed(key)) == (0, [])
    agency.server.clear_faults()
    assert succeeded([agency.run(key)])
    assert agency.rows(key) == agency.oracle(key)


def test_a_lead_deleted_while_paging_counts_under_the_address_that_wrote(agency: Agency) -> None:
    lead_id = next(iter(row["bison_lead_id"] for row in agency.oracle(DOVETAIL).values() if row["bison_lead_id"]))
    agency.server.after(
        Trigger(path="/replies", workspace=DOVETAIL), lambda: agency.bison.state.delete_lead(DOVETAIL, lead_id)
    )
    assert succeeded([agency.run(DOVETAIL)])
    assert agency.rows(DOVETAIL) == agency.oracle(DOVETAIL)


# --- going on after an interruption -----------------------------------------------------------------------------------


class StopAfter:
    """Progress that asks for a stop once a step has come so far; by default, at its end."""

    def __init__(self, step: str, done: int | None = None) -> None:
        self.stop = threading.Event()
        self._step = step
        self._done = done

    def report(self, partition_key: str, step: str, done: int, total: int | None) -> None:
        if step == self._step and done == (total if self._done is None else self._done):
            self.stop.set()


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_stopped_extraction_goes_on_at_the_next_page(agency: Agency, page: int) -> None:
    progress = StopAfter("replies", page)
    with agency.runtime(stop=progress.stop, progress=progress) as runtime:
        stopped = agency.run_in(runtime, AMBER)[AMBER]
    assert failure(stopped) == (State.INTERRUPTED, "interrupted", True)
    assert len(agency.landed(AMBER)) == page * 15
    assert agency.written() == 0
    asked = Counter(agency.reply_pages(AMBER))

    resumed = agency.run(AMBER)
    assert succeeded([resumed])
    assert resumed.id == stopped.id
    assert agency.rows(AMBER) == agency.oracle(AMBER)
    asked_again = Counter(agency.reply_pages(AMBER)) - asked
    assert sorted(asked_again.elements()) == list(range(page + 1, last_page(agency, AMBER) + 1))
    repeated = sum((asked & asked_again).values())
    assert repeated <= PAGES_AHEAD - 1


@pytest.mark.parametrize(("step", "done"), [("leads", None), ("leads by id", 1)])
def test_a_run_stopped_at_its_leads_asks_for_no_reply_and_no_landed_lead_again(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, step: str, done: int | None
) -> None:
    monkeypatch.setattr(client_leads_source, "_SINGLE_READS_AT_ONCE", 1)
    progress = StopAfter(step, done)
    with agency.runtime(stop=progress.stop, progress=progress) as runtime:
        assert failure(agency.run_in(runtime, AMBER)[AMBER]) == (State.INTERRUPTED, "interrupted", True)
    landed = {row["lead_id"] for row in agency.query("SELECT lead_id FROM backfill.bison_lead")}
    assert landed
    asked = len(agency.requests(AMBER))
    assert succeeded([agency.run(AMBER)])
    since = [each.path for each in agency.requests(AMBER)[asked:]]
    assert not {"/replies", "/leads"} & set(since)
    by_id = {int(path.removeprefix("/leads/")) for path in since if path.startswith("/leads/")}
    assert by_id
    assert not by_id & landed
    assert agency.rows(AMBER) == agency.oracle(AMBER)


def test_an_outage_in_the_middle_keeps_what_is_landed(agency: Agency) -> None:
    agency.server.add_faults(
        [{"kind": "status", "status": 503, "workspace": AMBER, "path": "/replies", "nth": 3, "count": 1_000}]
    )
    failed = agency.run(AMBER)
    assert failure(failed) == (State.FAILED, "vendor_unavailable", True)
    landed = len(agency.landed(AMBER)) // 15
    assert landed >= 1
    asked = len(agency.reply_pages(AMBER))

    agency.server.clear_faults()
    resumed = agency.run(AMBER)
    assert succeeded([resumed])
    assert resumed.id == failed.id
    assert agency.reply_pages(AMBER)[asked:][0] == landed + 1
    assert sorted(agency.reply_pages(AMBER)[asked:]) == list(range(landed + 1, last_page(agency, AMBER) + 1))
    assert agency.rows(AMBER) == agency.oracle(AMBER)


def test_fresh_forgets_an_interrupted_extraction(agency: Agency) -> None:
    progress = StopAfter("replies", 2)
    with agency.runtime(stop=progress.stop, progress=progress) as runtime:
        stopped = agency.run_in(runtime, AMBER)[AMBER]
    asked = len(agency.reply_pages(AMBER))
    run = agency.run(AMBER, fresh=True)
    assert succeeded([run])
    assert run.id != stopped.id
    assert agency.reply_pages(AMBER)[asked] == 1
    assert agency.rows(AMBER) == agency.oracle(AMBER)


# --- no more than needed ----------------------------------------------------------------------------------------------


def test_no_page_is_asked_for_twice_and_none_beyond_the_last(agency: Agency) -> None:
    assert succeeded(agency.run_all(AMBER, BIRCHWOOD, CAFE, DOVETAIL))
    for key in (AMBER, BIRCHWOOD, CAFE, DOVETAIL):
        assert sorted(agency.reply_pages(key)) == list(range(1, last_page(agency, key) + 1))
    for each in agency.server.requests:
        page = int(parse_qs(each.query).get("page", ["1"])[0])
        assert page <= {
            "/replies": last_page(agency, each.call.client),
            "/leads": replied_pages(agency, each.call.client),
        }.get(each.path, 1)


def replied_pages(agency: Agency, key: str) -> int:
    leads = agency.bison.state.world.client(key)[1].leads
    return -(-sum(lead.campaign_status == "replied" for lead in leads) // 15)


def lead_requests(agency: Agency, key: str) -> tuple[int, int]:
    """In bulk, by id."""
    paths = [each.path for each in agency.requests(key)]
    return paths.count("/leads"), sum(path.startswith("/leads/") for path in paths)


def test_leads_come_in_bulk_where_that_takes_fewer_calls(agency: Agency) -> None:
    assert succeeded([agency.run(AMBER)])
    wanted = {row["bison_lead_id"] for row in agency.oracle(AMBER).values() if row["bison_lead_id"]}
    bulk, single = lead_requests(agency, AMBER)
    assert bulk > 1
    assert bulk + single < len(wanted)


def test_a_few_leads_among_many_come_by_id(agency: Agency) -> None:
    for reply_id in agency.bison.state.interested_ids(AMBER)[4:]:
        agency.bison.state.mark(AMBER, reply_id, interested=False)
    assert succeeded([agency.run(AMBER)])
    assert agency.rows(AMBER) == agency.oracle(AMBER)
    replies = agency.bison.state.snapshot().client(AMBER)[1].replies
    wanted = {each.lead_id for each in replies if each.interested and each.lead_id}
    bulk, single = lead_requests(agency, AMBER)
    # The first page of the bulk list tells how long it is.
    assert bulk == (1 if len(wanted) > 1 else 0)
    assert len(wanted) - 15 * bulk <= single <= len(wanted)


def test_a_client_costs_no_more_calls_than_its_pages_and_its_proof(agency: Agency) -> None:
    assert succeeded([agency.run(AMBER)])
    paths = Counter(each.path for each in agency.requests(AMBER) if not each.path.startswith("/leads"))
    assert paths == {"/users": 4, "/campaigns": 1, "/sender-emails": 1, "/replies": last_page(agency, AMBER)}
