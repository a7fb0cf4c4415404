"""Bulk movement of rows between Python and Postgres.

Belongs here: COPY in, streaming reads out, and what text a Postgres column can hold. Does not belong here: which rows
(the engine's and the backfills' business).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
from psycopg import sql
from sqlalchemy import Connection, Table

_FETCH_ROWS = 2_000
_TO_ESCAPE = re.compile(r"[\\\t\n\r]")
_COPIED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def driver_connection(connection: Connection) -> psycopg.Connection[Any]:
    """Return psycopg's connection under SQLAlchemy's, in the same transaction."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise TypeError("the database engine must use the driver psycopg 3")
    return raw


def copy_rows(
    connection: Connection, *, table: tuple[str, ...], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """COPY rows into a table within the connection's transaction; returns how many.

    `table` is its name, with the schema before it where there is one. Rows are taken one by one: a generator of any
    length needs no memory of its own.
    """
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(*table), _identifiers(columns))
    count = 0
    with driver_connection(connection).cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
            count += 1
    return count


@contextmanager
def copy_lines(
    connection: Connection, *, table: tuple[str, ...], columns: Sequence[str]
) -> Iterator[Callable[[str], None]]:
    """COPY ready-made lines into a table: what is yielded takes text in COPY's own format, any number of lines.

    For millions of rows: `copy_rows` takes 4 µs a row to make such a line of it.
    """
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(*table), _identifiers(columns))
    with driver_connection(connection).cursor() as cursor, cursor.copy(statement) as copy:
        yield copy.write


def copied_text(value: str) -> str:
    """A text as COPY's format spells it."""
    return value.translate(_COPIED) if _TO_ESCAPE.search(value) else value


def copied_texts(values: list[str]) -> list[str]:
    """Texts as COPY's format spells them; looked through all at once, since hardly one in a million needs it."""
    return [copied_text(value) for value in values] if _TO_ESCAPE.search("".join(values)) else values


def land_rows(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Upsert rows into one of our landing tables by its primary key, in one statement; the last of equal keys stays.

    Rows travel as one JSON document: a page is a dozen rows, and a COPY into a staging table would cost more trips.
    """
    keys = [column.name for column in table.primary_key]
    unique = {tuple(row[key] for key in keys): row for row in rows}
    if not unique:
        return
    names = [column.name for column in table.columns]
    statement = sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {names} FROM json_to_recordset(%s::json) AS r({typed})"
        " ON CONFLICT ({keys}) DO UPDATE SET {assignments}"
    ).format(
        table=sql.Identifier(str(table.schema), table.name),
        names=_identifiers(names),
        typed=sql.SQL(", ").join(
            sql.SQL("{} {}").format(
                sql.Identifier(column.name),
                sql.SQL(column.type.compile(connection.dialect)),
            )
            for column in table.columns
        ),
        keys=_identifiers(keys),
        assignments=sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names if name not in keys
        ),
    )
    with driver_connection(connection).cursor() as cursor:
        cursor.execute(statement, [orjson.dumps(list(unique.values())).decode()])


def _identifiers(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def stream_columns(
    connection: Connection, statement: sql.SQL | sql.Composed, parameters: Sequence[Any] | Mapping[str, Any]
) -> tuple[list[str], Iterator[list[Any]]]:
    """Run a query through a server-side cursor: its column names, and its rows in lists of at most 10,000.

    A client-side cursor would hold the whole result twice: once as received, once as Python rows. Consume the rows
    within the transaction.
    """
    cursor = driver_connection(connection).cursor(name="backfill_stream")
    cursor.execute(statement, parameters)
    names = [column.name for column in cursor.description or ()]

    def blocks() -> Iterator[list[Any]]:
        with cursor:
            while rows := cursor.fetchmany(_FETCH_ROWS):
                yield rows

    return names, blocks()


def storable_text(value: object) -> str | None:
    """Make text that a Postgres column accepts: no NUL, no lone surrogates. Anything but text becomes None.

    Vendors send both: NUL inside reply texts, and half of an emoji where a name was cut at a byte limit.
    """
    if not isinstance(value, str):
        return None
    text = value.replace("\x00", "")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
