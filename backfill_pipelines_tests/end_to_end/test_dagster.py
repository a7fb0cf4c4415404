"""The main job from the Dagster UI: six clients, one of which fails, is run again alone, and nothing personal is shown.

One story, played once by the fixture `story` with webserver, daemon and run workers as processes of their own (the
daemon looks for backfills every 30 seconds: what has to wait for it waits together); each test looks at a part of it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines_tests.backfills.agency import UNHURRIED, Agency
from backfill_pipelines_tests.canaries import canaries_of, found_in
from backfill_pipelines_tests.conftest import open_to_server
from backfill_pipelines_tests.end_to_end.dagster_ui import (
    ALL,
    CHECK,
    PLAN,
    SOURCE,
    TARGET,
    DagsterUi,
    ShownRun,
    kill,
    running_ui,
    shown_text,
    wait_until,
)

SIZES = [12, 9, 8, 7, 6, 5, 14, 40, 5, 40]
SLOW_SECONDS = 1.0


@dataclass
class Stage:
    """The agency that the UI works for."""

    agency: Agency
    dagster_storage: sqlalchemy.Engine
    output: Path

    @property
    def keys(self) -> list[str]:
        return self.agency.bison.state.world.client_keys()

    def instance_of(self, key: str) -> str:
        return self.agency.bison.state.world.client(key)[0].name

    def ledger(self, key: str) -> list[dict[str, Any]]:
        """The runs of a partition, oldest first."""
        return self.agency.query("SELECT * FROM backfill.run WHERE partition_key = :key ORDER BY started_at", key=key)

    def slow_down(self, key: str) -> None:
        self.agency.server.add_faults([{"kind": "latency", "seconds": SLOW_SECONDS, "workspace": key}])

    def wait_for_pages(self, key: str) -> None:
        """Wait until a client's extraction is under way: some of it is landed."""
        wait_until(lambda: bool(self.agency.landed(key)), f"pages of {key}")


@dataclass(kw_only=True)
class Story:
    """What happened, in this order."""

    six: list[str]
    failing: str
    first_backfill: str
    dry_run: ShownRun
    written_by_dry_run: int
    load_of_plan: ShownRun
    first: list[ShownRun]
    partitions_after_first: dict[str, set[str]]
    written_after_first: dict[str, int]
    requests_before_second: int
    again: list[ShownRun]
    partitions_after_again: dict[str, set[str]]
    check_alone: ShownRun
    stopped: ShownRun
    ledger_when_stopped: dict[str, Any]
    resumed: ShownRun
    killed: ShownRun
    retried: ShownRun
    undone: ShownRun


@pytest.fixture(scope="module")
def stage(
    embedded_server: EmbeddedServer,
    administration: sqlalchemy.Engine,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    """Ten clients, the product's tables, and a database for Dagster."""
    folder = tmp_path_factory.mktemp("ui")
    open_to_server(folder)
    name = f"ui_{uuid.uuid4().hex}"
    with administration.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY file_copy"))
    url, storage_url = embedded_server.url(name), embedded_server.ensure_database(f"{name}_dagster")
    engine, storage = create_database_engine(url), create_database_engine(storage_url)
    script = resources.files("backfill_pipelines.sandbox").joinpath("product_schema.sql").read_text(encoding="utf-8")
    with engine.begin() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(script)
    bison = EmailBisonSandbox(
        build_email_bison_world(seed=11, clients=len(SIZES), interested_replies=SIZES), rate_limit=UNHURRIED
    )
    with SandboxServer([bison]) as server:
        agency = Agency(bison=bison, server=server, database=engine, database_url=url, folder=folder)
        agency.registry()
        yield Stage(agency, storage, folder / "output")
    engine.dispose()
    storage.dispose()
    with administration.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name}_dagster WITH (FORCE)"))


@pytest.fixture(scope="module")
def ui(stage: Stage) -> Iterator[DagsterUi]:
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environ |= {
        "BACKFILL_HOME": str(stage.agency.folder / "home"),
        "BACKFILL_CLIENTS": str(stage.agency.folder / "clients.yaml"),
        "DATABASE_URL": stage.agency.database_url.get_secret_value(),
        "DAGSTER_POSTGRES_URL": stage.dagster_storage.url.render_as_string(hide_password=False),
    }
    with running_ui(stage.agency.folder, environ) as running:
        yield running


@pytest.fixture(scope="module")
def story(ui: DagsterUi, stage: Stage) -> Story:
    """Play it. Clients: six for the backfill, then one each to plan, to stop, and two in a run that is killed."""
    agency, server = stage.agency, stage.agency.server
    six, (planned, stopped, quick, killed) = stage.keys[:6], stage.keys[6:]
    failing = six[2]
    server.add_faults([{"kind": "expired_token", "workspace": failing}])

    # While the daemon has not looked for the backfill yet: a dry run, then its plan.
    first_backfill = ui.launch_backfill(six)
    dry_run = ui.ended(ui.launch_run(assets=(SOURCE, PLAN), partitions=[planned]))
    written_by_dry_run = len(agency.rows(planned))
    first = ui.runs_of_backfill(first_backfill)
    partitions_after_first = ui.partitions()
    written_after_first = {key: len(agency.rows(key)) for key in six}
    server.clear_faults()
    # Only now: the check of the first run counts every partition that was compared before it.
    load_of_plan = ui.launch_run(assets=[TARGET], partitions=[planned])

    # What "failed and missing" launches, and, while it waits for the daemon, everything that waits for nothing.
    requests_before_second = len(server.requests)
    failed = sorted((partitions_after_first["failed"] | partitions_after_first["missing"]) & set(six))
    second_backfill = ui.launch_backfill(failed)
    loaded = ui.ended(load_of_plan)
    stage.slow_down(stopped)
    stage.slow_down(killed)
    to_stop = ui.launch_run(assets=ALL, partitions=[stopped], checks=[CHECK])
    to_kill = ui.launch_run(assets=ALL, partitions=[quick, killed], checks=[CHECK])
    stage.wait_for_pages(stopped)
    ui.terminate(to_stop)
    stopped_run = ui.ended(to_stop)
    (ledger_when_stopped,) = stage.ledger(stopped)
    wait_until(lambda: quick in ui.run(to_kill).materialized(), f"the materialization of {quick}")
    stage.wait_for_pages(killed)
    kill(ui.run(to_kill).process_id())
    killed_run = ui.ended(to_kill)
    server.clear_faults()
    resumed = ui.launch_run(assets=ALL, partitions=[planned, stopped], checks=[CHECK])
    retried = ui.retry_of(to_kill)
    again = ui.runs_of_backfill(second_backfill)
    partitions_after_again = ui.partitions()
    resumed_run, retried_run = ui.ended(resumed), ui.ended(retried)
    check_alone = ui.launch_run(checks=[CHECK])
    undo = {"ops": {"undo_run": {"config": {"run_id": load_of_plan, "dry_run": False}}}}
    undone = ui.launch_run(job="undo", config=undo)
    return Story(
        six=six,
        failing=failing,
        first_backfill=first_backfill,
        dry_run=dry_run,
        written_by_dry_run=written_by_dry_run,
        load_of_plan=loaded,
        first=first,
        partitions_after_first=partitions_after_first,
        written_after_first=written_after_first,
        requests_before_second=requests_before_second,
        again=again,
        partitions_after_again=partitions_after_again,
        check_alone=ui.ended(check_alone),
        stopped=stopped_run,
        ledger_when_stopped=ledger_when_stopped,
        resumed=resumed_run,
        killed=killed_run,
        retried=retried_run,
        undone=ui.ended(undone),
    )


def test_five_of_six_clients_are_materialized_and_the_failed_one_is_named(story: Story, stage: Stage) -> None:
    others = set(story.six) - {story.failing}
    assert story.partitions_after_first["materialized"] & set(story.six) == others
    assert story.partitions_after_first["failed"] == {story.failing}
    (run,) = story.first
    assert run.status == "FAILURE"
    for asset in ALL:
        assert run.materialized(asset) == sorted(others)
    failures = [event for event in run.events if event["__typename"] == "ExecutionStepFailureEvent"]
    (told,) = (event["failureMetadata"]["metadataEntries"] for event in failures)
    assert [entry["label"] for entry in told] == [story.failing]
    assert f"1 of 6 partitions did not finish: {story.failing} (unauthorized)." in str(failures)
    assert story.written_after_first == {
        key: 0 if key == story.failing else len(stage.agency.oracle(key)) for key in story.six
    }


def test_the_failed_client_alone_is_run_again_and_then_all_six_are_materialized(story: Story, stage: Stage) -> None:
    (run,) = story.again
    assert run.status == "SUCCESS"
    for asset in ALL:
        assert run.materialized(asset) == [story.failing]
    assert story.partitions_after_again["materialized"] >= set(story.six)
    assert story.partitions_after_again["failed"] & set(story.six) == set()
    asked = {request.call.client for request in stage.agency.server.requests[story.requests_before_second :]}
    assert asked & set(story.six[1:]) == {story.failing}
    for key in story.six:
        assert stage.agency.rows(key) == stage.agency.oracle(key)


def test_the_backfill_ends_as_failed(story: Story, ui: DagsterUi) -> None:
    wait_until(lambda: ui.backfill(story.first_backfill)["status"] != "FAILING", "the daemon's next look")
    wait_until(lambda: ui.backfill(story.first_backfill)["status"] != "REQUESTED", "the daemon's next look")
    assert ui.backfill(story.first_backfill)["status"] == "COMPLETED_FAILED"


def test_each_partition_shows_its_counts_and_source_against_target(story: Story, stage: Stage) -> None:
    (run,) = story.first
    for key in run.materialized():
        rows = len(stage.agency.oracle(key))
        shown = run.metadata(key)
        assert (shown["rows"], shown["verified"]) == (rows, True)
        # The lists of the client whose token has expired cannot be read, which weakens its neighbours' proof.
        neighbours = stage.instance_of(key) == stage.instance_of(story.failing)
        assert shown["warnings"] == ("proof_partial" if neighbours else "none")
        assert f"| create | {rows} |" in shown["counts"]
        assert f"| applied | {rows} |" in shown["counts"]
        assert f"| equal | {rows} |\n| missing | 0 |" in shown["source vs target"]
        assert run.metadata(key, SOURCE)["rows"] == len(stage.agency.landed(key))
        assert run.metadata(key, PLAN)["plan_hash"] == shown["plan_hash"]


def test_the_check_counts_the_partitions_that_are_equal(story: Story) -> None:
    (first,), (again,) = story.first, story.again
    assert first.check()[:2] == (True, "5 of 5 partitions are equal.")
    assert again.check()[0]
    passed, words, shown = story.check_alone.check()
    assert (passed, words) == (True, "10 of 10 partitions are equal.")
    assert (shown["missing"], shown["partitions that differ"]) == (0, "none")
    assert story.check_alone.status == "SUCCESS"


def test_a_dry_run_writes_nothing_and_the_target_alone_then_loads_that_plan(story: Story, stage: Stage) -> None:
    planned = stage.keys[6]
    assert (story.dry_run.status, story.written_by_dry_run) == ("SUCCESS", 0)
    assert story.dry_run.materialized(PLAN) == [planned]
    assert story.dry_run.materialized(TARGET) == []
    assert story.load_of_plan.status == "SUCCESS"
    assert story.load_of_plan.materialized(SOURCE) == []
    hashes = story.dry_run.metadata(planned, PLAN)["plan_hash"], story.load_of_plan.metadata(planned)["plan_hash"]
    assert hashes[0] == hashes[1]
    assert story.load_of_plan.metadata(planned)["rows"] == story.dry_run.metadata(planned, PLAN)["rows"] > 0


def test_a_client_with_nothing_to_do_is_materialized_with_no_rows(story: Story, stage: Stage) -> None:
    key = stage.keys[6]  # loaded before, and in the range of the resumed run
    assert key in story.resumed.materialized()
    assert story.resumed.metadata(key)["rows"] == 0
    assert "| unchanged |" in story.resumed.metadata(key)["reasons"]


def test_a_run_that_is_terminated_stops_at_a_safe_point_and_the_next_one_goes_on(story: Story, stage: Stage) -> None:
    key = stage.keys[7]
    assert story.stopped.status == "CANCELED"
    assert story.stopped.materialized() == []
    found = story.ledger_when_stopped
    assert (found["state"], found["error_code"], found["resumable"]) == ("interrupted", "interrupted", True)
    assert story.resumed.status == "SUCCESS"
    assert key in story.resumed.materialized()
    (run,) = stage.ledger(key)
    assert (run["id"], run["state"]) == (found["id"], "succeeded")
    assert stage.agency.rows(key) == stage.agency.oracle(key)


def test_a_run_whose_process_is_killed_is_retried_and_does_only_what_is_left(story: Story, stage: Stage) -> None:
    quick, killed = stage.keys[8:]
    assert (story.killed.status, story.killed.materialized()) == ("FAILURE", [quick])
    assert (story.retried.status, story.retried.materialized()) == ("SUCCESS", [quick, killed])
    assert story.retried.tags["dagster/retry_number"] == "1"
    assert [run["state"] for run in stage.ledger(quick) + stage.ledger(killed)] == ["succeeded", "succeeded"]
    pages = stage.agency.reply_pages(quick)
    assert len(pages) == len(set(pages)), "the finished client was read once"
    for key in (quick, killed):
        assert stage.agency.rows(key) == stage.agency.oracle(key)


def test_a_run_is_undone_from_the_ui(story: Story, stage: Stage) -> None:
    assert story.undone.status == "SUCCESS"
    assert stage.agency.rows(stage.keys[6]) == {}


def test_nothing_personal_is_shown_stored_or_printed(story: Story, ui: DagsterUi, stage: Stage) -> None:
    """Neither over GraphQL nor in a table of Dagster's own database nor on the terminal."""
    del story
    shown = [*shown_text(ui.every_run()), *ui.seen]
    stored = everything_stored(stage.dagster_storage)
    printed = stage.output.read_text(encoding="utf-8")
    canaries = canaries_of(stage.agency.bison.state.world)
    for texts in (shown, stored, [printed]):
        assert found_in(texts, {"unauthorized", "applied"}) == {"unauthorized", "applied"}
        assert found_in(texts, canaries) == set()
    assert len(canaries) > 100


def everything_stored(storage: sqlalchemy.Engine) -> list[str]:
    """Every row of every table of a database, as text."""
    with storage.connect() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        return [
            str(row[0])
            for table in tables
            for row in connection.execute(sqlalchemy.text(f"SELECT t::text FROM {table} AS t"))
        ]
