"""Databases for tests: one server for all workers of a test session, one fresh database for each test that asks.

Belongs here: fixtures that tests of more than one folder use. Does not belong here: data.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import sqlalchemy
from pydantic import SecretStr

from backfill_pipelines.database.cluster_account import account_for
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.schema import upgrade_schema

TEMPLATE_DATABASE = "backfill_template"


def open_to_server(folder: Path) -> None:
    """Let the server enter pytest's private folders where it has to run as `nobody`: as root, in most containers."""
    if account_for(folder).user is not None:
        for private in (folder, *folder.parents):
            if private.stat().st_mode & 0o077 == 0 and private.stat().st_uid == os.geteuid():
                private.chmod(0o711)


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server whose data nobody keeps: it does not wait for the disk."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each worker has a folder of its own below the session's
    open_to_server(folder)
    with EmbeddedServer.start(folder / "postgres", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def administration(embedded_server: EmbeddedServer) -> Iterator[sqlalchemy.Engine]:
    """An engine on the server's own database, outside transactions: for CREATE and DROP DATABASE."""
    engine = create_database_engine(embedded_server.url("postgres")).execution_options(isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def template_database(embedded_server: EmbeddedServer, administration: sqlalchemy.Engine) -> str:
    """The name of a database with the schema `backfill`, made by whichever worker comes first.

    A test's own database is a copy of it: 19 ms instead of the migrations.
    """
    with administration.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(1)"))
        name = {"name": TEMPLATE_DATABASE}
        try:
            if connection.scalar(sqlalchemy.text("SELECT 1 FROM pg_database WHERE datname = :name"), name) is None:
                engine = create_database_engine(embedded_server.ensure_database("backfill_unfinished"))
                upgrade_schema(engine)
                engine.dispose()  # a template must have no connection
                connection.execute(sqlalchemy.text(f"ALTER DATABASE backfill_unfinished RENAME TO {TEMPLATE_DATABASE}"))
        finally:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(1)"))
    return TEMPLATE_DATABASE


@pytest.fixture
def database_url(
    embedded_server: EmbeddedServer, administration: sqlalchemy.Engine, template_database: str
) -> Iterator[SecretStr]:
    """A fresh database with the schema `backfill`, dropped after the test even if something still uses it."""
    name = f"test_{uuid.uuid4().hex}"
    with administration.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY file_copy"))
    yield embedded_server.url(name)
    with administration.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def database(database_url: SecretStr) -> Iterator[sqlalchemy.Engine]:
    """An engine on this test's own database."""
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def product_tables(database: sqlalchemy.Engine) -> sqlalchemy.Engine:
    """The same database with the product's tables as a typical user has them."""
    script = resources.files("backfill_pipelines.sandbox").joinpath("product_schema.sql").read_text(encoding="utf-8")
    with database.begin() as connection:
        # Without parameters the driver sends the script as it is, all its statements at once.
        connection.execution_options(no_parameters=True).exec_driver_sql(script)
    return database
