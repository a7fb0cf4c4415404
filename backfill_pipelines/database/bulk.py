"""Bulk movement of rows between Python and Postgres.

Belongs here: COPY in, streaming reads out, and what text a Postgres column can hold. Does not belong here: which rows
(the engine's and the backfills' business).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Connection

_FETCH_ROWS = 10_000


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
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(*table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    count = 0
    with driver_connection(connection).cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
            count += 1
    return count


def stream_rows(connection: Connection, statement: sql.Composable, parameters: Any = None) -> Iterator[list[Any]]:
    """Yield the rows of a query in lists of at most 10,000, through a server-side cursor.

    A client-side cursor would hold the whole result twice: once as received, once as Python rows.
    """
    with driver_connection(connection).cursor(name="backfill_stream") as cursor:
        cursor.execute(statement, parameters)
        while rows := cursor.fetchmany(_FETCH_ROWS):
            yield rows


def storable_text(value: object) -> str | None:
    """Make text that a Postgres column accepts: no NUL, no lone surrogates. Anything but text becomes None.

    Vendors send both: NUL inside reply texts, and half of an emoji where a name was cut at a byte limit.
    """
    if not isinstance(value, str):
        return None
    text = value.replace("\x00", "")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
