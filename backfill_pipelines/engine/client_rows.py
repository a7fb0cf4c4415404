"""The clients that the user's table `"Client"` adds to the registry, read from there.

Belongs here: reading the table. Does not belong here: what is made of its rows (`registry/database_clients.py`), and
when it is read (`runtime.py`: wherever a registry is opened beside a database).
"""

from __future__ import annotations

from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.catalogue import read_table, require_access
from backfill_pipelines.registry import DatabaseClient, Registry, with_database_clients

_COLUMNS = ("id", "name", "ghl_location_id", "ghl_private_key")


def with_clients_of(engine: Engine, registry: Registry) -> Registry:
    """The registry, with the clients of the database where it says `clients_from_database`.

    Raises `ConfigurationError`: `missing_table`, `missing_column`, `missing_privilege`, `row_level_security`.
    """
    if not registry.clients_from_database:
        return registry
    names = registry.table("Client")
    with engine.connect() as connection:
        client = read_table(connection, schema=names.schema, name=names.name, columns=names.columns(*_COLUMNS))
        require_access(connection, client, ("SELECT",))
        statement = sql.SQL(
            "SELECT {columns} FROM {table} AS t WHERE {location} IS NOT NULL AND {key} IS NOT NULL"
        ).format(
            columns=sql.SQL(", ").join(sql.SQL("{}::text").format(client.column("t", name)) for name in _COLUMNS),
            table=client.table,
            location=client.column("t", "ghl_location_id"),
            key=client.column("t", "ghl_private_key"),
        )
        rows = driver_connection(connection).execute(statement).fetchall()
    return with_database_clients(
        registry,
        (
            DatabaseClient(id=row[0], name=row[1], ghl_location_id=row[2], ghl_private_key=SecretStr(row[3]))
            for row in rows
        ),
    )
