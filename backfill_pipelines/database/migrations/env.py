"""Alembic's entry: runs the migrations on the connection that `database/schema.py` hands over.

Does not belong here: finding the database; a migration never opens a connection of its own.
"""

from __future__ import annotations

from alembic import context

from backfill_pipelines.database.tables import SCHEMA, metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table="alembic_version",
    version_table_schema=SCHEMA,
    include_schemas=True,
    # Only our schema: the user's tables are none of our business.
    include_name=lambda name, kind, _: name == SCHEMA if kind == "schema" else True,
)
with context.begin_transaction():
    context.run_migrations()
