"""One partition through the four steps: extract, plan, load, verify; and what becomes of it when a step fails.

Belongs here: the order of the steps, the partition's lock, resuming, retries inside the run, and turning any failure
into a state and a code. Does not belong here: Dagster (`dagster_adapter.py`) and what the steps do (the backfills).
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from backfill_pipelines.engine.backfill import (
    AuditedBackfill,
    Backfill,
    Plan,
    ReadsTargetAgain,
    Reconciliation,
    RunOptions,
    Scope,
)
from backfill_pipelines.engine.journal import ChangeState, executed_count, outcome_counts
from backfill_pipelines.engine.ledger import Mode, Request, Run
from backfill_pipelines.engine.plan import EXECUTED, Action, StoredPlan, store_plan
from backfill_pipelines.engine.record_by_record import RecordLoad, RecordTarget
from backfill_pipelines.engine.runtime import Runtime, lock_name
from backfill_pipelines.engine.set_based import is_unavailable, load_set_based, sqlstate_of
from backfill_pipelines.engine.whole_plan import WholePlanTarget, discard_unplanned, store_and_execute
from backfill_pipelines.errors import BackfillError, ErrorCategory, RefusedError, TransientError

_log = logging.getLogger(__name__)

RETRY_DELAYS = (2.0, 10.0)
"""Seconds before a partition is tried again inside its run, after a failure that may pass. The transport has by then
retried each call for about a minute; this is for what takes a little longer, such as a database that restarts."""

_LOOK_FOR_STOP_SECONDS = 0.2
_ANALYZE_ABOVE = 10_000
_BESIDE_ABOVE = 5_000
"""Source records of a plan that is stored over a connection of its own while another executes it."""
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Which of the steps are asked for: all three are a run, without `load` it is a dry run."""

    extract: bool = True
    plan: bool = True
    load: bool = True

    @property
    def mode(self) -> Mode:
        """How the ledger calls it."""
        return Mode.LOAD if self.load else Mode.PLAN


async def run_partition(
    runtime: Runtime,
    backfill: Backfill,
    partition_key: str,
    *,
    steps: Steps,
    options: RunOptions,
    dagster_run_id: str | None,
    root_run_id: str | None,
) -> Run:
    """Take one partition through the steps; returns its row of `backfill.run`, also for a partition that failed.

    Raises a `BackfillError` only where not even that could be written down: the database is out of reach.
    """
    request = Request(
        backfill=backfill.name,
        partition_key=partition_key,
        mode=steps.mode,
        dagster_run_id=dagster_run_id,
        root_run_id=root_run_id,
        fresh=options.fresh,
        extracts=steps.extract,
        options=options.model_dump(mode="json", exclude_defaults=True),
    )
    try:
        finished = await asyncio.to_thread(runtime.ledger.finished_in_group, request)
        if finished is not None:
            return finished
        return await holding_partition(
            runtime, request, lambda: _opened(runtime, backfill, request, steps=steps, options=options)
        )
    except Exception as caught:  # noqa: BLE001 - the ledger itself is out of reach; a driver's text must not get out
        raise as_backfill_error(caught) from None


async def holding_partition(runtime: Runtime, request: Request, work: Callable[[], Awaitable[Run]]) -> Run:
    """Do the work while holding the partition's lock, or record that it was refused because another holds it."""
    name = lock_name(request.backfill, request.partition_key)
    if not await asyncio.to_thread(runtime.locks.try_acquire, name):
        error = RefusedError(
            "already_running",
            f"Another run of {request.backfill} is at work on {request.partition_key}; "
            "wait for it to end, or stop it, and run again.",
        )
        return await asyncio.to_thread(runtime.ledger.refuse, request, error, now=datetime.now(UTC))
    try:
        return await work()
    finally:
        await asyncio.to_thread(runtime.locks.release, name)


async def _opened(runtime: Runtime, backfill: Backfill, request: Request, *, steps: Steps, options: RunOptions) -> Run:
    ledger, now = runtime.ledger, datetime.now(UTC)
    if steps.load and not steps.plan:
        try:
            run = await asyncio.to_thread(ledger.open_newest_plan, request, now=now)
        except BackfillError as refusal:
            run = await asyncio.to_thread(ledger.open_side_run, request, now=now)
            return await asyncio.to_thread(ledger.fail, run, refusal, now=now)
        # Each time it is asked for, so many more rows of the plan.
        executed_before = await asyncio.to_thread(_executed, runtime, run)
    else:
        run = await asyncio.to_thread(ledger.open_run, request, now=now)
        executed_before = 0
    scope = runtime.scope(backfill, request.partition_key, options=options, run_id=run.id)
    failure = await guarded(
        lambda: _steps(runtime, backfill, scope, run, steps=steps, executed_before=executed_before), scope=scope
    )
    await asyncio.to_thread(_record_counts, runtime, scope, run)
    if steps.load:
        failure = await audited(runtime, backfill, scope, run, failure)
    if failure is not None:
        return await asyncio.to_thread(ledger.fail, run, failure, now=datetime.now(UTC))
    only_extracted = not steps.plan and not steps.load
    return await asyncio.to_thread(ledger.succeed, run, now=datetime.now(UTC), keep_extraction=only_extracted)


async def audited(
    runtime: Runtime, backfill: Backfill, scope: Scope, run: Run, failure: BackfillError | None
) -> BackfillError | None:
    """Let a backfill that keeps an audit write down how a run of it ends; a run that cannot be audited has failed."""
    if not isinstance(backfill, AuditedBackfill):
        return failure
    ended = runtime.ledger.get(run.id) or run
    error = await guarded(lambda: asyncio.to_thread(backfill.audit, scope, ended, failure), scope=scope)
    return failure or error


async def guarded(work: Callable[[], Awaitable[None]], *, scope: Scope) -> BackfillError | None:
    """Do the work, again after a pause where the failure may pass; return the failure that remains.

    Every step goes on from what is committed, so doing all of them again repeats nothing.
    """
    delays = iter(RETRY_DELAYS)
    while True:
        try:
            await work()
        except Exception as caught:  # noqa: BLE001 - one partition's defect must not take the others with it
            failure = as_backfill_error(caught)
        else:
            return None
        delay = next(delays, None)
        if failure.category is not ErrorCategory.TRANSIENT or delay is None or scope.stop.is_set():
            return failure
        _log.warning("%s %s: %s, trying again in %.0f s", scope.backfill, scope.partition_key, failure.code, delay)
        await _pause(delay * random.uniform(0.8, 1.2), scope.stop)  # noqa: S311 - jitter, not a secret


async def _pause(seconds: float, stop: threading.Event) -> None:
    """Wait, at most until a stop is asked for. Not in a thread: partitions that wait would take those of the others."""
    until = time.monotonic() + seconds
    # The stop is another thread's: nothing on this loop could be waited for.
    while not stop.is_set() and (left := until - time.monotonic()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(min(left, _LOOK_FOR_STOP_SECONDS))


def as_backfill_error(caught: Exception) -> BackfillError:
    """Give any failure a code and a sentence without values: a driver's text quotes the row it failed on."""
    if isinstance(caught, BackfillError):
        return caught
    if isinstance(caught, (DBAPIError, psycopg.Error)):
        sqlstate = sqlstate_of(caught) or "none"
        if is_unavailable(caught):
            return TransientError(
                "database_unavailable", f"The database went away (SQLSTATE {sqlstate}); run again to go on."
            )
        return _internal(caught, f"the database refused a statement of ours (SQLSTATE {sqlstate})")
    if isinstance(caught, PoolTimeoutError):
        return TransientError(
            "database_unavailable", "All connections to the database were busy for too long; run again to go on."
        )
    return _internal(caught, type(caught).__name__)


def _internal(caught: Exception, what: str) -> BackfillError:
    frames = traceback.extract_tb(caught.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    place = f"{Path(ours[-1].filename).relative_to(_PACKAGE)}:{ours[-1].lineno}" if ours else "unknown place"
    error = BackfillError(
        "internal_error", f"A defect of backfill_pipelines: {what} at {place}; please report it with this line."
    )
    error.category = ErrorCategory.INTERNAL
    return error


async def _steps(
    runtime: Runtime, backfill: Backfill, scope: Scope, run: Run, *, steps: Steps, executed_before: int
) -> None:
    await asyncio.to_thread(backfill.preflight, scope)
    if not await asyncio.to_thread(_has_plan, runtime, run):
        # A plan without its extraction is made from what an earlier run landed; `extract` then finds its cursor done.
        await backfill.extract(scope)
        if steps.plan:
            scope.safe_point()
            await asyncio.to_thread(_plan, runtime, backfill, scope, load=steps.load)
    if steps.load:
        scope.require_lock()
        await load(runtime, backfill, scope, limit=await _limit(runtime, scope, run, executed_before=executed_before))
        if isinstance(backfill, ReadsTargetAgain):
            await backfill.read_target(scope)
        scope.report("verify", 0, None)
        reconciliation = await asyncio.to_thread(backfill.verify, scope)
        await asyncio.to_thread(runtime.ledger.record, run.id, verification=as_json(reconciliation))


async def _limit(runtime: Runtime, scope: Scope, run: Run, *, executed_before: int) -> int | None:
    """How many rows may still be loaded: what an interrupted run, or an attempt before this one, has loaded counts."""
    if scope.options.max_records is None:
        return None
    executed = await asyncio.to_thread(_executed, runtime, run)
    return max(0, scope.options.max_records - (executed - executed_before))


def as_json(reconciliation: Reconciliation) -> dict[str, Any]:
    """The form in which a comparison is stored in `backfill.run.verification`."""
    return asdict(reconciliation)


def _has_plan(runtime: Runtime, run: Run) -> bool:
    current = runtime.ledger.get(run.id)
    return current is not None and current.planned_at is not None


def _plan(runtime: Runtime, backfill: Backfill, scope: Scope, *, load: bool) -> None:
    """Make the plan and store it; execute it meanwhile where it is to be loaded and the target can do that."""
    scope.report("plan", 0, None)
    plan = backfill.plan(scope)
    if load and scope.options.max_records is None:
        target = backfill.target(scope)
        if isinstance(target, WholePlanTarget):
            if _store_and_execute(runtime, backfill, scope, plan, target):
                return
            # Its frames are used up, and something has moved: what is stored now is planned on that.
            plan = backfill.plan(scope)
    with runtime.engine.begin() as connection:
        # A plan that an earlier attempt stored half is not there: rows and hash commit together.
        stored = _store(backfill, scope, connection, plan.frames)
        _record_plan(runtime, scope, plan, connection, stored)
        # The planner knows nothing of rows that came a moment ago; without this it scans the table for every batch.
        if sum(stored.actions.get(action, 0) for action in EXECUTED) > _ANALYZE_ABOVE:
            connection.execute(text("ANALYZE backfill.change"))


def _store_and_execute(runtime: Runtime, backfill: Backfill, scope: Scope, plan: Plan, target: WholePlanTarget) -> bool:
    """Execute the plan while it is stored; False where that was rolled back."""
    scope.require_lock()
    beside = plan.source > _BESIDE_ABOVE and runtime.large_loads.acquire(blocking=False)
    try:
        return store_and_execute(
            runtime.engine,
            scope.run_id,
            target,
            plan.frames,
            store=partial(_store, backfill, scope),
            record=partial(_record_plan, runtime, scope, plan),
            beside=beside,
        )
    except (DBAPIError, psycopg.Error) as error:
        _log.info("%s %s: not loaded at once (SQLSTATE %s)", scope.backfill, scope.partition_key, sqlstate_of(error))
        return False
    finally:
        if beside:
            runtime.large_loads.release()


def _store(
    backfill: Backfill,
    scope: Scope,
    connection: Connection,
    frames: Iterable[pd.DataFrame],
    applied_at: str | None = None,
) -> StoredPlan:
    discard_unplanned(connection, scope.run_id)
    return store_plan(
        connection,
        run_id=scope.run_id,
        frames=frames,
        store_skips=scope.registry.store_skips(backfill.name, scope.partition_key),
        applied_at=applied_at,
    )


def _record_plan(runtime: Runtime, scope: Scope, plan: Plan, connection: Connection, stored: StoredPlan) -> None:
    """Note in the ledger that the plan is there."""
    reasons = Counter(stored.reasons) + Counter(scope.reasons) + Counter(plan.skips)
    actions = Counter(stored.actions) + Counter({Action.SKIP: sum(plan.skips.values())})
    runtime.ledger.record_plan(
        connection,
        scope.run_id,
        plan_hash=stored.plan_hash,
        counts={"source": plan.source, **{action: actions[action] for action in Action}},
        reasons=dict(sorted(reasons.items())),
        details=scope.details,
        now=datetime.now(UTC),
    )


async def load(runtime: Runtime, backfill: Backfill, scope: Scope, *, limit: int | None) -> None:
    """Execute the stored plan's remaining rows, by whichever of the two ways the backfill's target has."""
    target = await asyncio.to_thread(backfill.target, scope)

    def progress(done: int, total: int) -> None:
        scope.report("load", done, total)

    if isinstance(target, RecordTarget):
        await RecordLoad(
            engine=runtime.engine, run_id=scope.run_id, target=target, safe_point=scope.safe_point, progress=progress
        ).load(limit=limit)
    else:
        await asyncio.to_thread(
            load_set_based,
            runtime.engine,
            scope.run_id,
            target,
            limit=limit,
            safe_point=scope.safe_point,
            progress=progress,
        )


def _executed(runtime: Runtime, run: Run) -> int:
    with runtime.engine.connect() as connection:
        return executed_count(connection, run.id)


def _record_counts(runtime: Runtime, scope: Scope, run: Run) -> None:
    current = runtime.ledger.get(run.id) or run
    with runtime.engine.connect() as connection:
        states, codes = outcome_counts(connection, run.id)
    counts, reasons = with_outcomes(current.planned_counts, current.planned_reasons, states, codes)
    runtime.ledger.record(
        run.id,
        counts=counts,
        reasons=reasons,
        warnings=sorted({*current.warnings, *scope.warnings}),
        details={**current.details, **scope.details},
    )


def with_outcomes(
    planned: Mapping[str, int], reasons: Mapping[str, int], states: Mapping[str, int], codes: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Add what became of a plan's rows to its counts. Pure.

    A record that moved since the plan is one more conflict, not a failure; `create` and `update` stay the plan's.
    """
    counts = {name: planned.get(name, 0) for name in ("source", *Action)}
    counts["conflict"] += states.get(ChangeState.CONFLICT, 0)
    counts["applied"] = states.get(ChangeState.APPLIED, 0)
    counts["failed"] = states.get(ChangeState.FAILED, 0)
    merged = dict(reasons)
    for code, count in codes.items():
        merged[code] = merged.get(code, 0) + count
    return counts, merged
