"""Reports over what the backfills have written."""
