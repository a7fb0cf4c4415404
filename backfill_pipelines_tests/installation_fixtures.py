"""Fixtures around `installation.py`, for the folders whose tests call the command.

Belongs here: what is opened once for many tests. Does not belong here: databases in general (`conftest.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
from pydantic import SecretStr

from backfill_pipelines.command_line.services import PROJECT_FOLDER
from backfill_pipelines.database.connection import dagster_database_url
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.engine import partition_run
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.vendors import email_bison
from backfill_pipelines.vendors.transport import RetryPolicy
from backfill_pipelines_tests.backfills.agency import UNHURRIED
from backfill_pipelines_tests.installation import Installation, make_installation


@pytest.fixture(scope="session")
def dagster_storage(
    embedded_server: EmbeddedServer, administration: sqlalchemy.Engine, tmp_path_factory: pytest.TempPathFactory
) -> SecretStr:
    """The URL of Dagster's own database, one for all tests of a session, made by whichever worker comes first."""
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_bytes((PROJECT_FOLDER / "dagster.yaml").read_bytes())
    with administration.connect() as connection, pytest.MonkeyPatch.context() as patch:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(2)"))
        try:
            url = dagster_database_url(embedded_server.ensure_database("dagster").get_secret_value())
            patch.setenv("DAGSTER_POSTGRES_URL", url)
            with dg.DagsterInstance.from_config(str(home)):
                pass  # opening it makes its tables
        finally:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(2)"))
    return SecretStr(url)


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[tuple[EmailBisonSandbox, SandboxServer]]:
    world = build_email_bison_world(seed=7, clients=5, interested_replies=[100, 40, 31, 20, 3])
    bison = EmailBisonSandbox(world, rate_limit=UNHURRIED)
    with SandboxServer([bison]) as server:
        yield bison, server


@pytest.fixture
def installation(  # noqa: PLR0917 - fixtures have no keywords
    running_sandbox: tuple[EmailBisonSandbox, SandboxServer],
    product_tables: sqlalchemy.Engine,
    database_url: SecretStr,
    dagster_storage: SecretStr,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Installation]:
    """A user's folder with a registry of five clients, the product's tables and nothing in them."""
    monkeypatch.setattr(partition_run, "RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.setattr(email_bison, "RetryPolicy", partial(RetryPolicy, base_seconds=0.001))
    bison, server = running_sandbox
    server.reset()
    made = make_installation(
        bison=bison,
        server=server,
        database=product_tables,
        database_url=database_url,
        dagster_storage=dagster_storage,
        folder=tmp_path,
        capture=capfd,
    )
    yield made
    made.close()
