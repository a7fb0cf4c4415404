"""Which run the next one goes on with, and what happens to half-done extractions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from backfill_pipelines.engine.ledger import (
    Ledger,
    Mode,
    Request,
    Run,
    State,
    can_resume,
    read_cursor,
    write_cursor,
)
from backfill_pipelines.errors import DataError, TransientError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def request(mode: Mode = Mode.LOAD, *, fresh: bool = False, root: str | None = None, own: str | None = None) -> Request:
    return Request(
        backfill="b", partition_key="kim", mode=mode, fresh=fresh, options={}, dagster_run_id=own, root_run_id=root
    )


def a_run(*, mode: Mode, state: State, resumable: bool, planned_hours_ago: float | None) -> Run:
    planned_at = None if planned_hours_ago is None else NOW - timedelta(hours=planned_hours_ago)
    return Run(
        id=uuid4(), dagster_run_id=None, root_run_id=None, backfill="b", partition_key="kim", mode=mode, state=state,
        plan_hash=None, planned_counts={}, planned_reasons={}, counts={}, reasons={}, warnings=[], details={},
        verification=None, options={}, resumable=resumable, started_at=NOW, planned_at=planned_at, finished_at=None,
        parked_until=None, undoes=None, error_code=None, error_category=None, error_message=None,
    )  # fmt: skip


@given(
    mode=st.sampled_from(Mode),
    state=st.sampled_from(State),
    resumable=st.booleans(),
    planned=st.none() | st.floats(0, 48),
    asked=st.sampled_from([Mode.PLAN, Mode.LOAD]),
    fresh=st.booleans(),
)
def test_a_run_is_gone_on_with_only_for_the_same_request_and_only_while_its_plan_is_young(
    *, mode: Mode, state: State, resumable: bool, planned: float | None, asked: Mode, fresh: bool
) -> None:
    newest = a_run(mode=mode, state=state, resumable=resumable, planned_hours_ago=planned)
    resumed = can_resume(newest, request(asked, fresh=fresh), now=NOW)
    unfinished = resumable or state is State.RUNNING
    young = planned is None or planned <= 24
    assert resumed == (unfinished and young and mode is asked and not fresh)


@pytest.mark.parametrize(
    ("before", "now", "resumed"),
    [
        ({"clear_nulls": True}, {}, False),
        ({}, {"clear_nulls": True}, False),
        ({"clear_nulls": True}, {"clear_nulls": True}, True),
        ({"max_records": 5}, {"max_records": 9}, True),
        ({"max_records": 5, "fresh": True}, {}, True),
    ],
)
def test_a_run_that_decided_by_other_options_is_not_gone_on_with(
    before: dict[str, Any], now: dict[str, Any], *, resumed: bool
) -> None:
    newest = a_run(mode=Mode.LOAD, state=State.INTERRUPTED, resumable=True, planned_hours_ago=1)
    asked = replace(request(Mode.LOAD), options=now)
    assert can_resume(replace(newest, options=before), asked, now=NOW) is resumed


def extract_half(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        write_cursor(connection, backfill="b", partition_key="kim", stream="replies", position={"page": 7})


def position(engine: sqlalchemy.Engine) -> dict[str, object] | None:
    with engine.connect() as connection:
        return read_cursor(connection, backfill="b", partition_key="kim", stream="replies")


def test_a_cursor_is_moved_and_read_per_stream(emptied: sqlalchemy.Engine) -> None:
    assert position(emptied) is None
    extract_half(emptied)
    assert position(emptied) == {"page": 7}
    with emptied.begin() as connection:
        write_cursor(connection, backfill="b", partition_key="kim", stream="replies", position={"page": 8})
        assert read_cursor(connection, backfill="b", partition_key="kim", stream="leads") is None
        assert read_cursor(connection, backfill="b", partition_key="lee", stream="replies") is None
    assert position(emptied) == {"page": 8}


def test_a_finished_run_uses_its_extraction_up(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    opened = ledger.open_run(request(), now=NOW)
    extract_half(emptied)
    ledger.succeed(opened, now=NOW)
    assert position(emptied) is None


def test_a_run_that_only_extracted_leaves_its_extraction_to_whoever_plans_next(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    opened = ledger.open_run(request(Mode.PLAN), now=NOW)
    extract_half(emptied)
    ledger.succeed(opened, now=NOW, keep_extraction=True)
    assert position(emptied) == {"page": 7}


def test_a_failure_that_may_pass_keeps_the_extraction_and_the_next_run_goes_on(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    opened = ledger.open_run(request(), now=NOW)
    extract_half(emptied)
    ledger.fail(opened, TransientError("vendor_unavailable", "Down."), now=NOW)
    again = ledger.open_run(request(), now=NOW)
    assert (again.id, again.state, again.error_code) == (opened.id, State.RUNNING, None)
    assert position(emptied) == {"page": 7}


def test_data_that_cannot_be_trusted_is_forgotten(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    opened = ledger.open_run(request(), now=NOW)
    extract_half(emptied)
    ledger.fail(opened, DataError("foreign_rows", "Not ours."), now=NOW)
    assert position(emptied) is None
    assert ledger.open_run(request(), now=NOW).id != opened.id


def test_a_dry_run_goes_on_with_the_extraction_of_a_run_that_died_in_it(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    died = ledger.open_run(request(Mode.LOAD), now=NOW)
    extract_half(emptied)
    dry = ledger.open_run(request(Mode.PLAN), now=NOW)
    assert dry.id != died.id
    assert position(emptied) == {"page": 7}
    left = ledger.get(died.id)
    assert left is not None
    assert left.state is State.INTERRUPTED


def test_an_extraction_of_yesterday_is_not_gone_on_with(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    ledger.open_run(request(Mode.LOAD), now=NOW)
    extract_half(emptied)
    with emptied.begin() as connection:
        connection.execute(text("UPDATE backfill.cursor SET updated_at = :at"), {"at": NOW - timedelta(hours=25)})
    ledger.open_run(request(Mode.PLAN), now=NOW)
    assert position(emptied) is None


def test_fresh_forgets_the_extraction(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    died = ledger.open_run(request(), now=NOW)
    extract_half(emptied)
    assert ledger.open_run(request(fresh=True), now=NOW).id != died.id
    assert position(emptied) is None


def test_a_verification_extracts_anew_and_is_never_gone_on_with(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    died = ledger.open_run(request(), now=NOW)
    extract_half(emptied)
    verification = ledger.open_verification(request(Mode.VERIFY), now=NOW)
    assert position(emptied) is None
    ledger.fail(verification, TransientError("vendor_unavailable", "Down."), now=NOW)
    assert ledger.open_run(request(), now=NOW).id == died.id


def test_a_refused_run_is_no_run_to_go_on_with(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    refused = ledger.refuse(request(), TransientError("already_running", "Held."), now=NOW)
    assert refused.state is State.REFUSED
    assert ledger.open_run(request(), now=NOW).id != refused.id


def test_only_a_retry_of_the_same_group_finds_what_the_group_has_finished(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    opened = ledger.open_run(request(root="a", own="a"), now=NOW)
    ledger.succeed(opened, now=NOW)
    found = ledger.finished_in_group(request(root="a", own="b"))
    assert found is not None
    assert found.id == opened.id
    assert ledger.finished_in_group(request(root="a", own="a")) is None
    assert ledger.finished_in_group(request(root="c", own="d")) is None
    assert ledger.finished_in_group(request(Mode.PLAN, root="a", own="b")) is None


def test_the_newest_run_of_each_partition_is_listed(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    first = ledger.open_run(request(), now=NOW)
    ledger.succeed(first, now=NOW)
    second = ledger.open_run(request(), now=NOW + timedelta(minutes=1))
    assert [run.id for run in ledger.newest_runs("b")] == [second.id]
    assert ledger.newest_runs("other") == []
