"""Reading a client's leads, customers and jobs out of the user's tables, as frames.

Belongs here: the queries, in one snapshot, and what earlier runs and people have decided. Does not belong here: what it
means (`customers_grouping.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import orjson
import pandas as pd
from psycopg import sql
from sqlalchemy import Connection, text

from backfill_pipelines.backfills.customers_identity import KnownCustomers
from backfill_pipelines.backfills.customers_plan import CREATED_BY
from backfill_pipelines.backfills.customers_tables import ProductTables
from backfill_pipelines.backfills.customers_times import time_as_number
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.catalogue import TableShape

# Whoever reads beside a busy thread waits some milliseconds for its turn, several times for each block.
_ROWS_AT_ONCE = 20_000


def are_all_linked(connection: Connection, tables: ProductTables, client_id: str) -> bool:
    """Whether each lead of the client is linked to something: then no customer gets a field of a lead."""
    statement = sql.SQL("SELECT NOT EXISTS (SELECT 1 FROM {} AS t WHERE {} = %s AND {} IS NULL)").format(
        tables.lead.table, tables.lead.column("t", "client_id"), tables.lead.column("t", "customer_id")
    )
    row = driver_connection(connection).execute(statement, [client_id]).fetchone()
    return row is not None and bool(row[0])


def read_leads(
    connection: Connection, tables: ProductTables, client_id: str, *, with_fields: bool = True
) -> Iterator[pd.DataFrame]:
    """The client's leads, in the columns that `LeadColumns.add` takes; or without what only customers are made from."""
    lead = tables.lead
    columns = {name: _text(lead, name) for name in ("id", "messenger_psid", "phone", "email", "customer_id")}
    if with_fields:
        columns |= {name: _text(lead, name) for name in ("first_name", "last_name", "company_name")}
        columns |= {name: time_as_number(lead.column("t", name)) for name in ("created_at", "updated_at")}
    return _frames(connection, lead, columns, client_id)


def read_customers(
    connection: Connection, tables: ProductTables, client_id: str, *, with_fields: bool = True
) -> Iterator[pd.DataFrame]:
    """The client's customers, in the columns that `Customers` takes; or without what only shows what can be filled."""
    customer = tables.customer
    metadata = customer.column("t", "metadata")
    names = ("id", *(("name",) if with_fields else ()), "phone", "email", "messenger_psid")
    columns: dict[str, sql.Composable] = {name: _text(customer, name) for name in names}
    columns["ours"] = sql.SQL("coalesce({}->>'createdBy' = {}, false)").format(metadata, sql.Literal(CREATED_BY))
    columns["lead_count"] = sql.SQL(
        "CASE jsonb_typeof({0}->'leadCount') WHEN 'number' THEN ({0}->>'leadCount')::numeric END"
    ).format(metadata)
    columns["updated_at"] = time_as_number(customer.column("t", "updated_at"))
    return _frames(connection, customer, columns, client_id)


def read_jobs(
    connection: Connection, tables: ProductTables, client_id: str, *, list_linked: bool = True
) -> Iterator[pd.DataFrame]:
    """The jobs of the client's leads, in no order, in the columns that `plan_customers` takes.

    Without `list_linked` those that are linked to their lead's customer, as are all but a few after the first run, are
    one row without an id, which says in place of a customer how many they are.
    """
    job, lead, customer = tables.job, tables.lead, tables.customer
    statement = sql.SQL(
        "WITH job AS MATERIALIZED (SELECT CASE WHEN {listed} THEN {id} END AS id,"
        " CASE WHEN {listed} THEN {lead_id} END AS lead_id, CASE WHEN {listed} THEN {customer_id} END AS customer_id"
        "  FROM {jobs} AS t JOIN {leads} AS l ON {its_id} = {job_lead} LEFT JOIN {customers} AS k"
        "   ON {known_id} = {its_customer} AND {known_client} = %(client_id)s WHERE {client} = %(client_id)s)"
        " SELECT id, lead_id, customer_id FROM job WHERE id IS NOT NULL"
        " UNION ALL SELECT NULL, NULL, count(*)::text FROM job WHERE id IS NULL"
    ).format(
        listed=sql.SQL(
            "({list_linked} OR {known_id} IS NULL OR {job_customer} IS DISTINCT FROM {its_customer})"
        ).format(
            list_linked=sql.Literal(list_linked),
            known_id=customer.column("k", "id"),
            job_customer=job.column("t", "customer_id"),
            its_customer=lead.column("l", "customer_id"),
        ),
        id=_text(job, "id"),
        lead_id=_text(job, "lead_id"),
        customer_id=_text(job, "customer_id"),
        jobs=job.table,
        leads=lead.table,
        its_id=lead.column("l", "id"),
        job_lead=job.column("t", "lead_id"),
        customers=customer.table,
        known_id=customer.column("k", "id"),
        its_customer=lead.column("l", "customer_id"),
        known_client=customer.column("k", "client_id"),
        client=lead.column("l", "client_id"),
    )
    for block in _blocks(connection, statement, client_id):
        yield pd.DataFrame(block, columns=["id", "lead_id", "customer_id"], dtype=object)


def read_known(
    connection: Connection, tables: ProductTables, client_id: str, *, with_strangers: bool = True
) -> KnownCustomers:
    """What was decided before; and what the client's leads point to that is none of its customers, unless the caller
    finds that, and asks `read_strangers`."""

    def pairs(statement: str) -> dict[str, str]:
        return {row[0]: row[1] for row in connection.execute(text(statement), {"client_id": client_id})}

    customer = tables.customer
    strangers = _stray_links(connection, tables, client_id) if with_strangers else []
    return KnownCustomers(
        recorded=pairs("SELECT group_key, customer_id FROM backfill.customer_group WHERE client_id = :client_id"),
        merged=pairs(
            "SELECT from_customer_id, into_customer_id FROM backfill.customer_merge WHERE client_id = :client_id"
        ),
        split=pairs("SELECT lead_id, customer_id FROM backfill.customer_split WHERE client_id = :client_id"),
        strangers=read_strangers(connection, tables, strangers),
        phones_held_elsewhere=_held_elsewhere(connection, customer, "phone", client_id),
        emails_held_elsewhere=_held_elsewhere(connection, customer, "email", client_id),
        unique_email=_unique(customer, ("email",)) or _unique(customer, ("client_id", "email")),
    )


def _stray_links(connection: Connection, tables: ProductTables, client_id: str) -> list[str]:
    """Ids that the client's leads are linked to and that are none of its customers."""
    lead, customer = tables.lead, tables.customer
    statement = sql.SQL(
        "SELECT DISTINCT {link}::text FROM {leads} AS t WHERE {client} = %(client_id)s AND {link} IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM {customers} AS k WHERE {id} = {link} AND {customer_client} = %(client_id)s)"
    ).format(
        link=lead.column("t", "customer_id"),
        leads=lead.table,
        client=lead.column("t", "client_id"),
        customers=customer.table,
        id=customer.column("k", "id"),
        customer_client=customer.column("k", "client_id"),
    )
    return [row[0] for row in driver_connection(connection).execute(statement, {"client_id": client_id})]


def read_strangers(connection: Connection, tables: ProductTables, ids: Collection[str]) -> dict[str, bool]:
    """Whether each of these, which are none of the client's customers, is another client's."""
    if not ids:
        return {}
    customer = tables.customer
    statement = sql.SQL("SELECT {id}::text FROM {table} AS k WHERE {id} = ANY(%s::uuid[])").format(
        id=customer.column("k", "id"), table=customer.table
    )
    there = {row[0] for row in driver_connection(connection).execute(statement, [list(ids)])}
    return {identifier: identifier in there for identifier in ids}


def _held_elsewhere(connection: Connection, customer: TableShape, column: str, client_id: str) -> frozenset[str]:
    """What other clients' customers hold, where the table allows a value only once in all; as it stands, and folded."""
    if not _unique(customer, (column,)):
        return frozenset()
    statement = sql.SQL("SELECT {0}, lower(btrim({0})) FROM {1} AS t WHERE {2} <> %s AND {0} IS NOT NULL").format(
        customer.column("t", column), customer.table, customer.column("t", "client_id")
    )
    return frozenset(chain.from_iterable(driver_connection(connection).execute(statement, [client_id])))


def _unique(shape: TableShape, logical: Sequence[str]) -> bool:
    wanted = {shape.actual(name) for name in logical}
    return any(set(key.folded) == wanted for key in shape.unique_keys)


def _frames(
    connection: Connection, table: TableShape, columns: Mapping[str, sql.Composable], client_id: str
) -> Iterator[pd.DataFrame]:
    """Read a client's rows in no order, each as one JSON array: a million rows value by value take the driver 10 s."""
    statement = sql.SQL("SELECT json_build_array({})::text FROM {} AS t WHERE {} = %(client_id)s").format(
        sql.SQL(", ").join(columns.values()), table.table, table.column("t", "client_id")
    )
    for block in _blocks(connection, statement, client_id):
        rows = orjson.loads(f"[{','.join([row[0] for row in block])}]")
        yield pd.DataFrame(rows, columns=list(columns), dtype=object)


def _blocks(connection: Connection, statement: sql.Composed, client_id: str) -> Iterator[list[Any]]:
    with driver_connection(connection).cursor(name="customers_source") as cursor:
        cursor.execute(statement, {"client_id": client_id})
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            yield rows


def _text(table: TableShape, name: str) -> sql.Composable:
    return sql.SQL("{}::text").format(table.column("t", name))
