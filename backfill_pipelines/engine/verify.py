"""Source against target: one partition read anew, and all partitions looked over at once.

Belongs here: the run of a verification and where its result is kept. Does not belong here: how a backfill compares its
records (its own `verify`), and the asset check that shows the results.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from backfill_pipelines.engine.backfill import Backfill, Reconciliation
from backfill_pipelines.engine.ledger import Mode, Request, Run
from backfill_pipelines.engine.partition_run import as_json, guarded, holding_partition
from backfill_pipelines.engine.runtime import Runtime

NOT_COMPARED = Reconciliation(equal=0, missing=0, extra=0, different=0, passed=False)


async def verify_partition(
    runtime: Runtime, backfill: Backfill, partition_key: str, *, dagster_run_id: str | None = None
) -> Run:
    """Read a partition's source and target again and compare them; writes nothing but its result."""
    request = Request(
        backfill=backfill.name,
        partition_key=partition_key,
        mode=Mode.VERIFY,
        dagster_run_id=dagster_run_id,
        root_run_id=dagster_run_id,
        fresh=True,
        options={},
    )
    ledger = runtime.ledger

    async def work() -> Run:
        opened = await asyncio.to_thread(ledger.open_verification, request, now=datetime.now(UTC))
        scope = runtime.scope(backfill, partition_key, options=backfill.options_model(), run_id=opened.id)

        async def steps() -> None:
            await asyncio.to_thread(backfill.preflight, scope)
            await backfill.extract(scope)
            reconciliation = await asyncio.to_thread(backfill.verify, scope)
            await asyncio.to_thread(ledger.record, opened.id, verification=as_json(reconciliation))

        error = await guarded(steps, scope=scope)
        await asyncio.to_thread(
            ledger.record, opened.id, warnings=sorted(scope.warnings), reasons=scope.reasons, details=scope.details
        )
        now = datetime.now(UTC)
        if error is None:
            return await asyncio.to_thread(ledger.succeed, opened, now=now)
        return await asyncio.to_thread(ledger.fail, opened, error, now=now)

    return await holding_partition(runtime, request, work)


def compare_partitions(runtime: Runtime, backfill: Backfill) -> None:
    """Look over the newest runs of all partitions at once, and mark those that cannot all be right.

    A partition cannot see this by itself, and the first to finish cannot know of the second: so each run looks over all
    partitions at its end, and marks every one concerned with a warning and a failed comparison.
    """
    ledger = runtime.ledger
    newest = ledger.newest_figures(backfill.name)
    by_key = {run.partition_key: run for run in newest}
    for partition_key, code in backfill.compare_partitions(newest).items():
        run = by_key[partition_key]
        if code not in run.warnings:
            # A run that failed before it compared anything has a failed check all the same.
            verification = {**(run.verification or as_json(NOT_COMPARED)), "passed": False}
            ledger.record(run.id, warnings=sorted({*run.warnings, code}), verification=verification)
