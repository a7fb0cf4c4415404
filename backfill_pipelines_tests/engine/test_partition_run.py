"""One partition through its steps, with a backfill whose steps are scripted by the test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal
from uuid import UUID

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.engine import partition_run
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.journal import ChangeState
from backfill_pipelines.engine.ledger import Mode, Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition, with_outcomes
from backfill_pipelines.engine.plan import Action, plan_frame
from backfill_pipelines.engine.runtime import Runtime, lock_name
from backfill_pipelines.errors import ConfigurationError, DataError, ParkedError, TransientError
from backfill_pipelines.registry import Registry

CANARY = "canary-7f3a@example.com"


@dataclass
class ScriptedTarget:
    """Applies rows by journalling them, and says which."""

    log: list[str]
    batch_rows: int = 2
    before_batch: Callable[[], None] = lambda: None

    def apply(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        self.before_batch()
        self.log.append(f"load {first}-{last}")
        connection.execute(
            text(
                "UPDATE backfill.change SET state = 'applied', applied_at = now()"
                " WHERE run_id = :run_id AND seq BETWEEN :first AND :last AND state = 'planned'"
            ),
            {"run_id": run_id, "first": first, "last": last},
        )

    def undo(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        raise NotImplementedError

    def refusal(self, error: DBAPIError) -> tuple[ChangeState, str]:
        raise NotImplementedError


@dataclass
class ScriptedBackfill:
    """A backfill of five creates, whose steps note themselves and can be made to fail."""

    name: ClassVar[str] = "scripted"
    description: ClassVar[str] = "A backfill for tests."
    source_asset: ClassVar[str] = "source"
    target_asset: ClassVar[str] = "target"
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": set(),
        "plan": set(),
        "target": set(),
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "client"
    uses: ClassVar[str] = "email_bison"
    options_model: ClassVar[type[RunOptions]] = RunOptions
    schedule: ClassVar[str] = "0 3 * * *"

    log: list[str] = field(default_factory=list)
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    before_batch: Callable[[], None] = lambda: None

    def _step(self, name: str) -> None:
        self.log.append(name)
        if self.failures.get(name):
            raise self.failures[name].pop(0)

    def preflight(self, scope: Scope) -> None:
        self._step("preflight")

    async def extract(self, scope: Scope) -> None:
        self._step("extract")
        scope.details["pages"] = 3

    def plan(self, scope: Scope) -> Plan:
        self._step("plan")
        rows: list[tuple[Any, ...]] = [
            ("target", f"k{number}", Action.CREATE, None, None, {"value": CANARY}) for number in range(5)
        ]
        rows.append(("target", "k9", Action.SKIP, "unchanged", None, None))
        return Plan(source=6, frames=[plan_frame(rows)])

    def target(self, scope: Scope) -> ScriptedTarget:
        return ScriptedTarget(self.log, before_batch=self.before_batch)

    def verify(self, scope: Scope) -> Reconciliation:
        self._step("verify")
        return Reconciliation(equal=5, missing=0, extra=0, different=0, passed=True)

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:
        return {}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_run, "RETRY_DELAYS", (0.0, 0.0))


@pytest.fixture
def runtime(emptied: sqlalchemy.Engine) -> Iterator[Runtime]:
    # An engine of its own: closing a runtime disposes of its engine.
    engine = create_engine(emptied.url)
    with Runtime(registry=Registry(), engine=engine) as opened:
        yield opened


def run(
    runtime: Runtime,
    backfill: ScriptedBackfill,
    *,
    steps: Steps | None = None,
    options: RunOptions | None = None,
    dagster_run_id: str | None = None,
    root_run_id: str | None = None,
) -> Run:
    work = run_partition(
        runtime, backfill, "kim", steps=steps or Steps(), options=options or RunOptions(),
        dagster_run_id=dagster_run_id, root_run_id=root_run_id,
    )  # fmt: skip
    return runtime.run(work)


DRY = Steps(load=False)


def test_a_run_takes_the_steps_in_order_and_counts(runtime: Runtime) -> None:
    backfill = ScriptedBackfill()
    done = run(runtime, backfill)
    assert backfill.log == ["preflight", "extract", "plan", "load 0-1", "load 2-3", "load 4-4", "verify"]
    assert (done.state, done.mode) == (State.SUCCEEDED, Mode.LOAD)
    assert done.counts == {
        "source": 6, "create": 5, "update": 0, "skip": 1, "conflict": 0, "reject": 0, "applied": 5, "failed": 0,
    }  # fmt: skip
    assert done.reasons == {"unchanged": 1}
    assert done.details == {"pages": 3}
    assert done.verification is not None
    assert done.verification["passed"]


def test_a_dry_run_never_asks_for_the_target_and_plans_the_same(runtime: Runtime) -> None:
    backfill = ScriptedBackfill()
    dry = run(runtime, backfill, steps=DRY)
    assert backfill.log == ["preflight", "extract", "plan"]
    assert (dry.state, dry.mode, dry.counts["applied"]) == (State.SUCCEEDED, Mode.PLAN, 0)
    assert run(runtime, ScriptedBackfill()).plan_hash == dry.plan_hash


def test_a_failure_that_may_pass_is_tried_again_inside_the_run(runtime: Runtime) -> None:
    backfill = ScriptedBackfill(failures={"extract": [TransientError("vendor_unavailable", "Down.")] * 2})
    assert run(runtime, backfill).state is State.SUCCEEDED
    assert backfill.log.count("extract") == 3


def test_a_failure_that_does_not_pass_leaves_a_run_that_the_next_one_goes_on_with(runtime: Runtime) -> None:
    backfill = ScriptedBackfill(failures={"extract": [TransientError("vendor_unavailable", "Down.")] * 3})
    failed = run(runtime, backfill)
    assert (failed.state, failed.error_code, failed.resumable) == (State.FAILED, "vendor_unavailable", True)
    resumed = run(runtime, ScriptedBackfill())
    assert (resumed.id, resumed.state, resumed.error_code) == (failed.id, State.SUCCEEDED, None)


def test_data_that_cannot_be_trusted_fails_at_once_and_is_not_gone_on_with(runtime: Runtime) -> None:
    backfill = ScriptedBackfill(failures={"extract": [DataError("foreign_rows", "Not ours.")]})
    failed = run(runtime, backfill)
    assert (failed.state, failed.error_code, failed.resumable) == (State.FAILED, "foreign_rows", False)
    assert backfill.log == ["preflight", "extract"]
    assert run(runtime, ScriptedBackfill()).id != failed.id


def test_a_matter_of_configuration_says_so(runtime: Runtime) -> None:
    backfill = ScriptedBackfill(failures={"preflight": [ConfigurationError("missing_table", "No table.")]})
    failed = run(runtime, backfill)
    assert (failed.error_code, failed.error_category) == ("missing_table", "configuration")
    assert backfill.log == ["preflight"]


def test_a_spent_daily_budget_parks_the_partition_until_it_is_renewed(runtime: Runtime) -> None:
    wake_at = datetime.now(UTC) + timedelta(hours=3)
    error = ParkedError("daily_budget_spent", "Spent.", wake_at=wake_at)
    parked = run(runtime, ScriptedBackfill(failures={"extract": [error]}))
    assert (parked.state, parked.parked_until, parked.resumable) == (State.PARKED, wake_at, True)
    assert run(runtime, ScriptedBackfill()).id == parked.id


def test_a_defect_is_told_by_its_place_and_never_by_its_text(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    failed = run(runtime, ScriptedBackfill(failures={"plan": [ValueError(f"cannot read {CANARY}")]}))
    assert (failed.state, failed.error_code, failed.error_category) == (State.FAILED, "internal_error", "internal")
    assert failed.error_message is not None
    assert "ValueError" in failed.error_message
    assert CANARY not in failed.error_message + caplog.text


def test_a_partition_that_another_holds_is_refused_and_left_alone(runtime: Runtime) -> None:
    engine = create_engine(runtime.engine.url)
    with Runtime(registry=Registry(), engine=engine) as other:
        assert other.locks.try_acquire(lock_name("scripted", "kim"))
        backfill = ScriptedBackfill()
        refused = run(runtime, backfill)
    assert (refused.state, refused.error_code) == (State.REFUSED, "already_running")
    assert backfill.log == []
    assert run(runtime, ScriptedBackfill()).state is State.SUCCEEDED


def test_a_stop_between_two_batches_is_resumed_at_the_next_row(runtime: Runtime) -> None:
    interrupted = run(runtime, ScriptedBackfill(before_batch=runtime.stop.set))
    assert (interrupted.state, interrupted.resumable) == (State.INTERRUPTED, True)
    assert interrupted.counts["applied"] == 2
    runtime.stop.clear()
    backfill = ScriptedBackfill()
    resumed = run(runtime, backfill)
    assert resumed.id == interrupted.id
    assert backfill.log == ["preflight", "load 2-3", "load 4-4", "verify"]
    assert resumed.counts["applied"] == 5


def test_a_run_after_a_finished_one_extracts_anew(runtime: Runtime) -> None:
    first = run(runtime, ScriptedBackfill())
    backfill = ScriptedBackfill()
    second = run(runtime, backfill)
    assert second.id != first.id
    assert backfill.log[:3] == ["preflight", "extract", "plan"]


def test_fresh_starts_anew_after_an_interruption(runtime: Runtime) -> None:
    interrupted = run(runtime, ScriptedBackfill(before_batch=runtime.stop.set))
    runtime.stop.clear()
    assert run(runtime, ScriptedBackfill(), options=RunOptions(fresh=True)).id != interrupted.id


def test_a_dry_run_after_an_interrupted_load_does_not_load(runtime: Runtime) -> None:
    interrupted = run(runtime, ScriptedBackfill(before_batch=runtime.stop.set))
    runtime.stop.clear()
    backfill = ScriptedBackfill()
    dry = run(runtime, backfill, steps=DRY)
    assert dry.id != interrupted.id
    assert backfill.log == ["preflight", "extract", "plan"]


def test_max_records_counts_what_an_interrupted_run_had_loaded(runtime: Runtime) -> None:
    options = RunOptions(max_records=3)
    interrupted = run(runtime, ScriptedBackfill(before_batch=runtime.stop.set), options=options)
    assert interrupted.counts["applied"] == 2
    runtime.stop.clear()
    resumed = run(runtime, ScriptedBackfill(), options=options)
    assert resumed.counts["applied"] == 3
    assert resumed.counts["create"] == 5


def test_the_target_alone_loads_the_newest_plan(runtime: Runtime) -> None:
    dry = run(runtime, ScriptedBackfill(), steps=DRY)
    backfill = ScriptedBackfill()
    loaded = run(runtime, backfill, steps=Steps(extract=False, plan=False))
    assert (loaded.id, loaded.mode, loaded.counts["applied"]) == (dry.id, Mode.LOAD, 5)
    assert "extract" not in backfill.log
    assert "plan" not in backfill.log


def test_the_target_alone_refuses_a_plan_older_than_a_day_and_none_at_all(runtime: Runtime) -> None:
    only_load = Steps(extract=False, plan=False)
    assert run(runtime, ScriptedBackfill(), steps=only_load).error_code == "no_plan"
    run(runtime, ScriptedBackfill(), steps=DRY)
    with runtime.engine.begin() as connection:
        connection.execute(text("UPDATE backfill.run SET planned_at = planned_at - interval '25 hours'"))
    backfill = ScriptedBackfill()
    refused = run(runtime, backfill, steps=only_load)
    assert (refused.state, refused.error_code) == (State.FAILED, "plan_too_old")
    assert backfill.log == []


def test_an_interrupted_plan_older_than_a_day_is_made_anew(runtime: Runtime) -> None:
    interrupted = run(runtime, ScriptedBackfill(before_batch=runtime.stop.set))
    runtime.stop.clear()
    with runtime.engine.begin() as connection:
        connection.execute(text("UPDATE backfill.run SET planned_at = planned_at - interval '25 hours'"))
    assert run(runtime, ScriptedBackfill()).id != interrupted.id


def test_a_run_whose_process_died_is_gone_on_with(runtime: Runtime) -> None:
    interrupted = run(runtime, ScriptedBackfill(before_batch=runtime.stop.set))
    runtime.stop.clear()
    with runtime.engine.begin() as connection:
        # What a killed process leaves: nobody closed the row.
        connection.execute(text("UPDATE backfill.run SET state = 'running', resumable = false, finished_at = NULL"))
    resumed = run(runtime, ScriptedBackfill())
    assert (resumed.id, resumed.state) == (interrupted.id, State.SUCCEEDED)


def test_a_retried_dagster_run_skips_the_partitions_that_its_group_has_finished(runtime: Runtime) -> None:
    first = run(runtime, ScriptedBackfill(), dagster_run_id="root", root_run_id="root")
    backfill = ScriptedBackfill()
    again = run(runtime, backfill, dagster_run_id="retry", root_run_id="root")
    assert again.id == first.id
    assert backfill.log == []


COUNTS = st.dictionaries(st.sampled_from(["source", *Action]), st.integers(0, 1000))
CODES = st.dictionaries(st.sampled_from(["stale", "reply_id_taken", "unchanged"]), st.integers(1, 1000))


@given(planned=COUNTS, reasons=CODES, codes=CODES, conflicts=st.integers(0, 9), applied=st.integers(0, 9))
def test_outcomes_add_to_a_plans_counts_without_changing_what_it_planned(
    planned: dict[str, int], reasons: dict[str, int], codes: dict[str, int], conflicts: int, applied: int
) -> None:
    counts, merged = with_outcomes(planned, reasons, {"conflict": conflicts, "applied": applied}, codes)
    assert counts["create"] == planned.get("create", 0)
    assert counts["conflict"] == planned.get("conflict", 0) + conflicts
    assert counts["applied"] == applied
    assert sum(merged.values()) == sum(reasons.values()) + sum(codes.values())


def test_a_database_that_is_gone_stops_the_run_without_the_drivers_text(runtime: Runtime) -> None:
    broken: Engine = create_engine("postgresql+psycopg://nobody:secret-canary@127.0.0.1:1/none")
    runtime.ledger._engine = broken
    with pytest.raises(TransientError) as raised:
        run(runtime, ScriptedBackfill(), dagster_run_id="b", root_run_id="a")
    assert raised.value.code == "database_unavailable"
    assert "secret-canary" not in str(raised.value)


def test_max_records_counts_what_an_attempt_before_had_loaded(runtime: Runtime) -> None:
    attempts = iter([None, TransientError("target_busy", "Locked.")])

    def fail_once() -> None:
        if error := next(attempts, None):
            raise error

    done = run(runtime, ScriptedBackfill(before_batch=fail_once), options=RunOptions(max_records=4))
    assert (done.state, done.counts["applied"]) == (State.SUCCEEDED, 4)


def test_max_records_with_the_target_alone_loads_so_many_more_each_time(runtime: Runtime) -> None:
    run(runtime, ScriptedBackfill(), steps=DRY)
    only_load, options = Steps(extract=False, plan=False), RunOptions(max_records=2)
    assert run(runtime, ScriptedBackfill(), steps=only_load, options=options).counts["applied"] == 2
    assert run(runtime, ScriptedBackfill(), steps=only_load, options=options).counts["applied"] == 4
