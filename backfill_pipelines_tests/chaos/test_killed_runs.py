"""A run that is killed at a place of its work, and the next one: the same final state as if nothing had happened.

The killed ones are real processes, ended by SIGKILL: nothing of theirs runs afterwards, no handler, no `finally`.
"""

from __future__ import annotations

from typing import Any

from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines_tests.backfills.agency import AMBER, CAFE
from backfill_pipelines_tests.chaos.aftermath import (
    asked,
    check_as_if_undisturbed,
    client_leads_of,
    cursor,
    dagster_status,
    identities,
    journal,
    ledger,
    pages,
    requests_so_far,
)
from backfill_pipelines_tests.chaos.gate import gate
from backfill_pipelines_tests.installation import Installation, Variation, wait_until

RUN = ("run", "client_leads", "--client", AMBER, "--json")
REPLY_PAGES, LEAD_PAGES = 7, 14
Rows = list[dict[str, Any]]


def test_killed_between_two_pages_of_replies_the_next_run_asks_for_the_next_page(
    installation: Installation, undisturbed: Rows
) -> None:
    agency = installation.agency
    with gate(
        agency.database, before="INSERT", of="backfill.bison_reply", when=_at_least(30, "backfill.bison_reply")
    ) as shut:
        killed = installation.start(*RUN)
        shut.wait_until_reached()
        killed.kill()
    assert cursor(agency, "replies")["page"] == 2
    before = requests_so_far(agency)
    done = installation(*RUN)
    assert pages(agency, "/replies", since=before) == list(range(3, REPLY_PAGES + 1))
    assert pages(agency, "/leads", since=before) == list(range(1, LEAD_PAGES + 1))
    check_as_if_undisturbed(installation, done, undisturbed)


def test_killed_between_two_pages_of_leads_the_next_run_asks_for_the_next_page(
    installation: Installation, undisturbed: Rows
) -> None:
    agency = installation.agency
    with gate(
        agency.database, before="INSERT", of="backfill.bison_lead", when=_at_least(12, "backfill.bison_lead")
    ) as shut:
        killed = installation.start(*RUN)
        shut.wait_until_reached()
        killed.kill()
    landed = cursor(agency, "leads")["page"]
    assert 1 <= landed < LEAD_PAGES - 1
    before = requests_so_far(agency)
    done = installation(*RUN)
    assert pages(agency, "/replies", since=before) == []
    assert pages(agency, "/leads", since=before) == list(range(landed + 1, LEAD_PAGES + 1))
    check_as_if_undisturbed(installation, done, undisturbed)


def test_killed_while_leads_are_read_by_id_the_next_run_reads_the_rest(
    installation: Installation, undisturbed: Rows
) -> None:
    agency = installation.agency
    installation.killed_at(Trigger(path="/leads/*", workspace=AMBER, nth=3), *RUN)
    before = requests_so_far(agency)
    done = installation(*RUN)
    assert not [
        path for path, page in asked(agency, since=before) if page is not None and path in ("/replies", "/leads")
    ]
    check_as_if_undisturbed(installation, done, undisturbed)


def test_killed_right_after_planning_the_next_run_loads_that_plan_and_asks_the_vendor_nothing(
    installation: Installation, undisturbed: Rows
) -> None:
    agency = installation.agency
    with gate(agency.database, before="INSERT", of="client_leads") as shut:
        killed = installation.start(*RUN)
        shut.wait_until_reached()
        killed.kill()
    (planned,) = ledger(agency)
    assert (planned["state"], agency.written(), journal(agency)) == ("running", 0, {"planned": len(undisturbed)})
    abandoned = planned["dagster_run_id"]
    assert dagster_status(installation, abandoned) == "STARTED"
    before = requests_so_far(agency)
    done = installation(*RUN)
    assert asked(agency, since=before) == []
    assert done.partitions[AMBER]["plan_hash"] == planned["plan_hash"]
    assert dagster_status(installation, abandoned) == "FAILURE", "or it holds a place in the run queue for a day"
    check_as_if_undisturbed(installation, done, undisturbed)


def test_killed_in_the_middle_of_the_load_the_next_run_goes_on_at_the_next_row(
    installation: Installation, undisturbed: Rows
) -> None:
    agency = installation.agency
    with gate(agency.database, before="INSERT", of="client_leads", when=_at_least(10, "client_leads")) as shut:
        killed = installation.start(*RUN, variation=Variation(batch_rows=5))
        shut.wait_until_reached()
        killed.kill()
    loaded = identities(agency)
    assert (len(loaded), journal(agency)) == (10, {"applied": 10, "planned": len(undisturbed) - 10})
    before = requests_so_far(agency)
    done = installation(*RUN)
    assert asked(agency, since=before) == []
    assert identities(agency).items() >= loaded.items(), "rows of the killed run were written once more"
    check_as_if_undisturbed(installation, done, undisturbed)


def test_killed_between_an_effect_and_its_journal_row_neither_of_them_has_happened(
    installation: Installation, undisturbed: Rows
) -> None:
    """A batch updates (and journals that), then creates (and journals that), in one transaction.

    The process dies while it creates: its updates are done and journalled by then, but not committed.
    """
    agency = installation.agency
    assert installation(*RUN).exit_code == 0
    gone, blanked = (row["lead_email"] for row in undisturbed[:2])
    agency.execute("TRUNCATE backfill.run, backfill.change, backfill.cursor")
    agency.execute("DELETE FROM client_leads WHERE lead_email = :gone", gone=gone)
    agency.execute("UPDATE client_leads SET interested = false WHERE lead_email = :blanked", blanked=blanked)
    untouched = identities(agency)
    # True in the transaction that has just updated, and nowhere else.
    updated = (
        "NOT EXISTS (SELECT FROM client_leads WHERE NOT interested)"
        " AND EXISTS (SELECT FROM backfill.change WHERE action = 'update' AND state = 'applied')"
    )
    with gate(agency.database, before="INSERT", of="client_leads", when=updated) as shut:
        killed = installation.start(*RUN)
        shut.wait_until_reached()
        killed.kill()
    # Its session may still be at work on the statement; it learns of its client's death when it wants to answer.
    wait_until(lambda: not agency.query(_WRITING))
    assert (identities(agency), journal(agency)) == (untouched, {"planned": 2})
    done = installation(*RUN).partitions[AMBER]
    assert (done["counts"]["create"], done["counts"]["update"], done["counts"]["applied"]) == (1, 1, 2)
    assert client_leads_of(agency, AMBER) == undisturbed
    assert journal(agency) == {"applied": 2}
    assert len(ledger(agency)) == 1


def test_killed_during_undo_the_next_undo_takes_back_the_rest(installation: Installation, undisturbed: Rows) -> None:
    agency = installation.agency
    run_id = installation(*RUN).partitions[AMBER]["run_id"]
    other = installation("run", "client_leads", "--client", CAFE, "--json").partitions[CAFE]
    with gate(
        agency.database, before="DELETE", of="client_leads", when=_at_most(20 + other["counts"]["applied"])
    ) as shut:
        killed = installation.start("undo", run_id, "--json", variation=Variation(batch_rows=5))
        shut.wait_until_reached()
        killed.kill()
    left = len(client_leads_of(agency, AMBER))
    assert 0 < left < len(undisturbed)
    done = installation("undo", run_id, "--json")
    assert done.exit_code == 0
    assert (done.partitions[AMBER]["undone"], done.partitions[AMBER]["conflict"]) == (left, 0)
    assert client_leads_of(agency, AMBER) == []
    assert agency.written() == other["counts"]["applied"], "another client's rows are none of its business"
    assert journal(agency) == {"undone": len(undisturbed), "applied": other["counts"]["applied"]}


def test_killed_over_and_over_every_run_comes_further(installation: Installation, undisturbed: Rows) -> None:
    """At requests, in whatever it is doing: each kill comes before the vendor's answer does."""
    for nth in (6, 9, 14):
        installation.killed_at(Trigger(workspace=AMBER, nth=nth), *RUN)
    check_as_if_undisturbed(installation, installation(*RUN), undisturbed)
    assert pages(installation.agency, "/replies")[0] == 1
    assert pages(installation.agency, "/replies").count(1) <= 2


_WRITING = (
    "SELECT FROM pg_locks WHERE relation = 'client_leads'::regclass AND mode = 'RowExclusiveLock'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def _at_least(count: int, table: str) -> str:
    return f"(SELECT count(*) FROM {table}) >= {count}"


def _at_most(count: int) -> str:
    return f"(SELECT count(*) FROM client_leads) <= {count}"
