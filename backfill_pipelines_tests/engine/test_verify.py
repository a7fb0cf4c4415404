"""Verifying a partition anew, and looking over all of them at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine

from backfill_pipelines.engine import partition_run
from backfill_pipelines.engine.backfill import RunOptions
from backfill_pipelines.engine.ledger import Mode, Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime, lock_name
from backfill_pipelines.engine.verify import compare_partitions, verify_partition
from backfill_pipelines.errors import DataError, TransientError
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
    return LeadsBackfill(leads, rows=[create(number) for number in range(3)])


def run(runtime: Runtime, backfill: LeadsBackfill, key: str = "kim", *, steps: Steps | None = None) -> Run:
    work = run_partition(
        runtime, backfill, key, steps=steps or Steps(), options=RunOptions(), dagster_run_id=None, root_run_id=None
    )
    return runtime.run(work)


def verify(runtime: Runtime, backfill: LeadsBackfill, key: str = "kim") -> Run:
    return runtime.run(verify_partition(runtime, backfill, key))


def comparison(run: Run) -> tuple[int, int, bool]:
    assert run.verification is not None
    return run.verification["equal"], run.verification["missing"], run.verification["passed"]


def test_a_verification_compares_and_writes_nothing_but_its_result(
    runtime: Runtime, backfill: LeadsBackfill, leads: ClientLeads
) -> None:
    run(runtime, backfill)
    leads.delete(leads.named("Lead1@example.com")["id"])
    rows = leads.rows()

    verified = verify(runtime, backfill)

    assert (verified.state, verified.mode, comparison(verified)) == (State.SUCCEEDED, Mode.VERIFY, (2, 1, False))
    assert (verified.warnings, verified.reasons, verified.details) == (
        ["proof_partial"],
        {"unknown_campaign": 2},
        {"pages": 3},
    )
    assert leads.rows() == rows


def test_a_verification_that_fails_says_why_and_has_no_result(runtime: Runtime, backfill: LeadsBackfill) -> None:
    backfill.extract_failures = [DataError("foreign_rows", "Not ours.")]
    failed = verify(runtime, backfill)
    assert (failed.state, failed.error_code, failed.verification) == (State.FAILED, "foreign_rows", None)


def test_a_failure_that_may_pass_is_tried_again(runtime: Runtime, backfill: LeadsBackfill) -> None:
    backfill.extract_failures = [TransientError("vendor_unavailable", "Down.")]
    assert verify(runtime, backfill).state is State.SUCCEEDED


def test_a_verification_is_refused_while_the_partition_is_at_work(runtime: Runtime, backfill: LeadsBackfill) -> None:
    assert runtime.locks.try_acquire(lock_name("leads", "kim"))
    refused = verify(runtime, backfill)
    assert (refused.state, refused.error_code) == (State.REFUSED, "already_running")


def test_partitions_that_cannot_all_be_right_are_marked_where_their_newest_result_stands(
    runtime: Runtime, backfill: LeadsBackfill
) -> None:
    older = run(runtime, backfill, "kim")
    newest = [run(runtime, backfill, key) for key in ("kim", "lee", "mia")]
    backfill.alike = {"kim": "same_as_other_workspace", "lee": "same_as_other_workspace", "gone": "code"}

    compare_partitions(runtime, backfill)
    compare_partitions(runtime, backfill)

    kim, lee, mia = (runtime.ledger.get(found.id) for found in newest)
    for marked in (kim, lee):
        assert marked is not None
        assert marked.warnings == ["proof_partial", "same_as_other_workspace"]
        assert comparison(marked) == (3, 0, False)
    assert mia is not None
    assert (mia.warnings, comparison(mia)) == (["proof_partial"], (3, 0, True))
    untouched = runtime.ledger.get(older.id)
    assert untouched is not None
    assert comparison(untouched) == (3, 0, True)


def test_the_newest_verification_of_each_partition_is_found_whatever_ran_after_it(
    runtime: Runtime, backfill: LeadsBackfill
) -> None:
    run(runtime, backfill)
    verified = verify(runtime, backfill)
    run(runtime, backfill, steps=Steps(load=False))
    assert [found.id for found in runtime.ledger.newest_verifications("leads")] == [verified.id]
