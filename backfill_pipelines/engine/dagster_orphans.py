"""Dagster runs whose process has died: the command line's, which no daemon watches.

A killed `backfill run` leaves its Dagster runs STARTED for ever, and every one of them holds a place in the run queue.
Belongs here: telling that their process is dead, and ending them. Does not belong here: the partitions' own state; the
ledger and the partitions' locks take care of that.
"""

from __future__ import annotations

from uuid import uuid4

import dagster as dg

from backfill_pipelines.database.locks import AdvisoryLocks

OWNER_TAG = "backfill/owner"
_IN_PROGRESS = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def own_runs(locks: AdvisoryLocks) -> dict[str, str]:
    """Tags for the runs that this process is about to execute; while it lives, it holds a lock of that name.

    The daemon does not retry such a run: whoever typed the command decides that.
    """
    # Dagster's storage may serve commands that work on several databases, whose locks do not see each other.
    owner = f"{locks.place}-{uuid4().hex}"
    locks.try_acquire(_lock_name(owner))
    return {OWNER_TAG: owner, "dagster/max_retries": "0"}


def end_orphaned_runs(instance: dg.DagsterInstance, locks: AdvisoryLocks) -> list[str]:
    """Mark as failed the runs in progress on this database whose owner's lock is free; returns their ids."""
    ended: list[str] = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_IN_PROGRESS)):
        owner = run.tags.get(OWNER_TAG)
        if owner is None or not owner.startswith(f"{locks.place}-") or not locks.try_acquire(_lock_name(owner)):
            continue
        try:
            instance.report_run_failed(
                run, "The command that executed this run has died; run it again, and it goes on from where it stopped."
            )
            ended.append(run.run_id)
        finally:
            locks.release(_lock_name(owner))
    return ended


def _lock_name(owner: str) -> str:
    return f"owner/{owner}"
