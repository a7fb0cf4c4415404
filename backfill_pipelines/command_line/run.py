"""`backfill run`: the same Dagster runs as in the UI, executed in the command's own process.

Belongs here: choosing partitions, cutting them into Dagster runs, executing those side by side, and the exit code. Does
not belong here: what is printed (`output.py`) and what a partition's run does (the engine).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster_postgres.utils import DagsterPostgresException
from pydantic import ValidationError

from backfill_pipelines.command_line.failures import (
    DRY_RUN_FOUND_CHANGES,
    FAILED,
    PARKED,
    USAGE_OR_CONFIGURATION,
    UsageError,
    print_json,
)
from backfill_pipelines.command_line.logs import configure_logs
from backfill_pipelines.command_line.output import (
    print_runs,
    run_as_json,
    terminal_progress,
    unaccounted_as_json,
)
from backfill_pipelines.command_line.services import dagster_environment, open_instance, stop_on_signals
from backfill_pipelines.definitions import PARTITIONS_PER_RUN, all_backfills, build_defs
from backfill_pipelines.engine.backfill import Backfill
from backfill_pipelines.engine.dagster_adapter import (
    asset_keys,
    job_name,
    partition_keys,
    partitions_per_run,
    range_tags,
    ranges,
    sync_partitions,
)
from backfill_pipelines.engine.dagster_orphans import end_orphaned_runs, own_runs
from backfill_pipelines.engine.ledger import Mode, Run, State
from backfill_pipelines.engine.runtime import Runtime, open_runtime
from backfill_pipelines.errors import ConfigurationError, ErrorCategory, TransientError

_RUNS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a command's Dagster runs have come to."""

    backfill: str
    dry_run: bool
    dagster_run_ids: Sequence[str]
    runs: Sequence[Run]
    """In the order of the partitions that were chosen."""
    unaccounted: Sequence[str]
    """Partitions whose Dagster run ended before it began with them."""

    @property
    def exit_code(self) -> int:
        """The command's exit code."""
        return FAILED if self.unaccounted else exit_code(self.runs, dry_run=self.dry_run)

    def document(self) -> dict[str, Any]:
        """The command's answer as JSON."""
        return {
            "backfill": self.backfill,
            "mode": Mode.PLAN if self.dry_run else Mode.LOAD,
            "dagster_run_ids": list(self.dagster_run_ids),
            "partitions": [
                *(run_as_json(run) for run in self.runs),
                *(unaccounted_as_json(key) for key in self.unaccounted),
            ],
        }


def run_backfill(
    name: str,
    *,
    clients: Sequence[str],
    all_partitions: bool,
    dry_run: bool,
    options: Mapping[str, Any],
    batch_size: int | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Run a backfill for the chosen partitions, and tell; returns the exit code."""
    finished = execute_backfill(
        name,
        clients=clients,
        all_partitions=all_partitions,
        dry_run=dry_run,
        options=options,
        batch_size=batch_size,
        verbose=verbose,
    )
    if as_json:
        print_json(finished.document())
    else:
        print_runs(name, finished.runs, dry_run=dry_run, unaccounted=finished.unaccounted)
    return finished.exit_code


def execute_backfill(
    name: str,
    *,
    clients: Sequence[str],
    all_partitions: bool,
    dry_run: bool,
    options: Mapping[str, Any],
    batch_size: int | None = None,
    verbose: bool = False,
) -> Finished:
    """Run a backfill for the chosen partitions. Raises `BackfillError` where nothing could begin."""
    backfill = backfill_named(name)
    require_choice(clients, all_partitions=all_partitions)
    check_options(backfill, options)
    configure_logs(verbose=verbose)
    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(dagster_environment())
        progress = stack.enter_context(terminal_progress(f"{name}: {'dry run' if dry_run else 'run'}"))
        runtime = stack.enter_context(open_runtime(progress=progress, stop=stop))
        keys = chosen_partitions(runtime, backfill, clients, all_partitions=all_partitions)
        instance = stack.enter_context(open_instance())
        with stop_on_signals(stop):
            dagster_run_ids = execute(
                runtime,
                instance,
                backfill,
                keys,
                dry_run=dry_run,
                options=options,
                batch_size=batch_size or partitions_per_run(backfill, usual=PARTITIONS_PER_RUN),
                verbose=verbose,
            )
        runs = [run for run_id in dagster_run_ids for run in runtime.ledger.of_dagster_run(run_id)]
    accounted = {run.partition_key for run in runs}
    return Finished(
        backfill=name,
        dry_run=dry_run,
        dagster_run_ids=dagster_run_ids,
        runs=sorted(runs, key=lambda run: keys.index(run.partition_key)),
        unaccounted=[key for key in keys if key not in accounted],
    )


def execute(
    runtime: Runtime,
    instance: dg.DagsterInstance,
    backfill: Backfill,
    keys: Sequence[str],
    *,
    dry_run: bool,
    options: Mapping[str, Any],
    batch_size: int,
    verbose: bool,
) -> list[str]:
    """Execute the partitions as Dagster runs of at most `batch_size` each, side by side; returns the runs' ids.

    In threads: the partitions of all runs share the process's event loop, and `max_parallel_clients` bounds them
    together. Within one run Dagster knows only ranges of partitions, so scattered ones take a run each.
    """
    end_orphaned_runs(instance, runtime.locks)
    sync_partitions(instance, backfill, runtime.registry)
    owner_tags = own_runs(runtime.locks)
    ordered = instance.get_dynamic_partitions(backfill.name)
    definitions = build_defs(open_runtime=lambda _: nullcontext(runtime), max_partitions_per_run=batch_size)
    job = definitions.resolve_job_def(job_name(backfill))
    source, plan, target = asset_keys(backfill)

    def one(batch: Sequence[str]) -> str:
        result = job.execute_in_process(
            instance=instance,
            tags=range_tags(batch) | owner_tags,
            asset_selection=[source, plan] if dry_run else [source, plan, target],
            run_config={
                "ops": {backfill.name: {"config": dict(options)}},
                "loggers": {"console": {"config": {"log_level": "INFO" if verbose else "CRITICAL"}}},
            },
            raise_on_error=False,
        )
        return result.run_id

    try:
        with ThreadPoolExecutor(_RUNS_AT_ONCE) as threads:
            return list(threads.map(one, ranges(ordered, wanted=keys, size=batch_size)))
    except DagsterPostgresException:
        raise TransientError(
            "database_unavailable",
            "The database of Dagster's runs went away; what is done stays done, and the same command again goes on "
            "from there.",
        ) from None


def exit_code(runs: Sequence[Run], *, dry_run: bool) -> int:
    """What the command's exit code says about its partitions. Pure.

    3 where configuration kept every one of them from running, 1 where any did not finish or has a record that could not
    be written, 4 where some were parked and none failed, 2 where a dry run found something to create or update.
    """
    unfinished = [run for run in runs if run.state not in (State.SUCCEEDED, State.PARKED)]
    if unfinished:
        configuration = all(run.error_category == ErrorCategory.CONFIGURATION for run in runs)
        return USAGE_OR_CONFIGURATION if configuration else FAILED
    if any(run.counts.get("failed") for run in runs):
        return FAILED
    if any(run.state is State.PARKED for run in runs):
        return PARKED
    if dry_run and any(run.counts.get("create") or run.counts.get("update") for run in runs):
        return DRY_RUN_FOUND_CHANGES
    return 0


def backfill_named(name: str) -> Backfill:
    """The backfill with this name; raises `UsageError("unknown_backfill")`."""
    known = {backfill.name: backfill for backfill in all_backfills()}
    if name not in known:
        raise UsageError("unknown_backfill", f"There is no backfill {name!r}; known: {', '.join(known)}.")
    return known[name]


def require_choice(clients: Sequence[str], *, all_partitions: bool) -> None:
    """Raise `UsageError("no_partitions_chosen")` unless exactly one of --client and --all was given."""
    if bool(clients) == all_partitions:
        raise UsageError(
            "no_partitions_chosen", "Say which partitions: --client KEY (several times if need be), or --all."
        )


def check_options(backfill: Backfill, options: Mapping[str, Any]) -> None:
    """Raise `UsageError`: `unknown_option` for one that this backfill does not have, else `invalid_option`."""
    try:
        backfill.options_model.model_validate(dict(options))
    except ValidationError as error:
        wrong = {"--" + str(item["loc"][0]).replace("_", "-"): item for item in error.errors()}
        unknown = [name for name, item in wrong.items() if item["type"] == "extra_forbidden"]
        if unknown:
            raise UsageError(
                "unknown_option", f"{backfill.name} does not take {', '.join(unknown)}; see its page in the README."
            ) from None
        told = "; ".join(f"{name}: {item['msg']}" for name, item in wrong.items())
        raise UsageError("invalid_option", f"{told}. Correct it, or leave it out.") from None


def chosen_partitions(
    runtime: Runtime, backfill: Backfill, clients: Sequence[str], *, all_partitions: bool
) -> list[str]:
    """The partitions to work on, each once, in the order given; raises `ConfigurationError` for an unknown one."""
    known = partition_keys(backfill, runtime.registry)
    if all_partitions:
        if not known:
            raise ConfigurationError(
                "no_partitions", f"The registry has no {backfill.partition_kind} for {backfill.name}; add one."
            )
        return known
    # Sorted: the sentence about sections that are missing should not change from run to run.
    uses = backfill.uses if isinstance(backfill.uses, str) else sorted(backfill.uses)
    for key in clients:
        if key not in known:
            runtime.registry.require_partition(backfill.partition_kind, key, uses)
    return list(dict.fromkeys(clients))
