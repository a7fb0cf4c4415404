"""The user's tables that `customers` reads and writes, and what must be true of them before anything starts.

Belongs here: names, types and privileges, each with a sentence that says what is missing. Does not belong here: rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import Connection

from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.catalogue import TableShape, read_table, require_access, require_fillable
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import Registry

_LEAD = (
    "id",
    "client_id",
    "messenger_psid",
    "phone",
    "email",
    "first_name",
    "last_name",
    "company_name",
    "customer_id",
    "created_at",
    "updated_at",
)
_CUSTOMER = (
    "id",
    "client_id",
    "name",
    "phone",
    "email",
    "messenger_psid",
    "metadata",
    "created_at",
    "updated_at",
)
_TYPES = {
    "Customer.id": ("uuid",),
    "Customer.metadata": ("jsonb",),
    "Lead.customer_id": ("uuid",),
    "Job.customer_id": ("uuid",),
    "Audit.payload": ("jsonb", "json"),
}
_TEXTS, _TIMES = "S", "D"
"""Postgres' categories of types, in which a domain is what it is made of."""
_CATEGORIES = {
    **{f"Customer.{name}": (_TEXTS, "a text") for name in ("name", "phone", "email", "messenger_psid")},
    **{f"{table}.created_at": (_TIMES, "a time") for table in ("Lead", "Customer")},
    **{f"{table}.updated_at": (_TIMES, "a time") for table in ("Lead", "Customer")},
}
_ALIKE = {"Job.lead_id": "Lead.id", "Customer.client_id": "Lead.client_id"}
"""Columns that are compared with others."""


@dataclass(frozen=True, kw_only=True)
class ProductTables:
    """The user's tables, as the catalogue shows them."""

    lead: TableShape
    job: TableShape
    customer: TableShape
    audit: TableShape
    address: TableShape | None
    """None where the product has no addresses."""

    @property
    def names_audits(self) -> bool:
        """Whether the ids of our rows in the audit are ours to give, so that a run's row is found without a search."""
        return self.audit.types["id"] in ("uuid", "text") and self.audit.has_unique_key(("id",))

    def unreferenced(self, *, but_for_addresses: bool = False) -> sql.Composed:
        """That no row points to the customer `t`: leads, jobs, and whatever else has a foreign key to it."""
        addresses = None if self.address is None else self.address.table
        links: list[tuple[sql.Identifier, Sequence[tuple[str, str]]]] = [
            (table.table, [(table.actual("customer_id"), self.customer.actual("id"))])
            for table in (self.lead, self.job, self.address)
            if table is not None
        ]
        links += [(dependent.table, dependent.columns) for dependent in self.customer.dependents]
        return _all(
            sql.SQL("NOT EXISTS (SELECT 1 FROM {} AS d WHERE {})").format(
                table,
                _all(
                    sql.SQL("d.{} = t.{}").format(sql.Identifier(own), sql.Identifier(other)) for own, other in columns
                ),
            )
            for table, columns in links
            if not (but_for_addresses and table == addresses)
        )


def read_tables(connection: Connection, registry: Registry) -> ProductTables:
    """Read the tables' shapes. Raises `ConfigurationError`: `missing_table`, `missing_column`."""

    def shape(logical: str, *columns: str) -> TableShape:
        names = registry.table(logical)
        return read_table(connection, schema=names.schema, name=names.name, columns=names.columns(*columns))

    try:
        address = shape("CustomerAddress", "id", "customer_id", "created_at", "updated_at")
    except ConfigurationError as error:
        if error.code != "missing_table":
            raise
        address = None
    return ProductTables(
        lead=shape("Lead", *_LEAD),
        job=shape("Job", "id", "lead_id", "customer_id"),
        customer=shape("Customer", *_CUSTOMER),
        audit=shape("Audit", "id", "action", "payload", "created_at"),
        address=address,
    )


def require_usable(connection: Connection, registry: Registry, tables: ProductTables, client_id: str) -> None:
    """Raise `ConfigurationError` for whatever would keep a load from working or a plan from being right."""
    _require_types(connection, tables)
    require_access(connection, tables.lead, ("SELECT", "UPDATE"))
    require_access(connection, tables.job, ("SELECT", "UPDATE"))
    require_access(connection, tables.customer, ("SELECT", "INSERT", "UPDATE"))
    require_access(connection, tables.audit, ("SELECT", "INSERT", "UPDATE"))
    require_fillable(connection, tables.customer, _CUSTOMER)
    require_fillable(
        connection, tables.audit, ("action", "payload", "created_at", *(("id",) if tables.names_audits else ()))
    )
    _require_client(connection, registry, client_id)


def _require_types(connection: Connection, tables: ProductTables) -> None:
    shapes = {"Lead": tables.lead, "Job": tables.job, "Customer": tables.customer, "Audit": tables.audit}
    types = {f"{logical}.{name}": kind for logical, shape in shapes.items() for name, kind in shape.types.items()}
    statement = "SELECT n, typcategory::text FROM unnest(%s::text[]) AS t(n) JOIN pg_type AS p ON p.oid = to_regtype(n)"
    found = driver_connection(connection).execute(statement, [sorted(set(types.values()))])
    categories: dict[str, str] = dict(found.fetchall())

    def require(path: str, wanted: str, *, fits: bool) -> None:
        if fits:
            return
        logical, column = path.split(".")
        table = shapes[logical]
        raise ConfigurationError(
            "wrong_type",
            f'The column {table.actual(column)} of "{table.name}" is {types[path]}, not {wanted}; change its type, or '
            f"name another column in the registry under tables: {logical}: columns.",
        )

    for path, expected in _TYPES.items():
        require(path, expected[0], fits=types[path] in expected)
    for path, (category, words) in _CATEGORIES.items():
        require(path, words, fits=categories.get(types[path]) == category)
    for path, other in _ALIKE.items():
        kind, wanted = types[path], types[other]
        # Texts of all kinds compare with each other, and so do numbers.
        alike = categories.get(kind) == categories.get(wanted) in ("S", "N")
        require(path, f"{wanted} as {other} is", fits=alike or kind == wanted)


def _require_client(connection: Connection, registry: Registry, client_id: str) -> None:
    """A client that the product does not know would get customers of nobody, or none for a foreign key's refusal."""
    names = registry.table("Client")
    try:
        client = read_table(connection, schema=names.schema, name=names.name, columns=names.columns("id"))
    except ConfigurationError as error:
        if error.code == "missing_table":
            return
        raise
    require_access(connection, client, ("SELECT",))
    statement = sql.SQL("SELECT 1 FROM {} AS c WHERE {}::text = %s").format(client.table, client.column("c", "id"))
    if driver_connection(connection).execute(statement, [client_id]).fetchone() is None:
        raise ConfigurationError(
            "unknown_client_id",
            f'The table "{client.name}" has no row with the id that the registry gives as leads: client_id; '
            "correct it there.",
        )


def jobs_of_no_client(connection: Connection, tables: ProductTables) -> int:
    """How many jobs have no lead, or one that does not exist: they belong to no client and to no plan."""
    statement = sql.SQL(
        "SELECT count(*) FROM {jobs} AS t WHERE NOT EXISTS (SELECT 1 FROM {leads} AS l WHERE {lead_id} = {job_lead})"
    ).format(
        jobs=tables.job.table,
        leads=tables.lead.table,
        lead_id=tables.lead.column("l", "id"),
        job_lead=tables.job.column("t", "lead_id"),
    )
    row = driver_connection(connection).execute(statement).fetchone()
    return 0 if row is None else int(row[0])


def _all(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" AND ").join(parts)
