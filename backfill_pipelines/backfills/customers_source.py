"""Reading a client's leads, customers and jobs out of the user's tables, as frames.

Belongs here: the queries, in one snapshot, and what earlier runs and people have decided. Does not belong here: what it
means (`customers_grouping.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson
import pandas as pd
from psycopg import sql
from sqlalchemy import Connection, text

from backfill_pipelines.backfills.customers_identity import KnownCustomers
from backfill_pipelines.backfills.customers_plan import CREATED_BY
from backfill_pipelines.backfills.customers_tables import ProductTables
from backfill_pipelines.backfills.customers_times import time_as_number
from backfill_pipelines.database.bulk import driver_connection, stream_columns
from backfill_pipelines.database.catalogue import TableShape


def read_leads(connection: Connection, tables: ProductTables, client_id: str) -> Iterator[pd.DataFrame]:
    """The client's leads, in the columns that `LeadColumns.add` takes."""
    lead = tables.lead
    names = ("messenger_psid", "phone", "email", "first_name", "last_name", "company_name")
    columns = [_text(lead, "id"), *(_text(lead, name) for name in names), _text(lead, "customer_id")]
    columns += [time_as_number(lead.column("t", name)) for name in ("created_at", "updated_at")]
    return _blocks(
        connection,
        table=lead,
        names=["id", *names, "customer_id", "created_at", "updated_at"],
        columns=columns,
        condition=sql.SQL("{} = %(client_id)s").format(lead.column("t", "client_id")),
        client_id=client_id,
    )


def read_customers(connection: Connection, tables: ProductTables, client_id: str) -> Iterator[pd.DataFrame]:
    """The client's customers."""
    customer = tables.customer
    names = ("name", "phone", "email", "messenger_psid")
    metadata = customer.column("t", "metadata")
    columns = [
        _text(customer, "id"),
        *(_text(customer, name) for name in names),
        sql.SQL("coalesce({}->>'createdBy' = {}, false)").format(metadata, sql.Literal(CREATED_BY)),
        sql.SQL("CASE jsonb_typeof({0}->'leadCount') WHEN 'number' THEN ({0}->>'leadCount')::numeric END").format(
            metadata
        ),
        time_as_number(customer.column("t", "updated_at")),
    ]
    return _blocks(
        connection,
        table=customer,
        names=["id", *names, "ours", "lead_count", "updated_at"],
        columns=columns,
        condition=sql.SQL("{} = %(client_id)s").format(customer.column("t", "client_id")),
        client_id=client_id,
    )


def read_jobs(connection: Connection, tables: ProductTables, client_id: str) -> Iterator[pd.DataFrame]:
    """The jobs of the client's leads, in no order."""
    job, lead = tables.job, tables.lead
    statement = sql.SQL("SELECT {} FROM {} AS t JOIN {} AS l ON {} = {} WHERE {} = %s").format(
        sql.SQL(", ").join([_text(job, "id"), _text(job, "lead_id"), _text(job, "customer_id")]),
        job.table,
        lead.table,
        lead.column("l", "id"),
        job.column("t", "lead_id"),
        lead.column("l", "client_id"),
    )
    _, blocks = stream_columns(connection, statement, [client_id])
    for block in blocks:
        yield pd.DataFrame(block, columns=["id", "lead_id", "customer_id"], dtype=object)


def read_known(connection: Connection, tables: ProductTables, client_id: str) -> KnownCustomers:
    """What was decided before, and what the client's leads point to that is none of its customers."""

    def pairs(statement: str) -> dict[str, str]:
        return {row[0]: row[1] for row in connection.execute(text(statement), {"client_id": client_id})}

    lead, customer = tables.lead, tables.customer
    strangers = sql.SQL(
        "SELECT DISTINCT {link}::text, k.{id} IS NOT NULL FROM {leads} AS t LEFT JOIN {customers} AS k"
        " ON k.{id} = {link} WHERE {client} = %s AND {link} IS NOT NULL AND k.{customer_client} IS DISTINCT FROM %s"
    ).format(
        link=lead.column("t", "customer_id"),
        id=sql.Identifier(customer.actual("id")),
        leads=lead.table,
        customers=customer.table,
        client=lead.column("t", "client_id"),
        customer_client=sql.Identifier(customer.actual("client_id")),
    )
    driver = driver_connection(connection)
    return KnownCustomers(
        recorded=pairs("SELECT group_key, customer_id FROM backfill.customer_group WHERE client_id = :client_id"),
        merged=pairs(
            "SELECT from_customer_id, into_customer_id FROM backfill.customer_merge WHERE client_id = :client_id"
        ),
        split=pairs("SELECT lead_id, customer_id FROM backfill.customer_split WHERE client_id = :client_id"),
        strangers=dict(driver.execute(strangers, [client_id, client_id]).fetchall()),
        phones_held_elsewhere=_held_elsewhere(connection, customer, "phone", client_id),
        emails_held_elsewhere=_held_elsewhere(connection, customer, "email", client_id),
        unique_email=_unique(customer, ("email",)) or _unique(customer, ("client_id", "email")),
    )


def _held_elsewhere(connection: Connection, customer: TableShape, column: str, client_id: str) -> frozenset[str]:
    """What other clients' customers hold, where the table allows a value only once in all."""
    if not _unique(customer, (column,)):
        return frozenset()
    statement = sql.SQL("SELECT {0} FROM {1} AS t WHERE {2} <> %s AND {0} IS NOT NULL").format(
        customer.column("t", column), customer.table, customer.column("t", "client_id")
    )
    return frozenset(row[0] for row in driver_connection(connection).execute(statement, [client_id]))


def _unique(shape: TableShape, logical: Sequence[str]) -> bool:
    wanted = {shape.actual(name) for name in logical}
    return any(set(key.columns) == wanted for key in shape.unique_keys)


def _blocks(
    connection: Connection,
    *,
    table: TableShape,
    names: Sequence[str],
    columns: Sequence[sql.Composable],
    condition: sql.Composable,
    client_id: str,
) -> Iterator[pd.DataFrame]:
    """Read rows in no order, each as one JSON array: a million rows value by value take the driver 10 s."""
    statement = sql.SQL("SELECT json_build_array({columns})::text FROM {table} AS t WHERE {condition}").format(
        columns=sql.SQL(", ").join(columns), table=table.table, condition=condition
    )
    _, blocks = stream_columns(connection, statement, {"client_id": client_id})
    for block in blocks:
        rows = orjson.loads(f"[{','.join([row[0] for row in block])}]")
        yield pd.DataFrame(rows, columns=list(names), dtype=object)


def _text(table: TableShape, name: str) -> sql.Composable:
    return sql.SQL("{}::text").format(table.column("t", name))
