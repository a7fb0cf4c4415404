"""`backfill verify`: source against target, read again.

Belongs here: choosing partitions, running the comparison, the exit code. Does not belong here: comparing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rich.table import Table

from backfill_pipelines.command_line.failures import FAILED, USAGE_OR_CONFIGURATION, print_json
from backfill_pipelines.command_line.logs import configure_logs
from backfill_pipelines.command_line.output import explanations, terminal_progress, verification_as_json, wide_console
from backfill_pipelines.command_line.run import backfill_named, chosen_partitions, require_choice
from backfill_pipelines.command_line.services import stop_on_signals
from backfill_pipelines.engine.backfill import Backfill
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.runtime import Runtime, open_runtime
from backfill_pipelines.engine.verify import compare_partitions, verify_partition
from backfill_pipelines.errors import ErrorCategory

_FIGURES = ("equal", "missing", "extra", "different", "explained")


def verify_backfill(name: str, *, clients: Sequence[str], all_partitions: bool, as_json: bool, verbose: bool) -> int:
    """Compare source and target of the chosen partitions; returns the exit code."""
    backfill = backfill_named(name)
    require_choice(clients, all_partitions=all_partitions)
    configure_logs(verbose=verbose)
    stop = threading.Event()
    with ExitStack() as stack:
        progress = stack.enter_context(terminal_progress(f"{name}: verify"))
        runtime = stack.enter_context(open_runtime(progress=progress, stop=stop))
        keys = chosen_partitions(runtime, backfill, clients, all_partitions=all_partitions)
        with stop_on_signals(stop):
            runs = verify_partitions(runtime, backfill, keys)
    if as_json:
        print_json({"backfill": name, "partitions": [comparison_as_json(run) for run in runs]})
    else:
        _print(name, runs)
    if all(run.error_category == ErrorCategory.CONFIGURATION for run in runs):
        return USAGE_OR_CONFIGURATION
    return 0 if all(run.verification is not None and run.verification["passed"] for run in runs) else FAILED


def verify_partitions(runtime: Runtime, backfill: Backfill, keys: Sequence[str]) -> list[Run]:
    """Compare the partitions side by side, then all of them with each other; in the order of the keys."""

    async def one(key: str) -> Run:
        async with runtime.places:
            return await verify_partition(runtime, backfill, key)

    done = list(runtime.run_all([one(key) for key in keys]))
    compare_partitions(runtime, backfill)
    # Read again: the comparison of all partitions may have marked some.
    runs = [runtime.ledger.get(run.id) or run for run in done]
    return sorted(runs, key=lambda run: keys.index(run.partition_key))


def comparison_as_json(run: Run) -> dict[str, Any]:
    """A verification as an element of `partitions`."""
    compared = verification_as_json(run) or dict.fromkeys(_FIGURES)
    return {
        "key": run.partition_key,
        **compared,
        "warnings": list(run.warnings),
        "details": {**(run.verification or {}).get("figures", {}), **run.details},
        "state": run.state,
        "run_id": str(run.id),
        "error_code": run.error_code,
        "error_message": run.error_message,
    }


def _print(name: str, runs: Sequence[Run]) -> None:
    console = wide_console()
    table = Table(title=f"{name}: source against target", title_justify="left")
    table.add_column("partition")
    for figure in _FIGURES:
        table.add_column(figure, justify="right")
    table.add_column("verdict")
    for run in runs:
        compared = run.verification
        figures = ["" if compared is None else str(compared[figure]) for figure in _FIGURES]
        verdict = run.state if run.state is not State.SUCCEEDED else _verdict(run)
        table.add_row(run.partition_key, *figures, verdict)
    console.print(table)
    for line in explanations(runs, unaccounted=[]):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _verdict(run: Run) -> str:
    return "[green]equal[/]" if run.verification is not None and run.verification["passed"] else "[red]DIFFERENT[/]"
