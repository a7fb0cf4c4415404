"""Taking a run back: its applied changes, last one first, each only where nobody has changed the record since.

Belongs here: finding what to undo, the undo's own row in the ledger, and its counts. Does not belong here: how a
target takes a change back (its own business, by compare-and-set).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from backfill_pipelines.engine.backfill import Backfill, RunOptions, Scope
from backfill_pipelines.engine.journal import ChangeState, outcome_counts
from backfill_pipelines.engine.ledger import Mode, Request, Run
from backfill_pipelines.engine.partition_run import audited, guarded, holding_partition
from backfill_pipelines.engine.record_by_record import RecordLoad, RecordTarget
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.set_based import undo_set_based
from backfill_pipelines.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class UndoResult:
    """What became of one partition's run. `undone` and `conflict` count changes; `run` is the undo's own row."""

    run: Run
    undoes: UUID
    undone: int
    conflict: int
    reasons: Mapping[str, int]


def runs_to_undo(runtime: Runtime, run_id: str) -> list[Run]:
    """Find what an id names: one run of ours, or all runs that a Dagster run worked on.

    Raises `ConfigurationError`: `unknown_run`, `nothing_to_undo`.
    """
    try:
        found = runtime.ledger.get(UUID(run_id))
    except ValueError:
        found = None
    runs = [found] if found is not None else runtime.ledger.of_dagster_run(run_id)
    if not runs:
        raise ConfigurationError(
            "unknown_run", "There is no run with that id; `backfill status` lists the runs and their ids."
        )
    loads = [run for run in runs if run.mode is Mode.LOAD]
    if not loads:
        raise ConfigurationError(
            "nothing_to_undo", "That run wrote nothing: only runs of mode load can be undone; see `backfill status`."
        )
    return loads


async def undo_run(
    runtime: Runtime, backfill: Backfill, run: Run, *, dry_run: bool, dagster_run_id: str | None = None
) -> UndoResult:
    """Undo one run of one partition; with `dry_run`, say what would be undone and change nothing in the target."""
    request = Request(
        backfill=run.backfill,
        partition_key=run.partition_key,
        mode=Mode.UNDO,
        dagster_run_id=dagster_run_id,
        root_run_id=dagster_run_id,
        options={"dry_run": True} if dry_run else {},
    )
    codes: Counter[str | None] = Counter()

    async def work() -> Run:
        opened = await asyncio.to_thread(runtime.ledger.open_side_run, request, now=datetime.now(UTC), undoes=run.id)
        undone_before = await asyncio.to_thread(_undone, runtime, run.id)
        if not dry_run:
            # Half of it taken back, it is no run to go on with: the next one plans anew.
            await asyncio.to_thread(runtime.ledger.record, run.id, resumable=False)
        scope = runtime.scope(backfill, run.partition_key, options=RunOptions(), run_id=run.id)

        async def steps() -> None:
            codes.update(await _undo(runtime, backfill, scope, run, dry_run=dry_run))

        error = await guarded(steps, scope=scope)
        if not dry_run:
            # Of an undo that was interrupted, or tried again, only the journal knows all of it.
            codes[None] = await asyncio.to_thread(_undone, runtime, run.id) - undone_before
        counts, reasons = _counts(codes)
        await asyncio.to_thread(runtime.ledger.record, opened.id, counts=counts, reasons=reasons)
        if not dry_run:
            error = await audited(runtime, backfill, scope, opened, error)
        now = datetime.now(UTC)
        if error is None:
            return await asyncio.to_thread(runtime.ledger.succeed, opened, now=now)
        return await asyncio.to_thread(runtime.ledger.fail, opened, error, now=now)

    own = await holding_partition(runtime, request, work)
    counts, reasons = _counts(codes)
    return UndoResult(run=own, undoes=run.id, undone=counts["undone"], conflict=counts["conflict"], reasons=reasons)


async def _undo(runtime: Runtime, backfill: Backfill, scope: Scope, run: Run, *, dry_run: bool) -> Counter[str | None]:
    if not run.wrote:
        return Counter()
    target = await asyncio.to_thread(backfill.target, scope)

    def progress(done: int, total: int) -> None:
        scope.report("undo", done, total)

    if isinstance(target, RecordTarget):
        load = RecordLoad(
            engine=runtime.engine, run_id=scope.run_id, target=target, safe_point=scope.safe_point, progress=progress
        )
        return await load.undo(dry_run=dry_run)
    return await asyncio.to_thread(
        undo_set_based,
        runtime.engine,
        scope.run_id,
        target,
        dry_run=dry_run,
        safe_point=scope.safe_point,
        progress=progress,
    )


def _undone(runtime: Runtime, run_id: UUID) -> int:
    with runtime.engine.connect() as connection:
        states, _ = outcome_counts(connection, run_id)
    return states.get(ChangeState.UNDONE, 0)


def _counts(codes: Counter[str | None]) -> tuple[dict[str, int], dict[str, int]]:
    reasons = {code: count for code, count in sorted(codes.items(), key=str) if code is not None}
    return {"undone": codes[None], "conflict": sum(reasons.values())}, reasons
