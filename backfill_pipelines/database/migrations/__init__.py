"""Alembic's scripts for the schema `backfill`; applied by `backfill db upgrade` and at start-up."""
