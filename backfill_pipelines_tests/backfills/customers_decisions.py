"""Decisions of people over customers, made in tests: merges, splits, and what is remembered of them.

Belongs here: making them, and small worlds to make them in. Does not belong here: what is expected of them.
"""

from __future__ import annotations

from typing import Any

from backfill_pipelines.backfills.customers_manual_run import merge_customers, split_customer
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines_tests.backfills.product_rig import Product, succeeded

MEMORY = ("customer_merge", "customer_split")


def merge(product: Product, into: str, gone: str, *, dry_run: bool = False) -> Run:
    with product.runtime() as runtime:
        return runtime.run(merge_customers(runtime, into=into, gone=gone, dry_run=dry_run))


def split(product: Product, customer: str, *leads: str, name: str | None = None, dry_run: bool = False) -> Run:
    with product.runtime() as runtime:
        return runtime.run(split_customer(runtime, customer=customer, leads=leads, name=name, dry_run=dry_run))


def id_of(product: Product, lead: str) -> str:
    return str(product.customer_of(lead)["id"])


def remembered(product: Product) -> dict[str, list[dict[str, Any]]]:
    return {table: product.query(f"SELECT * FROM backfill.{table}") for table in MEMORY}


def forgotten(product: Product) -> bool:
    return not any(remembered(product).values())


def data(product: Product) -> dict[str, Any]:
    return product.everything(but=["Audit"])


def give_customers_columns_of_the_products_own(product: Product) -> None:
    """A name that holds a placeholder's sign, a number that no float holds, and two that Postgres fills itself."""
    product.execute(
        'ALTER TABLE "Customer" ADD COLUMN "credit %" numeric(30, 12) DEFAULT 0.1, ADD COLUMN tags text[],'
        " ADD COLUMN searched text GENERATED ALWAYS AS (lower(name)) STORED,"
        " ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY"
    )


def two_customers(product: Product) -> tuple[str, str]:
    """Ada, found by her PSID, and Bo, found by his phone, with a job each; their customers."""
    product.lead("ada", psid="p-1", first_name="Ada")
    product.lead("bo", phone="205-555-0122", email="bo@example.com", first_name="Bo")
    product.job("ada-job", "ada")
    product.job("bo-job", "bo")
    assert succeeded(product.run())
    return id_of(product, "ada"), id_of(product, "bo")


def a_household(product: Product) -> str:
    """Two people with one phone, taken for one customer; Bo has an address and a job."""
    product.lead("ada", phone="205-555-0122", first_name="Ada", email="ada@example.com")
    product.lead("bo", phone="(205) 555-0122", email="bo@example.com", first_name="Bo", created_at="2025-01-01")
    product.job("ada-job", "ada")
    product.job("bo-job", "bo")
    assert succeeded(product.run())
    return id_of(product, "ada")
