"""The Dagster jobs that merge and split customers: what they do and tell, and that they do nothing by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import dagster as dg
import pytest

from backfill_pipelines.backfills.customers_jobs import MergeConfig, SplitConfig
from backfill_pipelines.definitions import build_defs
from backfill_pipelines_tests.backfills.customers_decisions import a_household, data, two_customers
from backfill_pipelines_tests.backfills.product_rig import Product
from backfill_pipelines_tests.engine.dagster_rig import everything_told, failure_of, told


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def execute(product: Product, instance: dg.DagsterInstance, job: str, op: str, **config: Any) -> Any:
    with product.runtime() as runtime:
        definitions = build_defs(backfills=[], open_runtime=lambda _: nullcontext(runtime))
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, run_config={"ops": {op: {"config": config}}}, raise_on_error=False
        )
    return told(instance, result)


def newest_run(product: Product) -> dict[str, Any]:
    return product.query("SELECT * FROM backfill.run ORDER BY started_at DESC LIMIT 1")[0]


def test_the_merge_job_is_a_dry_run_until_it_is_told_otherwise(product: Product, instance: dg.DagsterInstance) -> None:
    ada, bo = two_customers(product)
    before = data(product)
    chosen = {"into_customer": ada, "from_customer": bo}
    assert execute(product, instance, "customers_merge", "merge_customers", **chosen).success
    assert (data(product), newest_run(product)["mode"]) == (before, "plan")
    done = execute(product, instance, "customers_merge", "merge_customers", **chosen, dry_run=False)
    assert done.success
    run = newest_run(product)
    assert (run["mode"], run["dagster_run_id"], run["counts"]["applied"]) == ("load", done.run_id, 4)
    assert product.together() == {frozenset({"ada", "bo"})}
    lines = list(everything_told(instance))
    assert any(f"acme: succeeded; source 2, update 4, applied 4; run {run['id']}" in line for line in lines)
    assert not [line for line in lines if "bo@example.com" in line or "2055550122" in line]


def test_the_split_job_is_a_dry_run_until_it_is_told_otherwise(product: Product, instance: dg.DagsterInstance) -> None:
    household = a_household(product)
    before = data(product)
    chosen = {"customer": household, "leads": ["bo"]}
    assert execute(product, instance, "customers_split", "split_customer", **chosen).success
    assert (data(product), newest_run(product)["mode"]) == (before, "plan")
    assert execute(product, instance, "customers_split", "split_customer", **chosen, dry_run=False).success
    assert product.together() == {frozenset({"ada"}), frozenset({"bo"})}


def test_a_job_that_cannot_do_it_fails_with_the_sentence(product: Product, instance: dg.DagsterInstance) -> None:
    household = a_household(product)
    both = execute(
        product, instance, "customers_split", "split_customer", customer=household, leads=["ada", "bo"], dry_run=False
    )
    assert failure_of(both).description == "These are all 2 leads of the customer; leave it at least one."
    itself = execute(
        product, instance, "customers_merge", "merge_customers", into_customer=household, from_customer=household
    )
    assert failure_of(itself).description == "A customer cannot be merged into itself; name two customers."


def test_the_jobs_write_nothing_by_default_and_take_no_name() -> None:
    assert MergeConfig(into_customer="a", from_customer="b").dry_run is True
    assert SplitConfig(customer="a", leads=[]).dry_run is True
    assert set(SplitConfig.model_fields) == {"customer", "leads", "dry_run"}
