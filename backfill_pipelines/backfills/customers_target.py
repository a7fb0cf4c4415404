"""How a plan of `customers` is executed, and taken back: set-based, one transaction for all of a client's rows.

Belongs here: what happens in which order, and the statements of the load. Every write is a compare-and-set on what the
plan saw, and is journalled in the same transaction. Does not belong here: what is planned (`customers_plan.py`), the
statements of undo (`customers_undo.py`), batches and retries (`engine/set_based.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.backfills.customers_memory import forget, remember
from backfill_pipelines.backfills.customers_plan import CUSTOMER, JOB, LEAD
from backfill_pipelines.backfills.customers_tables import ProductTables
from backfill_pipelines.backfills.customers_undo import DELETED, FILLED_AFTERWARDS, IN_USE, PLAIN, undo_statements
from backfill_pipelines.backfills.customers_whole import FILLED, MANY_ROWS, CustomersWhole
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.engine.journal import STALE, ChangeState
from backfill_pipelines.engine.set_based import sqlstate_of
from backfill_pipelines.errors import ConfigurationError

_UNIQUE_VIOLATION = "23505"
VALUE_TAKEN = "value_taken"
"""A unique key of the table allows a value once, and another customer has it."""
NOT_WRITTEN = "customer_not_written"
"""The database refused the customer that the lead, or the job, was to be linked to."""
# A whole plan is one batch, hashed and joined in memory. A setting that each session may make for itself.
_MEMORY = text(
    "SELECT set_config('work_mem', '128MB', true)"
    " WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('128MB')"
)
# A large plan waits for rows that others have locked instead of doing a million rows again. A small one gives way
# before Postgres looks for a deadlock (after 1 s): where two wait for each other, the user's transaction goes on.
_PATIENCE = text("SET LOCAL lock_timeout = '30s'")
_LITTLE_PATIENCE = text("SET LOCAL lock_timeout = '500ms'")
# The planner knows nothing of rows that came a moment ago: it takes a million for one, and compares each with each.
_HASH_JOINS = text("SET LOCAL enable_nestloop = off")
_MOST_ROWS_READ = 10_000_000_000  # About ten minutes.
_CREATED = text(
    "SELECT count(*) FROM backfill.change WHERE run_id = :run_id AND seq BETWEEN :first AND :last"
    " AND state = 'applied' AND target = 'Customer' AND action = 'create'"
)
_UNINDEXED_ROWS = text(
    "SELECT greatest(c.reltuples, 0)::bigint FROM pg_class AS c WHERE c.oid = to_regclass(:table) AND NOT EXISTS"
    " (SELECT 1 FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
    "  WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = :column)"
)

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class CustomersTarget:
    """The tables of one client, as a target of `load_set_based`."""

    tables: ProductTables
    client_id: str
    progress: Progress
    batch_rows: int = 1_000_000_000
    """One transaction per client."""

    def begin_whole(self, connection: Connection, run_id: UUID) -> CustomersWhole:
        """Get ready to execute a plan that is just being stored."""
        return CustomersWhole(
            connection,
            run_id,
            tables=self.tables,
            client_id=self.client_id,
            update_customers=self._update_customers,
            prepare=lambda rows: self._prepare(connection, rows),
            progress=self.progress,
        )

    def apply(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        """Execute the rows of a batch that are still planned, and journal them."""
        self._prepare(connection, last - first)
        for step in self._steps():
            self._execute(connection, step.journalled(), run_id, first, last)
        remember(connection, run_id, self.client_id)

    def undo(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        """Take back the rows of a batch that are applied, and journal them."""
        self._prepare(connection, last - first)
        self._require_indexes(connection, run_id, first, last)
        for statement in undo_statements(self.tables, made_of=self._made_of(connection)):
            self._execute(connection, statement, run_id, first, last)
        forget(connection, run_id, self.client_id)

    def _made_of(self, connection: Connection) -> dict[str, bool]:
        """The columns that a customer's row can be made of, and whether what stands there is its maker's."""
        name = self.tables.customer.table.as_string(driver_connection(connection))
        return {row.attname: row.is_given for row in connection.execute(_MADE_OF, {"table": name})}

    def _require_indexes(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        """Refuse what would take hours: each customer deleted reads every table whole that has no index for its key.

        10,000 customers and 100,000 leads without an index take about a minute, ten times as many a hundred.
        """
        deleted = connection.scalar(_CREATED, {"run_id": run_id, "first": first, "last": last}) or 0
        for table in (self.tables.lead, self.tables.job, self.tables.address):
            if table is None:
                continue
            column = table.actual("customer_id")
            values = {"table": table.table.as_string(driver_connection(connection)), "column": column}
            rows = connection.scalar(_UNINDEXED_ROWS, values) or 0
            if deleted * rows > _MOST_ROWS_READ:
                raise ConfigurationError(
                    "missing_index",
                    f'Undo would delete {deleted} customers, and for each Postgres would read all of "{table.name}", '
                    f"which has no index on {column}; run: "
                    f'CREATE INDEX CONCURRENTLY ON "{table.schema}"."{table.name}" ("{column}"); and undo again.',
                )

    def refusal(self, error: DBAPIError) -> tuple[ChangeState, str]:
        """A broken unique key is a conflict with whoever holds the value; all else is the row's failure."""
        sqlstate = sqlstate_of(error)
        if sqlstate == _UNIQUE_VIOLATION:
            return ChangeState.CONFLICT, VALUE_TAKEN
        return ChangeState.FAILED, f"sqlstate_{sqlstate.lower()}"

    def _prepare(self, connection: Connection, rows: int) -> None:
        connection.execute(_MEMORY)
        connection.execute(_PATIENCE if rows > MANY_ROWS else _LITTLE_PATIENCE)
        if rows > MANY_ROWS:
            connection.execute(_HASH_JOINS)

    def _execute(self, connection: Connection, statement: sql.Composed, run_id: UUID, first: int, last: int) -> int:
        """Execute a statement on rows of a run; returns how many rows it wrote."""
        parameters: dict[str, Any] = {"run_id": run_id, "first": first, "last": last, "client_id": self.client_id}
        written = connection.exec_driver_sql(statement.as_string(driver_connection(connection)), parameters).rowcount
        return int(written)

    # --- statements ------------------------------------------------------------------------------------------------

    def _steps(self) -> tuple[_Step, ...]:
        planned = sql.SQL("b.record_key")
        created = sql.SQL("{}::text").format(self.tables.customer.column("t", "id"))
        return (
            _Step(CUSTOMER, "create", self._create_customers, created, refusal=self._why_not_created()),
            _Step(CUSTOMER, "update", self._update_customers, planned),
            _Step(LEAD, "update", self._link_leads, planned, refusal=_OF_ITS_CUSTOMER),
            _Step(JOB, "update", self._link_jobs, planned, refusal=_OF_ITS_CUSTOMER),
            _Step(CUSTOMER, "update", self._delete_merged, planned, DELETED, self._why_not_deleted()),
            _Step(CUSTOMER, "update", self._fill_after_merge, planned, FILLED_AFTERWARDS),
        )

    def _create_customers(self, batch: sql.Composable) -> sql.Composed:
        """A row that has come up meanwhile, under the id or any other unique key, stays as it is."""
        customer = self.tables.customer
        names = ("id", "client_id", *FILLED, "metadata", "created_at", "updated_at")
        return sql.SQL(
            "INSERT INTO {table} AS t ({columns})"
            " SELECT b.record_key::{id_type}, (b.after->>'client_id')::{client_type}, b.after->>'name',"
            " b.after->>'phone', b.after->>'email', b.after->>'messenger_psid',"
            " b.after->'metadata' || jsonb_build_object('createdAt', {now}, 'runId', %(run_id)s::text), now(), now()"
            " FROM {batch} AS b {give_way}"
        ).format(
            table=customer.table,
            # Postgres takes no deferrable key there (55000): then such a row refuses the batch, and is found in it.
            give_way=sql.SQL(
                "WHERE NOT EXISTS (SELECT 1 FROM {} AS e WHERE {} = b.record_key::{})"
                if any(key.deferrable for key in customer.unique_keys)
                else "ON CONFLICT DO NOTHING"
            ).format(customer.table, customer.column("e", "id"), customer.type_of("id")),
            columns=sql.SQL(", ").join(sql.Identifier(customer.actual(name)) for name in names),
            id_type=customer.type_of("id"),
            client_type=customer.type_of("client_id"),
            now=sql.SQL("""to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""),
            batch=batch,
        )

    def _update_customers(self, batch: sql.Composable) -> sql.Composed:
        """Fill what is empty, and count our own customers' leads."""
        customer = self.tables.customer
        metadata = customer.column("t", "metadata")
        assignments = [
            sql.SQL("{actual} = CASE WHEN b.after ? {key} THEN b.after->>{key} ELSE {column} END").format(
                actual=sql.Identifier(customer.actual(name)), key=sql.Literal(name), column=customer.column("t", name)
            )
            for name in FILLED
        ]
        unmoved = [
            sql.SQL("(NOT b.after ? {key} OR {column} IS NOT DISTINCT FROM b.before->>{key})").format(
                key=sql.Literal(name), column=customer.column("t", name)
            )
            for name in FILLED
        ]
        return sql.SQL(
            "UPDATE {table} AS t SET {assignments}, {metadata_name} = CASE WHEN b.after ? 'lead_count' THEN {metadata}"
            " || jsonb_build_object('leadCount', b.after->'lead_count',"
            " 'multipleLeads', (b.after->>'lead_count')::int > 1) ELSE {metadata} END, {updated_at} = now()"
            " FROM {batch} AS b WHERE NOT b.after ? 'merged_into' AND {id} = b.record_key::{id_type} AND {client} AND"
            " {unmoved} AND (NOT b.after ? 'lead_count'"
            " OR CASE jsonb_typeof({metadata}->'leadCount') WHEN 'number' THEN {metadata}->>'leadCount' END"
            " IS NOT DISTINCT FROM b.before->>'lead_count')"
        ).format(
            table=customer.table,
            assignments=sql.SQL(", ").join(assignments),
            metadata_name=sql.Identifier(customer.actual("metadata")),
            metadata=metadata,
            updated_at=sql.Identifier(customer.actual("updated_at")),
            batch=batch,
            id=customer.column("t", "id"),
            id_type=customer.type_of("id"),
            client=sql.SQL("{} = %(client_id)s").format(customer.column("t", "client_id")),
            unmoved=sql.SQL(" AND ").join(unmoved),
        )

    def _link_leads(self, batch: sql.Composable) -> sql.Composed:
        """Link leads that are linked as they were when the plan was made, to customers that are there."""
        lead, customer = self.tables.lead, self.tables.customer
        return sql.SQL(
            "UPDATE {table} AS t SET {link_name} = (b.after->>'customer_id')::{link_type}, {updated_at} = now()"
            " FROM {batch} AS b JOIN {customers} AS k ON {customer_id} = (b.after->>'customer_id')::{customer_id_type}"
            " WHERE {id} = b.record_key::{id_type} AND {client_id} = %(client_id)s"
            " AND {customer_client} = %(client_id)s"
            " AND {link} IS NOT DISTINCT FROM (b.before->>'customer_id')::{link_type}"
        ).format(
            table=lead.table,
            link_name=sql.Identifier(lead.actual("customer_id")),
            link=lead.column("t", "customer_id"),
            link_type=lead.type_of("customer_id"),
            updated_at=sql.Identifier(lead.actual("updated_at")),
            batch=batch,
            customers=customer.table,
            customer_id=customer.column("k", "id"),
            customer_id_type=customer.type_of("id"),
            customer_client=customer.column("k", "client_id"),
            id=lead.column("t", "id"),
            id_type=lead.type_of("id"),
            client_id=lead.column("t", "client_id"),
        )

    def _link_jobs(self, batch: sql.Composable) -> sql.Composed:
        """Link jobs whose lead has the customer that was planned."""
        job, lead = self.tables.job, self.tables.lead
        return sql.SQL(
            "UPDATE {table} AS t SET {link_name} = (b.after->>'customer_id')::{link_type}"
            " FROM {batch} AS b, {leads} AS l WHERE {id} = b.record_key::{id_type}"
            " AND {link} IS NOT DISTINCT FROM (b.before->>'customer_id')::{link_type} AND {lead_id} = {job_lead}"
            " AND {lead_link} = (b.after->>'customer_id')::{lead_link_type}"
            " AND {lead_client} = %(client_id)s"
        ).format(
            table=job.table,
            link_name=sql.Identifier(job.actual("customer_id")),
            link=job.column("t", "customer_id"),
            link_type=job.type_of("customer_id"),
            batch=batch,
            leads=lead.table,
            id=job.column("t", "id"),
            id_type=job.type_of("id"),
            lead_id=lead.column("l", "id"),
            job_lead=job.column("t", "lead_id"),
            lead_link=lead.column("l", "customer_id"),
            lead_link_type=lead.type_of("customer_id"),
            lead_client=lead.column("l", "client_id"),
        )

    def _delete_merged(self, batch: sql.Composable) -> sql.Composed:
        """Delete a customer that was merged into another, where it is as it was seen and nothing else points to it."""
        customer = self.tables.customer
        return sql.SQL(
            "DELETE FROM {table} AS t USING {batch} AS b WHERE b.after ? 'merged_into'"
            " AND {id} = b.record_key::{id_type} AND to_jsonb(t) = b.before->'row' AND {free}"
        ).format(
            table=customer.table,
            batch=batch,
            id=customer.column("t", "id"),
            id_type=customer.type_of("id"),
            free=self.tables.unreferenced(),
        )

    def _why_not_created(self) -> sql.Composed:
        """The code of a customer that gave way, whose plan row is `c`: to one with its id, or with a value of it."""
        customer = self.tables.customer
        return sql.SQL(
            "CASE WHEN EXISTS (SELECT 1 FROM {table} AS t WHERE {id} = c.record_key::{id_type})"
            " THEN {stale} ELSE {taken} END"
        ).format(
            table=customer.table,
            id=customer.column("t", "id"),
            id_type=customer.type_of("id"),
            stale=sql.Literal(STALE),
            taken=sql.Literal(VALUE_TAKEN),
        )

    def _why_not_deleted(self) -> sql.Composed:
        """The code of a merged customer that stays, whose plan row is `c`."""
        customer = self.tables.customer
        return sql.SQL(
            "CASE WHEN EXISTS (SELECT 1 FROM {table} AS t WHERE {id} = c.record_key::{id_type}"
            " AND to_jsonb(t) = c.before->'row') THEN {in_use} ELSE {stale} END"
        ).format(
            table=customer.table,
            id=customer.column("t", "id"),
            id_type=customer.type_of("id"),
            in_use=sql.Literal(IN_USE),
            stale=sql.Literal(STALE),
        )

    def _fill_after_merge(self, batch: sql.Composable) -> sql.Composed:
        """Fill a customer with what the one merged into it had: only once that is gone, as a value may be unique."""
        customer = self.tables.customer
        return self._update_customers(batch) + sql.SQL(
            " AND NOT EXISTS (SELECT 1 FROM {table} AS m WHERE {id} = (b.after->>'merged_from')::{id_type})"
        ).format(table=customer.table, id=customer.column("m", "id"), id_type=customer.type_of("id"))


@dataclass(frozen=True)
class _Step:
    """One kind of plan row, and the statement that writes them."""

    target: str
    action: str
    statement: Callable[[sql.Composable], sql.Composed]
    """Makes the statement on rows `b` of a batch: a name, or a query in parentheses."""
    written: sql.Composable
    """The key of a row that was written, as the plan has it."""
    part: LiteralString = PLAIN
    """Which rows of that target and action."""
    refusal: sql.Composable | None = None
    """The code of a row `c` that was not written, where it is not `stale`."""

    def rows(self, state: str) -> sql.Composed:
        """The rows of a run."""
        return sql.SQL(
            "SELECT seq, record_key, before, after FROM backfill.change WHERE run_id = %(run_id)s"
            " AND seq BETWEEN %(first)s AND %(last)s AND state = {state} AND target = {target} AND action = {action}"
            " AND {part}"
        ).format(
            state=sql.Literal(state),
            target=sql.Literal(self.target),
            action=sql.Literal(self.action),
            part=sql.SQL(self.part),
        )

    def journalled(self) -> sql.Composed:
        """The statement on the planned rows of a batch, with an outcome for each."""
        return sql.SQL(
            "WITH batch AS MATERIALIZED ({rows}),"
            " written AS ({statement} RETURNING {key} AS record_key),"
            " outcomes AS MATERIALIZED (SELECT b.seq, b.record_key, w.record_key IS NOT NULL AS done"
            "  FROM batch AS b LEFT JOIN written AS w USING (record_key))"
            " UPDATE backfill.change AS c SET state = CASE WHEN o.done THEN 'applied'"
            " WHEN {refusal} = {not_written} THEN 'failed' ELSE 'conflict' END,"
            " error_code = CASE WHEN NOT o.done THEN {refusal} END, record_id = o.record_key, applied_at = now()"
            " FROM outcomes AS o WHERE c.run_id = %(run_id)s AND c.seq = o.seq"
        ).format(
            not_written=sql.Literal(NOT_WRITTEN),
            rows=self.rows("planned"),
            statement=self.statement(sql.SQL("batch")),
            key=self.written,
            refusal=self.refusal or sql.Literal(STALE),
        )


# The subquery is read once: its rows are the customers that the database refused, and those come before their leads.
_OF_ITS_CUSTOMER = sql.SQL(
    "CASE WHEN c.after->>'customer_id' IN (SELECT k.record_key FROM backfill.change AS k WHERE k.run_id = %(run_id)s"
    " AND k.target = 'Customer' AND k.action = 'create' AND k.state = 'failed') THEN {} ELSE {} END"
).format(sql.Literal(NOT_WRITTEN), sql.Literal(STALE))
_MADE_OF = text(
    "SELECT attname, attidentity = '' AS is_given FROM pg_attribute WHERE attrelid = to_regclass(:table)"
    " AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
)
