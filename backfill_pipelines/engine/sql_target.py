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
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.catalogue import Dependent, TableShape
from backfill_pipelines.database.tables import change
from backfill_pipelines.engine.journal import CHANGED_SINCE, FORGOTTEN, STALE, ChangeState
from backfill_pipelines.engine.plan import Action
from backfill_pipelines.engine.set_based import sqlstate_of
from backfill_pipelines.errors import DataError

_ROWS = sql.SQL("c.run_id = %(run_id)s AND c.seq BETWEEN %(first)s AND %(last)s")
# The rows of a batch. The planner's statistics date from before them: it takes ten thousand rows for one, and joins
# them by comparing each with each (27 s a batch). Joined to its places a batch has a number of rows that it can see;
# and a FULL JOIN it can only do by hashing or sorting.
# OFFSET 0 keeps the planner from seeing through this, without a copy of the rows.
_PLACES = sql.SQL(
    """places AS NOT MATERIALIZED (
                SELECT own.* FROM generate_series(CAST(%(first)s AS int), CAST(%(last)s AS int)) AS place(seq)
                FULL JOIN (SELECT * FROM backfill.change AS c WHERE {rows} AND {which}) AS own ON own.seq = place.seq
                OFFSET 0
            )"""
)
# A batch is sorted, hashed and joined: with less (the usual 4 MB) each of these steps goes through files.
_MEMORY = text(
    "SELECT set_config('work_mem', '32MB', true)"
    " WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('32MB')"
)
_UNIQUE_VIOLATION = "23505"


# Why an applied change is not taken back.
_KEPT = sql.SQL("CASE WHEN c.error_code = {0} THEN {0} ELSE {1} END").format(
    sql.Literal(FORGOTTEN), sql.Literal(CHANGED_SINCE)
)


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
    batch_rows: int = 25_000
    """The guard of creates may read the whole table once a batch; a batch's locks are held for about a second."""

    def apply(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        """Execute the rows of a batch that are still planned, and journal them. Updates first: they free values."""
        actions = _actions(connection, run_id, first, last, state=ChangeState.PLANNED)
        if Action.UPDATE in actions:
            lock = self._lock(sql.SQL("c.state = 'planned' AND c.action = 'update'"))
            self._execute(connection, run_id, first, last, lock, self._update())
        if Action.CREATE in actions and self._insert(connection, run_id, first, last):
            raise DataError(
                "target_refused",
                f'New rows of "{self.shape.name}" come out under another key than they were written with, so that they '
                "could not be undone; give the column id a default, and let no trigger change it.",
            )

    def undo(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        """Take back the applied rows of a batch, and journal them."""
        actions = _actions(connection, run_id, first, last, state=ChangeState.APPLIED)
        self._execute(connection, run_id, first, last, self._lock(sql.SQL("c.state = 'applied'")))
        if Action.CREATE in actions:
            self._execute(connection, run_id, first, last, self._delete())
        if Action.UPDATE in actions:
            self._execute(connection, run_id, first, last, self._restore())

    def refusal(self, error: DBAPIError) -> tuple[ChangeState, str]:
        """A broken unique key is a conflict with whoever holds the value; all else is the row's failure."""
        sqlstate = sqlstate_of(error)
        if sqlstate == _UNIQUE_VIOLATION:
            return ChangeState.CONFLICT, self.conflicts.get(_constraint(error), STALE)
        return ChangeState.FAILED, f"sqlstate_{sqlstate.lower()}"

    def _insert(self, connection: Connection, run_id: UUID, first: int, last: int) -> Any:
        """Insert as if nobody else did: to give way costs every row a look-up. Where one is there already, give way."""
        try:
            with connection.begin_nested():
                return self._execute(connection, run_id, first, last, self._create(give_way=False))
        except DBAPIError as error:
            actual = {self.shape.actual(name) for name in self.unique_key}
            names = {key.name for key in self.shape.unique_keys if set(key.columns) == actual}
            if sqlstate_of(error) != _UNIQUE_VIOLATION or _constraint(error) not in names:
                raise
        return self._execute(connection, run_id, first, last, self._create(give_way=True))

    def _execute(self, connection: Connection, run_id: UUID, first: int, last: int, *statements: sql.Composed) -> Any:
        """Execute statements on a range of rows; returns the first value of the last one, if it has any."""
        parameters = {**self.guard_values, "run_id": run_id, "first": first, "last": last}
        driver = driver_connection(connection)
        value = None
        for statement in statements:
            # Through SQLAlchemy, so that a refusal comes as its DBAPIError and a lost connection leaves the pool.
            result = connection.exec_driver_sql(statement.as_string(driver), parameters)
            value = result.scalar() if result.returns_rows else None
        return value

    def _lock(self, which: sql.SQL) -> sql.Composed:
        """Lock the rows to change in the order of their id: two writers that do so cannot deadlock."""
        return sql.SQL(
            "WITH {places} SELECT 1 FROM {table} AS t WHERE {t_id} IN (SELECT"
            " coalesce(c.record_id, c.before->>'id')::{id_type} FROM places AS c WHERE c.seq IS NOT NULL)"
            " ORDER BY {t_id} FOR UPDATE"
        ).format(**self._names(which))

    def _create(self, *, give_way: bool) -> sql.Composed:
        """Insert; the statement's value is how many rows came out under another identity than they went in with.

        With `give_way` a row stays as it is that has come up under the unique key; without, it refuses the statement.

        Each row gets its id here, from the column's own default: a trigger may spell its key anew, and the journal must
        find it all the same. Only where there is no such default the row is found by its key.
        """
        given = "id" in self.columns
        preset = self.shape.defaults.get("id")
        names = list(self.columns) if given or preset is None else ["id", *self.columns]
        same = ("id",) if given or preset is not None else tuple(self.unique_key)
        return sql.SQL(
            """
            WITH {places}, batch AS MATERIALIZED (
                SELECT c.seq, c.record_key, {preset} new.*
                FROM places AS c CROSS JOIN LATERAL jsonb_to_record(c.after) AS new({record})
                WHERE c.seq IS NOT NULL
            ), written AS (
                INSERT INTO {table} AS t ({actual})
                SELECT {values} FROM batch AS b WHERE {guard} ORDER BY {key_values}
                {on_conflict}
                RETURNING {t_id}::text AS record_id, {identity}, {fingerprint} AS fingerprint
            ), outcomes AS MATERIALIZED (
                SELECT b.seq, w.record_id, w.fingerprint FROM batch AS b FULL JOIN written AS w ON {same_row}
            ), journalled AS (
                UPDATE backfill.change AS c
                SET state = CASE WHEN o.record_id IS NULL THEN 'conflict' ELSE 'applied' END,
                    error_code = CASE WHEN o.record_id IS NULL THEN {stale} END,
                    record_id = o.record_id, fingerprint = o.fingerprint, applied_at = now()
                FROM outcomes AS o WHERE {rows} AND c.seq = o.seq
            )
            SELECT (SELECT count(*) FROM written) - (SELECT count(record_id) FROM outcomes WHERE seq IS NOT NULL)
            """
        ).format(
            rows=_ROWS,
            # Doubled: the statement has placeholders, and a default may hold a % of its own.
            preset=sql.SQL("" if given or preset is None else preset.replace("%", "%%") + " AS id,"),
            stale=sql.Literal(STALE),
            guard=self.create_guard,
            actual=_listed(sql.Identifier(self.shape.actual(name)) for name in names),
            values=_listed(sql.SQL("b.{}").format(sql.Identifier(name)) for name in names),
            on_conflict=sql.SQL("ON CONFLICT ({}) DO NOTHING" if give_way else "").format(
                _listed(sql.Identifier(self.shape.actual(name)) for name in self.unique_key)
            ),
            key_values=_listed(sql.SQL("b.{}").format(sql.Identifier(name)) for name in self.unique_key),
            identity=_listed(
                sql.SQL("{} AS {}").format(self.shape.column("t", name), sql.Identifier(name)) for name in same
            ),
            same_row=_all(sql.SQL("w.{0} = b.{0}").format(sql.Identifier(name)) for name in same),
            **self._names(sql.SQL("c.state = 'planned' AND c.action = 'create'")),
        )

    def _update(self) -> sql.Composed:
        return sql.SQL(
            """
            WITH {places}, batch AS MATERIALIZED (
                SELECT c.seq, c.before, c.after, (c.before->>'id')::{id_type} AS id
                FROM places AS c WHERE c.seq IS NOT NULL
            ), written AS (
                UPDATE {table} AS t SET {assignments}
                FROM batch AS b
                CROSS JOIN LATERAL jsonb_to_record(b.before) AS old({record})
                CROSS JOIN LATERAL jsonb_to_record(b.after) AS new({record})
                WHERE {t_id} = b.id AND {guard} AND {unmoved}
                RETURNING b.seq
            ), outcomes AS MATERIALIZED (
                SELECT b.seq, b.id, w.seq IS NOT NULL AS done FROM batch AS b FULL JOIN written AS w ON w.seq = b.seq
            )
            UPDATE backfill.change AS c
            SET state = CASE WHEN o.done THEN 'applied' ELSE 'conflict' END,
                error_code = CASE WHEN NOT o.done THEN {stale} END, record_id = o.id::text, applied_at = now()
            FROM outcomes AS o WHERE {rows} AND c.seq = o.seq
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
            **self._names(sql.SQL("c.state = 'planned' AND c.action = 'update'")),
        )

    def _delete(self) -> sql.Composed:
        """Delete created rows that are as we made them; one that is gone already is undone too.

        A row that others would go with, or lose their reference to, stays: they are somebody's change of it.
        """
        return sql.SQL(
            """
            WITH {places}, batch AS MATERIALIZED (
                SELECT c.seq, c.fingerprint, c.record_id::{id_type} AS id
                FROM places AS c WHERE c.seq IS NOT NULL
            ), standing AS MATERIALIZED (
                SELECT b.seq, b.id, {t_id} IS NOT NULL AS there, {fingerprint} = b.fingerprint AND {alone} AS ours
                FROM batch AS b LEFT JOIN {table} AS t ON {t_id} = b.id
            ), deleted AS (
                DELETE FROM {table} AS t USING standing AS s WHERE {t_id} = s.id AND s.ours RETURNING s.seq
            ), outcomes AS MATERIALIZED (
                SELECT s.seq, d.seq IS NULL AND s.there AS stays
                FROM standing AS s FULL JOIN deleted AS d ON d.seq = s.seq
            )
            UPDATE backfill.change AS c
            SET state = CASE WHEN o.stays THEN 'applied' ELSE 'undone' END,
                error_code = CASE WHEN o.stays THEN {kept} END
            FROM outcomes AS o WHERE {rows} AND c.seq = o.seq
            """
        ).format(
            rows=_ROWS,
            kept=_KEPT,
            # A key that refuses speaks up by itself; the others delete or blank without a word.
            alone=_all(
                [sql.SQL("true"), *(_refers_to_none(each) for each in self.shape.dependents if not each.refuses)]
            ),
            **self._names(sql.SQL("c.state = 'applied' AND c.action = 'create'")),
        )

    def _restore(self) -> sql.Composed:
        """Put updated columns back, each only if it still holds what we wrote.

        A row counts as undone when every column is back at its old value, whoever put it there. `updated_at` goes back
        only with the whole row, and only while it still tells of our write.
        """
        return sql.SQL(
            """
            WITH {places}, batch AS MATERIALIZED (
                SELECT c.seq, c.before, c.after, c.applied_at, c.record_id::{id_type} AS id
                FROM places AS c WHERE c.seq IS NOT NULL
            ), standing AS MATERIALIZED (
                SELECT b.*, {t_id} IS NOT NULL AND {any_ours} AS ours, {t_id} IS NOT NULL AND {all_known} AS whole
                FROM batch AS b
                CROSS JOIN LATERAL jsonb_to_record(b.before) AS old({record})
                CROSS JOIN LATERAL jsonb_to_record(b.after) AS new({record})
                LEFT JOIN {table} AS t ON {t_id} = b.id
            ), restored AS (
                UPDATE {table} AS t SET {assignments}
                FROM standing AS b
                CROSS JOIN LATERAL jsonb_to_record(b.before) AS old({record})
                CROSS JOIN LATERAL jsonb_to_record(b.after) AS new({record})
                WHERE {t_id} = b.id AND b.ours
            )
            UPDATE backfill.change AS c
            SET state = CASE WHEN s.whole THEN 'undone' ELSE 'applied' END,
                error_code = CASE WHEN s.whole THEN NULL ELSE {kept} END
            FROM standing AS s WHERE {rows} AND c.seq = s.seq
            """
        ).format(
            rows=_ROWS,
            kept=_KEPT,
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
                        "{actual} = CASE WHEN b.whole AND {t_column} = b.applied_at::{type}"
                        " THEN (b.before->>{key})::timestamptz ELSE now() END",
                        "updated_at",
                    ),
                ]
            ),
            **self._names(sql.SQL("c.state = 'applied' AND c.action = 'update'")),
        )

    def _per_column(self, template: str, name: str) -> sql.Composed:
        return sql.SQL(template).format(
            actual=sql.Identifier(self.shape.actual(name)),
            name=sql.Identifier(name),
            key=sql.Literal(name),
            type=self.shape.type_of(name),
            t_column=self.shape.column("t", name),
        )

    def _names(self, which: sql.SQL) -> dict[str, sql.Composable]:
        return {
            "places": _PLACES.format(rows=_ROWS, which=which),
            "table": self.shape.table,
            "t_id": self.shape.column("t", "id"),
            "id_type": self.shape.type_of("id"),
            "record": _listed(
                sql.SQL("{} {}").format(sql.Identifier(name), self.shape.type_of(name)) for name in self.columns
            ),
            "fingerprint": self._fingerprint(),
        }

    def _fingerprint(self) -> sql.Composable:
        """A number for all that the row `t` holds, as text.

        Without nulls: a column added later changes nothing. Without `updated_at`: a trigger's touch does not either. Of
        JSON's own form of a row it would cost five times as much, half of the whole load.
        """
        values = _listed(
            sql.SQL("{} || t.{}::text").format(sql.Literal(f"{name}="), sql.Identifier(name))
            for name in self.shape.all_columns
            if name != self.shape.actual("updated_at")
        )
        # A name may hold the sign that starts a placeholder.
        escaped = sql.SQL(values.as_string().replace("%", "%%"))
        return sql.SQL("""hashtextextended(array_to_string(ARRAY[{}], chr(31)) COLLATE "C", 0)::text""").format(escaped)


def _actions(connection: Connection, run_id: UUID, first: int, last: int, *, state: ChangeState) -> set[str]:
    """The actions of a batch's rows in this state, in a transaction that has the memory for them from here on."""
    connection.execute(_MEMORY)
    statement = select(change.c.action).distinct()
    statement = statement.where(change.c.run_id == run_id, change.c.seq.between(first, last), change.c.state == state)
    return set(connection.scalars(statement))


def _constraint(error: DBAPIError) -> str:
    """The name of the key or constraint that a row broke; empty where there is none."""
    return getattr(getattr(error.orig, "diag", None), "constraint_name", None) or ""


def _refers_to_none(dependent: Dependent) -> sql.Composed:
    """That no row of the dependent table refers to the row `t`."""
    return sql.SQL("NOT EXISTS (SELECT 1 FROM {table} AS d WHERE {same})").format(
        table=dependent.table,
        same=_all(
            sql.SQL("d.{} = t.{}").format(sql.Identifier(own), sql.Identifier(referred))
            for own, referred in dependent.columns
        ),
    )


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _all(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" AND ").join(parts)
