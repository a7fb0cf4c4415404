"""What dead, parked and half-done runs leave in the ledger, and what becomes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy
from sqlalchemy import text

from backfill_pipelines.engine.ledger import Ledger, Mode, Request, State, read_cursor, write_cursor
from backfill_pipelines.errors import ConfigurationError, InterruptedRunError, ParkedError, TransientError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def request(mode: Mode = Mode.LOAD, *, extracts: bool = True, fresh: bool = False) -> Request:
    return Request(backfill="b", partition_key="kim", mode=mode, options={}, extracts=extracts, fresh=fresh)


def extract(engine: sqlalchemy.Engine, *, stream: str = "replies", moved_at: datetime = NOW) -> None:
    with engine.begin() as connection:
        write_cursor(connection, backfill="b", partition_key="kim", stream=stream, position={"page": 7})
        connection.execute(
            text("UPDATE backfill.cursor SET updated_at = :at WHERE stream = :stream"),
            {"at": moved_at, "stream": stream},
        )


def streams(engine: sqlalchemy.Engine) -> set[str]:
    with engine.connect() as connection:
        return {
            stream
            for stream in ("replies", "leads")
            if read_cursor(connection, backfill="b", partition_key="kim", stream=stream) is not None
        }


def state_of(ledger: Ledger, run_id: UUID) -> State:
    found = ledger.get(run_id)
    assert found is not None
    return found.state


def store_plan(ledger: Ledger, engine: sqlalchemy.Engine, run_id: UUID, *, now: datetime = NOW) -> None:
    with engine.begin() as connection:
        ledger.record_plan(connection, run_id, plan_hash="abc", counts={"create": 1}, reasons={}, details={}, now=now)


# --- the dead --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.UNDO, Mode.VERIFY])
def test_a_dead_undo_or_verification_does_not_look_at_work_for_ever(emptied: sqlalchemy.Engine, mode: Mode) -> None:
    ledger = Ledger(emptied)
    dead = ledger.open_side_run(request(mode), now=NOW)
    ledger.open_run(request(), now=NOW + timedelta(minutes=1))
    found = ledger.get(dead.id)
    assert found is not None
    assert (found.state, found.resumable, found.error_code) == (State.INTERRUPTED, False, "process_died")


@pytest.mark.parametrize("mode", [Mode.UNDO, Mode.VERIFY])
def test_whoever_holds_the_partition_next_closes_the_row_of_a_dead_load_and_leaves_it_to_be_resumed(
    emptied: sqlalchemy.Engine, mode: Mode
) -> None:
    ledger = Ledger(emptied)
    dead = ledger.open_run(request(), now=NOW)
    side = ledger.open_side_run(request(mode), now=NOW + timedelta(minutes=1))
    assert state_of(ledger, dead.id) is State.INTERRUPTED
    assert state_of(ledger, side.id) is State.RUNNING
    assert ledger.open_run(request(), now=NOW + timedelta(minutes=2)).id == dead.id


def test_the_rows_of_other_partitions_at_work_are_left_alone(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    other = ledger.open_run(Request(backfill="b", partition_key="lee", mode=Mode.LOAD, options={}), now=NOW)
    ledger.open_run(request(), now=NOW)
    assert state_of(ledger, other.id) is State.RUNNING


def test_a_refused_run_closes_no_row(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    alive = ledger.open_run(request(), now=NOW)
    ledger.refuse(request(), TransientError("already_running", "Held."), now=NOW)
    assert state_of(ledger, alive.id) is State.RUNNING


# --- half-done extractions -------------------------------------------------------------------------------------------


def test_a_run_that_is_gone_on_with_after_a_day_extracts_anew(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    opened = ledger.open_run(request(), now=NOW)
    extract(emptied, moved_at=NOW)
    ledger.fail(opened, InterruptedRunError("interrupted", "Stopped."), now=NOW)
    later = NOW + timedelta(hours=25)
    assert ledger.open_run(request(), now=later).id == opened.id
    assert streams(emptied) == set()


def test_of_an_extraction_what_is_younger_than_a_day_stays(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    opened = ledger.open_run(request(), now=NOW)
    extract(emptied, stream="replies", moved_at=NOW - timedelta(hours=30))
    extract(emptied, stream="leads", moved_at=NOW - timedelta(hours=1))
    ledger.fail(opened, TransientError("vendor_unavailable", "Down."), now=NOW)
    ledger.open_run(request(), now=NOW)
    assert streams(emptied) == {"leads"}


def test_an_extraction_that_a_daily_budget_parked_lives_for_a_day_after_its_wake_time(
    emptied: sqlalchemy.Engine,
) -> None:
    ledger = Ledger(emptied)
    opened = ledger.open_run(request(), now=NOW)
    extract(emptied, moved_at=NOW)
    wake_at = NOW + timedelta(hours=20)
    ledger.fail(opened, ParkedError("daily_budget_spent", "Spent.", wake_at=wake_at), now=NOW)
    assert ledger.open_run(request(), now=wake_at + timedelta(hours=23)).id == opened.id
    assert streams(emptied) == {"replies"}


def test_a_plan_alone_is_made_from_what_a_run_before_it_has_extracted(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    extracted = ledger.open_run(request(Mode.PLAN), now=NOW)
    extract(emptied)
    ledger.succeed(extracted, now=NOW, keep_extraction=True)
    ledger.open_run(request(Mode.PLAN, extracts=False), now=NOW + timedelta(hours=1))
    assert streams(emptied) == {"replies"}


@pytest.mark.parametrize(
    ("asked", "after"),
    [
        pytest.param(request(Mode.PLAN), timedelta(hours=1), id="a run that extracts itself"),
        pytest.param(request(Mode.PLAN, extracts=False), timedelta(hours=25), id="an extraction of yesterday"),
        pytest.param(request(Mode.PLAN, extracts=False, fresh=True), timedelta(hours=1), id="asked to start anew"),
    ],
)
def test_else_a_finished_extraction_is_not_used_again(
    emptied: sqlalchemy.Engine, asked: Request, after: timedelta
) -> None:
    ledger = Ledger(emptied)
    extracted = ledger.open_run(request(Mode.PLAN), now=NOW)
    extract(emptied)
    ledger.succeed(extracted, now=NOW, keep_extraction=True)
    ledger.open_run(asked, now=NOW + after)
    assert streams(emptied) == set()


# --- stored plans ----------------------------------------------------------------------------------------------------


def test_a_load_alone_without_a_plan_is_told_so(emptied: sqlalchemy.Engine) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Ledger(emptied).open_newest_plan(request(), now=NOW)
    assert caught.value.code == "no_plan"


@pytest.mark.parametrize(
    ("age", "code"), [(timedelta(hours=24), None), (timedelta(hours=24, seconds=1), "plan_too_old")]
)
def test_a_load_alone_takes_the_newest_plan_up_to_a_day_old(
    emptied: sqlalchemy.Engine, age: timedelta, code: str | None
) -> None:
    ledger = Ledger(emptied)
    planned = ledger.open_run(request(Mode.PLAN), now=NOW)
    store_plan(ledger, emptied, planned.id)
    ledger.succeed(planned, now=NOW)
    if code is None:
        taken = ledger.open_newest_plan(request(), now=NOW + age)
        assert (taken.id, taken.mode, taken.state, taken.plan_hash) == (planned.id, Mode.LOAD, State.RUNNING, "abc")
        return
    with pytest.raises(ConfigurationError) as caught:
        ledger.open_newest_plan(request(), now=NOW + age)
    assert caught.value.code == code
    assert state_of(ledger, planned.id) is State.SUCCEEDED


def test_of_two_plans_the_newer_is_taken(emptied: sqlalchemy.Engine) -> None:
    ledger = Ledger(emptied)
    for minutes in (0, 1):
        now = NOW + timedelta(minutes=minutes)
        planned = ledger.open_run(request(Mode.PLAN), now=now)
        store_plan(ledger, emptied, planned.id, now=now)
        ledger.succeed(planned, now=now)
    assert ledger.open_newest_plan(request(), now=NOW + timedelta(hours=1)).id == planned.id
