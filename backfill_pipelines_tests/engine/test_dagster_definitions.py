"""The code location as Dagster's own commands find it in a fresh checkout, with no variable set."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy.exc import ProgrammingError
from tenacity import wait_none

from backfill_pipelines.command_line.services import PROJECT_FOLDER
from backfill_pipelines.database.cluster_files import ClusterFiles
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.definitions import all_backfills, build_defs
from backfill_pipelines.engine import dagster_storage
from backfill_pipelines.engine.dagster_adapter import job_name
from backfill_pipelines.engine.dagster_maintenance import UndoConfig
from backfill_pipelines_tests.conftest import open_to_server

LONG_ENOUGH = 100.0
NOTHING_SET = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
COMMANDS = {
    "dg check defs": ["dg", "check", "defs"],
    "dg list defs": ["dg", "list", "defs", "--json"],
    "dagster definitions validate": ["dagster", "definitions", "validate"],
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a checkout has at its root; the package is installed."""
    folder = tmp_path_factory.mktemp("checkout")
    open_to_server(folder)
    for name in ("pyproject.toml", "dagster.yaml", "workspace.yaml"):
        (folder / name).write_bytes((PROJECT_FOLDER / name).read_bytes())
    (folder / "backfill_pipelines").symlink_to(PROJECT_FOLDER / "backfill_pipelines")
    return folder


@pytest.fixture(scope="module")
def answers(checkout: Path) -> Mapping[str, tuple[int, str, str]]:
    """Exit code, stdout and stderr of each of Dagster's commands, run side by side without any variable of ours."""
    scripts = Path(sys.executable).parent
    started = {
        name: subprocess.Popen(
            [scripts / command[0], *command[1:]],
            cwd=checkout,
            env=NOTHING_SET,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, command in COMMANDS.items()
    }
    found = {}
    for name, process in started.items():
        try:
            stdout, stderr = process.communicate(timeout=LONG_ENOUGH)
        finally:
            process.kill()
        found[name] = (process.returncode, stdout, stderr)
    return found


def test_importing_the_definitions_needs_no_variable_no_file_and_no_network(tmp_path: Path) -> None:
    script = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('the network was touched')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from backfill_pipelines.definitions import defs\n"
        "defs.get_repository_def().load_all_definitions()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG_ENOUGH,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_dagsters_own_commands_find_the_definitions_without_any_variable(
    answers: Mapping[str, tuple[int, str, str]], name: str
) -> None:
    code, stdout, stderr = answers[name]
    assert code == 0, stdout + stderr


def test_dg_lists_what_the_definitions_hold(answers: Mapping[str, tuple[int, str, str]]) -> None:
    listed = json.loads(answers["dg list defs"][1])
    definitions = build_defs()
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    assert {entry["asset_key"] for entry in listed["assets"]} == keys
    assert {entry["name"] for entry in listed["asset_checks"]} == {"source_equals_target"}
    jobs = {"undo", "verify", "registry_sync", "retention", "customers_merge", "customers_split"}
    jobs |= {*(job_name(backfill) for backfill in all_backfills())}
    assert {entry["name"] for entry in listed["jobs"]} == jobs


def test_dagsters_own_commands_stop_the_embedded_server_behind_them(
    answers: Mapping[str, tuple[int, str, str]], checkout: Path
) -> None:
    del answers
    files = ClusterFiles((checkout / ".backfill" / "postgres").resolve())
    assert files.data.exists()
    assert not files.server_lives()


def test_every_schedule_stands_still_and_its_job_exists() -> None:
    definitions = build_defs()
    schedules = [each for each in definitions.schedules or [] if isinstance(each, dg.ScheduleDefinition)]
    assert len(schedules) == len(all_backfills())
    for schedule in schedules:
        assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
        assert definitions.resolve_job_def(schedule.job_name).name == schedule.job_name


def test_nothing_writes_by_default() -> None:
    """Where a person forgets to configure a job, it must do the harmless thing."""
    assert UndoConfig(run_id="any").dry_run is True
    assert UndoConfig.model_fields["run_id"].is_required()
    for backfill in all_backfills():
        assert not any(value is True for value in backfill.options_model().model_dump().values())


# --- where Dagster keeps its runs ------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that storages were opened with, none of which is connected to."""
    urls: list[str] = []

    def note(_: object, *, postgres_url: str, inst_data: object) -> None:
        urls.append(postgres_url)

    monkeypatch.setattr(DagsterPostgresStorage, "__init__", note)
    return urls


def storage() -> Any:
    """What `dagster.yaml` says the storage is."""
    configured = yaml.safe_load((PROJECT_FOLDER / "dagster.yaml").read_text(encoding="utf-8"))["storage"]["custom"]
    assert configured["module"] == dagster_storage.__name__
    return getattr(dagster_storage, configured["class"])


@pytest.mark.parametrize(
    "pasted",
    [
        "postgres://someone:secret@db.example.com:6543/dagster",
        "postgresql://someone:secret@db.example.com:6543/dagster",
        "postgresql+psycopg://someone:secret@db.example.com:6543/dagster?pgbouncer=true",
        " postgresql+psycopg2://someone:secret@db.example.com:6543/dagster\n",
    ],
)
def test_the_variable_names_the_storage_in_whatever_spelling(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, pasted: str
) -> None:
    """A bare `postgresql://` is psycopg 3 to SQLAlchemy 2.1, with which dagster-postgres fails at its first event."""
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", pasted)
    storage().from_config_value(None, {})
    assert opened == ["postgresql+psycopg2://someone:secret@db.example.com:6543/dagster"]


def test_without_the_variable_the_storage_is_a_database_of_the_embedded_server(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, embedded_server: EmbeddedServer
) -> None:
    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)
    monkeypatch.setattr(dagster_storage, "embedded_server", lambda *_: embedded_server)
    monkeypatch.setattr(atexit, "register", lambda _: None)
    storage().from_config_value(None, {})
    (url,) = opened
    assert url.startswith("postgresql+psycopg2://postgres@/dagster?host=")


@pytest.mark.parametrize(
    ("pgcode", "tries"),
    [("42710", 3), ("42P07", 3), ("23505", 3), ("42501", 1)],
    ids=["type", "table", "row", "rights"],
)
def test_two_processes_may_make_dagsters_tables_in_the_same_moment(
    monkeypatch: pytest.MonkeyPatch, pgcode: str, tries: int
) -> None:
    tried: list[str] = []

    class RefusalError(Exception):
        pass

    RefusalError.pgcode = pgcode  # type: ignore[attr-defined]

    def make(_: object, *, postgres_url: str, inst_data: object) -> None:
        tried.append(postgres_url)
        if len(tried) < 3:
            raise ProgrammingError("CREATE TABLE", {}, RefusalError())

    monkeypatch.setattr(DagsterPostgresStorage, "__init__", make)
    monkeypatch.setattr(dagster_storage, "_PAUSE", wait_none())
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://dagster@localhost/dagster")
    with nullcontext() if tries == 3 else pytest.raises(ProgrammingError):
        dagster_storage.EnvironmentStorage.from_config_value(None, {})
    assert len(tried) == tries
