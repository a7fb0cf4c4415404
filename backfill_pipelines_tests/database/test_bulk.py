"""Bulk movement: what goes in comes out, in one transaction, and any text of a vendor's can be made to go in."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from sqlalchemy import Connection, text

from backfill_pipelines.database.bulk import copy_rows, driver_connection, land_rows, storable_text, stream_columns
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.database.tables import bison_lead, bison_reply

ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=40)
"""Every code point that a Python string can hold: NUL and lone surrogates too."""


@pytest.fixture(scope="module")
def engine(embedded_server: EmbeddedServer, administration: sqlalchemy.Engine) -> Iterator[sqlalchemy.Engine]:
    name = f"bulk_{uuid.uuid4().hex}"
    engine = create_database_engine(embedded_server.ensure_database(name))
    upgrade_schema(engine)
    yield engine
    engine.dispose()
    with administration.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="module")
def connection(engine: sqlalchemy.Engine) -> Iterator[Connection]:
    """A transaction that is rolled back after the module; tests keep to keys of their own."""
    with engine.connect() as connection:
        yield connection


def lead(number: int, **values: Any) -> dict[str, Any]:
    row = dict.fromkeys(str(column.name) for column in bison_lead.columns)
    return row | {"partition_key": "p", "lead_id": number, "known": True} | values


def landed(connection: Connection) -> list[tuple[int, str | None]]:
    rows = connection.execute(text("SELECT lead_id, email FROM backfill.bison_lead ORDER BY lead_id"))
    return [(row.lead_id, row.email) for row in rows]


# --- text ------------------------------------------------------------------------------------------------------------


@given(value=ANY_TEXT)
def test_text_made_storable_can_be_stored_and_comes_back_the_same(connection: Connection, value: str) -> None:
    storable = storable_text(value)
    assert storable is not None
    assert connection.scalar(text("SELECT CAST(:value AS text)"), {"value": storable}) == storable
    # As one value of a JSON document, too: that is how pages and plan rows travel.
    land_rows(connection, bison_lead, [lead(1, email=storable)])
    assert connection.scalar(text("SELECT email FROM backfill.bison_lead")) == storable


@given(value=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40))
def test_text_that_can_be_stored_is_left_as_it_is(value: str) -> None:
    assert storable_text(value) == value


@given(value=ANY_TEXT)
def test_only_what_cannot_be_stored_is_replaced(value: str) -> None:
    expected = "".join(
        "?" if "\ud800" <= character <= "\udfff" else character for character in value if character != "\x00"
    )
    assert storable_text(value) == expected


@pytest.mark.parametrize("value", [None, 5, b"bytes", ["text"], {"a": "b"}, True])
def test_what_is_no_text_becomes_nothing(value: object) -> None:
    assert storable_text(value) is None


# --- landing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty(connection: Connection) -> Connection:
    connection.execute(text("DELETE FROM backfill.bison_lead"))
    connection.execute(text("DELETE FROM backfill.bison_reply"))
    return connection


def test_landed_rows_are_there_with_their_types(empty: Connection) -> None:
    received = datetime(2024, 5, 1, 10, 0, 0, 123456, tzinfo=UTC)
    row = {
        "partition_key": "p",
        "reply_id": 2**62,
        "instance": "mail.example.com",
        "lead_id": None,
        "campaign_id": 7,
        "sender_email_id": None,
        "known": False,
        "date_received": received.isoformat(),
        "from_name": 'Ada "the Countess" \\ Lovelace\n',
        "from_email_address": "ada@example.com",
    }
    land_rows(empty, bison_reply, [row])
    (found,) = empty.execute(sqlalchemy.select(bison_reply)).mappings()
    assert dict(found) == row | {"date_received": received}


def test_landing_a_key_again_replaces_the_row(empty: Connection) -> None:
    land_rows(empty, bison_lead, [lead(1, email="old@example.com"), lead(2, email="b@example.com")])
    land_rows(empty, bison_lead, [lead(1, email="new@example.com")])
    assert landed(empty) == [(1, "new@example.com"), (2, "b@example.com")]


def test_of_equal_keys_in_one_page_the_last_stays(empty: Connection) -> None:
    land_rows(empty, bison_lead, [lead(1, email="a@example.com"), lead(2), lead(1, email="z@example.com")])
    assert landed(empty) == [(1, "z@example.com"), (2, None)]


def test_an_empty_page_lands_nothing(empty: Connection) -> None:
    land_rows(empty, bison_lead, [])
    assert landed(empty) == []


# --- COPY and streams ------------------------------------------------------------------------------------------------


def test_copied_rows_are_counted_and_there(empty: Connection) -> None:
    rows = ((f"p{number}", number, True, None, 'tab\tand "quote" and \\N') for number in range(3))
    columns = ("partition_key", "lead_id", "known", "email", "company")
    assert copy_rows(empty, table=("backfill", "bison_lead"), columns=columns, rows=rows) == 3
    companies = empty.scalars(text("SELECT company FROM backfill.bison_lead WHERE email IS NULL"))
    assert list(companies) == ['tab\tand "quote" and \\N'] * 3


def test_a_copy_whose_rows_end_in_an_error_leaves_nothing(engine: sqlalchemy.Engine) -> None:
    def rows() -> Iterator[tuple[Any, ...]]:
        yield ("other", 1, True)
        raise ArithmeticError

    columns = ("partition_key", "lead_id", "known")
    with pytest.raises(ArithmeticError), engine.begin() as connection:
        copy_rows(connection, table=("backfill", "bison_lead"), columns=columns, rows=rows())
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM backfill.bison_lead")) == 0


def test_a_stream_yields_every_row_in_blocks(empty: Connection) -> None:
    names, blocks = stream_columns(
        empty, sql.SQL("SELECT n, n %% 7 AS rest FROM generate_series(1, %s) AS n ORDER BY n"), [25_000]
    )
    sizes, last = [], None
    for block in blocks:
        sizes.append(len(block))
        last = block[-1]
    assert (names, sizes, last) == (["n", "rest"], [2_000] * 12 + [1_000], (25_000, 25_000 % 7))


def test_a_stream_of_nothing_has_its_names_all_the_same(empty: Connection) -> None:
    names, blocks = stream_columns(empty, sql.SQL("SELECT 1 AS a, 2 AS b WHERE %s"), [False])
    assert (names, list(blocks)) == (["a", "b"], [])


def test_two_streams_follow_each_other_on_one_connection(empty: Connection) -> None:
    for _ in range(2):
        _, blocks = stream_columns(empty, sql.SQL("SELECT generate_series(1, %s)"), [3])
        assert [row for block in blocks for row in block] == [(1,), (2,), (3,)]


def test_another_driver_is_refused(tmp_path: Any) -> None:
    with (
        sqlalchemy.create_engine(f"sqlite:///{tmp_path}/x.db").connect() as connection,
        pytest.raises(TypeError, match="psycopg 3"),
    ):
        driver_connection(connection)
