"""A merge and a split of customers as Dagster jobs, for people who work in the UI.

Belongs here: their configuration and ops. Does not belong here: what they do (`customers_manual_run.py`).
"""

# Without `from __future__ import annotations`: Dagster reads an op's configuration from its real annotation.
from collections.abc import Callable

import dagster as dg
from pydantic import Field

from backfill_pipelines.backfills.customers_manual_run import merge_customers, split_customer
from backfill_pipelines.engine.dagster_adapter import OpenRuntime, opened_runtime
from backfill_pipelines.engine.dagster_metadata import summary
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.runtime import Runtime


class MergeConfig(dg.Config):
    """Which customers are one."""

    into_customer: str = Field(description="The id of the customer that stays.")
    from_customer: str = Field(description="The id of the one that moves into it, and is deleted.")
    dry_run: bool = Field(default=True, description="Only say what would change. Set it to false to merge.")


class SplitConfig(dg.Config):
    """Which leads are somebody else.

    Without a name: Dagster keeps and shows what a run was configured with, and a name is a person's. The customer has
    its newest lead's; the command line takes another.
    """

    customer: str = Field(description="The id of the customer that they are linked to.")
    leads: list[str] = Field(description="Their ids.")
    dry_run: bool = Field(default=True, description="Only say what would change. Set it to false to split.")


def customers_jobs(*, open_runtime: OpenRuntime) -> list[dg.JobDefinition]:
    """The two jobs. Each leaves a run in the ledger, which the job `undo` takes back."""
    return [_merge_job(open_runtime), _split_job(open_runtime)]


def _merge_job(open_runtime: OpenRuntime) -> dg.JobDefinition:
    @dg.op(name="merge_customers")
    def merge_op(context: dg.OpExecutionContext, config: MergeConfig) -> None:
        def work(runtime: Runtime) -> Run:
            return runtime.run(
                merge_customers(
                    runtime,
                    into=config.into_customer,
                    gone=config.from_customer,
                    dry_run=config.dry_run,
                    dagster_run_id=context.run_id,
                )
            )

        _tell(context, open_runtime, work)

    @dg.job(
        name="customers_merge",
        description="Make two customers of a client one, as later backfills do. A dry run unless dry_run is false.",
    )
    def merge_job() -> None:
        merge_op()

    return merge_job


def _split_job(open_runtime: OpenRuntime) -> dg.JobDefinition:
    @dg.op(name="split_customer")
    def split_op(context: dg.OpExecutionContext, config: SplitConfig) -> None:
        def work(runtime: Runtime) -> Run:
            return runtime.run(
                split_customer(
                    runtime,
                    customer=config.customer,
                    leads=config.leads,
                    name=None,
                    dry_run=config.dry_run,
                    dagster_run_id=context.run_id,
                )
            )

        _tell(context, open_runtime, work)

    @dg.job(
        name="customers_split",
        description="Give leads a customer of their own, as later backfills do. A dry run unless dry_run is false.",
    )
    def split_job() -> None:
        split_op()

    return split_job


def _tell(context: dg.OpExecutionContext, open_runtime: OpenRuntime, work: Callable[[Runtime], Run]) -> None:
    """Do the work, log its counts and its run's id, fail where it failed."""
    with opened_runtime(open_runtime, context.log.info) as runtime:
        run = work(runtime)
    context.log.info("%s; run %s", summary(run), run.id)
    if run.state is not State.SUCCEEDED:
        raise dg.Failure(
            run.error_message or "The run did not finish.",
            metadata={"code": run.error_code or "none"},
            allow_retries=False,
        )
