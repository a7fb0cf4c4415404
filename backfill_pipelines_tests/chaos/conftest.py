"""A user's installation for each test, and what an undisturbed run leaves in one."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.product_schema import product_schema_sql
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines_tests.backfills.agency import AMBER, Agency, succeeded
from backfill_pipelines_tests.chaos.aftermath import client_leads_of
from backfill_pipelines_tests.installation_fixtures import dagster_storage, installation, running_sandbox

__all__ = ["dagster_storage", "installation", "running_sandbox", "undisturbed"]


@pytest.fixture(scope="session")
def undisturbed(
    running_sandbox: tuple[EmailBisonSandbox, SandboxServer],
    embedded_server: EmbeddedServer,
    administration: sqlalchemy.Engine,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """The rows of AMBER after a run that nobody disturbs, in a database of its own."""
    bison, server = running_sandbox
    server.reset()
    name = f"undisturbed_{uuid.uuid4().hex}"
    with administration.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY file_copy"))
    url = embedded_server.url(name)
    engine = create_database_engine(url)
    with engine.begin() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(product_schema_sql())
    agency = Agency(
        bison=bison, server=server, database=engine, database_url=url, folder=tmp_path_factory.mktemp("undisturbed")
    )
    assert succeeded([agency.run(AMBER)])
    assert agency.rows(AMBER) == agency.oracle(AMBER)
    rows = client_leads_of(agency, AMBER)
    engine.dispose()
    server.reset()  # its requests are no test's
    return rows
