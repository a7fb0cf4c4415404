"""The database goes away under a run: its sessions are cut, or the embedded server's postmaster is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.sandbox.product_schema import product_schema_sql
from backfill_pipelines_tests.backfills.agency import AMBER
from backfill_pipelines_tests.chaos.aftermath import check_as_if_undisturbed
from backfill_pipelines_tests.chaos.gate import gate
from backfill_pipelines_tests.conftest import open_to_server
from backfill_pipelines_tests.installation import Installation, Variation

RUN = ("run", "client_leads", "--client", AMBER, "--json")
Rows = list[dict[str, Any]]


@pytest.fixture
def self_contained(installation: Installation, tmp_path: Path) -> Iterator[Installation]:
    """An installation that brings its own server, in a home with spaces in its name, and no variable for a database."""
    home = tmp_path / "a home with spaces"
    home.mkdir()
    open_to_server(home)
    environ = {name: value for name, value in installation.environ.items() if not name.endswith("_URL")}
    with EmbeddedServer.start(home / "postgres") as server:
        url = server.ensure_database("product")
        engine = create_database_engine(url)
        upgrade_schema(engine)
        with engine.begin() as connection:
            connection.execution_options(no_parameters=True).exec_driver_sql(product_schema_sql())
        agency = replace(installation.agency, database=engine, database_url=url)
        yield replace(installation, agency=agency, environ={**environ, "BACKFILL_HOME": str(home)})
        engine.dispose()


def test_the_embedded_servers_postmaster_is_killed_and_the_next_run_goes_on(
    self_contained: Installation, undisturbed: Rows
) -> None:
    agency = self_contained.agency
    postmaster = int((self_contained.folder / "a home with spaces/postgres/postmaster.pid").read_text().split()[0])
    loaded = "(SELECT count(*) FROM client_leads) >= 10"
    with gate(agency.database, before="INSERT", of="client_leads", when=loaded) as shut:
        running = self_contained.start(*RUN, variation=Variation(batch_rows=5))
        shut.wait_until_reached()
        os.kill(postmaster, signal.SIGKILL)
        ended = running.ended()
    assert ended.exit_code == 1
    assert ended.document["error_code"] == "database_unavailable"
    done = self_contained(*RUN)
    check_as_if_undisturbed(self_contained, done, undisturbed)


def test_a_run_whose_sessions_are_cut_has_lost_its_lock_and_the_next_one_goes_on(
    installation: Installation, undisturbed: Rows
) -> None:
    """As a restart of a managed database, or of its pooler, does it."""
    agency = installation.agency
    loaded = "(SELECT count(*) FROM client_leads) >= 10"
    with gate(agency.database, before="INSERT", of="client_leads", when=loaded) as shut:
        running = installation.start(*RUN, variation=Variation(batch_rows=5))
        shut.wait_until_reached()
        agency.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name <> 'gate' AND pid <> pg_backend_pid()"
        )
        ended = running.ended()
    stopped = ended.partitions[AMBER]
    assert (ended.exit_code, stopped["state"], stopped["error_code"]) == (1, "failed", "lock_lost")
    assert agency.written() == 10
    done = installation(*RUN)
    assert done.partitions[AMBER]["run_id"] == stopped["run_id"]
    check_as_if_undisturbed(installation, done, undisturbed)
