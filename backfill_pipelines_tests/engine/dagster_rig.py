"""Dagster around a rehearsed backfill: runs in this process, and what Dagster was told about them.

Belongs here: driving the definitions as the daemon would, and reading events back. Does not belong here: expectations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from uuid import UUID

import dagster as dg
import yaml
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.definitions import build_defs
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.dagster_adapter import asset_keys, job_name, range_tags
from backfill_pipelines.engine.journal import ChangeState
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.plan import Action, plan_frame
from backfill_pipelines.engine.runtime import Runtime

CANARY = "canary-41c7@example.com"
"""Stands in every plan row: it must come up nowhere else."""


@dataclass
class RehearsedTarget:
    """Journals rows as applied; there is no table."""

    loaded: list[UUID]
    batch_rows: int = 100

    def apply(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        self.loaded.append(run_id)
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
class RehearsedBackfill:
    """A backfill of two creates per partition, the first time, whose partitions can be made to fail or to wait."""

    name: ClassVar[str] = "rehearsed"
    description: ClassVar[str] = "A backfill for tests."
    source_asset: ClassVar[str] = "source"
    target_asset: ClassVar[str] = "target"
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": {"python"},
        "plan": {"pandas"},
        "target": {"postgres"},
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "client"
    uses: ClassVar[str] = "email_bison"
    options_model: ClassVar[type[RunOptions]] = RunOptions
    schedule: ClassVar[str] = "0 3 * * *"

    failures: dict[str, Exception] = field(default_factory=dict)
    before_extract: Callable[[str], Awaitable[None]] | None = None
    differing: set[str] = field(default_factory=set)
    alike: dict[str, str] = field(default_factory=dict)
    extracted: list[str] = field(default_factory=list)
    loaded: list[UUID] = field(default_factory=list)
    done: set[str] = field(default_factory=set)

    def preflight(self, scope: Scope) -> None:
        pass

    async def extract(self, scope: Scope) -> None:
        self.extracted.append(scope.partition_key)
        if self.before_extract is not None:
            await self.before_extract(scope.partition_key)
        if scope.partition_key in self.failures:
            raise self.failures[scope.partition_key]
        scope.details["pages"] = 3

    def plan(self, scope: Scope) -> Plan:
        row = (None, None, {"email": CANARY})
        new = scope.partition_key not in self.done
        rows: list[tuple[Any, ...]] = [("target", f"{CANARY} {n}", Action.CREATE, *row) for n in range(2) if new]
        rows += [("target", f"{CANARY} 7", Action.REJECT, "no_email", *row[1:])]
        return Plan(source=5, frames=[plan_frame(rows)])

    def target(self, scope: Scope) -> RehearsedTarget:
        self.done.add(scope.partition_key)
        return RehearsedTarget(self.loaded)

    def verify(self, scope: Scope) -> Reconciliation:
        missing = int(scope.partition_key in self.differing)
        return Reconciliation(
            equal=2 - missing, missing=missing, extra=0, different=0, passed=not missing, figures={"source leads": 2}
        )

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:
        return {run.partition_key: self.alike[run.partition_key] for run in runs if run.partition_key in self.alike}


def registry_document(keys: Sequence[str]) -> str:
    """A registry with these clients."""
    clients = [
        {"key": key, "name": key, "email_bison": {"instance": "main", "workspace_id": number, "token": f"{number}|x"}}
        for number, key in enumerate(keys, start=1)
    ]
    return yaml.safe_dump({"email_bison": {"main": {"base_url": "http://127.0.0.1:9"}}, "clients": clients})


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a run has told its instance: what the UI shows, also of a run that failed or died."""

    run_id: str
    success: bool
    events: Sequence[dg.DagsterEvent]


def told(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> Told:
    """Read a run's events back from its instance."""
    events = [entry.dagster_event for entry in instance.all_logs(result.run_id) if entry.dagster_event is not None]
    return Told(run_id=result.run_id, success=result.success, events=events)


@dataclass(kw_only=True)
class Rig:
    """A code location over one backfill, and an instance that forgets."""

    backfill: Any
    runtime: Runtime
    instance: dg.DagsterInstance
    maximum: int = 6

    @property
    def definitions(self) -> dg.Definitions:
        return build_defs(
            backfills=[self.backfill],
            open_runtime=lambda _: nullcontext(self.runtime),
            max_partitions_per_run=self.maximum,
        )

    @property
    def assets(self) -> tuple[dg.AssetKey, dg.AssetKey, dg.AssetKey]:
        return asset_keys(self.backfill)

    def run(
        self,
        first: str,
        last: str | None = None,
        *,
        assets: Sequence[dg.AssetKey] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Told:
        """A run of a range of partitions, with the tags that the daemon gives it."""
        result = self.definitions.resolve_job_def(job_name(self.backfill)).execute_in_process(
            instance=self.instance,
            tags=range_tags([first, last or first]),
            asset_selection=list(assets) if assets is not None else None,
            run_config={"ops": {self.backfill.name: {"config": dict(config or {})}}},
            raise_on_error=False,
        )
        return told(self.instance, result)

    def run_again(self, run_id: str, *, from_failure: bool) -> Told:
        """The run that the daemon, or somebody in the UI, makes of an earlier one."""
        earlier = self.instance.get_run_by_id(run_id)
        assert earlier is not None
        job = self.definitions.resolve_job_def(job_name(self.backfill))
        made = self.instance.create_run_for_job(
            job_def=job,
            tags={**earlier.tags, "dagster/is_resume_retry": str(from_failure).lower()},
            parent_run_id=earlier.run_id,
            root_run_id=earlier.root_run_id or earlier.run_id,
        )
        return told(self.instance, execute_run(InMemoryJob(job), made, self.instance))


def materialized(result: Told) -> dict[str, set[str]]:
    """The partitions that a run materialized, by the last part of the asset's key."""
    found: dict[str, set[str]] = {}
    for event in result.events:
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION:
            assert event.asset_key is not None
            assert event.partition is not None
            found.setdefault(event.asset_key.path[-1], set()).add(event.partition)
    return found


def metadata_of(result: Told, asset: str, partition: str) -> dict[str, Any]:
    """What a partition's materialization shows."""
    for event in result.events:
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.partition == partition:
            assert event.asset_key is not None
            if event.asset_key.path[-1] == asset:
                shown = event.step_materialization_data.materialization.metadata
                return {name: value.value for name, value in shown.items()}
    raise AssertionError(f"{asset} of {partition} was not materialized")


def evaluations(result: Told) -> list[dg.AssetCheckEvaluation]:
    """What a run said about the asset check."""
    return [
        event.asset_check_evaluation_data
        for event in result.events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]


def failure_of(result: Told) -> dg.Failure:
    """The `Failure` that failed a run's step, as the UI shows it."""
    (failed,) = (event for event in result.events if event.is_step_failure)
    data = failed.step_failure_data
    assert data.user_failure_data is not None, data.error
    return dg.Failure(data.user_failure_data.description, data.user_failure_data.metadata)


def everything_told(instance: dg.DagsterInstance) -> Iterator[str]:
    """Every event, log line, tag and configuration that an instance holds, as text."""
    for run in instance.get_runs():
        yield repr(run)
        for entry in instance.all_logs(run.run_id):
            yield repr(entry)
            yield entry.user_message
