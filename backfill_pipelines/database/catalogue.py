"""What the user's database says of one of its tables, read from the catalogue before anything is written.

Belongs here: the shape of a table (actual names, types, unique keys), and the checks every backfill that touches a
user's table wants: is it there, has it the columns, may this role read and write it, does row-level security blind it.
Does not belong here: which tables and columns (the backfills'), and our own schema (`tables.py`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql
from sqlalchemy import Connection, text

from backfill_pipelines.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class UniqueKey:
    """A unique constraint or index of a table. `columns` are actual names, empty where it is over an expression.

    `folded`: the columns likewise, also where the key is over them in lower case or trimmed.
    """

    name: str
    columns: tuple[str, ...]
    folded: tuple[str, ...]
    deferrable: bool
    partial: bool


# lower(x), btrim(x), TRIM(BOTH FROM x), (x), x::text, in any depth.
_FOLDING = re.compile(
    r"(?:lower|btrim)\((?P<a>.+)\)|TRIM\(BOTH FROM (?P<b>.+)\)|\((?P<c>.+)\)|(?P<d>.+)::(?:text|character varying)"
)


@dataclass(frozen=True, kw_only=True)
class Dependent:
    """A foreign key onto a table."""

    refuses: bool
    """Whether it refuses to let go of a row that it refers to; else its own rows go, or lose the reference, with it."""
    table: sql.Identifier
    columns: tuple[tuple[str, str], ...]
    """Pairs of a column of the dependent table and the column that it refers to, both actual names."""


@dataclass(frozen=True, kw_only=True)
class TableShape:
    """A user's table: actual names and types behind the logical ones."""

    schema: str
    name: str
    columns: Mapping[str, str]
    """Logical to actual name of the columns that we know of."""
    types: Mapping[str, str]
    """Logical name to type, with its precision: a time(3) that was written must equal the one that was planned."""
    unique_keys: Sequence[UniqueKey]
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Logical name to the SQL of the column's default, where it has one that an INSERT may also give itself."""
    presets: Mapping[str, str] = field(default_factory=dict)
    """Actual name to the SQL of the default, of every column that has one."""
    dependents: Sequence[Dependent] = ()
    all_columns: Sequence[str] = ()
    """Actual names of every column of the table, sorted."""

    @property
    def table(self) -> sql.Identifier:
        """The table's qualified name, quoted."""
        return sql.Identifier(self.schema, self.name)

    def actual(self, logical: str) -> str:
        """The actual name of a column."""
        return self.columns[logical]

    def column(self, alias: str, logical: str) -> sql.Composable:
        """`alias.column`, quoted."""
        return sql.SQL("{}.{}").format(sql.SQL(alias), sql.Identifier(self.columns[logical]))

    def type_of(self, logical: str) -> sql.Composable:
        """The type's name as SQL; it comes from the catalogue, quoted there where it must be."""
        return sql.SQL(self.types[logical])

    def has_unique_key(self, logical: Collection[str]) -> bool:
        """Whether an immediate, whole unique key is over exactly these columns: what ON CONFLICT can name."""
        wanted = {self.columns[name] for name in logical}
        return any(set(key.columns) == wanted and not key.deferrable and not key.partial for key in self.unique_keys)


def read_table(connection: Connection, *, schema: str | None, name: str, columns: Mapping[str, str]) -> TableShape:
    """Read a table's shape; `columns` maps the logical names of the columns we need to the actual ones.

    Raises `ConfigurationError`: `missing_table`, `missing_column`, `missing_privilege`.
    """
    if schema is not None and connection.scalar(
        text("SELECT NOT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = :schema"),
        {"schema": schema},
    ):
        raise ConfigurationError(
            "missing_privilege",
            f'The role of DATABASE_URL may not use the schema "{schema}"; '
            f'as its owner run: GRANT USAGE ON SCHEMA "{schema}" TO the role.',
        )
    found = connection.execute(
        text(
            "SELECT c.oid, n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE c.oid = to_regclass(:qualified) AND c.relkind IN ('r', 'p')"
        ),
        {"qualified": _quoted(connection, schema, name)},
    ).one_or_none()
    if found is None:
        raise ConfigurationError(
            "missing_table",
            f'The database of DATABASE_URL has no table "{name}" that this role can see; create it, or name the right '
            f"one in the registry under tables: {name}: {{name: …, schema: …}}.",
        )
    attributes = {
        row.attname: row
        for row in connection.execute(
            text(
                "SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type, CASE"
                " WHEN a.attidentity = 'd' THEN"
                "  format('nextval(%L::regclass)', pg_get_serial_sequence(a.attrelid::regclass::text, a.attname))"
                " WHEN a.attidentity = '' AND a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid)"
                " END AS preset"
                " FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
                " WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped"
            ),
            {"oid": found.oid},
        )
    }
    missing = sorted(actual for actual in columns.values() if actual not in attributes)
    if missing:
        raise ConfigurationError(
            "missing_column",
            f'The table "{name}" has no column {", ".join(missing)}; add it, or name the actual column in the registry '
            f"under tables: {name}: columns.",
        )
    return TableShape(
        schema=found.nspname,
        name=found.relname,
        columns=dict(columns),
        types={logical: attributes[actual].type for logical, actual in columns.items()},
        unique_keys=_unique_keys(connection, found.oid),
        defaults={
            logical: attributes[actual].preset for logical, actual in columns.items() if attributes[actual].preset
        },
        presets={actual: attribute.preset for actual, attribute in attributes.items() if attribute.preset},
        dependents=_dependents(connection, found.oid),
        all_columns=sorted(attributes),
    )


def require_access(connection: Connection, shape: TableShape, privileges: Sequence[str]) -> None:
    """Raise `ConfigurationError` unless this role has the privileges (`missing_privilege`) and sees all rows.

    Row-level security does not refuse a SELECT, it answers it with 0 rows (`row_level_security`): a plan would then
    create every lead again. Only BYPASSRLS, ownership, or a policy that is literally `true` lets us trust what we see.
    """
    qualified = _quoted(connection, shape.schema, shape.name)
    for privilege in privileges:
        if not connection.scalar(
            text("SELECT has_table_privilege(to_regclass(:name), :privilege)"),
            {"name": qualified, "privilege": privilege},
        ):
            raise ConfigurationError(
                "missing_privilege",
                f'The role of DATABASE_URL may not {privilege} on "{shape.name}"; '
                f'as its owner run: GRANT {privilege} ON "{shape.name}" TO the role.',
            )
    if connection.scalar(text("SELECT row_security_active(to_regclass(:name))"), {"name": qualified}):
        commands = {_POLICY_COMMANDS[privilege] for privilege in privileges}
        if not commands <= _commands_with_open_policy(connection, qualified):
            raise ConfigurationError(
                "row_level_security",
                f'Row-level security hides rows of "{shape.name}" from the role of DATABASE_URL; give the role '
                "BYPASSRLS (Supabase: connect as postgres or service_role), or a policy USING (true) WITH CHECK (true) "
                "of its own.",
            )


def require_fillable(connection: Connection, shape: TableShape, filled: Collection[str]) -> None:
    """Raise `ConfigurationError("unfilled_column")` for a required column without default that a create leaves out."""
    required = connection.scalars(
        text(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
            " AND attnotnull AND NOT atthasdef AND attidentity = '' ORDER BY attnum"
        ),
        {"name": _quoted(connection, shape.schema, shape.name)},
    )
    actual = {shape.columns[name] for name in filled}
    unfilled = [name for name in required if name not in actual]
    if unfilled:
        raise ConfigurationError(
            "unfilled_column",
            f'The table "{shape.name}" requires {", ".join(unfilled)}, which this backfill does not fill; '
            "give the column a default.",
        )


_POLICY_COMMANDS = {"SELECT": "r", "INSERT": "a", "UPDATE": "w", "DELETE": "d"}


def _commands_with_open_policy(connection: Connection, qualified: str) -> set[str]:
    """The commands for which a permissive policy of this role lets every row pass and no restrictive one narrows it."""
    rows = connection.execute(
        text(
            "SELECT polcmd, polpermissive,"
            " coalesce(pg_get_expr(polqual, polrelid), 'true') = 'true'"
            " AND coalesce(pg_get_expr(polwithcheck, polrelid), 'true') = 'true' AS is_open"
            " FROM pg_policy WHERE polrelid = to_regclass(:name) AND (polroles = '{0}'"
            " OR EXISTS (SELECT 1 FROM unnest(polroles) AS r(oid) WHERE r.oid <> 0 AND pg_has_role(r.oid, 'USAGE')))"
        ),
        {"name": qualified},
    ).all()
    opened = [row.polcmd for row in rows if row.polpermissive and row.is_open]
    narrowed = [row.polcmd for row in rows if not row.polpermissive and not row.is_open]
    return set().union(*map(_commands_of, opened)) - set().union(*map(_commands_of, narrowed))


def _commands_of(command: Any) -> set[str]:
    """The commands that a policy is for; Postgres' type "char" comes as bytes."""
    name = command.decode() if isinstance(command, bytes) else str(command)
    return set(_POLICY_COMMANDS.values()) if name == "*" else {name}


def _unique_keys(connection: Connection, oid: int) -> list[UniqueKey]:
    rows = connection.execute(
        text(
            "SELECT c.relname AS name, NOT i.indimmediate AS deferrable, i.indpred IS NOT NULL AS partial,"
            " i.indexprs IS NOT NULL AS has_expressions,"
            " ARRAY(SELECT a.attname FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)"
            "       JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
            "       WHERE k.place <= i.indnkeyatts ORDER BY k.place)::text[] AS columns,"
            " ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) AS k"
            "       ORDER BY k)::text[] AS parts,"
            " ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute AS a WHERE a.attrelid = i.indrelid"
            "       AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)::text[] AS quoted,"
            " ARRAY(SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = i.indrelid"
            "       AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)::text[] AS names"
            " FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
            " WHERE i.indrelid = :oid AND i.indisunique AND i.indisvalid"
        ),
        {"oid": oid},
    )
    return [
        UniqueKey(
            name=row.name,
            columns=() if row.has_expressions else tuple(row.columns),
            folded=_folded(row.parts, dict(zip(row.quoted, row.names, strict=True))),
            deferrable=row.deferrable,
            partial=row.partial,
        )
        for row in rows
    ]


def _folded(parts: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that the parts of a key are over, as the catalogue spells them; none where one is over more."""
    columns: list[str] = []
    for part in parts:
        inner = part
        while (wrapped := _FOLDING.fullmatch(inner)) is not None:
            inner = next(filter(None, wrapped.groups()))
        if inner not in names:
            return ()
        columns.append(names[inner])
    return tuple(columns)


def _dependents(connection: Connection, oid: int) -> list[Dependent]:
    rows = connection.execute(
        text(
            "SELECT n.nspname AS schema, r.relname AS name, c.confdeltype IN ('a', 'r') AS refuses,"
            " ARRAY(SELECT a.attname FROM unnest(c.conkey) WITH ORDINALITY AS k(attnum, place)"
            "       JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum"
            "       ORDER BY k.place)::text[] AS columns,"
            " ARRAY(SELECT a.attname FROM unnest(c.confkey) WITH ORDINALITY AS k(attnum, place)"
            "       JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.attnum"
            "       ORDER BY k.place)::text[] AS referred"
            " FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid"
            " JOIN pg_namespace AS n ON n.oid = r.relnamespace"
            " WHERE c.contype = 'f' AND c.confrelid = :oid AND c.conparentid = 0 ORDER BY c.oid"
        ),
        {"oid": oid},
    )
    return [
        Dependent(
            refuses=row.refuses,
            table=sql.Identifier(row.schema, row.name),
            columns=tuple(zip(row.columns, row.referred, strict=True)),
        )
        for row in rows
    ]


def _quoted(connection: Connection, schema: str | None, name: str) -> str:
    return str(
        connection.scalar(
            text(
                "SELECT CASE WHEN CAST(:schema AS text) IS NULL THEN '' ELSE quote_ident(:schema) || '.' END"
                " || quote_ident(:name)"
            ),
            {"schema": schema, "name": name},
        )
    )
