"""What becomes of an exception: a code and one sentence, and never a value of the row that it is about."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.database.bulk import copy_rows, driver_connection
from backfill_pipelines.engine.partition_run import as_backfill_error
from backfill_pipelines.errors import DataError, ErrorCategory

CANARY = "canary-7f3a@example.com"


def caught_from(engine: sqlalchemy.Engine, statement: str) -> Exception:
    """What SQLAlchemy raises for a statement."""
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    except DBAPIError as error:
        return error
    raise AssertionError("nothing was raised")


def test_an_error_of_ours_is_told_as_it_is() -> None:
    error = DataError("foreign_rows", "Not ours.")
    assert as_backfill_error(error) is error


def test_a_refused_statement_is_a_defect_told_by_its_code_alone(emptied: sqlalchemy.Engine) -> None:
    error = as_backfill_error(caught_from(emptied, f"SELECT CAST('{CANARY}' AS int)"))
    assert (error.code, error.category) == ("internal_error", ErrorCategory.INTERNAL)
    assert "22P02" in error.message
    assert CANARY not in error.message


def test_a_refused_row_of_a_copy_is_told_by_its_code_alone(emptied: sqlalchemy.Engine) -> None:
    # The driver itself raises this one, with the row in its text.
    columns = ("partition_key", "lead_id", "known")
    with pytest.raises(psycopg.Error) as caught, emptied.begin() as connection:
        copy_rows(connection, table=("backfill", "bison_lead"), columns=columns, rows=[("kim", CANARY, True)])
    assert CANARY in str(caught.value)
    error = as_backfill_error(caught.value)
    assert error.code == "internal_error"
    assert "22P02" in error.message
    assert CANARY not in error.message


def test_a_statement_that_cannot_be_sent_is_a_defect_and_not_a_database_that_went_away(
    emptied: sqlalchemy.Engine,
) -> None:
    with pytest.raises(psycopg.Error) as caught, emptied.connect() as connection:
        driver_connection(connection).execute("SELECT %s", [CANARY, CANARY])
    assert as_backfill_error(caught.value).category is ErrorCategory.INTERNAL


@pytest.mark.parametrize("through_sqlalchemy", [True, False])
def test_a_connection_that_was_cut_may_be_back(emptied: sqlalchemy.Engine, through_sqlalchemy: bool) -> None:
    engine = sqlalchemy.create_engine(emptied.url)
    connection = engine.connect()
    driver = driver_connection(connection)
    with emptied.connect() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": driver.info.backend_pid})
    with pytest.raises((DBAPIError, psycopg.Error)) as caught:
        connection.execute(text("SELECT 1")) if through_sqlalchemy else driver.execute("SELECT 1")
    engine.dispose()
    error = as_backfill_error(caught.value)
    assert (error.code, error.category) == ("database_unavailable", ErrorCategory.TRANSIENT)


def test_a_database_that_does_not_answer_may_be_back() -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://nobody:canary@127.0.0.1:1/none")
    error = as_backfill_error(caught_from(engine, "SELECT 1"))
    assert (error.code, error.category) == ("database_unavailable", ErrorCategory.TRANSIENT)
    assert "canary" not in error.message


def test_a_pool_without_a_free_connection_may_have_one_later(emptied: sqlalchemy.Engine) -> None:
    engine = sqlalchemy.create_engine(emptied.url, pool_size=1, max_overflow=0, pool_timeout=0)
    with engine.connect(), pytest.raises(sqlalchemy.exc.TimeoutError) as caught:
        engine.connect()
    engine.dispose()
    error = as_backfill_error(caught.value)
    assert (error.code, error.category) == ("database_unavailable", ErrorCategory.TRANSIENT)


def test_a_defect_names_the_line_of_ours_that_it_came_through() -> None:
    try:
        driver_connection(None)  # type: ignore[arg-type]
    except AttributeError as error:
        told = as_backfill_error(error)
    assert "AttributeError at database/bulk.py:" in told.message


def test_a_defect_outside_of_our_code_names_no_path_of_the_machine() -> None:
    try:
        int(CANARY)
    except ValueError as error:
        told = as_backfill_error(error)
    assert "ValueError at unknown place" in told.message
    assert "/" not in told.message
