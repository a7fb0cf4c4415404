"""One file per backfill: its source tables, plan, load, check and schedule, read from top to bottom."""
