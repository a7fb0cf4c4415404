"""`backfill undo`: take a run back, or all that a backfill has done for one client.

Belongs here: which runs are meant, running their undo in the right order, the exit code. Does not belong here: undoing.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from rich.table import Table
from sqlalchemy import text

from backfill_pipelines.command_line.failures import (
    DRY_RUN_FOUND_CHANGES,
    FAILED,
    USAGE_OR_CONFIGURATION,
    UsageError,
    print_json,
)
from backfill_pipelines.command_line.logs import configure_logs
from backfill_pipelines.command_line.output import terminal_progress, wide_console
from backfill_pipelines.command_line.run import backfill_named, chosen_partitions
from backfill_pipelines.command_line.services import stop_on_signals
from backfill_pipelines.definitions import all_backfills
from backfill_pipelines.engine.backfill import Backfill
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.runtime import Runtime, open_runtime
from backfill_pipelines.engine.undo import UndoResult, runs_to_undo, undo_run
from backfill_pipelines.errors import ErrorCategory

# By what they have written last: a run that was gone on with later has written later than it began.
_STANDING_RUNS = text(
    "SELECT r.id FROM backfill.run AS r JOIN backfill.change AS c ON c.run_id = r.id"
    " WHERE r.backfill = :backfill AND r.partition_key = :key AND r.mode = 'load' AND c.state = 'applied'"
    " GROUP BY r.id ORDER BY max(c.applied_at) DESC, r.started_at DESC"
)


def undo(name_or_id: str, *, client: str | None, dry_run: bool, as_json: bool, verbose: bool) -> int:
    """Undo the run, or the client's runs of the backfill, that is named; returns the exit code."""
    is_name = name_or_id in {backfill.name for backfill in all_backfills()}
    if is_name and client is None:
        raise UsageError("no_client", f"Say whose runs of {name_or_id} to undo: --client KEY; or name one run's id.")
    if not is_name and client is not None:
        raise UsageError("unexpected_client", "--client goes with the name of a backfill; a run's id needs none.")
    if client is None:
        return undo_runs(name_or_id, dry_run=dry_run, as_json=as_json, verbose=verbose)
    return undo_client(name_or_id, client, dry_run=dry_run, as_json=as_json, verbose=verbose)


def undo_runs(run_id: str, *, dry_run: bool, as_json: bool, verbose: bool) -> int:
    """Undo what the id names, its partitions side by side; returns the exit code."""

    def work(runtime: Runtime) -> list[UndoResult]:
        runs = runs_to_undo(runtime, run_id)
        works = [undo_run(runtime, backfill_named(run.backfill), run, dry_run=dry_run) for run in runs]
        return sorted(runtime.run_all(works), key=lambda result: result.run.partition_key)

    results = _with_runtime(work, dry_run=dry_run, verbose=verbose)
    if as_json:
        print_json({"dry_run": dry_run, "partitions": [_as_json(result) for result in results]})
    else:
        _print(results, dry_run=dry_run)
    return _exit_code(results, dry_run=dry_run)


def undo_client(name: str, key: str, *, dry_run: bool, as_json: bool, verbose: bool) -> int:
    """Undo all runs of a partition that have something left to undo, newest first; returns the exit code.

    A dry run looks at each run as if it were the newest: what a newer one holds counts as a conflict there, and is none
    once that one is undone. The first run that cannot be undone to its end is the last one tried.
    """
    backfill = backfill_named(name)

    def work(runtime: Runtime) -> list[UndoResult]:
        runs = _standing_runs(runtime, backfill, key)
        results: list[UndoResult] = []
        for run in runs:
            results.append(runtime.run(undo_run(runtime, backfill, run, dry_run=dry_run)))
            if results[-1].run.state is not State.SUCCEEDED:
                break
        return results

    results = _with_runtime(work, dry_run=dry_run, verbose=verbose)
    if as_json:
        print_json({"dry_run": dry_run, "backfill": name, "partitions": [_summary(key, results)]})
    elif results:
        _print(results, dry_run=dry_run)
    else:
        wide_console().print(f"{name} has nothing to undo for {key}.", markup=False, highlight=False)
    return _exit_code(results, dry_run=dry_run)


def _standing_runs(runtime: Runtime, backfill: Backfill, key: str) -> list[Run]:
    with runtime.engine.connect() as connection:
        ids = connection.scalars(_STANDING_RUNS, {"backfill": backfill.name, "key": key}).all()
    if not ids:
        # Nothing to do for a client that there is; a key that nobody has is a mistake.
        chosen_partitions(runtime, backfill, [key], all_partitions=False)
    return [run for run_id in ids if (run := runtime.ledger.get(run_id)) is not None]


def _with_runtime(work: Callable[[Runtime], list[UndoResult]], *, dry_run: bool, verbose: bool) -> list[UndoResult]:
    configure_logs(verbose=verbose)
    stop = threading.Event()
    with ExitStack() as stack:
        progress = stack.enter_context(terminal_progress(f"undo{' (dry run)' if dry_run else ''}"))
        runtime = stack.enter_context(open_runtime(progress=progress, stop=stop))
        with stop_on_signals(stop):
            return work(runtime)


def _exit_code(results: Sequence[UndoResult], *, dry_run: bool) -> int:
    if results and all(result.run.error_category == ErrorCategory.CONFIGURATION for result in results):
        return USAGE_OR_CONFIGURATION
    if any(result.run.state is not State.SUCCEEDED for result in results):
        return FAILED
    if dry_run:
        return DRY_RUN_FOUND_CHANGES if any(result.undone for result in results) else 0
    return FAILED if any(result.conflict for result in results) else 0


def _summary(key: str, results: Sequence[UndoResult]) -> dict[str, Any]:
    """All undone runs of a partition as one element of `partitions`."""
    reasons: Counter[str] = Counter()
    for result in results:
        reasons.update(result.reasons)
    last = results[-1].run if results else None
    return {
        "key": key,
        "state": State.SUCCEEDED if last is None else last.state,
        "undone": sum(result.undone for result in results),
        "conflict": sum(result.conflict for result in results),
        "reasons": dict(sorted(reasons.items())),
        "error_code": None if last is None else last.error_code,
        "error_message": None if last is None else last.error_message,
        "runs": [_as_json(result) for result in results],
    }


def _as_json(result: UndoResult) -> dict[str, Any]:
    return {
        "key": result.run.partition_key,
        "run_id": str(result.undoes),
        "undo_run_id": str(result.run.id),
        "state": result.run.state,
        "undone": result.undone,
        "conflict": result.conflict,
        "reasons": dict(result.reasons),
        "error_code": result.run.error_code,
        "error_message": result.run.error_message,
    }


def _print(results: Sequence[UndoResult], *, dry_run: bool) -> None:
    console = wide_console()
    table = Table(title="undo (dry run)" if dry_run else "undo", title_justify="left")
    for column in ("partition", "state", "undone", "conflict", "reasons", "run id"):
        table.add_column(column, justify="right" if column in ("undone", "conflict") else "left")
    for result in results:
        reasons = ", ".join(f"{code} {count}" for code, count in result.reasons.items())
        table.add_row(
            result.run.partition_key,
            result.run.state,
            str(result.undone),
            str(result.conflict),
            reasons or "none",
            str(result.undoes),
        )
    console.print(table)
    for result in results:
        if result.run.error_message:
            console.print(f"{result.run.partition_key}: {result.run.error_message}", markup=False, soft_wrap=True)
    if any(result.run.state is State.INTERRUPTED for result in results):
        console.print("What is undone stays undone; the same command again takes back the rest.", markup=False)
    if any(result.conflict for result in results):
        console.print("A conflict is a record that somebody has changed since; it stays as it is.", markup=False)
    if dry_run and len({result.run.partition_key for result in results}) < len(results):
        console.print(
            "Each run is looked at by itself: what a newer one holds is free once that one is undone.", markup=False
        )
