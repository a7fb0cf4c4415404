"""The usual statements of a set-based load into one table of the user's: create, update, and the undo of both.

Belongs here: building them from the table's names and types, always as compare-and-set and always with the journal in
the same transaction. Does not belong here: transactions, batches and retries (`set_based.py`), and which table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import sql
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.catalogue import TableShape
from backfill_pipelines.engine.journal import CHANGED_SINCE, STALE, ChangeState
from backfill_pipelines.engine.set_based import sqlstate_of

_ROWS = sql.SQL("c.run_id = %(run_id)s AND c.seq BETWEEN %(first)s AND %(last)s")


@dataclass(frozen=True, kw_only=True)
class SqlTarget:
    """One table of the user's, as a target of `load_set_based`.

    Plan rows of action `create` hold all `columns` of the new row in `after`. Rows of action `update` hold the record's
    `id`, its `updated_at` and the old values of the changed columns in `before`, and the new values in `after`. Column
    names in plans are the logical ones; `shape` knows the actual ones. The table's key is its column `id`.
    """

    shape: TableShape
    columns: Sequence[str]
    """Logical names of the columns that a load may write."""
    unique_key: Sequence[str]
    """Logical names of a unique key of the table, its most telling column first: a create that meets a row is stale."""
    create_guard: sql.Composable
    """A condition on `b` (the plan row: `record_key` and the columns) that holds while the row may be created."""
    update_guard: sql.Composable
    """A condition on `t` (the table's row) that holds while it may be updated, besides the compare-and-set."""
    guard_values: Mapping[str, Any]
    """Values for the placeholders of the guards."""
    conflicts: Mapping[str, str]
    """By the name of a unique key: the reason when it refuses a row."""
    batch_rows: int = 10_000

    def apply(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        """Execute the rows of a batch that are still planned, and journal them. Updates first: they free values."""
        lock = self._lock(sql.SQL("c.state = 'planned' AND c.action = 'update'"))
        self._execute(connection, run_id, first, last, lock, self._update(), self._create())

    def undo(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        """Take back the applied rows of a batch, and journal them."""
        lock = self._lock(sql.SQL("c.state = 'applied'"))
        self._execute(connection, run_id, first, last, lock, self._delete(), self._restore())

    def refusal(self, error: DBAPIError) -> tuple[ChangeState, str]:
        """A broken unique key is a conflict with whoever holds the value; all else is the row's failure."""
        sqlstate = sqlstate_of(error)
        if sqlstate == "23505":
            name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
            return ChangeState.CONFLICT, self.conflicts.get(name or "", STALE)
        return ChangeState.FAILED, f"sqlstate_{sqlstate.lower()}"

    def _execute(self, connection: Connection, run_id: UUID, first: int, last: int, *statements: sql.Composed) -> None:
        parameters = {**self.guard_values, "run_id": run_id, "first": first, "last": last}
        driver = driver_connection(connection)
        for statement in statements:
            # Through SQLAlchemy, so that a refusal comes as its DBAPIError and a lost connection leaves the pool.
            connection.exec_driver_sql(statement.as_string(driver), parameters)

    def _lock(self, which: sql.SQL) -> sql.Composed:
        """Lock the rows to change in the order of their id: two writers that do so cannot deadlock."""
        return sql.SQL(
            "SELECT 1 FROM {table} AS t WHERE {t_id} IN (SELECT coalesce(c.record_id, c.before->>'id')::{id_type}"
            " FROM backfill.change AS c WHERE {rows} AND {which}) ORDER BY {t_id} FOR UPDATE"
        ).format(rows=_ROWS, which=which, **self._names())

    def _create(self) -> sql.Composed:
        return sql.SQL(
            """
            WITH batch AS MATERIALIZED (
                SELECT c.seq, c.record_key, new.*
                FROM backfill.change AS c CROSS JOIN LATERAL jsonb_to_record(c.after) AS new({record})
                WHERE {rows} AND c.state = 'planned' AND c.action = 'create'
            ), written AS (
                INSERT INTO {table} AS t ({actual})
                SELECT {values} FROM batch AS b WHERE {guard} ORDER BY {key_values}
                ON CONFLICT ({key}) DO NOTHING
                RETURNING {t_id}::text AS record_id, {key_written}, {fingerprint} AS fingerprint
            )
            UPDATE backfill.change AS c
            SET state = CASE WHEN w.record_id IS NULL THEN 'conflict' ELSE 'applied' END,
                error_code = CASE WHEN w.record_id IS NULL THEN {stale} END,
                record_id = w.record_id, fingerprint = w.fingerprint, applied_at = now()
            FROM batch AS b LEFT JOIN written AS w ON {same_key}
            WHERE c.run_id = %(run_id)s AND c.seq = b.seq
            """
        ).format(
            rows=_ROWS,
            stale=sql.Literal(STALE),
            guard=self.create_guard,
            actual=_listed(sql.Identifier(self.shape.actual(name)) for name in self.columns),
            values=_listed(sql.SQL("b.{}").format(sql.Identifier(name)) for name in self.columns),
            key=_listed(sql.Identifier(self.shape.actual(name)) for name in self.unique_key),
            key_values=_listed(sql.SQL("b.{}").format(sql.Identifier(name)) for name in self.unique_key),
            key_written=_listed(
                sql.SQL("{} AS {}").format(self.shape.column("t", name), sql.Identifier(name))
                for name in self.unique_key
            ),
            same_key=_all(sql.SQL("w.{0} = b.{0}").format(sql.Identifier(name)) for name in self.unique_key),
            **self._names(),
        )

    def _update(self) -> sql.Composed:
        return sql.SQL(
            """
            WITH batch AS MATERIALIZED (
                SELECT c.seq, c.before, c.after, (c.before->>'id')::{id_type} AS id
                FROM backfill.change AS c WHERE {rows} AND c.state = 'planned' AND c.action = 'update'
            ), written AS (
                UPDATE {table} AS t SET {assignments}
                FROM batch AS b
                CROSS JOIN LATERAL jsonb_to_record(b.before) AS old({record})
                CROSS JOIN LATERAL jsonb_to_record(b.after) AS new({record})
                WHERE {t_id} = b.id AND {guard} AND {unmoved}
                RETURNING b.seq
            )
            UPDATE backfill.change AS c
            SET state = CASE WHEN w.seq IS NULL THEN 'conflict' ELSE 'applied' END,
                error_code = CASE WHEN w.seq IS NULL THEN {stale} END,
                record_id = b.id::text, applied_at = now()
            FROM batch AS b LEFT JOIN written AS w ON w.seq = b.seq
            WHERE c.run_id = %(run_id)s AND c.seq = b.seq
            """
        ).format(
            rows=_ROWS,
            stale=sql.Literal(STALE),
            guard=self.update_guard,
            assignments=_listed(
                [
                    *(
                        self._per_column(
                            "{actual} = CASE WHEN b.after ? {key} THEN new.{name} ELSE {t_column} END", name
                        )
                        for name in self.columns
                    ),
                    sql.SQL("{} = now()").format(sql.Identifier(self.shape.actual("updated_at"))),
                ]
            ),
            unmoved=_all(
                self._per_column("(NOT b.after ? {key} OR {t_column} IS NOT DISTINCT FROM old.{name})", name)
                for name in self.columns
            ),
            **self._names(),
        )

    def _delete(self) -> sql.Composed:
        """Delete created rows that are as we made them; one that is gone already is undone too."""
        return sql.SQL(
            """
            WITH batch AS MATERIALIZED (
                SELECT c.seq, c.fingerprint, c.record_id::{id_type} AS id
                FROM backfill.change AS c WHERE {rows} AND c.state = 'applied' AND c.action = 'create'
            ), deleted AS (
                DELETE FROM {table} AS t USING batch AS b
                WHERE {t_id} = b.id AND {fingerprint} = b.fingerprint
                RETURNING b.seq
            )
            UPDATE backfill.change AS c
            SET state = CASE WHEN d.seq IS NULL AND {t_id} IS NOT NULL THEN 'applied' ELSE 'undone' END,
                error_code = CASE WHEN d.seq IS NULL AND {t_id} IS NOT NULL THEN {changed_since} END
            FROM batch AS b LEFT JOIN deleted AS d ON d.seq = b.seq LEFT JOIN {table} AS t ON {t_id} = b.id
            WHERE c.run_id = %(run_id)s AND c.seq = b.seq
            """
        ).format(rows=_ROWS, changed_since=sql.Literal(CHANGED_SINCE), **self._names())

    def _restore(self) -> sql.Composed:
        """Put updated columns back, each only if it still holds what we wrote.

        A row counts as undone when every column is back at its old value, whoever put it there. `updated_at` goes back
        only with the whole row, and only while it still tells of our write.
        """
        return sql.SQL(
            """
            WITH batch AS MATERIALIZED (
                SELECT c.seq, c.before, c.after, c.applied_at, c.record_id::{id_type} AS id
                FROM backfill.change AS c WHERE {rows} AND c.state = 'applied' AND c.action = 'update'
            ), standing AS MATERIALIZED (
                SELECT b.seq, {any_ours} AS ours, {all_known} AS whole
                FROM batch AS b
                CROSS JOIN LATERAL jsonb_to_record(b.before) AS old({record})
                CROSS JOIN LATERAL jsonb_to_record(b.after) AS new({record})
                JOIN {table} AS t ON {t_id} = b.id
            ), restored AS (
                UPDATE {table} AS t SET {assignments}
                FROM batch AS b
                JOIN standing AS s ON s.seq = b.seq AND s.ours
                CROSS JOIN LATERAL jsonb_to_record(b.before) AS old({record})
                CROSS JOIN LATERAL jsonb_to_record(b.after) AS new({record})
                WHERE {t_id} = b.id
                RETURNING b.seq
            )
            UPDATE backfill.change AS c
            SET state = CASE WHEN s.whole THEN 'undone' ELSE 'applied' END,
                error_code = CASE WHEN s.whole THEN NULL ELSE {changed_since} END
            FROM batch AS b LEFT JOIN standing AS s ON s.seq = b.seq LEFT JOIN restored AS r ON r.seq = b.seq
            WHERE c.run_id = %(run_id)s AND c.seq = b.seq
            """
        ).format(
            rows=_ROWS,
            changed_since=sql.Literal(CHANGED_SINCE),
            any_ours=sql.SQL("({})").format(
                sql.SQL(" OR ").join(
                    self._per_column("(b.after ? {key} AND {t_column} IS NOT DISTINCT FROM new.{name})", name)
                    for name in self.columns
                )
            ),
            all_known=_all(
                self._per_column(
                    "(NOT b.after ? {key} OR {t_column} IS NOT DISTINCT FROM new.{name}"
                    " OR {t_column} IS NOT DISTINCT FROM old.{name})",
                    name,
                )
                for name in self.columns
            ),
            assignments=_listed(
                [
                    *(
                        self._per_column(
                            "{actual} = CASE WHEN b.after ? {key} AND {t_column} IS NOT DISTINCT FROM new.{name}"
                            " THEN old.{name} ELSE {t_column} END",
                            name,
                        )
                        for name in self.columns
                    ),
                    self._per_column(
                        "{actual} = CASE WHEN s.whole AND {t_column} = b.applied_at"
                        " THEN (b.before->>{key})::timestamptz ELSE now() END",
                        "updated_at",
                    ),
                ]
            ),
            **self._names(),
        )

    def _per_column(self, template: str, name: str) -> sql.Composed:
        return sql.SQL(template).format(
            actual=sql.Identifier(self.shape.actual(name)),
            name=sql.Identifier(name),
            key=sql.Literal(name),
            t_column=self.shape.column("t", name),
        )

    def _names(self) -> dict[str, sql.Composable]:
        return {
            "table": self.shape.table,
            "t_id": self.shape.column("t", "id"),
            "id_type": self.shape.type_of("id"),
            "record": _listed(
                sql.SQL("{} {}").format(sql.Identifier(name), self.shape.type_of(name)) for name in self.columns
            ),
            # Without nulls a column added later changes nothing; without `updated_at` a trigger's touch does not either.
            "fingerprint": sql.SQL("md5((jsonb_strip_nulls(to_jsonb(t)) - {})::text)").format(
                sql.Literal(self.shape.actual("updated_at"))
            ),
        }


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _all(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" AND ").join(parts)
