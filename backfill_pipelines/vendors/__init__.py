"""Transport, quota and one client per vendor. Knows nothing of backfills."""
