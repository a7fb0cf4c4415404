"""A plan that is stored and executed in one transaction where all goes as planned, and row by row where not; and what a
backfill writes into the user's own audit at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from uuid import UUID

import pandas as pd
import pytest
import sqlalchemy
from sqlalchemy import Connection, create_engine, insert, text
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.database.tables import change
from backfill_pipelines.engine import partition_run
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.journal import ChangeState
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.plan import EXECUTED, Action, plan_frame
from backfill_pipelines.engine.runtime import Runtime, lock_name
from backfill_pipelines.engine.undo import undo_run
from backfill_pipelines.engine.whole_plan import WholePlanTarget, Work
from backfill_pipelines.errors import BackfillError, ConfigurationError, DataError, TransientError
from backfill_pipelines.registry import Registry

DRY = Steps(load=False)
LOAD_ONLY = Steps(extract=False, plan=False)


def as_planned(_: Connection) -> bool:
    return True


def moved(_: Connection) -> bool:
    return False


def refused(connection: Connection) -> bool:
    connection.execute(text("SELECT 1 / 0"))
    raise AssertionError


@dataclass
class WholeRows:
    """Counts the rows it is given, and does something about them at the end."""

    target: WholeTarget
    connection: Connection
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: int = 0

    def take(self, rows: pd.DataFrame) -> Iterator[Work]:
        self.taken.update(zip(rows["target"], rows["action"].map(str), strict=True))
        yield self._one

    def _one(self) -> bool:
        self.done += 1
        return self.connection.scalar(text("SELECT true")) is True

    def end(self) -> Iterator[Work]:
        yield self._last

    def _last(self) -> bool:
        executed = {kind: count for kind, count in self.taken.items() if kind[1] in EXECUTED}
        self.target.log.append(f"whole {sorted((*kind, count) for kind, count in executed.items())}")
        return self.done == 2 and self.target.whole(self.connection)


@dataclass
class WholeTarget:
    """Notes what it is asked for; `whole` decides how the attempt at once comes out."""

    log: list[str]
    whole: Callable[[Connection], bool]
    batch_rows: int = 100

    def begin_whole(self, connection: Connection, run_id: UUID) -> WholeRows:
        return WholeRows(self, connection)

    def apply(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        self.log.append(f"load {first}-{last}")
        self._set(connection, run_id, "planned", "applied")

    def undo(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        self._set(connection, run_id, "applied", "undone")

    def refusal(self, error: DBAPIError) -> tuple[ChangeState, str]:
        raise NotImplementedError

    def _set(self, connection: Connection, run_id: UUID, before: str, after: str) -> None:
        connection.execute(
            text(
                "UPDATE backfill.change SET state = :after, applied_at = now() WHERE run_id = :run_id"
                " AND state = :before AND action IN ('create', 'update')"
            ),
            {"run_id": run_id, "before": before, "after": after},
        )


@dataclass
class AuditedWhole:
    """Two creates, a conflict and an update; its audit is a list."""

    name: ClassVar[str] = "whole"
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

    whole: Callable[[Connection], bool] = as_planned
    log: list[str] = field(default_factory=list)
    entries: list[tuple[str, str | None, int]] = field(default_factory=list)
    failures: dict[str, list[Exception]] = field(default_factory=dict)

    def _step(self, name: str) -> None:
        self.log.append(name)
        if self.failures.get(name):
            raise self.failures[name].pop(0)

    def preflight(self, scope: Scope) -> None:
        self._step("preflight")

    async def extract(self, scope: Scope) -> None:
        """Nothing to land."""

    def plan(self, scope: Scope) -> Plan:
        self._step("plan")
        rows: list[tuple[Any, ...]] = [
            ("a", "1", Action.CREATE, None, None, {"value": 1}),
            ("a", "2", Action.CONFLICT, "ambiguous", None, None),
            ("a", "3", Action.CREATE, None, None, {"value": 3}),
            ("b", "1", Action.UPDATE, None, {"value": 0}, {"value": 1}),
        ]
        scope.details["planned"] = self.log.count("plan")
        return Plan(source=4, frames=iter([plan_frame(rows[:1]), plan_frame(rows[1:])]), skips={"unchanged": 7})

    def target(self, scope: Scope) -> WholeTarget:
        return WholeTarget(self.log, self.whole)

    def verify(self, scope: Scope) -> Reconciliation:
        self._step("verify")
        return Reconciliation(equal=3, missing=0, extra=0, different=0, passed=True)

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:
        return {}

    def audit(self, scope: Scope, run: Run, failure: BackfillError | None) -> None:
        self._step("audit")
        self.entries.append((run.mode, None if failure is None else failure.code, run.counts.get("applied", 0)))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_run, "RETRY_DELAYS", (0.0, 0.0))


@pytest.fixture(params=["side by side", "over one connection"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_run, "_BESIDE_ABOVE", 0 if request.param == "side by side" else 1_000)


@pytest.fixture
def runtime(emptied: sqlalchemy.Engine) -> Iterator[Runtime]:
    with Runtime(registry=Registry(), engine=create_engine(emptied.url)) as opened:
        yield opened


def run(runtime: Runtime, backfill: AuditedWhole, *, steps: Steps | None = None, **options: Any) -> Run:
    work = run_partition(
        runtime, backfill, "kim", steps=steps or Steps(), options=RunOptions(**options),
        dagster_run_id=None, root_run_id=None,
    )  # fmt: skip
    return runtime.run(work)


def states(runtime: Runtime, of: Run) -> list[tuple[str, str, bool]]:
    with runtime.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT action, state, applied_at IS NOT NULL FROM backfill.change WHERE run_id = :id ORDER BY seq"),
            {"id": of.id},
        )
        return [tuple(row) for row in rows]


WHOLE = "whole [('a', 'create', 2), ('b', 'update', 1)]"
DONE = [
    ("create", "applied", True),
    ("conflict", "planned", False),
    ("create", "applied", True),
    ("update", "applied", True),
]


# --- at once, or row by row -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
def test_a_plan_that_can_be_executed_at_once_is_not_journalled_a_second_time(runtime: Runtime) -> None:
    backfill = AuditedWhole()
    assert isinstance(WholeTarget([], as_planned), WholePlanTarget)
    done = run(runtime, backfill)
    assert backfill.log == ["preflight", "plan", WHOLE, "verify", "audit"]
    assert states(runtime, done) == DONE
    assert (done.counts["applied"], done.counts["conflict"], done.counts["skip"]) == (3, 1, 7)
    assert done.reasons == {"ambiguous": 1, "unchanged": 7}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("whole", [moved, refused])
def test_where_a_row_has_moved_it_is_planned_again_and_done_with_care(
    runtime: Runtime, whole: Callable[[Connection], bool]
) -> None:
    backfill = AuditedWhole(whole)
    done = run(runtime, backfill)
    assert backfill.log == ["preflight", "plan", WHOLE, "plan", "load 0-3", "verify", "audit"]
    assert states(runtime, done) == DONE
    assert (done.state, done.counts["applied"], done.details["planned"]) == (State.SUCCEEDED, 3, 2)


@pytest.mark.usefixtures("way")
def test_both_ways_and_a_dry_run_make_the_same_plan(runtime: Runtime) -> None:
    dry = run(runtime, AuditedWhole(), steps=DRY)
    assert {state for _, state, _ in states(runtime, dry)} == {"planned"}
    assert dry.plan_hash == run(runtime, AuditedWhole()).plan_hash == run(runtime, AuditedWhole(moved)).plan_hash


def test_a_part_of_a_plan_and_a_stored_one_are_not_executed_at_once(runtime: Runtime) -> None:
    backfill = AuditedWhole()
    run(runtime, backfill, max_records=2)
    run(runtime, backfill, steps=DRY)
    run(runtime, backfill, steps=LOAD_ONLY)
    assert WHOLE not in backfill.log


def test_what_fails_after_it_leaves_a_run_that_is_gone_on_with_and_does_nothing_twice(runtime: Runtime) -> None:
    backfill = AuditedWhole(failures={"verify": [TransientError("database_unavailable", "Away.")] * 3})
    failed = run(runtime, backfill)
    assert (failed.state, failed.counts["applied"]) == (State.FAILED, 3)
    resumed = run(runtime, backfill)
    assert (resumed.id, resumed.state, resumed.counts["applied"]) == (failed.id, State.SUCCEEDED, 3)
    assert backfill.log.count(WHOLE) == backfill.log.count("plan") == 1


def test_what_a_process_journalled_that_died_before_it_had_executed_means_nothing(runtime: Runtime) -> None:
    backfill = AuditedWhole(failures={"plan": [TransientError("database_unavailable", "Away.")] * 3})
    dead = run(runtime, backfill)
    with runtime.engine.begin() as connection:
        for seq in range(3):
            connection.execute(
                insert(change).values(
                    run_id=dead.id, seq=seq, target="a", record_key="1", action="create", state="applied"
                )
            )
    assert runtime.run(undo_run(runtime, backfill, dead, dry_run=True)).undone == 0
    assert len(states(runtime, dead)) == 3
    resumed = run(runtime, backfill)
    assert (resumed.id, states(runtime, resumed)) == (dead.id, DONE)


@pytest.mark.usefixtures("way")
def test_where_it_is_not_as_planned_nothing_of_either_transaction_stays(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written_and_moved(connection: Connection) -> bool:
        connection.execute(text("INSERT INTO backfill.installation VALUES ('written', 'yes')"))
        return False

    backfill = AuditedWhole(written_and_moved)
    plan = backfill.plan

    def once(scope: Scope) -> Plan:
        if backfill.log.count("plan"):
            raise DataError("seen_between", "Stop here to look.")
        return plan(scope)

    monkeypatch.setattr(backfill, "plan", once)
    failed = run(runtime, backfill)
    assert (failed.error_code, states(runtime, failed)) == ("seen_between", [])
    with runtime.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM backfill.installation WHERE name = 'written'")) == 0


def test_without_the_partitions_lock_nothing_is_executed(runtime: Runtime) -> None:
    backfill = AuditedWhole()
    plan = backfill.plan

    def losing(scope: Scope) -> Plan:
        runtime.locks.release(lock_name("whole", "kim"))
        return plan(scope)

    backfill.plan = losing  # type: ignore[method-assign]
    lost = run(runtime, backfill)
    assert lost.state is not State.SUCCEEDED
    assert WHOLE not in backfill.log
    assert states(runtime, lost) == []


# --- the audit --------------------------------------------------------------------------------------------------------


def test_a_load_and_its_undo_are_audited_once_each_and_what_writes_nothing_is_not(runtime: Runtime) -> None:
    backfill = AuditedWhole()
    run(runtime, backfill, steps=DRY)
    assert backfill.entries == []
    loaded = run(runtime, backfill)
    for dry_run in (True, False):
        runtime.run(undo_run(runtime, backfill, loaded, dry_run=dry_run))
    assert backfill.entries == [("load", None, 3), ("undo", None, 0)]


def test_a_load_that_failed_is_audited_with_its_code(runtime: Runtime) -> None:
    for error in (DataError("foreign_rows", "Not ours."), ConfigurationError("missing_table", "No table.")):
        backfill = AuditedWhole(failures={"preflight": [error]})
        assert run(runtime, backfill).error_code == error.code
        assert backfill.entries == [("load", error.code, 0)]


def test_an_audit_that_cannot_be_written_fails_the_run_and_is_tried_again_where_that_may_help(runtime: Runtime) -> None:
    backfill = AuditedWhole(failures={"audit": [TransientError("database_unavailable", "Away.")] * 2})
    assert run(runtime, backfill).state is State.SUCCEEDED
    assert backfill.entries == [("load", None, 3)]
    backfill = AuditedWhole(failures={"audit": [DataError("audit_refused", "No.")]})
    failed = run(runtime, backfill)
    assert (failed.state, failed.error_code, failed.counts["applied"]) == (State.FAILED, "audit_refused", 3)


def test_why_the_load_failed_is_told_before_why_the_audit_did(runtime: Runtime) -> None:
    backfill = AuditedWhole(
        failures={"verify": [DataError("foreign_rows", "Not ours.")], "audit": [DataError("audit_refused", "No.")]}
    )
    assert run(runtime, backfill).error_code == "foreign_rows"
