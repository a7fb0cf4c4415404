"""Partitions that a daily budget has parked: the sensor that launches them again when their time has come.

Belongs here: finding them, and the requests for their runs. Does not belong here: parking (the vendors' quotas, by an
error that the ledger understands) and going on where a run stood (`ledger.py`).

A parked run goes on with what it was asked for: the same steps, the same options. It is on by default: somebody has
begun these runs, and nobody is there at midnight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from sqlalchemy import Engine, select
from sqlalchemy.dialects.postgresql import distinct_on

from backfill_pipelines.database.tables import run
from backfill_pipelines.engine.backfill import Backfill
from backfill_pipelines.engine.dagster_adapter import OpenRuntime, asset_keys, job_name, range_tags
from backfill_pipelines.engine.ledger import Ledger, Mode, Run, State
from backfill_pipelines.errors import BackfillError

RESUMES_TAG = "backfill/resumes"
"""The run of the ledger that a Dagster run goes on with."""


def awake_runs(engine: Engine, *, now: datetime) -> list[Run]:
    """The parked runs whose time has come, if nobody has run their partitions since; the longest waiting first."""
    newest = (
        select(run.c.id, run.c.state, run.c.parked_until)
        .ext(distinct_on(run.c.backfill, run.c.partition_key))
        .where(run.c.mode.in_([Mode.PLAN, Mode.LOAD]), run.c.state != State.REFUSED)
        .order_by(run.c.backfill, run.c.partition_key, run.c.started_at.desc())
        .subquery()
    )
    awake = (
        select(newest.c.id)
        .where(newest.c.state == State.PARKED, newest.c.parked_until <= now)
        .order_by(newest.c.parked_until, newest.c.id)
    )
    with engine.connect() as connection:
        found = list(connection.scalars(awake))
    ledger = Ledger(engine)
    return [each for run_id in found if (each := ledger.get(run_id)) is not None]


def request_for(backfill: Backfill, parked: Run) -> dg.RunRequest:
    """The run that goes on with a parked one. Pure.

    Its key names the run and until when it was parked: asked for again it is the same run, parked again another one.
    """
    source, plan, target = asset_keys(backfill)
    # Anew it was begun already; anew once more, it would never come to its end.
    options = {name: value for name, value in parked.options.items() if name != "fresh"}
    until = "" if parked.parked_until is None else parked.parked_until.astimezone(UTC).isoformat()
    return dg.RunRequest(
        run_key=f"{parked.id}/{until}",
        job_name=job_name(backfill),
        tags={**range_tags([parked.partition_key]), RESUMES_TAG: str(parked.id)},
        asset_selection=[source, plan] if parked.mode is Mode.PLAN else [source, plan, target],
        run_config=_config(backfill, options),
    )


def _config(backfill: Backfill, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"ops": {backfill.name: {"config": dict(options)}}}


def parked_sensor(
    backfills: Sequence[Backfill], jobs: Sequence[Any], *, open_runtime: OpenRuntime
) -> dg.SensorDefinition:
    """The sensor that launches parked partitions at their wake time, one run each. `jobs`: those of the backfills."""
    by_name = {backfill.name: backfill for backfill in backfills}

    @dg.sensor(
        name="parked_partitions",
        jobs=jobs,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Goes on with partitions that a daily budget has parked, when it is renewed.",
    )
    def parked_partitions(context: dg.SensorEvaluationContext) -> Any:
        try:
            with open_runtime(context.log.info) as runtime:
                awake = awake_runs(runtime.engine, now=datetime.now(UTC))
        except BackfillError as error:
            return dg.SkipReason(error.message)
        requests = [
            request_for(by_name[each.backfill], each)
            for each in awake
            # Of a backfill or a client that is no longer there nobody would find the partition.
            if each.backfill in by_name and each.partition_key in context.instance.get_dynamic_partitions(each.backfill)
        ]
        return requests or dg.SkipReason("No parked partition's time has come.")

    return parked_partitions
