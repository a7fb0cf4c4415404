"""Seeded leads and jobs in a database, and the sizes of the demo's clients.

Belongs here: COPY into the product's tables under their default names. Does not belong here: the rows themselves
(leads_and_jobs.py), creating the tables (product_schema.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from backfill_pipelines.sandbox.leads_and_jobs import SeededClient
from backfill_pipelines.sandbox.leads_rows import CustomerAddressRow, CustomerRow, JobRow, LeadRow

SMALLEST_CLIENT, LARGEST_CLIENT, SKEW = 10, 4_000, 1.4
"""Leads of the demo's smallest and largest client; the skew makes 24 clients have some 16,000 together."""
_LEADS_PER_JOB = 2


def fill_leads_and_jobs(
    connection: psycopg.Connection[Any],
    *,
    client_id: str,
    leads: int,
    jobs: int,
    seed: int,
    name: str | None = None,
    phone_region: str = "US",
) -> None:
    """Fill the product's tables with one client. See `fill_clients`."""
    client = SeededClient(client_id, leads=leads, jobs=jobs, seed=seed, name=name, phone_region=phone_region)
    fill_clients(connection, [client])


def fill_clients(connection: psycopg.Connection[Any], clients: Iterable[SeededClient]) -> None:
    """COPY the clients into "Client", "Customer", "CustomerAddress", "Lead" and "Job", within the caller's transaction.

    A row of "Client" that is there already stays as it is. A client whose leads are linked to another's customer comes
    after that one. Raises what psycopg raises: UniqueViolation for a client that is filled a second time.
    """
    with connection.cursor() as cursor:
        for client in clients:
            cursor.execute(
                'INSERT INTO "Client" (id, name, ghl_location_id, ghl_private_key) VALUES (%s, %s, %s, %s)'
                " ON CONFLICT (id) DO NOTHING",
                client.client(),
            )
            _copy(cursor, "Customer", CustomerRow._fields, client.customers())
            _copy(cursor, "CustomerAddress", CustomerAddressRow._fields, client.addresses())
            _copy(cursor, "Lead", LeadRow._fields, client.leads())
            _copy(cursor, "Job", JobRow._fields, client.jobs())


def demo_clients(
    client_ids: Sequence[str],
    *,
    seed: int = 1,
    scale: float = 1.0,
    names: Mapping[str, str] | None = None,
    phone_regions: Mapping[str, str] | None = None,
) -> list[SeededClient]:
    """The demo's clients with sizes from `SMALLEST_CLIENT` to `LARGEST_CLIENT` leads, dealt by the seed.

    `scale` multiplies the sizes; none has fewer than `SMALLEST_CLIENT`. Names and regions are by client id; without
    them a name is invented and the region is US. All but the first have leads linked to a customer of the one before.
    """
    sizes = _skewed_sizes(len(client_ids), scale)
    random.Random(f"sizes:{seed}").shuffle(sizes)  # noqa: S311 # invented data
    clients: list[SeededClient] = []
    for client_id, leads in zip(client_ids, sizes, strict=True):
        clients.append(
            SeededClient(
                client_id,
                leads=leads,
                jobs=leads // _LEADS_PER_JOB,
                seed=seed,
                name=(names or {}).get(client_id),
                phone_region=(phone_regions or {}).get(client_id, "US"),
                foreign_customer_id=clients[-1].some_customer_id if clients else None,
            )
        )
    return clients


def _skewed_sizes(clients: int, scale: float) -> list[int]:
    spread = LARGEST_CLIENT / SMALLEST_CLIENT
    steps = max(clients - 1, 1)
    return [
        max(SMALLEST_CLIENT, round(scale * SMALLEST_CLIENT * spread ** ((1 - rank / steps) ** SKEW)))
        for rank in range(clients)
    ]


def _copy(cursor: psycopg.Cursor[Any], table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


__all__ = ["LARGEST_CLIENT", "SMALLEST_CLIENT", "demo_clients", "fill_clients", "fill_leads_and_jobs"]
