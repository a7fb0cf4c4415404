"""`backfill undo`: take a run back.

Belongs here: which runs an id names, running their undo, the exit code. Does not belong here: undoing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rich.table import Table

from backfill_pipelines.command_line.failures import (
    DRY_RUN_FOUND_CHANGES,
    FAILED,
    USAGE_OR_CONFIGURATION,
    print_json,
)
from backfill_pipelines.command_line.logs import configure_logs
from backfill_pipelines.command_line.output import terminal_progress, wide_console
from backfill_pipelines.command_line.run import backfill_named
from backfill_pipelines.command_line.services import stop_on_signals
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.engine.runtime import open_runtime
from backfill_pipelines.engine.undo import UndoResult, runs_to_undo, undo_run
from backfill_pipelines.errors import ErrorCategory


def undo_runs(run_id: str, *, dry_run: bool, as_json: bool, verbose: bool) -> int:
    """Undo what the id names; returns the exit code."""
    configure_logs(verbose=verbose)
    stop = threading.Event()
    with ExitStack() as stack:
        progress = stack.enter_context(terminal_progress(f"undo{' (dry run)' if dry_run else ''}"))
        runtime = stack.enter_context(open_runtime(progress=progress, stop=stop))
        runs = runs_to_undo(runtime, run_id)
        with stop_on_signals(stop):
            works = [undo_run(runtime, backfill_named(run.backfill), run, dry_run=dry_run) for run in runs]
            results = sorted(runtime.run_all(works), key=lambda result: result.run.partition_key)
    if as_json:
        print_json({"dry_run": dry_run, "partitions": [_as_json(result) for result in results]})
    else:
        _print(results, dry_run=dry_run)
    if all(result.run.error_category == ErrorCategory.CONFIGURATION for result in results):
        return USAGE_OR_CONFIGURATION
    if any(result.run.state is not State.SUCCEEDED for result in results):
        return FAILED
    if dry_run:
        return DRY_RUN_FOUND_CHANGES if any(result.undone for result in results) else 0
    return FAILED if any(result.conflict for result in results) else 0


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
    for column in ("partition", "state", "undone", "conflict", "reasons"):
        table.add_column(column, justify="right" if column in ("undone", "conflict") else "left")
    for result in results:
        reasons = ", ".join(f"{code} {count}" for code, count in result.reasons.items())
        table.add_row(
            result.run.partition_key, result.run.state, str(result.undone), str(result.conflict), reasons or "none"
        )
    console.print(table)
    for result in results:
        if result.run.error_message:
            console.print(f"{result.run.partition_key}: {result.run.error_message}", markup=False, soft_wrap=True)
    if any(result.run.state is State.INTERRUPTED for result in results):
        console.print("What is undone stays undone; the same command again takes back the rest.", markup=False)
    if any(result.conflict for result in results):
        console.print("A conflict is a record that somebody has changed since; it stays as it is.", markup=False)
