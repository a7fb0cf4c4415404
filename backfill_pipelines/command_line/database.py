"""`backfill db`: the schema `backfill` and where it is.

Belongs here: upgrade, url, reset. Does not belong here: the user's tables, which no command touches.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from backfill_pipelines.command_line.failures import FAILED
from backfill_pipelines.database.location import DatabaseLocation
from backfill_pipelines.database.schema import drop_schema, upgrade_schema
from backfill_pipelines.engine.runtime import open_database


def upgrade() -> int:
    """Bring the schema to the newest version; opening the database does that."""
    with open_database():
        pass
    print("The schema backfill is at its newest version.")
    return 0


def print_url() -> int:
    """Print the database's URL as psql takes it."""
    location = DatabaseLocation.resolve(os.environ, Path.cwd())
    try:
        print(location.database_url.get_secret_value().replace("postgresql+psycopg://", "postgresql://", 1))
        if location.is_embedded:
            print("The embedded server runs while a backfill command does, such as backfill dev.", file=sys.stderr)
    finally:
        location.close()
    return 0


def reset(*, confirmed: bool) -> int:
    """Delete the schema and make it anew."""
    if not confirmed and not typer.confirm("Delete the ledger, and with it every possibility of undo?"):
        return FAILED
    with open_database() as (engine, _):
        drop_schema(engine)
        upgrade_schema(engine)
    print("The schema backfill is empty.")
    return 0
