"""`backfill status` and `backfill show`: what the ledger has.

Belongs here: reading runs and changes for people. `show` is the one place that prints values of records, and only to a
terminal: anywhere else (a file, a pipe, another program) they are masked.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from rich.table import Table
from sqlalchemy import Row, select

from backfill_pipelines.command_line.failures import UsageError, print_json
from backfill_pipelines.command_line.output import wide_console
from backfill_pipelines.database.tables import change
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.plan import Action
from backfill_pipelines.engine.runtime import open_database

_MASK = "•••"


def show_status(name: str | None, *, as_json: bool) -> int:
    """Print the newest run of every partition; returns the exit code."""
    if name is not None:
        # Only here: it brings Dagster, which takes longer to import than all the rest takes.
        from backfill_pipelines.command_line.run import backfill_named

        backfill_named(name)
    with open_database() as (_, ledger):
        runs = ledger.newest_runs(name)
    if as_json:
        print_json({"runs": [_status_row(run) for run in runs]})
        return 0
    table = Table()
    for column in ("backfill", "partition", "mode", "state", "started (UTC)", "applied", "code", "run id"):
        table.add_column(column)
    for run in runs:
        table.add_row(
            run.backfill,
            run.partition_key,
            run.mode,
            run.state,
            f"{run.started_at:%Y-%m-%d %H:%M:%S}",
            str(run.counts.get("applied", run.counts.get("undone", ""))),
            run.error_code or "",
            str(run.id),
        )
    wide_console().print(table if runs else "Nothing has run yet; try: backfill run client_leads --all --dry-run")
    return 0


def _status_row(run: Run) -> dict[str, Any]:
    row = dict(vars(run))
    row["id"] = str(run.id)
    row["undoes"] = None if run.undoes is None else str(run.undoes)
    for name in ("started_at", "planned_at", "finished_at", "parked_until"):
        row[name] = None if row[name] is None else row[name].isoformat()
    return row


def show_changes(run_id: str, *, action: str | None, limit: int, as_json: bool) -> int:
    """Print the changes of a run; returns the exit code."""
    if action is not None and action not in set(Action):
        raise UsageError("unknown_action", f"--action is one of {', '.join(Action)}.")
    revealed = sys.stdout.isatty()
    with open_database() as (engine, ledger):
        try:
            run = ledger.get(UUID(run_id))
        except ValueError:
            run = None
        if run is None:
            raise UsageError("unknown_run", "There is no run with that id; `backfill status` lists the runs.")
        statement = select(change).where(change.c.run_id == run.id).order_by(change.c.seq).limit(limit)
        if action is not None:
            statement = statement.where(change.c.action == action)
        with engine.connect() as connection:
            rows = connection.execute(statement).all()
    shown = [_shown(row, revealed=revealed) for row in rows]
    if as_json:
        print_json({"run_id": run_id, "masked": not revealed, "changes": shown})
    else:
        _print_changes(shown, revealed=revealed)
    return 0


def _shown(row: Row[Any], *, revealed: bool) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "target": row.target,
        "record_key": row.record_key if revealed else _masked_key(row.record_key),
        "action": row.action,
        "reason": row.reason,
        "state": row.state,
        "error_code": row.error_code,
        "before": row.before if revealed else _masked(row.before),
        "after": row.after if revealed else _masked(row.after),
    }


def _masked(values: Mapping[str, Any] | None) -> dict[str, str | None] | None:
    """Which columns there are, and which are empty; no value."""
    return None if values is None else {name: None if value is None else _MASK for name, value in values.items()}


def _masked_key(key: str) -> str:
    return f"{key[0]}{_MASK}" if key else _MASK


def _printable(text: str) -> str:
    """The text without what a terminal would obey: a key is whatever somebody has sent as an address."""
    return repr(text)[1:-1]


def _print_changes(changes: Sequence[Mapping[str, Any]], *, revealed: bool) -> None:
    console = wide_console()
    for item in changes:
        outcome = f"{item['state']}{' ' + item['error_code'] if item['error_code'] else ''}"
        reason = f" ({item['reason']})" if item["reason"] else ""
        key = _printable(item["record_key"])
        console.print(f"{item['seq']:>6} {item['action']}{reason} {key} → {outcome}", markup=False, soft_wrap=True)
        for name, value in (item["after"] or {}).items():
            before = (item["before"] or {}).get(name)
            arrow = f"{before!r} → {value!r}" if item["before"] is not None else repr(value)
            console.print(f"         {name}: {arrow}", markup=False, highlight=False, soft_wrap=True)
    if not revealed:
        console.print("Values are masked: stdout is no terminal.", markup=False)
