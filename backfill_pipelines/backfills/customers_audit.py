"""What `customers` leaves in the user's table `"Audit"`, and the installation's secret for its hashes.

Belongs here: the audit row of a run, and the secret's keeping. Does not belong here: when it is written (the engine).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

import orjson
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import Connection, text

from backfill_pipelines.backfills.customers_tables import ProductTables
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.errors import ConfigurationError

ACTION = "backfill_customers"
KEY_VARIABLE = "BACKFILL_HASH_KEY"
_NAMESPACE = UUID("0d2cf1a3-52e4-5b8e-8c0a-7b7a1f5f3a11")


def write_audit(connection: Connection, tables: ProductTables, *, run_id: UUID, payload: Mapping[str, Any]) -> None:
    """Write a run's one row; a run that is gone on with replaces what it had written."""
    audit = tables.audit
    document = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS).decode()
    names = {
        "table": audit.table,
        "action_name": sql.Identifier(audit.actual("action")),
        "payload_name": sql.Identifier(audit.actual("payload")),
        "payload_type": audit.type_of("payload"),
        "id_name": sql.Identifier(audit.actual("id")),
        "created_name": sql.Identifier(audit.actual("created_at")),
    }
    driver = driver_connection(connection)
    if tables.names_audits:
        # Looking for the payload's run id would read the whole table.
        statement = sql.SQL(
            "INSERT INTO {table} ({id_name}, {action_name}, {payload_name}, {created_name}) VALUES (%(id)s, %(action)s,"
            " %(payload)s::{payload_type}, now()) ON CONFLICT ({id_name}) DO UPDATE SET {payload_name} ="
            " excluded.{payload_name}, {created_name} = now()"
        ).format(**names)
        driver.execute(statement, {"id": str(uuid5(_NAMESPACE, str(run_id))), "action": ACTION, "payload": document})
        return
    values = {"action": ACTION, "payload": document, "run_id": str(run_id)}
    update = sql.SQL(
        "UPDATE {table} SET {payload_name} = %(payload)s::{payload_type} WHERE {action_name} = %(action)s"
        " AND {payload_name}->>'run_id' = %(run_id)s"
    ).format(**names)
    if driver.execute(update, values).rowcount == 0:
        insert = sql.SQL(
            "INSERT INTO {table} ({action_name}, {payload_name}, {created_name})"
            " VALUES (%(action)s, %(payload)s::{payload_type}, now())"
        ).format(**names)
        driver.execute(insert, values)


def is_audited(connection: Connection, tables: ProductTables, run_id: str) -> bool:
    """Whether there is a row of that run."""
    audit = tables.audit
    statement = sql.SQL("SELECT 1 FROM {} AS a WHERE {} = %s AND {}->>'run_id' = %s LIMIT 1").format(
        audit.table, audit.column("a", "action"), audit.column("a", "payload")
    )
    return driver_connection(connection).execute(statement, [ACTION, run_id]).fetchone() is not None


def hash_key(connection: Connection, configured: SecretStr | None) -> bytes:
    """The secret of the installation's group keys: made once and kept, or the one that is configured.

    Raises `ConfigurationError("hash_key_mismatch")`: with another secret no customer would be found again by its key.
    """
    connection.execute(text("LOCK TABLE backfill.installation IN SHARE ROW EXCLUSIVE MODE"))
    kept = {row[0]: row[1] for row in connection.execute(text("SELECT name, value FROM backfill.installation"))}
    given = configured.get_secret_value() if configured is not None else kept.get("hash_key")
    if given is None and "hash_key_check" in kept:
        raise ConfigurationError(
            "hash_key_mismatch",
            f"The customers of this database were made with a {KEY_VARIABLE} that is not set now; set it again.",
        )
    if given is None:
        given = secrets.token_hex(32)
        _keep(connection, "hash_key", given)
    check = hashlib.sha256(b"check" + given.encode()).hexdigest()[:16]
    if kept.get("hash_key_check", check) != check:
        raise ConfigurationError(
            "hash_key_mismatch",
            f"{KEY_VARIABLE} is not the one that the customers of this database were made with; set that one again.",
        )
    if "hash_key_check" not in kept:
        _keep(connection, "hash_key_check", check)
    # A key of any length, as the hash takes at most 64 bytes.
    return hashlib.sha256(given.encode()).digest()


def _keep(connection: Connection, name: str, value: str) -> None:
    connection.execute(
        text("INSERT INTO backfill.installation (name, value) VALUES (:name, :value)"), {"name": name, "value": value}
    )
