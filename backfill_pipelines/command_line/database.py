"""`backfill db`: the schema `backfill` and where it is.

Belongs here: upgrade, url, reset. Does not belong here: the user's tables, which no command touches.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer
from sqlalchemy import Engine, text

from backfill_pipelines.command_line.failures import FAILED, UsageError, print_json
from backfill_pipelines.command_line.logs import configure_logs
from backfill_pipelines.database.location import DatabaseLocation
from backfill_pipelines.database.locks import AdvisoryLocks
from backfill_pipelines.database.schema import drop_schema, upgrade_schema
from backfill_pipelines.database.tables import SCHEMA
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.engine.runtime import lock_name, open_database


def upgrade(*, as_json: bool) -> int:
    """Bring the schema to the newest version; opening the database does that."""
    configure_logs(verbose=False)
    with open_database() as (engine, _):
        version = _version(engine)
    _say("The schema backfill is at its newest version.", {"schema": SCHEMA, "version": version}, as_json=as_json)
    return 0


def print_url(*, as_json: bool) -> int:
    """Print the database's URL as psql takes it: with its password, where it has one."""
    location = DatabaseLocation.resolve(os.environ, Path.cwd())
    try:
        url = location.database_url.get_secret_value().replace("postgresql+psycopg://", "postgresql://", 1)
        _say(url, {"url": url, "embedded": location.is_embedded}, as_json=as_json)
        if location.is_embedded:
            print("The embedded server runs while a backfill command does, such as backfill dev.", file=sys.stderr)
    finally:
        location.close()
    return 0


def reset(*, confirmed: bool, as_json: bool) -> int:
    """Delete the schema and make it anew; refuses while a run is at work."""
    if not confirmed and not (sys.stdin and sys.stdin.isatty()):
        raise UsageError(
            "not_confirmed", "This deletes the ledger, and with it every possibility of undo; add --yes if you mean it."
        )
    if not confirmed and not typer.confirm("Delete the ledger, and with it every possibility of undo?", err=True):
        print("Nothing was deleted.", file=sys.stderr)
        return FAILED
    configure_logs(verbose=False)
    with open_database() as (engine, ledger), AdvisoryLocks(engine) as locks:
        for run in ledger.newest_runs(None):
            if run.state is State.RUNNING and not locks.try_acquire(lock_name(run.backfill, run.partition_key)):
                raise UsageError(
                    "already_running",
                    f"A run of {run.backfill} is at work on {run.partition_key}; wait for it to end, or stop it.",
                )
        drop_schema(engine)
        upgrade_schema(engine)
        version = _version(engine)
    _say("The schema backfill is empty.", {"schema": SCHEMA, "version": version}, as_json=as_json)
    return 0


def _version(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT version_num FROM backfill.alembic_version")))


def _say(sentence: str, document: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print(sentence)
