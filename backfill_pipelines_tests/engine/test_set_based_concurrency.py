"""A load beside other writers of the same rows: nobody's write is lost, no row is doubled, no deadlock surfaces."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from backfill_pipelines.engine import set_based
from backfill_pipelines.errors import TransientError
from backfill_pipelines_tests.engine.client_leads_rows import WORKSPACE, ClientLeads, create, update
from backfill_pipelines_tests.engine.other_writers import BulkJob, Webhook, Writer
from backfill_pipelines_tests.engine.waiting import wait_until

OURS = "Ours Ltd"


def test_loads_and_other_writers_lose_nothing_to_each_other(leads: ClientLeads) -> None:
    existing = [leads.insert(lead_email=f"Old{number}@example.com", bison_reply_id=number) for number in range(40)]
    plan = [create(number, lead_email=f"New{number}@example.com", company=OURS) for number in range(100, 140)]
    plan += [update(row, company=OURS, bison_reply_id=200 + number) for number, row in enumerate(existing)]
    run_id = leads.plan(plan)
    new_emails = [f"New{number}@example.com" for number in range(100, 140)]
    old_emails = [row["lead_email"] for row in existing]
    # The webhooks share no address, so that each knows what it has written last.
    webhooks = [Webhook(leads.engine, [*new_emails[part::8], *old_emails[part::8]], seed=part) for part in range(3)]
    jobs = [BulkJob(leads.engine, old_emails, seed=10 + part) for part in range(2)]
    writers: list[Writer] = [*webhooks, *jobs]

    with ExitStack() as at_work:
        for writer in writers:
            at_work.enter_context(writer)
        leads.in_batches_of(4).load(run_id)

    assert [writer.error for writer in writers] == [None] * 5
    outcomes = dict(zip([*new_emails, *old_emails], leads.outcomes(run_id), strict=True))
    assert set(outcomes.values()) <= {("applied", None), ("conflict", "stale")}
    rows = leads.rows()
    assert not [email for email, count in Counter(row["lead_email"].lower() for row in rows).items() if count > 1]
    written = {email: company for webhook in webhooks for email, company in webhook.written.items()}
    for row in rows:
        email = row["lead_email"]
        # Whoever wrote last stands, and the load never writes over a company that it did not plan on.
        assert row["company"] == written.get(email, OURS)
        if email not in written:
            assert outcomes[email] == ("applied", None)
    assert len(rows) == 80


def wait_until_the_load_waits(leads: ClientLeads) -> None:
    """Until a session of this database waits for a lock of another."""
    wait_until(
        lambda: (
            leads.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )[0][0]
            > 0
        )
    )


def test_a_load_gives_way_to_a_writer_that_it_would_deadlock_with(leads: ClientLeads) -> None:
    rows = [leads.insert(lead_email=f"{number}@example.com") for number in range(10)]
    first, *_, last = sorted(row["id"] for row in rows)
    run_id = leads.plan([update(row, company=OURS) for row in rows])

    with ThreadPoolExecutor(1) as load, leads.engine.connect() as other:
        other.exec_driver_sql("UPDATE client_leads SET notes = 'theirs' WHERE id = %s", (last,))
        loading = load.submit(leads.load, run_id)
        wait_until_the_load_waits(leads)
        other.exec_driver_sql("UPDATE client_leads SET notes = 'theirs' WHERE id = %s", (first,))
        other.commit()
        loading.result()

    assert set(leads.outcomes(run_id)) == {("applied", None)}
    assert [leads.row(row_id)["notes"] for row_id in (first, last)] == ["theirs", "theirs"]


def test_an_update_under_way_is_waited_for_and_not_overwritten(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.plan([update(row, company=OURS)])
    with ThreadPoolExecutor(1) as load, leads.engine.connect() as other:
        other.exec_driver_sql("UPDATE client_leads SET company = 'Theirs' WHERE id = %s", (row["id"],))
        loading = load.submit(leads.load, run_id)
        wait_until_the_load_waits(leads)
        other.commit()
        loading.result()
    assert leads.outcomes(run_id) == [("conflict", "stale")]
    assert leads.row(row["id"])["company"] == "Theirs"


def test_an_insert_under_way_is_waited_for_and_not_doubled(leads: ClientLeads) -> None:
    run_id = leads.plan([create(1), create(2)])
    with ThreadPoolExecutor(1) as load, leads.engine.connect() as other:
        other.exec_driver_sql(
            "INSERT INTO client_leads (workspace_name, lead_email) VALUES (%s, 'Lead1@example.com')", (WORKSPACE,)
        )
        loading = load.submit(leads.load, run_id)
        wait_until_the_load_waits(leads)
        other.commit()
        loading.result()
    assert leads.outcomes(run_id) == [("conflict", "stale"), ("applied", None)]
    assert len(leads.rows()) == 2


def test_a_change_under_way_is_waited_for_and_not_undone(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com", company="Old Ltd")
    run_id = leads.planned_and_loaded([create(1), update(row, company=OURS)])
    with ThreadPoolExecutor(1) as threads, leads.engine.connect() as other:
        other.exec_driver_sql("UPDATE client_leads SET notes = 'rang' WHERE lead_email = 'Lead1@example.com'")
        other.exec_driver_sql("UPDATE client_leads SET company = 'Theirs' WHERE id = %s", (row["id"],))
        undoing = threads.submit(leads.undo, run_id)
        wait_until_the_load_waits(leads)
        other.commit()
        assert undoing.result() == {"changed_since": 2}
    assert leads.named("Lead1@example.com")["notes"] == "rang"
    assert leads.row(row["id"])["company"] == "Theirs"


def test_rows_that_somebody_keeps_locked_end_the_load_for_now_and_fail_no_row(
    leads: ClientLeads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_based, "_ATTEMPTS", 2)
    monkeypatch.setattr(set_based, "_LOCK_TIMEOUT", "20ms")
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.plan([update(row, company=OURS)])
    with leads.engine.connect() as other:
        other.exec_driver_sql("UPDATE client_leads SET notes = 'theirs' WHERE id = %s", (row["id"],))
        with pytest.raises(TransientError) as caught:
            leads.load(run_id)
    assert caught.value.code == "target_busy"
    assert leads.outcomes(run_id) == [("planned", None)]
    leads.load(run_id)
    assert leads.outcomes(run_id) == [("applied", None)]


def test_a_connection_that_is_cut_in_the_middle_of_a_batch_ends_the_load_for_now(leads: ClientLeads) -> None:
    row = leads.insert(lead_email="a@example.com")
    run_id = leads.plan([update(row, company=OURS)])
    with ThreadPoolExecutor(1) as load, leads.engine.connect() as other:
        other.exec_driver_sql("UPDATE client_leads SET notes = 'theirs' WHERE id = %s", (row["id"],))
        loading = load.submit(leads.load, run_id)
        wait_until_the_load_waits(leads)
        other.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
        with pytest.raises(TransientError) as caught:
            loading.result()
    assert caught.value.code == "database_unavailable"
    leads.load(run_id)
    assert leads.outcomes(run_id) == [("applied", None)]
