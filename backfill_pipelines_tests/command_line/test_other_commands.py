"""`backfill db`, `report`, `sandbox` and `demo` as a user calls them."""

from __future__ import annotations

import csv
import signal
import socket
from pathlib import Path

import httpx
import yaml

from backfill_pipelines_tests.backfills.agency import AMBER, CAFE
from backfill_pipelines_tests.chaos.gate import gate
from backfill_pipelines_tests.conftest import open_to_server
from backfill_pipelines_tests.installation import Installation


def test_db_upgrade_makes_the_schema_where_there_is_none(installation: Installation) -> None:
    installation.agency.execute("DROP SCHEMA backfill CASCADE")
    upgraded = installation("db", "upgrade", "--json")
    assert upgraded.exit_code == 0
    versions = [row["version_num"] for row in installation.agency.query("SELECT * FROM backfill.alembic_version")]
    assert upgraded.document == {"schema": "backfill", "version": versions[0]}
    assert installation("db", "upgrade").stdout == "The schema backfill is at its newest version.\n"


def test_db_url_is_what_psql_takes(installation: Installation) -> None:
    url = installation("db", "url")
    assert url.exit_code == 0
    assert url.stdout.startswith("postgresql://")
    assert installation("db", "url", "--json").document == {"url": url.stdout.strip(), "embedded": False}


def test_db_reset_asks_first_and_forgets_everything_but_the_users_tables(installation: Installation) -> None:
    agency = installation.agency
    installation("run", "client_leads", "--json", "--client", CAFE)
    written = agency.written()
    assert "add --yes" in installation.refused("not_confirmed", "db", "reset")
    assert len(agency.query("SELECT * FROM backfill.run")) == 1
    done = installation("db", "reset", "--yes", "--json")
    assert (done.exit_code, done.document["schema"]) == (0, "backfill")
    assert agency.query("SELECT * FROM backfill.run") == []
    assert agency.written() == written > 0


def test_db_reset_is_refused_while_a_run_is_at_work(installation: Installation) -> None:
    agency = installation.agency
    with gate(agency.database, before="INSERT", of="client_leads") as shut:
        running = installation.start("run", "client_leads", "--client", CAFE, "--json")
        shut.wait_until_reached()
        assert f"at work on {CAFE}" in installation.refused("already_running", "db", "reset", "--yes")
    assert running.ended().exit_code == 0


def test_the_kpi_report_counts_the_interested_leads_of_a_month(installation: Installation) -> None:
    installation("run", "client_leads", "--json", "--client", CAFE)
    report = installation("report", "kpi", "--month", "2025-03", "--out", "reports/kpi", "--json")
    assert report.exit_code == 0
    assert set(report.document) == {"month", "files", "clients"}
    table, page = (installation.folder / path for path in report.document["files"])
    with table.open(encoding="utf-8", newline="") as opened:
        rows = {row["client"]: row for row in csv.DictReader(opened)}
    assert int(rows[CAFE]["interested leads in all"]) == len(installation.agency.oracle(CAFE))
    assert rows[AMBER]["interested leads in all"] == "0"
    assert "<table>" in page.read_text(encoding="utf-8")
    told = installation("report", "kpi", "--month", "2025-03")
    assert told.stdout.splitlines() == ["kpi-2025-03.csv", "kpi-2025-03.html"]


def test_a_report_into_a_folder_that_cannot_be_is_one_sentence(installation: Installation) -> None:
    (installation.folder / "file").touch()
    told = installation.refused("file_unusable", "report", "kpi", "--month", "2025-03", "--out", "file/below")
    assert "file/below cannot be used (Not a directory)" in told


def test_the_sandbox_serves_until_ctrl_c(installation: Installation) -> None:
    with socket.socket() as free, socket.socket() as next_one:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        next_one.bind(("127.0.0.1", port + 1))
    serving = installation.start("sandbox", "--port", str(port), "--clients", "2")
    serving.wait_for_stderr("Ctrl-C ends it.")
    assert httpx.get(f"http://127.0.0.1:{port}/_sandbox/requests").json()["total"] == 0
    taken = installation("sandbox", "--port", str(port))
    assert (taken.exit_code, taken.stdout) == (3, "")
    assert f"port {port} is taken" in taken.stderr
    serving.send(signal.SIGINT)
    served = serving.ended()
    assert served.exit_code == 0
    assert len(yaml.safe_load(served.stdout)["clients"]) == 2


def test_a_faults_file_that_cannot_be_read_is_one_sentence(installation: Installation, tmp_path: Path) -> None:
    outcome = installation("sandbox", "--faults", str(tmp_path / "none.yaml"))
    assert outcome.exit_code == 3
    assert "none.yaml cannot be read" in outcome.stderr


def test_the_demo_needs_nothing_and_verifies_everything(installation: Installation) -> None:
    place = installation.folder / "any where"
    place.mkdir()
    open_to_server(place)
    installation.folder = place
    demo = installation.start("demo", "--clients", "2", "--json").ended()
    assert demo.exit_code == 0, demo.stderr[-2000:]
    assert set(demo.document) == {"verified", "home", "backfills"}
    assert demo.document["verified"] is True
    for backfill in demo.document["backfills"]:
        assert len(backfill["partitions"]) == len(backfill["verification"]) == 2
        assert all(compared["passed"] for compared in backfill["verification"])
    assert installation.agency.written() == 0, "the demo has its own database, whatever DATABASE_URL names"
