"""Maintenance as Dagster jobs: undo, verify, registry sync, retention.

Belongs here: ops and jobs that work on runs and partitions of any backfill. Does not belong here: the backfills'
assets (`dagster_adapter.py`) and what maintenance does (`undo.py`, `verify.py`, `retention.py`).
"""

# Without `from __future__ import annotations`: Dagster reads an op's configuration from its real annotation.
from collections.abc import Mapping, Sequence

import dagster as dg
from pydantic import Field

from backfill_pipelines.engine.backfill import Backfill
from backfill_pipelines.engine.dagster_adapter import (
    OpenRuntime,
    check_outcome,
    opened_runtime,
    partition_keys,
    sync_partitions,
)
from backfill_pipelines.engine.dagster_metadata import summary
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.retention import delete_personal_values
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.undo import UndoResult, runs_to_undo, undo_run
from backfill_pipelines.engine.verify import compare_partitions, verify_partition


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
    return [
        _job(
            "undo",
            _undo_op(by_name, open_runtime),
            "Take a run back, by compare-and-set. A dry run unless dry_run is set to false.",
        ),
        _job("verify", _verify_op(by_name, open_runtime), "Read source and target again and compare them."),
        _job(
            "registry_sync",
            _sync_op(backfills, open_runtime),
            "Add the registry's new clients and workspaces as partitions.",
        ),
        _job(
            "retention",
            _retention_op(open_runtime),
            "Forget personal values in the schema backfill that are older than allowed.",
        ),
    ]


def _undo_op(by_name: Mapping[str, Backfill], open_runtime: OpenRuntime) -> dg.OpDefinition:
    @dg.op(name="undo_run")
    def undo_op(context: dg.OpExecutionContext, config: UndoConfig) -> None:
        with opened_runtime(open_runtime, context.log.info) as runtime:

            async def one(run: Run) -> UndoResult:
                async with runtime.places:
                    return await undo_run(
                        runtime, by_name[run.backfill], run, dry_run=config.dry_run, dagster_run_id=context.run_id
                    )

            results = list(runtime.run_all([one(run) for run in runs_to_undo(runtime, config.run_id)]))
        for result in results:
            context.log.info(summary(result.run))
        _fail_unless_done([result.run for result in results])

    return undo_op


def _verify_op(by_name: Mapping[str, Backfill], open_runtime: OpenRuntime) -> dg.OpDefinition:
    @dg.op(name="verify_partitions")
    def verify_op(context: dg.OpExecutionContext, config: VerifyConfig) -> None:
        if config.backfill not in by_name:
            raise dg.Failure(
                f"There is no backfill {config.backfill}; known: {', '.join(by_name)}.", allow_retries=False
            )
        backfill = by_name[config.backfill]
        with opened_runtime(open_runtime, context.log.info) as runtime:
            runs = _verified(runtime, backfill, config.partitions, dagster_run_id=context.run_id)
            outcome = check_outcome(runtime, backfill)
        # So that the asset's page shows the newest comparison and not the one after the newest load. The annotation of
        # `log_event` lags behind its code, which takes evaluations too.
        context.log_event(dg.AssetCheckEvaluation(**outcome))  # type: ignore[arg-type]
        for run in runs:
            context.log.info(summary(run))
        _fail_unless_done(runs)
        differing = [run.partition_key for run in runs if not (run.verification or {}).get("passed")]
        if differing:
            raise dg.Failure(
                f"{len(differing)} of {len(runs)} partitions differ: {', '.join(differing)}.", allow_retries=False
            )

    return verify_op


def _verified(runtime: Runtime, backfill: Backfill, chosen: Sequence[str], *, dagster_run_id: str) -> list[Run]:
    """Compare partitions (all of the registry where none is chosen) side by side, then all of them with each other."""

    async def one(partition_key: str) -> Run:
        async with runtime.places:
            return await verify_partition(runtime, backfill, partition_key, dagster_run_id=dagster_run_id)

    done = list(runtime.run_all([one(key) for key in chosen or partition_keys(backfill, runtime.registry)]))
    compare_partitions(runtime, backfill)
    # Read again: the comparison of all partitions may have marked some.
    return [runtime.ledger.get(run.id) or run for run in done]


def _sync_op(backfills: Sequence[Backfill], open_runtime: OpenRuntime) -> dg.OpDefinition:
    @dg.op(name="sync_registry")
    def sync_op(context: dg.OpExecutionContext) -> None:
        with opened_runtime(open_runtime, context.log.info) as runtime:
            for backfill in backfills:
                added = sync_partitions(context.instance, backfill, runtime.registry)
                context.log.info("%s: %d partitions added", backfill.name, len(added))

    return sync_op


def _retention_op(open_runtime: OpenRuntime) -> dg.OpDefinition:
    @dg.op(name="apply_retention")
    def retention_op(context: dg.OpExecutionContext, config: RetentionConfig) -> None:
        with opened_runtime(open_runtime, context.log.info) as runtime:
            days = runtime.registry.defaults.retention_days if config.days is None else config.days
            deleted = delete_personal_values(runtime.engine, older_than_days=days)
        context.log.info(", ".join(f"{table}: {count} rows" for table, count in deleted.items()))

    return retention_op


def _job(name: str, op: dg.OpDefinition, description: str) -> dg.JobDefinition:
    @dg.job(name=name, description=description)
    def job() -> None:
        op()

    return job


def _fail_unless_done(runs: Sequence[Run]) -> None:
    failed = [f"{run.partition_key} ({run.error_code})" for run in runs if run.state is not State.SUCCEEDED]
    if failed:
        raise dg.Failure(
            f"{len(failed)} of {len(runs)} partitions did not finish: {', '.join(failed)}.", allow_retries=False
        )
