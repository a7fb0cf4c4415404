"""Where a command may find itself: folders it cannot write, no home, a locale without letters, nobody who reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backfill_pipelines_tests.backfills.agency import AMBER, CAFE, DOVETAIL
from backfill_pipelines_tests.installation import LONG_ENOUGH, Installation

COMMAND = str(Path(sys.executable).with_name("backfill"))


def test_a_home_that_cannot_be_made_is_one_sentence(installation: Installation) -> None:
    """As in a folder that somebody else owns; that root may write there too makes it no test."""
    (installation.folder / ".backfill").write_text("not a folder")
    for variable in ("DATABASE_URL", "DAGSTER_POSTGRES_URL"):
        kept = installation.environ.pop(variable)
        told = installation.refused("embedded_server_folder", "run", "client_leads", "--client", CAFE)
        assert str(installation.folder / ".backfill") in told
        installation.environ[variable] = kept
    assert "cannot be used" in installation.refused("file_unusable", "run", "client_leads", "--client", CAFE)
    assert "cannot be used" in installation.refused("file_unusable", "demo", "--clients", "1")


def test_a_current_folder_that_is_gone_is_one_sentence(installation: Installation) -> None:
    gone = installation.folder / "gone"
    gone.mkdir()
    installation.environ["PWD"] = str(gone)
    script = f"import os; os.rmdir({str(gone)!r}); os.execv({COMMAND!r}, ['backfill', 'status'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=gone, env=installation.environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: The current folder does not exist any more")


def test_without_a_home_and_in_a_home_of_dagster_with_a_space(installation: Installation) -> None:
    installation.environ.pop("HOME", None)
    installation.environ["BACKFILL_HOME"] = str(installation.folder / "with a space")
    done = installation("run", "client_leads", "--client", DOVETAIL, "--json")
    assert done.exit_code == 0
    assert (installation.folder / "with a space" / "dagster" / "dagster.yaml").is_file()


def test_a_stream_that_nobody_reads_any_more_stops_no_run(installation: Installation) -> None:
    """`backfill run … 2>&1 | head -1`"""
    process = subprocess.Popen(
        [COMMAND, "run", "client_leads", "--client", AMBER],
        cwd=installation.folder,
        env=installation.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"{AMBER}: replies 1 of 7")
    process.stdout.close()
    process.wait(LONG_ENOUGH)
    (run,) = installation("status", "--json").document["runs"]
    assert (run["state"], run["error_code"]) == ("succeeded", None)
    assert installation.agency.rows(AMBER) == installation.agency.oracle(AMBER)


def test_a_locale_without_letters_and_closed_streams_stop_no_command(installation: Installation) -> None:
    run_id = installation("run", "client_leads", "--client", CAFE, "--json").partitions[CAFE]["run_id"]
    plain = {**installation.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    shell = f'"{COMMAND}" show {run_id} && "{COMMAND}" show {run_id} --json >&- 2>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", shell], cwd=installation.folder, env=plain, capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2022\\u2022\\u2022" in done.stdout
    assert "Traceback" not in done.stdout
