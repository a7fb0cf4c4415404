"""What commands print about runs: JSON documents, tables and progress.

Belongs here: turning runs of the ledger into text. Does not belong here: values of records: `inspect_runs.py` is the
one place that prints those, to a terminal only.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from backfill_pipelines.engine.backfill import Progress as ProgressReport
from backfill_pipelines.engine.completeness import COMPLETENESS, completeness_of
from backfill_pipelines.engine.ledger import Mode, Run, State
from backfill_pipelines.engine.progress import LineProgress

_WIDTH_WITHOUT_TERMINAL = 160
_WIDTH_WITH_IDS = 140
COUNTS = ("source", "create", "update", "skip", "conflict", "reject", "applied", "failed")
_NOT_RUN = "Its Dagster run ended before it began; run it again, or see that run in the Dagster UI for the reason."
_STYLES = {
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.REFUSED: "red",
    State.INTERRUPTED: "yellow",
    State.PARKED: "yellow",
    State.RUNNING: "cyan",
}


def run_as_json(run: Run) -> dict[str, Any]:
    """A run as an element of `partitions`."""
    return {
        "key": run.partition_key,
        "run_id": str(run.id),
        "state": run.state,
        "plan_hash": run.plan_hash,
        "counts": {name: run.counts.get(name, 0) for name in COUNTS},
        "reasons": dict(run.reasons),
        "warnings": list(run.warnings),
        "error_code": run.error_code,
        "error_message": run.error_message,
        "parked_until": run.parked_until.isoformat() if run.parked_until else None,
        "details": dict(run.details),
        "verification": verification_as_json(run),
    }


def unaccounted_as_json(key: str) -> dict[str, Any]:
    """A partition that its Dagster run never came to: as `run_as_json`, without a run."""
    return {
        "key": key,
        "run_id": None,
        "state": State.FAILED,
        "plan_hash": None,
        "counts": dict.fromkeys(COUNTS, 0),
        "reasons": {},
        "warnings": [],
        "error_code": "not_run",
        "error_message": _NOT_RUN,
        "parked_until": None,
        "details": {},
        "verification": None,
    }


def verification_as_json(run: Run) -> dict[str, Any] | None:
    """The comparison of source and target that a run has stored, or None."""
    if run.verification is None:
        return None
    names = ("equal", "missing", "extra", "different", "explained", "passed", "examples")
    return {name: run.verification[name] for name in names}


def print_runs(name: str, runs: Sequence[Run], *, dry_run: bool, unaccounted: Sequence[str]) -> None:
    """Print a table of a command's runs, then every failure in a sentence, then what to do next."""
    console = wide_console()
    with_ids = console.width >= _WIDTH_WITH_IDS
    table = Table(title=f"{name}: {'dry run' if dry_run else 'run'}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("partition", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for count in COUNTS:
        table.add_column(count, justify="right")
    table.add_column("verified")
    if with_ids:
        table.add_column("run id", no_wrap=True)
    for run in runs:
        verified = "" if run.verification is None else ("yes" if run.verification["passed"] else "NO")
        table.add_row(
            run.partition_key,
            f"[{_STYLES[run.state]}]{run.state}[/]",
            *(str(run.counts.get(count, 0)) for count in COUNTS),
            verified,
            *([str(run.id)] if with_ids else []),
        )
    console.print(table)
    if (complete := completeness_table(runs)) is not None:
        console.print(complete)
    for line in explanations(runs, unaccounted=unaccounted):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in next_steps(name, runs, dry_run=dry_run):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def completeness_table(runs: Sequence[Run]) -> Table | None:
    """The share of records that have each field, before and after, where the backfill tells it."""
    told = {run.partition_key: each for run in runs if (each := completeness_of(run.details)) is not None}
    if not told:
        return None
    fields = dict.fromkeys(name for each in told.values() for name in each.after)
    table = Table(title="share of records with each field, before → after", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("partition", no_wrap=True)
    for name in ("records", *fields):
        table.add_column(name, justify="right")
    for key, each in told.items():
        changes = each.changes()
        table.add_row(key, str(each.records), *(changes.get(name, "") for name in fields))
    return table


def figures(runs: Sequence[Run]) -> str:
    """The backfill's own figures, over all runs: numbers added up; texts, such as a time, of a single run."""
    totals: dict[str, int] = {}
    texts: dict[str, str] = {}
    for run in runs:
        # Reasons and completeness have a place of their own.
        shown = {name: value for name, value in run.details.items() if name not in ("reasons", COMPLETENESS)}
        if run.mode is Mode.VERIFY and run.verification is not None:
            shown = {**run.verification["figures"], **shown}
        for name, value in _flat(shown):
            if isinstance(value, int) and not isinstance(value, bool):
                totals[name] = totals.get(name, 0) + value
            elif isinstance(value, str) and len(runs) == 1:
                texts[name] = value
    return ", ".join(f"{name} {value}" for name, value in {**totals, **texts}.items())


def _flat(details: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in details.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", each) for key, each in _flat(value))
        else:
            yield name, value


def wide_console() -> Console:
    """A console on stdout that does not squeeze tables where there is no terminal whose width it would have to fit."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)


def explanations(runs: Sequence[Run], *, unaccounted: Sequence[str]) -> list[str]:
    """The figures of the runs, every reason, warning and failure, in plain lines."""
    lines = [f"figures: {each}" for each in [figures(runs)] if each]
    reasons: dict[str, int] = {}
    for run in runs:
        for code, count in run.reasons.items():
            reasons[code] = reasons.get(code, 0) + count
    if reasons:
        lines.append("reasons: " + ", ".join(f"{code} {count}" for code, count in sorted(reasons.items())))
    for run in runs:
        if run.warnings:
            lines.append(f"warning {run.partition_key}: {', '.join(run.warnings)}")
        if run.error_code:
            lines.append(f"{run.state} {run.partition_key}: {run.error_message} [{run.error_code}]")
        if failed := run.counts.get("failed"):
            lines.append(f"failed {run.partition_key}: {failed} records could not be written; the reasons say why")
        if run.parked_until:
            lines.append(f"parked {run.partition_key} until {run.parked_until:%Y-%m-%d %H:%M} UTC")
    lines.extend(f"failed {key}: {_NOT_RUN} [not_run]" for key in unaccounted)
    return lines


def next_steps(name: str, runs: Sequence[Run], *, dry_run: bool) -> list[str]:
    """The commands that make sense now."""
    changed = next((run for run in runs if run.counts.get("create") or run.counts.get("update")), None)
    steps: list[str] = []
    if any(run.resumable for run in runs):
        keys = " ".join(f"--client {run.partition_key}" for run in runs if run.resumable)
        steps.append(f"resume:  backfill run {name} {keys}{' --dry-run' if dry_run else ''}")
    failed = [run for run in runs if run.state in (State.FAILED, State.REFUSED) and not run.resumable]
    if failed and len(failed) < len(runs):
        keys = " ".join(f"--client {run.partition_key}" for run in failed)
        steps.append(f"again:   backfill run {name} {keys}")
    if dry_run and changed is not None:
        steps.append(f"look:    backfill show {changed.id}")
        steps.append(f"load:    backfill run {name} --client {changed.partition_key}")
    if not dry_run and changed is not None:
        steps.append(f"look:    backfill show {changed.id}")
        steps.append(f"undo:    backfill undo {changed.id}")
    return steps


@contextmanager
def terminal_progress(title: str) -> Iterator[ProgressReport]:
    """Progress on stderr: a bar with an estimate for each partition at a terminal, plain lines anywhere else."""
    if not sys.stderr.isatty():
        yield LineProgress(_tell)
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        bars.console.print(title)
        yield _Bars(bars)


def _tell(line: str) -> None:
    """Print to stderr; where nobody reads it any more (`2>&1 | head`) the work goes on all the same."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class _Bars:
    """One bar per partition, showing its current step."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._mutex = threading.Lock()
        self._tasks: dict[str, tuple[str, TaskID]] = {}

    def report(self, partition_key: str, step: str, done: int, total: int | None) -> None:
        """Move the partition's bar; a new step starts it anew, so that the estimate is the step's own."""
        with self._mutex, suppress(OSError):  # the terminal may be gone; the work goes on
            known = self._tasks.get(partition_key)
            if known is None or known[0] != step:
                if known is not None:
                    self._bars.remove_task(known[1])
                task = self._bars.add_task(f"{partition_key}: {step}", total=total)
                self._tasks[partition_key] = (step, task)
            self._bars.update(self._tasks[partition_key][1], completed=done, total=total)
