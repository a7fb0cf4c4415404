"""Asking the database why two leads are the same customer or not: reads alone, in one snapshot.

Belongs here: the client's grouping made anew as a run would make it, and what runs and people have decided before. Does
not belong here: what it means (`customers_why.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import uuid4

import pandas as pd
from psycopg import sql
from sqlalchemy import Connection, text

from backfill_pipelines.backfills.customers import Customers as CustomersBackfill
from backfill_pipelines.backfills.customers import group_keys, identity_rules
from backfill_pipelines.backfills.customers_existing import Customers
from backfill_pipelines.backfills.customers_grouping import group_leads
from backfill_pipelines.backfills.customers_identity import FieldReader, LeadColumns
from backfill_pipelines.backfills.customers_manual_run import partition_of_client
from backfill_pipelines.backfills.customers_manual_source import client_of
from backfill_pipelines.backfills.customers_source import read_customers, read_known, read_leads
from backfill_pipelines.backfills.customers_tables import ProductTables, read_tables
from backfill_pipelines.backfills.customers_why import Decision, LeadFacts, Merge, Why, compare, lead_facts
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.engine.backfill import RunOptions, Scope
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.errors import ConfigurationError

_RAW = ("messenger_psid", "phone", "email")


def why(runtime: Runtime, one: str, other: str) -> Why:
    """Say whether two leads are the same customer, and why.

    Reads and groups all leads of the client: about 3 s for 100,000. Raises `ConfigurationError`: `same_lead`,
    `unknown_lead`, `unknown_client`.
    """
    if one == other:
        raise ConfigurationError("same_lead", "These are one lead; name two.")
    with runtime.engine.connect() as connection, connection.begin():
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        tables = read_tables(connection, runtime.registry)
        client_id = _client_of(connection, tables, one, "first")
        other_client_id = _client_of(connection, tables, other, "second")
        if client_id != other_client_id:
            return compare(_bare(connection, tables, one, client_id), _bare(connection, tables, other, other_client_id))
    partition_key = partition_of_client(runtime.registry, client_id)
    scope = runtime.scope(CustomersBackfill(), partition_key, options=RunOptions(), run_id=uuid4())
    return _explained(scope, client_id, (one, other))


def _client_of(connection: Connection, tables: ProductTables, lead: str, place: str) -> str:
    client_id = client_of(connection, tables.lead, lead)
    if client_id is None:
        raise ConfigurationError(
            "unknown_lead", f'There is no lead with the {place} id given; take it from the column id of "Lead".'
        )
    return client_id


def _bare(connection: Connection, tables: ProductTables, lead: str, client_id: str) -> LeadFacts:
    """A lead whose identifiers do not matter."""
    table = tables.lead
    statement = sql.SQL("SELECT {}::text FROM {} AS t WHERE {}::text = %s").format(
        table.column("t", "customer_id"), table.table, table.column("t", "id")
    )
    row = driver_connection(connection).execute(statement, [lead]).fetchone()
    customer_id = None if row is None else row[0]
    return LeadFacts(id=lead, client_id=client_id, customer_id=customer_id, is_linked=customer_id is not None)


def _explained(scope: Scope, client_id: str, pair: tuple[str, str]) -> Why:
    with scope.engine.connect() as connection, connection.begin() as transaction:
        keys = group_keys(connection, scope)
        # Where there is no secret yet, nothing is recorded that it would find: none is left behind.
        transaction.rollback()
    rules = identity_rules(scope)
    raw: dict[str, Mapping[str, str | None]] = {}
    with scope.engine.connect() as connection, connection.begin():
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        tables = read_tables(connection, scope.registry)
        leads = LeadColumns(rules)
        leads.add(_noting(read_leads(connection, tables, client_id), pair, raw))
        there = Customers(read_customers(connection, tables, client_id), leads)
        known = read_known(connection, tables, client_id)
        links = _links(connection, scope, pair)
        splits = _splits(connection, client_id, pair)
        merges = _merges(connection, client_id)
    grouping = group_leads(leads, there, max_group_size=rules.max_group_size, keys=keys, known=known)
    reader, places = FieldReader(rules), {lead: place for place, lead in enumerate(leads.ids) if lead in pair}
    if len(places) < len(pair):
        raise ConfigurationError("unknown_lead", "One of the leads has just been deleted; name two that are there.")
    first, second = (
        lead_facts(
            places[lead],
            raw[lead],
            client_id=client_id,
            leads=leads,
            grouping=grouping,
            reader=reader,
            strangers=known.strangers,
            linked_by=_of_link(links.get(lead), leads.customer_ids[places[lead]]),
            split_off=splits.get(lead),
        )
        for lead in pair
    )
    return compare(first, second, merges)


def _noting(
    frames: Iterable[pd.DataFrame], pair: Sequence[str], raw: dict[str, Mapping[str, str | None]]
) -> Iterator[pd.DataFrame]:
    """The frames, out of which the fields of the two leads are kept as they are."""
    for frame in frames:
        for row in frame[frame["id"].isin(pair)].to_dict("records"):
            raw[row["id"]] = {name: row[name] for name in _RAW}
        yield frame


def _of_link(decision: Decision | None, customer_id: str | None) -> Decision | None:
    """The newest run that linked a lead, as far as the link is still the one that it made."""
    return decision if decision is not None and decision.customer_id == customer_id else None


def _links(connection: Connection, scope: Scope, pair: Sequence[str]) -> dict[str, Decision]:
    """The newest change of ours to each lead that is not undone."""
    rows = connection.execute(
        text(
            "SELECT DISTINCT ON (c.record_key) c.record_key, c.after->>'customer_id', r.id::text,"
            " coalesce(r.options->>'command', 'run'), c.applied_at"
            " FROM backfill.run AS r JOIN backfill.change AS c ON c.run_id = r.id"
            " WHERE r.backfill = :backfill AND r.partition_key = :key AND c.target = 'Lead' AND c.state = 'applied'"
            " AND c.record_key = ANY(:pair) ORDER BY c.record_key, c.applied_at DESC"
        ),
        {"backfill": scope.backfill, "key": scope.partition_key, "pair": list(pair)},
    )
    return {
        lead: Decision(customer_id=customer_id, run_id=run_id, command=command, at=at)
        for lead, customer_id, run_id, command, at in rows
    }


def _splits(connection: Connection, client_id: str, pair: Sequence[str]) -> dict[str, Decision]:
    rows = connection.execute(
        text(
            "SELECT s.lead_id, s.customer_id, s.run_id::text, r.started_at, r.details->>'from_customer'"
            " FROM backfill.customer_split AS s LEFT JOIN backfill.run AS r ON r.id = s.run_id"
            " WHERE s.client_id = :client_id AND s.lead_id = ANY(:pair)"
        ),
        {"client_id": client_id, "pair": list(pair)},
    )
    return {
        lead: Decision(customer_id=customer_id, run_id=run_id, command="split", at=at, origin=origin)
        for lead, customer_id, run_id, at, origin in rows
    }


def _merges(connection: Connection, client_id: str) -> list[Merge]:
    rows = connection.execute(
        text(
            "SELECT from_customer_id, into_customer_id, run_id::text FROM backfill.customer_merge"
            " WHERE client_id = :client_id ORDER BY from_customer_id"
        ),
        {"client_id": client_id},
    )
    return [Merge(gone=gone, into=into, run_id=run_id) for gone, into, run_id in rows]
