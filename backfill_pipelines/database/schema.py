"""Bringing the schema `backfill` to the newest version, and taking it away.

Belongs here: running the migrations safely from any number of processes. Does not belong here: the tables themselves.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from backfill_pipelines.database.tables import SCHEMA
from backfill_pipelines.errors import ConfigurationError

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number will do as long as nothing else in the user's database locks it: the bytes of "backfill", read as one.
_UPGRADE_LOCK = int.from_bytes(b"backfill", "big") >> 1


def upgrade_schema(engine: Engine) -> None:
    """Apply the migrations that are missing.

    Safe from several processes at once (an advisory lock in the same transaction) and cheap when there is nothing to
    do (one query). Raises `ConfigurationError`: `schema_not_writable` where the role may not create the schema,
    `schema_too_new` where a later version of this package has changed it already.
    """
    configuration = Config()
    configuration.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(configuration)
    try:
        with engine.begin() as connection:
            current = _current_version(connection)
            if current == scripts.get_current_head():
                return
            if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
                raise ConfigurationError(
                    "schema_too_new",
                    "A later version of backfill_pipelines has changed the schema backfill of DATABASE_URL; "
                    "install that version here too.",
                )
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
            # IF NOT EXISTS would still ask for the right to create schemas where an administrator has made it for us.
            if connection.scalar(text("SELECT to_regnamespace(:name)"), {"name": SCHEMA}) is None:
                connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "head")
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != "42501":
            raise
        raise ConfigurationError(
            "schema_not_writable",
            "The role of DATABASE_URL may not create or change the schema backfill; as the database's owner run: "
            "CREATE SCHEMA backfill AUTHORIZATION the_role; then try again.",
        ) from None


def drop_schema(engine: Engine) -> None:
    """Remove the schema `backfill` with everything in it: the ledger, and with it every possibility of undo."""
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))


def _current_version(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
    return context.get_current_revision()
