"""The product's tables as a typical user has them.

Belongs here: the SQL that the demo and the tests create them with (product_schema.sql). Does not belong here: the
schema `backfill`, which is the package's own.
"""

from __future__ import annotations

from importlib.resources import files


def product_schema_sql() -> str:
    """SQL statements that create the product's tables in an empty schema."""
    return (files("backfill_pipelines.sandbox") / "product_schema.sql").read_text(encoding="utf-8")


__all__ = ["product_schema_sql"]
