"""Maintenance as Dagster jobs: undo, verify, registry sync, retention.

Belongs here: ops and jobs that work on runs and partitions of any backfill. Does not belong here: the backfills'
assets (`dagster_adapter.py`) and what maintenance does (`undo.py`, `verify.py`, `retention.py`).
"""

# Without `from __future__ import annotations`: Dagster reads an op's configuration from its real annotation.
from collections.abc import Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from backfill_pipelines.engine.backfill import Backfill
from backfill_pipelines.engine.dagster_adapter import OpenRuntime, partition_keys, summary, sync_partitions
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.engine.retention import delete_personal_values
from backfill_pipelines.engine.undo import runs_to_undo, undo_run
from backfill_pipelines.engine.verify import verify_partition


class UndoConfig(dg.Config):
    """What to undo."""

    run_id: str = Field(description="The id of a run of ours, or of a Dagster run: then all its partitions.")
    dry_run: bool = Field(default=True, description="Only say what would be undone. Set it to false to undo.")


class VerifyConfig(dg.Config):
    """What to verify."""

    backfill: str = Field(description="The backfill's name.")
    partitions: list[str] = Field(default_factory=list, description="Its partitions; empty means all of the registry.")


class RetentionConfig(dg.Config):
    """What to forget."""

    days: int | None = Field(
        default=None, description="Older than this; defaults.retention_days of the registry if null."
    )


def maintenance_jobs(backfills: Sequence[Backfill], *, open_runtime: OpenRuntime) -> list[dg.JobDefinition]:
    """The maintenance jobs over these backfills."""
    by_name = {backfill.name: backfill for backfill in backfills}

    @dg.op(name="undo_run")
    def undo_op(context: dg.OpExecutionContext, config: UndoConfig) -> None:
        with open_runtime(context.log.info) as runtime:
            runs = runs_to_undo(runtime, config.run_id)
            works = [
                undo_run(runtime, by_name[run.backfill], run, dry_run=config.dry_run, dagster_run_id=context.run_id)
                for run in runs
            ]
            results = list(runtime.run_all(works))
        for result in results:
            context.log.info(
                f"{result.run.partition_key}: {result.run.state}, undone {result.undone}, conflict {result.conflict}"
            )
        _fail_unless_done([result.run.state for result in results])

    @dg.op(name="verify_partitions")
    def verify_op(context: dg.OpExecutionContext, config: VerifyConfig) -> None:
        if config.backfill not in by_name:
            raise dg.Failure(
                f"There is no backfill {config.backfill}; known: {', '.join(by_name)}.", allow_retries=False
            )
        backfill = by_name[config.backfill]
        with open_runtime(context.log.info) as runtime:
            keys = config.partitions or partition_keys(backfill, runtime.registry)
            runs = list(
                runtime.run_all(
                    [verify_partition(runtime, backfill, key, dagster_run_id=context.run_id) for key in keys]
                )
            )
        for run in runs:
            context.log.info(summary(run))
        _fail_unless_done([run.state for run in runs])

    @dg.op(name="sync_registry")
    def sync_op(context: dg.OpExecutionContext) -> None:
        with open_runtime(context.log.info) as runtime:
            for backfill in backfills:
                added = sync_partitions(context.instance, backfill, runtime.registry)
                context.log.info(f"{backfill.name}: {len(added)} partitions added")

    @dg.op(name="apply_retention")
    def retention_op(context: dg.OpExecutionContext, config: RetentionConfig) -> None:
        with open_runtime(context.log.info) as runtime:
            days = runtime.registry.defaults.retention_days if config.days is None else config.days
            deleted = delete_personal_values(runtime.engine, older_than_days=days)
        context.log.info(", ".join(f"{table}: {count} rows" for table, count in deleted.items()))

    return [
        _job("undo", undo_op, "Take a run back, by compare-and-set. A dry run unless dry_run is set to false."),
        _job("verify", verify_op, "Read source and target again and compare them."),
        _job("registry_sync", sync_op, "Add the registry's new clients and workspaces as partitions."),
        _job("retention", retention_op, "Forget personal values in the schema backfill that are older than allowed."),
    ]


def _job(name: str, op: Any, description: str) -> dg.JobDefinition:
    @dg.job(name=name, description=description)
    def job() -> None:
        op()

    return job


def _fail_unless_done(states: Sequence[State]) -> None:
    failed = sum(state is not State.SUCCEEDED for state in states)
    if failed:
        raise dg.Failure(
            f"{failed} of {len(states)} partitions did not finish; the log names them.", allow_retries=False
        )
