"""Dagster runs of commands that have died: ended by the next one, and nobody else's with them."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import dagster as dg
import pytest
import sqlalchemy
from pydantic import SecretStr

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.locks import AdvisoryLocks
from backfill_pipelines.engine.dagster_orphans import end_orphaned_runs, own_runs


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def locks(database: sqlalchemy.Engine) -> Iterator[AdvisoryLocks]:
    with AdvisoryLocks(database) as opened:
        yield opened


def started(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    run = dg.DagsterRun(job_name="client_leads_job", run_id=str(uuid4()), status=dg.DagsterRunStatus.STARTED, tags=tags)
    return instance.add_run(run).run_id


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_runs_of_a_command_that_died_are_ended_and_the_daemon_does_not_retry_them(
    instance: dg.DagsterInstance, database: sqlalchemy.Engine, locks: AdvisoryLocks
) -> None:
    with AdvisoryLocks(database) as of_the_dead:
        tags = own_runs(of_the_dead)
        run_id = started(instance, tags)
        assert end_orphaned_runs(instance, locks) == [], "it lives"
    assert end_orphaned_runs(instance, locks) == [run_id]
    assert status(instance, run_id) is dg.DagsterRunStatus.FAILURE
    assert tags["dagster/max_retries"] == "0"
    assert end_orphaned_runs(instance, locks) == []


def test_our_own_runs_and_those_of_the_ui_are_left_alone(instance: dg.DagsterInstance, locks: AdvisoryLocks) -> None:
    ours, of_the_ui = started(instance, own_runs(locks)), started(instance, {})
    assert end_orphaned_runs(instance, locks) == []
    assert {status(instance, each) for each in (ours, of_the_ui)} == {dg.DagsterRunStatus.STARTED}


def test_a_command_that_works_on_another_database_is_left_alone(
    instance: dg.DagsterInstance, locks: AdvisoryLocks, embedded_server: EmbeddedServer
) -> None:
    """Dagster's storage may be one for several databases, and the locks of one do not show in the other."""
    url: SecretStr = embedded_server.ensure_database("another_product")
    engine = create_database_engine(url)
    with AdvisoryLocks(engine) as elsewhere:
        run_id = started(instance, own_runs(elsewhere))
        assert end_orphaned_runs(instance, locks) == []
        assert status(instance, run_id) is dg.DagsterRunStatus.STARTED
    engine.dispose()
