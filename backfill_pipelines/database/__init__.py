"""Tables and migrations of the schema `backfill`, bulk writes, and the embedded Postgres server."""
