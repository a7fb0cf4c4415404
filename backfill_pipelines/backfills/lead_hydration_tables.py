"""The user's leads and what is landed of their location, read for `lead_hydration`.

Belongs here: the statements. Does not belong here: what the rows mean (`lead_hydration_matching.py`,
`lead_hydration_plan.py`), landing (`lead_hydration_source.py`), and writing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from uuid import UUID

import orjson
import pandas as pd
from psycopg import sql
from sqlalchemy import Connection

from backfill_pipelines.backfills.lead_hydration_matching import BLANKS, Asked, Contact, Lead, leads_of
from backfill_pipelines.backfills.lead_hydration_plan import FILLED, LINK, WRITTEN
from backfill_pipelines.database.bulk import driver_connection, stream_columns
from backfill_pipelines.database.catalogue import TableShape, read_table, require_access
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import Registry

COLUMNS = ("id", "client_id", *WRITTEN, "updated_at")
_COMPLETE = (*FILLED, LINK)


def lead_table(connection: Connection, registry: Registry) -> TableShape:
    """The leads' table. Raises `ConfigurationError`: `missing_table`, `missing_column`."""
    names = registry.table("Lead")
    return read_table(connection, schema=names.schema, name=names.name, columns=names.columns(*COLUMNS))


def require_client(connection: Connection, registry: Registry, client_id: str) -> None:
    """Raise `ConfigurationError` for a client that the product does not know: it would have no lead, and no error."""
    names = registry.table("Client")
    try:
        client = read_table(connection, schema=names.schema, name=names.name, columns=names.columns("id"))
    except ConfigurationError as error:
        if error.code != "missing_table":
            raise
        return
    require_access(connection, client, ("SELECT",))
    statement = sql.SQL("SELECT 1 FROM {} AS c WHERE {}::text = %s").format(client.table, client.column("c", "id"))
    if driver_connection(connection).execute(statement, [client_id]).fetchone() is None:
        raise ConfigurationError(
            "unknown_client_id",
            f'The table "{client.name}" has no row with the id that the registry gives as leads: client_id; '
            "correct it there.",
        )


def eligible_leads(connection: Connection, lead: TableShape, client_id: str) -> Iterator[Lead]:
    """The client's leads that lack something, by id. Consume them within the transaction."""
    columns = [
        sql.SQL("{}::text").format(lead.column("t", name)) if name != "updated_at" else lead.column("t", name)
        for name in Lead._fields
    ]
    # As JSON arrays: value by value they take the driver five times as long.
    statement = sql.SQL(
        "SELECT json_build_array({columns})::text FROM {table} AS t WHERE {client} = %(client_id)s AND ({lacking})"
        " ORDER BY {id}"
    ).format(
        columns=sql.SQL(", ").join(columns),
        table=lead.table,
        client=lead.column("t", "client_id"),
        lacking=sql.SQL(" OR ").join(_is_blank(lead, name) for name in _COMPLETE),
        id=lead.column("t", "id"),
    )
    _, blocks = stream_columns(connection, statement, {"client_id": client_id, "blanks": BLANKS})
    return leads_of(_frame_of_arrays(block, Lead._fields) for block in blocks)


def completeness(connection: Connection, lead: TableShape, client_id: str) -> dict[str, int]:
    """How many leads the client has (`leads`), and how many of them have each field."""
    statement = sql.SQL("SELECT count(*), {counts} FROM {table} AS t WHERE {client} = %(client_id)s").format(
        counts=sql.SQL(", ").join(
            sql.SQL("count(*) FILTER (WHERE NOT {})").format(_is_blank(lead, name)) for name in _COMPLETE
        ),
        table=lead.table,
        client=lead.column("t", "client_id"),
    )
    row = driver_connection(connection).execute(statement, {"client_id": client_id, "blanks": BLANKS}).fetchone()
    return dict(zip(("leads", *_COMPLETE), row or (), strict=True))


def links_of(connection: Connection, lead: TableShape, client_id: str, contact_ids: Collection[str]) -> dict[str, int]:
    """With how many of the client's leads each of these contacts is linked; those with none are left out."""
    if not contact_ids:
        return {}
    statement = sql.SQL(
        "SELECT btrim({link}::text, %(blanks)s), count(*) FROM {table} AS t WHERE {client} = %(client_id)s"
        " AND btrim({link}::text, %(blanks)s) = ANY(%(ids)s) GROUP BY 1"
    ).format(link=lead.column("t", LINK), table=lead.table, client=lead.column("t", "client_id"))
    values = {"client_id": client_id, "blanks": BLANKS, "ids": list(contact_ids)}
    return dict(driver_connection(connection).execute(statement, values).fetchall())


def landed_contacts(connection: Connection, partition_key: str, *, since_sweep: int) -> Iterator[pd.DataFrame]:
    """What is landed of the location, in the columns of `Contact`. Consume it within the transaction."""
    statement = sql.SQL(
        "SELECT json_build_array({columns})::text FROM backfill.ghl_contact"
        " WHERE partition_key = %(key)s AND sweep >= %(sweep)s"
    ).format(columns=sql.SQL(", ").join(map(sql.Identifier, Contact._fields)))
    _, blocks = stream_columns(connection, statement, {"key": partition_key, "sweep": since_sweep})
    for block in blocks:
        yield _frame_of_arrays(block, Contact._fields)


def landed_lookups(
    connection: Connection, partition_key: str, *, since_sweep: int, scanned: bool, additional: bool
) -> Asked:
    """What the location was asked, and what is known of it besides; see `Asked`."""
    statement = "SELECT email, outcome FROM backfill.ghl_lookup WHERE partition_key = %s AND sweep >= %s"
    rows = driver_connection(connection).execute(statement, [partition_key, since_sweep]).fetchall()
    return Asked(scanned=scanned, addresses=dict(rows), additional=additional)


def written_fields(connection: Connection, run_id: UUID) -> dict[str, int]:
    """How many leads a run has written, by column."""
    statement = (
        "SELECT name, count(*) FROM backfill.change AS c, jsonb_object_keys(c.after) AS name"
        " WHERE c.run_id = %s AND c.state = 'applied' GROUP BY name"
    )
    return dict(driver_connection(connection).execute(statement, [run_id]).fetchall())


def newest_load(connection: Connection, *, backfill: str, partition_key: str) -> UUID | None:
    """The newest run of the partition that loaded a plan."""
    statement = (
        "SELECT id FROM backfill.run WHERE backfill = %s AND partition_key = %s AND mode = 'load'"
        " AND planned_at IS NOT NULL ORDER BY planned_at DESC LIMIT 1"
    )
    row = driver_connection(connection).execute(statement, [backfill, partition_key]).fetchone()
    return None if row is None else row[0]


def differing_leads(connection: Connection, lead: TableShape, run_id: UUID) -> list[tuple[str, bool]]:
    """The leads of which a field holds something else than a run wrote into it, by id.

    With each, whether somebody has written the row since: its `updated_at` tells of a later moment than our write.
    """
    statement = sql.SQL(
        "SELECT c.record_id, {updated_at} IS DISTINCT FROM c.applied_at::{type}"
        " FROM backfill.change AS c JOIN {table} AS t ON {id} = c.record_id::{id_type}"
        " WHERE c.run_id = %s AND c.state = 'applied' AND ({differs}) ORDER BY c.record_id"
    ).format(
        updated_at=lead.column("t", "updated_at"),
        type=lead.type_of("updated_at"),
        table=lead.table,
        id=lead.column("t", "id"),
        id_type=lead.type_of("id"),
        differs=sql.SQL(" OR ").join(
            sql.SQL("(c.after ? {key} AND {column}::text IS DISTINCT FROM c.after->>{key})").format(
                key=sql.Literal(name), column=lead.column("t", name)
            )
            for name in WRITTEN
        ),
    )
    return [(row[0], bool(row[1])) for row in driver_connection(connection).execute(statement, [run_id]).fetchall()]


def _is_blank(lead: TableShape, name: str) -> sql.Composable:
    return sql.SQL("coalesce(btrim({}::text, %(blanks)s), '') = ''").format(lead.column("t", name))


def _frame_of_arrays(block: list[Any], names: tuple[str, ...]) -> pd.DataFrame:
    rows = orjson.loads(f"[{','.join([row[0] for row in block])}]")
    return pd.DataFrame(rows, columns=list(names), dtype=object)
