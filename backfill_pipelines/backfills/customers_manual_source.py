"""Reading what a merge or a split of customers is made from: the customers, their leads and jobs, and what holds them.

Belongs here: the queries, each for one customer. Does not belong here: a whole client's rows (`customers_source.py`)
and what is made of them (`customers_manual.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pandas as pd
from psycopg import sql
from sqlalchemy import Connection, text

from backfill_pipelines.backfills.customers_manual import UNIQUE_VALUES, StandingCustomer
from backfill_pipelines.backfills.customers_plan import CREATED_BY
from backfill_pipelines.backfills.customers_tables import ProductTables
from backfill_pipelines.backfills.customers_times import time_as_number
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.catalogue import TableShape

_LEAD_TEXTS = ("id", "messenger_psid", "phone", "email", "first_name", "last_name", "company_name", "customer_id")
_LEAD_TIMES = ("created_at", "updated_at")


def client_of(connection: Connection, table: TableShape, identifier: str) -> str | None:
    """The client's id of the row of `"Customer"` or `"Lead"` with this id; None where there is no such row."""
    if table.types["id"] == "uuid" and as_uuid(identifier) is None:
        return None
    # Else as text: a lead's id is of whatever type the product gave it, and what a person types may be no such thing.
    id_type = sql.SQL("uuid") if table.types["id"] == "uuid" else sql.SQL("text")
    statement = sql.SQL("SELECT {client}::text FROM {table} AS t WHERE {id}::{type} = %s::{type}").format(
        client=table.column("t", "client_id"), table=table.table, id=table.column("t", "id"), type=id_type
    )
    row = driver_connection(connection).execute(statement, [identifier]).fetchone()
    return None if row is None else str(row[0])


def as_uuid(text: str) -> str | None:
    """The one spelling of a UUID; None of what is none."""
    try:
        return str(UUID(text.strip()))
    except ValueError:
        return None


def read_customer(connection: Connection, tables: ProductTables, identifier: str) -> StandingCustomer:
    """A customer with its leads; raises LookupError where it is gone."""
    customer = tables.customer
    metadata = customer.column("t", "metadata")
    statement = sql.SQL(
        "SELECT {client}::text, {name}::text, {phone}::text, {email}::text, {psid}::text,"
        " coalesce({metadata}->>'createdBy' = {created_by}, false),"
        " CASE jsonb_typeof({metadata}->'leadCount') WHEN 'number'"
        "  THEN ({metadata}->>'leadCount')::numeric::bigint END,"
        " {updated_at}, to_jsonb(t)::text FROM {table} AS t WHERE {id} = %s::uuid"
    ).format(
        client=customer.column("t", "client_id"),
        name=customer.column("t", "name"),
        phone=customer.column("t", "phone"),
        email=customer.column("t", "email"),
        psid=customer.column("t", "messenger_psid"),
        metadata=metadata,
        created_by=sql.Literal(CREATED_BY),
        updated_at=time_as_number(customer.column("t", "updated_at")),
        table=customer.table,
        id=customer.column("t", "id"),
    )
    row = driver_connection(connection).execute(statement, [identifier]).fetchone()
    if row is None:
        raise LookupError(identifier)
    client_id, name, phone, email, psid, ours, lead_count, updated_at, document = row
    leads = read_leads_of(connection, tables, identifier, client_id)
    return StandingCustomer(
        id=identifier,
        client_id=client_id,
        fields={"name": name, "phone": phone, "email": email, "messenger_psid": psid},
        ours=ours,
        lead_count=lead_count,
        updated_at=updated_at,
        document=document,
        leads=dict(zip(leads["id"], leads["updated_at"], strict=True)),
        split_off=frozenset(
            connection.scalars(
                text(
                    "SELECT lead_id FROM backfill.customer_split"
                    " WHERE client_id = :client_id AND customer_id = :customer_id"
                ),
                {"client_id": client_id, "customer_id": identifier},
            )
        ),
    )


def read_leads_of(connection: Connection, tables: ProductTables, customer_id: str, client_id: str) -> pd.DataFrame:
    """The client's leads that are linked to a customer, in the columns that `LeadColumns.add` takes."""
    lead = tables.lead
    statement = sql.SQL("SELECT {columns} FROM {table} AS t WHERE {link} = %s::{link_type} AND {client} = %s").format(
        columns=_listed(
            [
                *(sql.SQL("{}::text").format(lead.column("t", name)) for name in _LEAD_TEXTS),
                *(time_as_number(lead.column("t", name)) for name in _LEAD_TIMES),
            ]
        ),
        table=lead.table,
        link=lead.column("t", "customer_id"),
        link_type=lead.type_of("customer_id"),
        client=lead.column("t", "client_id"),
    )
    rows = driver_connection(connection).execute(statement, [customer_id, client_id]).fetchall()
    return pd.DataFrame(rows, columns=[*_LEAD_TEXTS, *_LEAD_TIMES], dtype=object)


def read_jobs_of(connection: Connection, tables: ProductTables, customer: StandingCustomer) -> dict[str, str | None]:
    """The jobs that are linked to a customer and have a lead of its client: the lead's id, by the job's."""
    job, lead = tables.job, tables.lead
    statement = sql.SQL(
        "SELECT {id}::text, {job_lead}::text FROM {jobs} AS t JOIN {leads} AS l ON {lead_id} = {job_lead}"
        " WHERE {link} = %s::{link_type} AND {client} = %s"
    ).format(
        id=job.column("t", "id"),
        job_lead=job.column("t", "lead_id"),
        jobs=job.table,
        leads=lead.table,
        lead_id=lead.column("l", "id"),
        link=job.column("t", "customer_id"),
        link_type=job.type_of("customer_id"),
        client=lead.column("l", "client_id"),
    )
    return dict(driver_connection(connection).execute(statement, [customer.id, customer.client_id]).fetchall())


def is_free(connection: Connection, tables: ProductTables, customer: StandingCustomer, jobs: Mapping[str, Any]) -> bool:
    """Whether nothing points to a customer but those leads and jobs that its client's runs know of."""
    own: list[tuple[sql.Identifier, tuple[tuple[str, str], ...]]] = [
        (table.table, ((table.actual("customer_id"), tables.customer.actual("id")),))
        for table in (tables.lead, tables.job)
    ]
    for (table, columns), known in zip(own, (len(customer.leads), len(jobs)), strict=True):
        if _pointing(connection, tables.customer, customer.id, table, columns) > known:
            return False
    others = [(each.table, each.columns) for each in tables.customer.dependents]
    if (address := tables.address) is not None:
        others.append((address.table, ((address.actual("customer_id"), tables.customer.actual("id")),)))
    return not any(
        _pointing(connection, tables.customer, customer.id, table, columns)
        for table, columns in others
        if (table, columns) not in own
    )


def _pointing(
    connection: Connection,
    customer: TableShape,
    identifier: str,
    table: sql.Identifier,
    columns: Sequence[tuple[str, str]],
) -> int:
    statement = sql.SQL("SELECT count(*) FROM {} AS d, {} AS t WHERE {} = %s::uuid AND {}").format(
        table,
        customer.table,
        customer.column("t", "id"),
        sql.SQL(" AND ").join(
            sql.SQL("d.{} = t.{}").format(sql.Identifier(own), sql.Identifier(other)) for own, other in columns
        ),
    )
    row = driver_connection(connection).execute(statement, [identifier]).fetchone()
    return 0 if row is None else int(row[0])


def unique_columns(customer: TableShape) -> set[str]:
    """The columns whose values a unique key may allow only once: all of them where a key is over an expression."""
    return {
        name
        for name in UNIQUE_VALUES
        if any(not key.folded or customer.actual(name) in key.folded for key in customer.unique_keys)
    }


def held_values(
    connection: Connection, customer: TableShape, client_id: str, values: Mapping[str, Sequence[str]]
) -> dict[str, set[str]]:
    """Which of these values some customer has: one of the client, or of any where the value is unique over all."""
    return {
        name: set(_held(connection, customer, client_id, name, wanted)) if wanted else set()
        for name, wanted in values.items()
    }


def _held(
    connection: Connection, customer: TableShape, client_id: str, name: str, wanted: Sequence[str]
) -> Iterator[str]:
    unique_over_all = any(
        not key.folded or (customer.actual(name) in key.folded and customer.actual("client_id") not in key.folded)
        for key in customer.unique_keys
    )
    statement = sql.SQL(
        "SELECT {value} FROM {table} AS t WHERE {value} = ANY(%s) AND ({client} = %s OR {over_all})"
    ).format(
        value=customer.column("t", name),
        table=customer.table,
        client=customer.column("t", "client_id"),
        over_all=sql.Literal(unique_over_all),
    )
    return (row[0] for row in driver_connection(connection).execute(statement, [list(wanted), client_id]))


def is_taken(connection: Connection, customer: TableShape, identifier: str) -> bool:
    """Whether a customer has this id, or had it and was merged into another since."""
    if client_of(connection, customer, identifier) is not None:
        return True
    return merged_into(connection, identifier) is not None


def merged_into(connection: Connection, identifier: str) -> str | None:
    """The customer that this one was merged into, as far as a person did and has not undone it."""
    found: str | None = connection.scalar(
        text("SELECT into_customer_id FROM backfill.customer_merge WHERE from_customer_id = :id"), {"id": identifier}
    )
    return found


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
