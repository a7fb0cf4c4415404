"""Undoing a run as a user asks for it: what an id names, the undo's own row, its counts, and what the next run does."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import create_engine

from backfill_pipelines.engine import partition_run
from backfill_pipelines.engine.backfill import RunOptions
from backfill_pipelines.engine.ledger import Mode, Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime, lock_name
from backfill_pipelines.engine.undo import UndoResult, runs_to_undo, undo_run
from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines.registry import Registry
from backfill_pipelines_tests.engine.client_leads_backfill import LeadsBackfill
from backfill_pipelines_tests.engine.client_leads_rows import ClientLeads, create


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_run, "RETRY_DELAYS", (0.0, 0.0))


@pytest.fixture
def runtime(leads: ClientLeads) -> Iterator[Runtime]:
    with Runtime(registry=Registry(), engine=create_engine(leads.engine.url)) as opened:
        yield opened


@pytest.fixture
def backfill(leads: ClientLeads) -> LeadsBackfill:
    """Six new leads, loaded and undone two at a time."""
    return LeadsBackfill(leads.in_batches_of(2), rows=[create(number) for number in range(6)])


def run(runtime: Runtime, backfill: LeadsBackfill, key: str = "kim", *, dagster_run_id: str | None = None) -> Run:
    work = run_partition(
        runtime,
        backfill,
        key,
        steps=Steps(),
        options=RunOptions(),
        dagster_run_id=dagster_run_id,
        root_run_id=dagster_run_id,
    )
    return runtime.run(work)


def undo(runtime: Runtime, backfill: LeadsBackfill, loaded: Run, *, dry_run: bool = False) -> UndoResult:
    return runtime.run(undo_run(runtime, backfill, loaded, dry_run=dry_run))


def told(result: UndoResult) -> tuple[State, int, int]:
    return result.run.state, result.undone, result.conflict


# --- what an id names ------------------------------------------------------------------------------------------------


def test_an_id_of_ours_names_its_run(runtime: Runtime, backfill: LeadsBackfill) -> None:
    loaded = run(runtime, backfill)
    assert [found.id for found in runs_to_undo(runtime, str(loaded.id))] == [loaded.id]


def test_an_id_of_dagsters_names_all_its_partitions_runs(runtime: Runtime, backfill: LeadsBackfill) -> None:
    dagster_run_id = str(uuid4())
    for key in ("lee", "kim"):
        run(runtime, backfill, key, dagster_run_id=dagster_run_id)
    assert [found.partition_key for found in runs_to_undo(runtime, dagster_run_id)] == ["kim", "lee"]


@pytest.mark.parametrize("run_id", ["0b9b6f5e-6a2a-4a0e-9d55-2f4d9f3f8c11", "no-uuid", ""])
def test_an_unknown_id_is_told_so(runtime: Runtime, run_id: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        runs_to_undo(runtime, run_id)
    assert caught.value.code == "unknown_run"


def test_a_run_that_wrote_nothing_is_told_so(runtime: Runtime, backfill: LeadsBackfill) -> None:
    undone = undo(runtime, backfill, run(runtime, backfill))
    with pytest.raises(ConfigurationError) as caught:
        runs_to_undo(runtime, str(undone.run.id))
    assert caught.value.code == "nothing_to_undo"


# --- undoing ---------------------------------------------------------------------------------------------------------


def test_an_undo_has_a_row_of_its_own_that_names_the_run_and_counts(
    runtime: Runtime, backfill: LeadsBackfill, leads: ClientLeads
) -> None:
    loaded = run(runtime, backfill)
    leads.change(leads.named("Lead2@example.com")["id"], notes="rang")

    result = undo(runtime, backfill, loaded)

    assert told(result) == (State.SUCCEEDED, 5, 1)
    assert (result.undoes, result.reasons) == (loaded.id, {"changed_since": 1})
    own = runtime.ledger.get(result.run.id)
    assert own is not None
    assert (own.mode, own.undoes, own.counts) == (Mode.UNDO, loaded.id, {"undone": 5, "conflict": 1})
    assert [row["lead_email"] for row in leads.rows()] == ["Lead2@example.com"]


def test_a_second_undo_counts_only_what_is_left(runtime: Runtime, backfill: LeadsBackfill, leads: ClientLeads) -> None:
    loaded = run(runtime, backfill)
    leads.change(leads.named("Lead2@example.com")["id"], notes="rang")
    undo(runtime, backfill, loaded)
    assert told(undo(runtime, backfill, loaded)) == (State.SUCCEEDED, 0, 1)


def test_a_dry_run_counts_the_same_changes_nothing_and_says_in_the_ledger_that_it_was_one(
    runtime: Runtime, backfill: LeadsBackfill, leads: ClientLeads
) -> None:
    loaded = run(runtime, backfill)
    leads.change(leads.named("Lead2@example.com")["id"], notes="rang")
    rows = leads.rows()
    result = undo(runtime, backfill, loaded, dry_run=True)
    assert told(result) == (State.SUCCEEDED, 5, 1)
    assert result.run.options == {"dry_run": True}
    assert leads.rows() == rows
    assert told(undo(runtime, backfill, loaded)) == (State.SUCCEEDED, 5, 1)


def test_an_undo_is_refused_while_the_partition_is_at_work(runtime: Runtime, backfill: LeadsBackfill) -> None:
    loaded = run(runtime, backfill)
    assert runtime.locks.try_acquire(lock_name("leads", "kim"))
    result = undo(runtime, backfill, loaded)
    assert told(result) == (State.REFUSED, 0, 0)
    assert result.run.error_code == "already_running"


def test_an_undo_that_is_asked_to_stop_counts_what_it_did_and_the_next_does_the_rest(
    runtime: Runtime, backfill: LeadsBackfill, leads: ClientLeads
) -> None:
    loaded = run(runtime, backfill)
    backfill.before_batch = runtime.stop.set
    assert told(undo(runtime, backfill, loaded)) == (State.INTERRUPTED, 2, 0)
    assert len(leads.rows()) == 4
    runtime.stop.clear()
    backfill.before_batch = lambda: None
    assert told(undo(runtime, backfill, loaded)) == (State.SUCCEEDED, 4, 0)


def test_an_undo_that_is_tried_again_inside_the_run_counts_all_it_did(
    runtime: Runtime, backfill: LeadsBackfill, leads: ClientLeads
) -> None:
    loaded = run(runtime, backfill)
    attempts = iter([None, TransientError("target_busy", "Locked.")])

    def fail_once() -> None:
        if error := next(attempts, None):
            raise error

    backfill.before_batch = fail_once
    assert told(undo(runtime, backfill, loaded)) == (State.SUCCEEDED, 6, 0)
    assert leads.rows() == []


# --- the next run ----------------------------------------------------------------------------------------------------


def test_a_run_after_an_undo_plans_anew_even_where_the_undone_one_was_interrupted(
    runtime: Runtime, backfill: LeadsBackfill, leads: ClientLeads
) -> None:
    backfill.before_batch = runtime.stop.set
    interrupted = run(runtime, backfill)
    assert (interrupted.state, len(leads.rows())) == (State.INTERRUPTED, 2)
    runtime.stop.clear()
    backfill.before_batch = lambda: None
    undo(runtime, backfill, interrupted)

    again = run(runtime, backfill)

    assert again.id != interrupted.id
    assert again.counts["applied"] == 6
    assert again.verification is not None
    assert again.verification["passed"]


def test_a_dry_undo_leaves_an_interrupted_run_to_be_gone_on_with(runtime: Runtime, backfill: LeadsBackfill) -> None:
    backfill.before_batch = runtime.stop.set
    interrupted = run(runtime, backfill)
    runtime.stop.clear()
    backfill.before_batch = lambda: None
    undo(runtime, backfill, interrupted, dry_run=True)
    assert run(runtime, backfill).id == interrupted.id
