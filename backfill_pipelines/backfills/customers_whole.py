"""A client's plan executed whole, while its rows are being stored: what `customers` does where nothing has moved.

Belongs here: customers by COPY, links in blocks, each compared with what the plan saw. A row that is not as planned, or
that the database refuses, ends it: then all is rolled back and done the careful way (`customers_target.py`). Does not
belong here: threads and transactions (`engine/whole_plan.py`).

Bare rows travel, not the journal's documents: taking a million of those apart again would be a tenth of the load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import orjson
import pandas as pd
from psycopg import sql
from sqlalchemy import Connection, text

from backfill_pipelines.backfills.customers_plan import CUSTOMER, LEAD
from backfill_pipelines.backfills.customers_tables import ProductTables
from backfill_pipelines.database.bulk import copied_text, copied_texts, driver_connection
from backfill_pipelines.database.catalogue import TableShape
from backfill_pipelines.engine.plan import Action
from backfill_pipelines.engine.whole_plan import Work

FILLED = ("name", "phone", "email", "messenger_psid")
"""The columns of a customer that are filled where they are empty."""
_BLOCK_ROWS = 200_000
"""Links that are written by one statement, which reads the whole table: few enough that the first ones begin early."""
MANY_ROWS = 2_000
"""More than this is a large plan: it waits for others, and reads tables whole."""
_NULL = r"\N"
_MOMENT = text(
    "SELECT now()::text AS moment,"
    """ to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at"""
)


class CustomersWhole:
    """One client's plan, executed in the connection's transaction."""

    def __init__(
        self,
        connection: Connection,
        run_id: UUID,
        *,
        tables: ProductTables,
        client_id: str,
        update_customers: Callable[[sql.Composable], sql.Composed],
        prepare: Callable[[int], None],
        progress: Callable[[int, int | None], None],
    ) -> None:
        """`update_customers` makes the statement that fills customers, on a relation of plan rows; `prepare` sets the
        session up for so many rows."""
        self._connection, self._run_id = connection, run_id
        self._tables, self._client_id, self._update_customers = tables, client_id, update_customers
        self._prepare, self._progress = prepare, progress
        prepare(0)
        self._now = connection.execute(_MOMENT).one()
        self._customers = tables.customer
        self._created: set[str] = set()
        self._filled: list[str] = []
        self._lines: list[str] = []
        self._links: str | None = None
        """The table that the lines link."""
        self._reused: set[str] = set()
        self._groups: dict[str, str] = {}
        self._taken = self._linked = self._done = 0

    # --- taking rows, beside the load ------------------------------------------------------------------------------

    def take(self, rows: pd.DataFrame) -> Iterator[Work]:
        """The next rows of the plan: customers, then leads, then jobs."""
        if self._taken <= MANY_ROWS < self._taken + len(rows):
            yield self._expect_many
        self._taken += len(rows)
        for target, action in dict.fromkeys(zip(rows["target"], rows["action"], strict=True)):
            chosen = rows[(rows["target"] == target) & (rows["action"] == action)] if _is_mixed(rows) else rows
            if action == Action.CREATE:
                yield partial(self._copy, self._customer_lines(chosen), len(chosen))
            elif action == Action.UPDATE and target == CUSTOMER:
                self._filled += self._filled_lines(chosen)
            elif action == Action.UPDATE:
                if target != self._links:
                    yield from self._linking()
                    self._links = target
                self._lines.append(self._link_lines(chosen))
                self._linked += len(chosen)
        if self._linked >= _BLOCK_ROWS:
            yield from self._linking()

    def end(self) -> Iterator[Work]:
        """The last links, and what the run has found."""
        yield from self._linking()
        if self._groups:
            yield self._remember_groups

    def _customer_lines(self, rows: pd.DataFrame) -> str:
        """Customers as COPY takes them."""
        keys, after = rows["record_key"].tolist(), rows["after"].tolist()
        self._created.update(keys)
        moments = f"\t{self._now.moment}\t{self._now.moment}\n"
        own = {"createdAt": self._now.created_at, "runId": str(self._run_id)}
        lines = []
        for key, text_of, value in zip(copied_texts(keys), after, _values(after), strict=True):
            fields = [_NULL if value[name] is None else value[name] for name in ("client_id", *FILLED)]
            # What COPY would misread, JSON spells with a backslash.
            if "\\" in text_of:
                fields = [field if field is _NULL else copied_text(field) for field in fields]
            # Our own words, without a character that would have to be escaped.
            metadata = orjson.dumps(value["metadata"] | own).decode()
            lines.append("\t".join((key, *fields, metadata)) + moments)
        return "".join(lines)

    def _filled_lines(self, rows: pd.DataFrame) -> list[str]:
        columns = (rows[name].tolist() for name in ("record_key", "before", "after"))
        return ["\t".join(map(copied_text, row)) + "\n" for row in zip(*columns, strict=True)]

    def _link_lines(self, rows: pd.DataFrame) -> str:
        values = _values(rows["after"].tolist())
        customer_ids = [value["customer_id"] for value in values]
        self._reused.update(set(customer_ids) - self._created)
        self._groups |= {value["group_key"]: value["customer_id"] for value in values if len(value) > 1}
        return "".join(
            map("%s\t%s\n".__mod__, zip(copied_texts(rows["record_key"].tolist()), customer_ids, strict=True))
        )

    def _linking(self) -> Iterator[Work]:
        """What is to be done for the lines so far; before the first link, what is left of the customers."""
        if self._filled:
            yield partial(self._fill, "".join(self._filled), len(self._filled))
            self._filled = []
        if self._reused:
            yield partial(self._hold, sorted(self._reused))
            self._reused = set()
        if self._lines:
            statement = self._link_leads() if self._links == LEAD else self._link_jobs()
            shape = self._tables.lead if self._links == LEAD else self._tables.job
            yield partial(self._write_links, shape, statement, "".join(self._lines), self._linked)
            self._lines, self._linked = [], 0

    # --- the pieces of work ----------------------------------------------------------------------------------------

    def _expect_many(self) -> bool:
        self._prepare(MANY_ROWS + 1)
        return True

    def _copy(self, lines: str, count: int) -> bool:
        customer = self._customers
        names = ("id", "client_id", *FILLED, "metadata", "created_at", "updated_at")
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            customer.table, sql.SQL(", ").join(sql.Identifier(customer.actual(name)) for name in names)
        )
        return self._is_done(self._copied(statement, lines), count)

    def _fill(self, lines: str, count: int) -> bool:
        rows = sql.Identifier("planned_customers")
        self._make(rows, sql.SQL("record_key text, before jsonb, after jsonb"))
        self._copied(sql.SQL("COPY {} FROM STDIN").format(rows), lines)
        self._execute(sql.SQL("ANALYZE {}").format(rows))
        return self._is_done(self._execute(self._update_customers(rows)), count)

    def _hold(self, customer_ids: Sequence[str]) -> bool:
        """Whether these customers are there and the client's; they stay until the end of the transaction."""
        statement = sql.SQL(
            "SELECT 1 FROM {table} AS k WHERE {id} = ANY(%(ids)s::{id_type}[]) AND {client} = %(client_id)s"
            " FOR KEY SHARE"
        ).format(
            table=self._customers.table,
            id=self._customers.column("k", "id"),
            id_type=self._customers.type_of("id"),
            client=self._customers.column("k", "client_id"),
        )
        return self._execute(statement, ids=list(customer_ids)) == len(customer_ids)

    def _write_links(self, shape: TableShape, statement: sql.Composed, lines: str, count: int) -> bool:
        self._make(
            sql.Identifier("planned_links"),
            sql.SQL("record_key {}, customer_id {}").format(shape.type_of("id"), shape.type_of("customer_id")),
        )
        self._copied(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier("planned_links")), lines)
        self._execute(sql.SQL("ANALYZE planned_links"))
        return self._is_done(self._execute(statement), count)

    def _remember_groups(self) -> bool:
        self._connection.execute(
            text(
                "INSERT INTO backfill.customer_group (client_id, group_key, customer_id, run_id)"
                " SELECT :client_id, g.key, g.customer_id, :run_id"
                " FROM unnest(CAST(:keys AS text[]), CAST(:customers AS text[])) AS g(key, customer_id)"
                " ON CONFLICT (client_id, group_key) DO UPDATE"
                " SET customer_id = excluded.customer_id, run_id = excluded.run_id"
                " WHERE customer_group.customer_id <> excluded.customer_id"
            ),
            {
                "client_id": self._client_id,
                "run_id": self._run_id,
                "keys": list(self._groups),
                "customers": list(self._groups.values()),
            },
        )
        return True

    def _is_done(self, written: int, count: int) -> bool:
        self._done += written
        self._progress(self._done, None)
        return written == count

    # --- statements ------------------------------------------------------------------------------------------------

    def _link_leads(self) -> sql.Composed:
        lead = self._tables.lead
        return sql.SQL(
            "UPDATE {table} AS t SET {link_name} = b.customer_id, {updated_at} = now() FROM planned_links AS b"
            " WHERE {id} = b.record_key AND {client_id} = %(client_id)s AND {link} IS NULL"
        ).format(
            table=lead.table,
            link_name=sql.Identifier(lead.actual("customer_id")),
            link=lead.column("t", "customer_id"),
            updated_at=sql.Identifier(lead.actual("updated_at")),
            id=lead.column("t", "id"),
            client_id=lead.column("t", "client_id"),
        )

    def _link_jobs(self) -> sql.Composed:
        """Jobs whose lead has the customer that was planned."""
        job, lead = self._tables.job, self._tables.lead
        return sql.SQL(
            "UPDATE {table} AS t SET {link_name} = b.customer_id FROM planned_links AS b, {leads} AS l"
            " WHERE {id} = b.record_key AND {link} IS NULL AND {lead_id} = {job_lead}"
            " AND {lead_link} = b.customer_id::{lead_link_type} AND {lead_client} = %(client_id)s"
        ).format(
            table=job.table,
            link_name=sql.Identifier(job.actual("customer_id")),
            link=job.column("t", "customer_id"),
            leads=lead.table,
            id=job.column("t", "id"),
            lead_id=lead.column("l", "id"),
            job_lead=job.column("t", "lead_id"),
            lead_link=lead.column("l", "customer_id"),
            lead_link_type=lead.type_of("customer_id"),
            lead_client=lead.column("l", "client_id"),
        )

    def _make(self, name: sql.Identifier, columns: sql.Composable) -> None:
        self._execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
        self._execute(sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(name, columns))

    def _copied(self, statement: sql.Composed, lines: str) -> int:
        with driver_connection(self._connection).cursor() as cursor:
            with cursor.copy(statement) as copy:
                copy.write(lines)
            return cursor.rowcount

    def _execute(self, statement: sql.SQL | sql.Composed, **values: Any) -> int:
        with driver_connection(self._connection).cursor() as cursor:
            return cursor.execute(statement, {"client_id": self._client_id, **values}).rowcount


def _is_mixed(rows: pd.DataFrame) -> bool:
    return bool((rows["target"].iloc[0] != rows["target"]).any() or (rows["action"].iloc[0] != rows["action"]).any())


def _values(documents: list[str]) -> list[dict[str, Any]]:
    """JSON documents, taken apart all at once."""
    values: list[dict[str, Any]] = orjson.loads(f"[{','.join(documents)}]")
    return values
