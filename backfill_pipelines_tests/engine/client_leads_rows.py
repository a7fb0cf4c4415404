"""Plans over the product's table `client_leads`, as a backfill would store them, for tests of load and undo.

Belongs here: making rows, plans and targets, and reading back what became of them. Does not belong here: assertions,
and how a real backfill decides.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import sql
from sqlalchemy import Engine, text

from backfill_pipelines.database.catalogue import read_table
from backfill_pipelines.engine.plan import Action, plan_frame, store_plan
from backfill_pipelines.engine.set_based import load_set_based, undo_set_based
from backfill_pipelines.engine.sql_target import SqlTarget

WORKSPACE = "Harbour Dental"
WRITTEN = (
    "workspace_name",
    "lead_email",
    "first_name",
    "company",
    "interested",
    "interested_at",
    "bison_reply_id",
    "bison_instance",
)
READ = ("id", *WRITTEN, "deleted_at", "updated_at")
LONG_AGO = datetime(2020, 2, 1, 12, 30, 15, 123456, tzinfo=UTC)


def no_safe_point() -> None:
    """Nobody asks this load to stop."""


def no_progress(done: int, total: int) -> None:
    """Nobody watches this load."""


def create(number: int, **values: Any) -> tuple[Any, ...]:
    """A plan row that makes a new lead; `values` are other values of its columns."""
    email = str(values.pop("lead_email", f"Lead{number}@example.com"))
    row = dict.fromkeys(WRITTEN) | {
        "workspace_name": WORKSPACE,
        "lead_email": email,
        "interested": True,
        "bison_reply_id": number,
        "bison_instance": "mail.example.com",
    }
    return ("client_leads", email.strip().lower(), Action.CREATE, None, None, row | values)


def update(row: Mapping[str, Any], **values: Any) -> tuple[Any, ...]:
    """A plan row that changes a lead as it was read."""
    before = {name: row[name] for name in values} | {
        "id": str(row["id"]),
        "updated_at": row["updated_at"].isoformat(),
    }
    return ("client_leads", row["lead_email"].strip().lower(), Action.UPDATE, None, before, values)


@dataclass(kw_only=True)
class ClientLeads:
    """The table, and the runs that load it."""

    engine: Engine
    schema: str | None = None
    name: str = "client_leads"
    renamed: Mapping[str, str] = field(default_factory=dict)
    batch_rows: int = 10_000

    def actual(self, logical: str) -> str:
        return self.renamed.get(logical, logical)

    def target(self) -> SqlTarget:
        """The target as the backfill client_leads makes it: gives way to rows in any spelling, and to tombstones."""
        with self.engine.connect() as connection:
            shape = read_table(
                connection,
                schema=self.schema,
                name=self.name,
                columns={name: self.actual(name) for name in READ},
            )
        return SqlTarget(
            shape=shape,
            columns=WRITTEN,
            unique_key=("lead_email", "workspace_name"),
            create_guard=sql.SQL(
                "NOT EXISTS (SELECT 1 FROM {table} AS existing WHERE {workspace} = %(workspace)s"
                " AND lower(btrim({email})) = b.record_key)"
            ).format(
                table=shape.table,
                workspace=shape.column("existing", "workspace_name"),
                email=shape.column("existing", "lead_email"),
            ),
            update_guard=sql.SQL("{} IS NULL").format(shape.column("t", "deleted_at")),
            guard_values={"workspace": WORKSPACE},
            conflicts={
                key.name: "reply_id_taken" for key in shape.unique_keys if shape.actual("bison_reply_id") in key.columns
            },
            batch_rows=self.batch_rows,
        )

    def plan(self, rows: Iterable[tuple[Any, ...]]) -> UUID:
        """Store a plan under a run id of its own."""
        run_id = uuid.uuid4()
        with self.engine.begin() as connection:
            store_plan(connection, run_id=run_id, frames=[plan_frame(rows)])
        return run_id

    def load(
        self,
        run_id: UUID,
        *,
        target: SqlTarget | None = None,
        limit: int | None = None,
        safe_point: Callable[[], None] = no_safe_point,
    ) -> None:
        load_set_based(
            self.engine,
            run_id,
            target or self.target(),
            limit=limit,
            safe_point=safe_point,
            progress=no_progress,
        )

    def planned_and_loaded(self, rows: Iterable[tuple[Any, ...]]) -> UUID:
        """Store a plan and load it, with nothing between."""
        run_id = self.plan(rows)
        self.load(run_id)
        return run_id

    def undo(self, run_id: UUID, *, dry_run: bool = False) -> dict[str | None, int]:
        """Undo; the number of rows by code, None for those undone."""
        return dict(
            undo_set_based(
                self.engine,
                run_id,
                self.target(),
                dry_run=dry_run,
                safe_point=no_safe_point,
                progress=no_progress,
            )
        )

    def insert(self, **values: Any) -> dict[str, Any]:
        """A row that somebody else has made; returns it whole, under the logical names that it has."""
        given = {
            "workspace_name": WORKSPACE,
            "interested": False,
            "created_at": LONG_AGO,
            "updated_at": LONG_AGO,
        } | values
        columns = {self.actual(name): value for name, value in given.items()}
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING {}::text").format(
            self._table(),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
            sql.Identifier(self.actual("id")),
        )
        (row_id,) = self.execute(statement, tuple(columns.values()))[0]
        return self.row(row_id)

    def change(self, row_id: object, **values: Any) -> None:
        """Somebody else changes a row, in one statement."""
        statement = sql.SQL("UPDATE {} SET {} WHERE {}::text = %s").format(
            self._table(),
            sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(self.actual(name))) for name in values),
            sql.Identifier(self.actual("id")),
        )
        self.execute(statement, (*values.values(), str(row_id)))

    def delete(self, row_id: object) -> None:
        statement = sql.SQL("DELETE FROM {} WHERE {}::text = %s").format(
            self._table(), sql.Identifier(self.actual("id"))
        )
        self.execute(statement, (str(row_id),))

    def rows(self) -> list[dict[str, Any]]:
        """The whole table, under the logical names, in the order of the addresses."""
        logical = {actual: name for name, actual in self.renamed.items()}
        statement = sql.SQL("SELECT * FROM {} ORDER BY {}").format(
            self._table(), sql.Identifier(self.actual("lead_email"))
        )
        with self.engine.connect() as connection:
            result = connection.exec_driver_sql(self._text(statement))
            return [{logical.get(name, name): value for name, value in row.items()} for row in result.mappings()]

    def row(self, row_id: object) -> dict[str, Any]:
        return next(row for row in self.rows() if str(row["id"]) == str(row_id))

    def named(self, lead_email: str) -> dict[str, Any]:
        """The row of an address, in that spelling."""
        return next(row for row in self.rows() if row["lead_email"] == lead_email)

    def outcomes(self, run_id: UUID) -> list[tuple[str, str | None]]:
        """State and code of every row of a plan, in its order."""
        with self.engine.connect() as connection:
            found = connection.execute(
                text("SELECT state, error_code FROM backfill.change WHERE run_id = :run_id ORDER BY seq"),
                {"run_id": run_id},
            )
            return [(row.state, row.error_code) for row in found]

    def execute(self, statement: str | sql.Composed, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run and commit a statement; its rows, if it has any."""
        with self.engine.begin() as connection:
            # Without parameters a statement goes to the server as it is, with whatever % it holds.
            connection.execution_options(no_parameters=True)
            result = connection.exec_driver_sql(self._text(statement), tuple(parameters) or None)
            return list(result) if result.returns_rows else []

    def in_batches_of(self, rows: int) -> ClientLeads:
        return replace(self, batch_rows=rows)

    def _table(self) -> sql.Identifier:
        return sql.Identifier(self.name) if self.schema is None else sql.Identifier(self.schema, self.name)

    @staticmethod
    def _text(statement: str | sql.Composed) -> str:
        return statement if isinstance(statement, str) else statement.as_string()
