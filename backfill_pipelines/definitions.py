"""The code location: what there is.

Belongs here: the list of backfills, and what is made of them for Dagster. Does not belong here: anything that does
something. Importing this touches no network and no database and needs no environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import dagster as dg

from backfill_pipelines.backfills.attio_company_orgs import AttioCompanyOrgs
from backfill_pipelines.backfills.attio_people import AttioPeople
from backfill_pipelines.backfills.client_leads import ClientLeads
from backfill_pipelines.backfills.convex_users import ConvexUsers
from backfill_pipelines.backfills.customers import Customers
from backfill_pipelines.backfills.customers_jobs import customers_jobs
from backfill_pipelines.backfills.lead_hydration import LeadHydration
from backfill_pipelines.engine.backfill import Backfill
from backfill_pipelines.engine.dagster_adapter import (
    OpenRuntime,
    backfill_assets,
    backfill_job,
    backfill_schedule,
    partitions_per_run,
    registry_sensor,
)
from backfill_pipelines.engine.dagster_maintenance import maintenance_jobs
from backfill_pipelines.engine.dagster_parked import parked_sensor
from backfill_pipelines.engine.progress import LineProgress
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.runtime import open_runtime as open_runtime_from_environment

PARTITIONS_PER_RUN = 6
"""Partitions that one run works side by side. A run costs 5 to 10 s of CPU before its first line of ours: one run per
client is the wrong default. BACKFILL_PARTITIONS_PER_RUN sets another size."""


def all_backfills() -> list[Backfill]:
    """Every backfill there is, those that others gain from first. A new one is one more line here."""
    return [ClientLeads(), LeadHydration(), Customers(), AttioPeople(), AttioCompanyOrgs(), ConvexUsers()]


def _open_runtime(tell: Callable[[str], None]) -> Runtime:
    return open_runtime_from_environment(progress=LineProgress(tell))


def build_defs(
    *,
    backfills: Sequence[Backfill] | None = None,
    open_runtime: OpenRuntime | None = None,
    max_partitions_per_run: int = PARTITIONS_PER_RUN,
) -> dg.Definitions:
    """Make the code location; tests and the command line hand in a runtime of their own."""
    backfills = all_backfills() if backfills is None else backfills
    open_runtime = open_runtime or _open_runtime
    backfill_jobs = [backfill_job(backfill) for backfill in backfills]
    return dg.Definitions(
        assets=[
            backfill_assets(
                backfill,
                open_runtime=open_runtime,
                max_partitions_per_run=partitions_per_run(backfill, usual=max_partitions_per_run),
            )
            for backfill in backfills
        ],
        jobs=[
            *backfill_jobs,
            *maintenance_jobs(backfills, open_runtime=open_runtime),
            *customers_jobs(open_runtime=open_runtime),
        ],
        schedules=[
            backfill_schedule(
                backfill, max_partitions_per_run=partitions_per_run(backfill, usual=max_partitions_per_run)
            )
            for backfill in backfills
        ],
        sensors=[
            registry_sensor(backfills, open_runtime=open_runtime),
            parked_sensor(backfills, backfill_jobs, open_runtime=open_runtime),
        ],
        executor=dg.in_process_executor,
    )


defs = build_defs(max_partitions_per_run=int(os.environ.get("BACKFILL_PARTITIONS_PER_RUN") or PARTITIONS_PER_RUN))
