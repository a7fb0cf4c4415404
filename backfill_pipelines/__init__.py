"""Backfills between SaaS systems and Postgres, as one Dagster code location."""
