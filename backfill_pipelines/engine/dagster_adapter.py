"""The one place where the engine meets Dagster: a backfill becomes assets, a check, a job and a schedule.

Belongs here: partitions in and out of Dagster, isolation of partitions inside a run, materializations. Does not belong
here: what a partition's run does (`partition_run.py`), nor how its figures look (`dagster_metadata.py`); nothing in
here decides anything about data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dagster as dg
from pydantic import create_model

from backfill_pipelines.engine.backfill import Backfill, RunOptions
from backfill_pipelines.engine.dagster_metadata import comparison_metadata, run_metadata, summary
from backfill_pipelines.engine.dagster_orphans import end_orphaned_runs
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.verify import compare_partitions
from backfill_pipelines.errors import BackfillError
from backfill_pipelines.registry import Registry, partitions_to_add

OpenRuntime = Callable[[Callable[[str], None]], AbstractContextManager[Runtime]]
"""Opens what partitions need, given where to tell progress: a line of the Dagster run's log. (Dagster's own capture of
Python loggers is per process and reconfigures all logging: two runs in one process deadlocked on it.)"""
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
_RETRY_TAG = "dagster/is_resume_retry"


@contextmanager
def opened_runtime(open_runtime: OpenRuntime, tell: Callable[[str], None]) -> Iterator[Runtime]:
    """Open the runtime for a step; what keeps the step from working fails it with its one sentence and its code."""
    try:
        with open_runtime(tell) as runtime:
            yield runtime
    except BackfillError as error:
        raise dg.Failure(error.message, metadata={"code": error.code}, allow_retries=False) from None


def partitions_of(backfill: Backfill) -> dg.DynamicPartitionsDefinition:
    """The partitions of a backfill: the registry's keys for it, kept in step by `registry_partitions`."""
    return dg.DynamicPartitionsDefinition(name=backfill.name)


def partition_keys(backfill: Backfill, registry: Registry) -> list[str]:
    """The partitions that the registry gives a backfill, in its order."""
    return registry.partition_keys(backfill.partition_kind, backfill.uses)


def partitions_per_run(backfill: Backfill, *, usual: int) -> int:
    """How many partitions one run works side by side: the usual number, or more where a backfill says so."""
    return max(usual, getattr(backfill, "partitions_per_run", 0))


def asset_keys(backfill: Backfill) -> tuple[dg.AssetKey, dg.AssetKey, dg.AssetKey]:
    """The keys of a backfill's three assets: source, plan, target."""
    return (
        dg.AssetKey([backfill.name, backfill.source_asset]),
        dg.AssetKey([backfill.name, "plan"]),
        dg.AssetKey([backfill.name, backfill.target_asset]),
    )


def backfill_assets(
    backfill: Backfill, *, open_runtime: OpenRuntime, max_partitions_per_run: int
) -> dg.AssetsDefinition:
    """The three assets of a backfill, as one step that works a run's partitions side by side.

    Selecting the first two is the dry run; selecting only the last loads the newest stored plan.
    """
    source, plan, target = asset_keys(backfill)
    specs = [
        dg.AssetSpec(
            source,
            skippable=True,
            description=f"What {backfill.name} reads, landed page by page in the schema backfill.",
            group_name=backfill.name,
            kinds=backfill.kinds["source"],
        ),
        dg.AssetSpec(
            plan,
            deps=[source],
            skippable=True,
            description="What a load will do, row by row. Materialize the source and the plan alone for a dry run.",
            group_name=backfill.name,
            kinds=backfill.kinds["plan"],
        ),
        dg.AssetSpec(
            target,
            deps=[plan],
            skippable=True,
            description=backfill.description,
            group_name=backfill.name,
            kinds=backfill.kinds["target"],
        ),
    ]

    def work_partitions(context: dg.AssetExecutionContext, config: dg.Config) -> Iterator[Any]:
        options = backfill.options_model.model_validate(config.model_dump())
        selected = context.selected_asset_keys
        steps = Steps(extract=source in selected, plan=plan in selected, load=target in selected)
        if steps.extract and steps.load and not steps.plan:
            raise dg.Failure(
                f"{source.to_user_string()} and {target.to_user_string()} are selected without the plan between them: "
                "a load executes a plan, so select all three, or the target alone for the newest stored plan.",
                allow_retries=False,
            )
        runs: list[Run] = []
        with opened_runtime(open_runtime, context.log.info) as runtime:
            # Nothing is selected where somebody executes the check alone, and then there are no partitions either.
            if selected:
                runs = _run_partitions(context, runtime, backfill, steps=steps, options=options)
            compare_partitions(runtime, backfill)
            if context.selected_asset_check_keys:
                yield dg.AssetCheckResult(**check_outcome(runtime, backfill))
        _raise_for_failed(runs)

    # Dagster reads the configuration's schema from the annotation, and this backfill's options are known only here.
    work_partitions.__annotations__ |= {"context": dg.AssetExecutionContext, "config": _config_model(backfill)}
    decorate = dg.multi_asset(
        name=backfill.name,
        specs=specs,
        check_specs=[check_spec(backfill)],
        can_subset=True,
        partitions_def=partitions_of(backfill),
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=max_partitions_per_run),
    )
    return decorate(work_partitions)


def _config_model(backfill: Backfill) -> type[dg.Config]:
    """A backfill's options as Dagster's run configuration; the safe value is always the default."""
    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in backfill.options_model.model_fields.items()
    }
    return create_model(f"{backfill.options_model.__name__}Config", __base__=dg.Config, **fields)


def _run_partitions(
    context: dg.AssetExecutionContext,
    runtime: Runtime,
    backfill: Backfill,
    *,
    steps: Steps,
    options: RunOptions,
) -> list[Run]:
    """Work the run's partitions side by side; materialize each one the moment it is done.

    With `log_event`, which stores the event at once. Yielding it would hand the thread to Dagster with all partitions
    at work, and an end of the run that came just then would never reach them.
    """
    first_attempt, places = _first_attempt(context), runtime.places_for(options)

    async def one(partition_key: str) -> Run:
        async with places:
            return await run_partition(
                runtime,
                backfill,
                partition_key,
                steps=steps,
                options=options,
                dagster_run_id=context.run.run_id,
                root_run_id=first_attempt,
            )

    runs = []
    for run in runtime.run_all([one(key) for key in context.partition_keys]):
        context.log.info(summary(run))
        for materialization in _materializations(run, backfill, context.selected_asset_keys):
            context.log_event(materialization)
        runs.append(run)
    return runs


def _first_attempt(context: dg.AssetExecutionContext) -> str:
    """The id of the run whose retry this is, its own where it is none: what that has finished is not done again.

    A run that somebody executes again from the start is no retry, though Dagster calls the same run its root.
    """
    run = context.run
    while run.tags.get(_RETRY_TAG) == "true" and run.parent_run_id is not None:
        parent = context.instance.get_run_by_id(run.parent_run_id)
        if parent is None:
            break
        run = parent
    return run.run_id


def _materializations(
    run: Run, backfill: Backfill, selected: Collection[dg.AssetKey]
) -> Iterator[dg.AssetMaterialization]:
    """What Dagster is told of a partition. Source first: a target older than its plan is shown as out of date."""
    if run.state is State.SUCCEEDED:
        for key, shown in zip(asset_keys(backfill), run_metadata(run), strict=True):
            if key in selected:
                yield dg.AssetMaterialization(asset_key=key, partition=run.partition_key, metadata=shown)


def _raise_for_failed(runs: Sequence[Run]) -> None:
    """Fail the step with the names of the partitions that did not finish: exactly those get no materialization.

    A parked partition is not a failure: it goes on at its wake time.
    """
    failed = [run for run in runs if run.state not in (State.SUCCEEDED, State.PARKED)]
    if failed:
        raise dg.Failure(
            description=f"{len(failed)} of {len(runs)} partitions did not finish: "
            + ", ".join(f"{run.partition_key} ({run.error_code})" for run in failed)
            + ".",
            metadata={run.partition_key: run.error_message or run.state for run in failed},
            allow_retries=False,
        )


def check_spec(backfill: Backfill) -> dg.AssetCheckSpec:
    """The asset check of a backfill. It is part of the assets' own step: Dagster skips a step that waits for an asset
    of which only single partitions were materialized, so a check of its own would never run after a load."""
    return dg.AssetCheckSpec(
        "source_equals_target",
        asset=asset_keys(backfill)[2],
        description="Source against target for every partition, as compared right after its newest load or verify.",
    )


def check_outcome(runtime: Runtime, backfill: Backfill) -> dict[str, Any]:
    """The newest stored comparison of every partition, named where they differ: what a result of the check holds."""
    spec = check_spec(backfill)
    compared = {run.partition_key: run.verification or {} for run in runtime.ledger.newest_verifications(backfill.name)}
    differing = [key for key, comparison in compared.items() if not comparison["passed"]]
    return {
        "asset_key": spec.asset_key,
        "check_name": spec.name,
        "passed": not differing,
        "description": f"{len(compared) - len(differing)} of {len(compared)} partitions are equal.",
        "metadata": comparison_metadata(compared, differing=differing),
    }


def job_name(backfill: Backfill) -> str:
    """The name of a backfill's job. Not the backfill's own: its step has that one, and Dagster loads no two alike."""
    return f"{backfill.name}_job"


def backfill_job(backfill: Backfill) -> Any:
    """The job that launches all three assets: what a schedule and the command line run."""
    return dg.define_asset_job(
        job_name(backfill),
        selection=dg.AssetSelection.assets(*asset_keys(backfill)),
        description=backfill.description,
    )


def backfill_schedule(backfill: Backfill, *, max_partitions_per_run: int) -> dg.ScheduleDefinition:
    """The schedule of a backfill: every partition, in ranges, stopped until somebody starts it."""

    @dg.schedule(
        name=f"{backfill.name}_schedule",
        job_name=job_name(backfill),
        cron_schedule=backfill.schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Runs {backfill.name} for every partition. Stopped by default: it writes.",
    )
    def all_partitions(context: dg.ScheduleEvaluationContext) -> Any:
        keys = context.instance.get_dynamic_partitions(backfill.name)
        if not keys:
            return dg.SkipReason("There are no partitions yet; the sensor registry_partitions adds them.")
        return [
            dg.RunRequest(
                run_key=f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}-{batch[0]}", tags=range_tags(batch)
            )
            for batch in ranges(keys, wanted=keys, size=max_partitions_per_run)
        ]

    return all_partitions


def ranges(ordered: Sequence[str], *, wanted: Sequence[str], size: int) -> list[list[str]]:
    """Cut the wanted partitions into runs of at most `size`, contiguous in Dagster's order: it knows only ranges."""
    chosen = set(wanted)
    batches: list[list[str]] = []
    follows = False
    for key in ordered:
        if key not in chosen:
            follows = False
            continue
        if follows and len(batches[-1]) < size:
            batches[-1].append(key)
        else:
            batches.append([key])
        follows = True
    return batches


def range_tags(batch: Sequence[str]) -> dict[str, str]:
    """The tags that make a Dagster run work a range of partitions."""
    return {RANGE_START_TAG: batch[0], RANGE_END_TAG: batch[-1]}


def sync_partitions(instance: dg.DagsterInstance, backfill: Backfill, registry: Registry) -> list[str]:
    """Add what the registry has and Dagster has not; returns the keys added. Never removes one."""
    wanted = partition_keys(backfill, registry)
    new = partitions_to_add(wanted, instance.get_dynamic_partitions(backfill.name))
    if new:
        instance.add_dynamic_partitions(backfill.name, new)
    return new


def registry_sensor(backfills: Sequence[Backfill], *, open_runtime: OpenRuntime) -> dg.SensorDefinition:
    """The sensor that adds the registry's new keys to the partitions. It never removes one."""

    @dg.sensor(
        name="registry_partitions",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Adds clients and workspaces that are new in the registry as partitions. Never removes any.",
    )
    def registry_partitions(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            with open_runtime(context.log.info) as runtime:
                end_orphaned_runs(context.instance, runtime.locks)
                wanted = {backfill.name: partition_keys(backfill, runtime.registry) for backfill in backfills}
        except BackfillError as error:
            # A registry that cannot be read is no empty registry.
            return dg.SkipReason(error.message)
        requests = [
            partitions_of(backfill).build_add_request(new)
            for backfill in backfills
            if (new := partitions_to_add(wanted[backfill.name], context.instance.get_dynamic_partitions(backfill.name)))
        ]
        if not requests:
            return dg.SkipReason("Every client and workspace of the registry is a partition already.")
        return dg.SensorResult(dynamic_partitions_requests=requests)

    return registry_partitions
