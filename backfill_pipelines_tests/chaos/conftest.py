"""A user's installation for each test, and what an undisturbed run leaves in it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.sandbox.product_schema import product_schema_sql
from backfill_pipelines_tests.backfills.agency import AMBER, succeeded
from backfill_pipelines_tests.chaos.aftermath import client_leads_of
from backfill_pipelines_tests.installation import Installation
from backfill_pipelines_tests.installation_fixtures import dagster_storage, installation, running_sandbox

__all__ = ["dagster_storage", "installation", "running_sandbox", "undisturbed"]


@pytest.fixture
def undisturbed(
    installation: Installation,
    embedded_server: EmbeddedServer,
    administration: sqlalchemy.Engine,
    template_database: str,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of AMBER after a run that nobody disturbs, in a database of its own."""
    name = f"undisturbed_{uuid.uuid4().hex}"
    with administration.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY file_copy"))
    url = embedded_server.url(name)
    engine = create_database_engine(url)
    try:
        with engine.begin() as connection:
            connection.execution_options(no_parameters=True).exec_driver_sql(product_schema_sql())
        agency = replace(installation.agency, database=engine, database_url=url)
        assert succeeded([agency.run(AMBER)])
        rows = client_leads_of(agency, AMBER)
        assert agency.rows(AMBER) == agency.oracle(AMBER)
        installation.agency.server.reset()  # its requests are none of the test's
        yield rows
    finally:
        engine.dispose()
        with administration.connect() as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
