"""The command `backfill` before it does anything: its help, its arguments, its streams, its exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from uuid import uuid4

import pytest
import typer

from backfill_pipelines import cli
from backfill_pipelines.command_line.failures import explained, print_json
from backfill_pipelines.command_line.run import Finished, exit_code
from backfill_pipelines.engine.ledger import Mode, Run, State
from backfill_pipelines.errors import ConfigurationError, ErrorCategory, TransientError

COMMANDS = (
    *("demo", "dev", "run", "verify", "status", "undo", "show", "clients", "clients mint-token", "sandbox"),
    *("db upgrade", "db url", "db reset", "report kpi", "customers merge", "customers split", "customers why"),
)
WITHOUT_DOCUMENT = {"dev", "sandbox", "clients mint-token"}
"""What serves until it is ended, and the token that goes to a terminal only."""


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["backfill", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_help_answers_without_dagster_pandas_or_a_database() -> None:
    script = (
        "import sys; sys.argv = ['backfill', '--help']\n"
        "from backfill_pipelines.cli import main\n"
        "try: main()\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: backfill [OPTIONS] COMMAND" in done.stdout
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    for heavy in ("dagster", "pandas", "numpy", "sqlalchemy", "psycopg", "httpx", "pydantic", "starlette"):
        assert heavy not in loaded


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, err = call(monkeypatch, capsys, *command.split(), "--help")
    assert (code, err) == (0, "")
    assert f"Usage: backfill {command}" in out
    assert ("--json" in out) == (command not in WITHOUT_DOCUMENT)


@pytest.mark.parametrize("arguments", [(), ("db",), ("report",)])
def test_nothing_in_particular_is_answered_with_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, err) == (3, "")
    assert "Usage: backfill" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("frobnicate",), "No such command 'frobnicate'; see `backfill --help`."),
        (("run",), "Missing argument 'NAME'; see `backfill run --help`."),
        (("run", "client_leads", "--client"), "Option '--client' requires an argument"),
        (("run", "client_leads", "--al"), "--all"),
        (("run", "client_leads", "more"), "see `backfill run --help`."),
        (("undo",), "Missing argument 'RUN_ID'; see `backfill undo --help`."),
        (("show", "x", "--limit", "many"), "see `backfill show --help`."),
        (("clients", "mint-token"), "see `backfill clients mint-token --help`."),
        (("report", "kpi"), "Missing option '--month'; see `backfill report kpi --help`."),
        (("demo", "--clients", "0"), "see `backfill demo --help`."),
    ],
)
def test_a_wrong_argument_is_one_sentence_that_names_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, out) == (3, "")
    assert err.startswith("error: ")
    assert err.endswith(" [usage]\n")
    assert err.count("\n") == 1
    assert words in err


def test_no_traceback_and_no_text_of_an_exception_that_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: object, **__: object) -> int:
        raise RuntimeError("canary@example.com is no integer")

    monkeypatch.setattr("backfill_pipelines.command_line.inspect_runs.show_status", explode)
    code, out, err = call(monkeypatch, capsys, "status", "--json")
    assert code == 1
    assert json.loads(out)["error_code"] == "internal_error"
    assert "RuntimeError" in err
    assert "canary" not in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigurationError("missing_table", "There is none."), (3, "missing_table", "There is none.")),
        (TransientError("database_unavailable", "It went."), (1, "database_unavailable", "It went.")),
        (typer.Abort(), (1, "not_confirmed", "Nothing was done: the question was not answered.")),
    ],
)
def test_a_failure_has_a_code_and_a_sentence(error: Exception, expected: tuple[int, str, str]) -> None:
    assert explained(error) == expected


def test_a_file_is_named_with_the_reason() -> None:
    code, kind, sentence = explained(PermissionError(13, "Permission denied", "/srv/somewhere"))
    assert (code, kind) == (3, "file_unusable")
    assert sentence.startswith("/srv/somewhere cannot be used (Permission denied); ")


def test_a_character_that_the_terminal_lacks_is_written_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "argv", ["backfill", "--help"])
    monkeypatch.setattr(cli, "app", lambda **_: print("•") or print("lost", file=sys.stderr))
    with pytest.raises(SystemExit):
        cli.main()
    narrow.flush()
    assert narrow.buffer.getvalue() == b"\\u2022\n"  # type: ignore[attr-defined] # a BytesIO


def test_a_document_is_utf_8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    print_json({"name": "शर्मिला 😀 \udc80", "at": datetime(2025, 1, 1, tzinfo=UTC)})
    written = narrow.buffer.getvalue()  # type: ignore[attr-defined] # a BytesIO
    assert json.loads(written)["at"] == "2025-01-01 00:00:00+00:00"
    assert json.loads(written)["name"].startswith("शर्मिला 😀")


def run(state: State, *, category: ErrorCategory | None = None, **counts: int) -> Run:
    return Run(
        id=uuid4(),
        dagster_run_id=None,
        root_run_id=None,
        backfill="client_leads",
        partition_key="kim-wallace",
        mode=Mode.LOAD,
        state=state,
        plan_hash=None,
        planned_counts={},
        planned_reasons={},
        counts=counts,
        reasons={},
        warnings=[],
        details={},
        verification=None,
        options={},
        resumable=False,
        started_at=datetime(2025, 1, 1, tzinfo=UTC),
        planned_at=None,
        finished_at=None,
        parked_until=None,
        undoes=None,
        error_code=None if category is None else "some_code",
        error_category=category,
        error_message=None,
    )


DONE = run(State.SUCCEEDED, create=2, conflict=1)
UNWRITTEN = run(State.SUCCEEDED, update=3, failed=1)
EMPTY = run(State.SUCCEEDED, conflict=1, reject=2, skip=9)
PARKED = run(State.PARKED, category=ErrorCategory.PARKED)
UNCONFIGURED = run(State.FAILED, category=ErrorCategory.CONFIGURATION)
OTHERS = [
    run(State.FAILED, category=ErrorCategory.DATA),
    run(State.FAILED, category=ErrorCategory.TRANSIENT),
    run(State.INTERRUPTED, category=ErrorCategory.INTERRUPTED),
    run(State.REFUSED, category=ErrorCategory.REFUSED),
    run(State.RUNNING),
]


@pytest.mark.parametrize(
    ("runs", "expected", "of_a_dry_run"),
    [
        ([DONE], 0, 2),
        ([EMPTY], 0, 0),
        ([EMPTY, DONE], 0, 2),
        ([run(State.SUCCEEDED, update=1)], 0, 2),
        ([DONE, UNWRITTEN], 1, 1),
        ([UNWRITTEN, PARKED], 1, 1),
        ([DONE, PARKED], 4, 4),
        ([PARKED], 4, 4),
        ([UNCONFIGURED], 3, 3),
        ([UNCONFIGURED, UNCONFIGURED], 3, 3),
        ([UNCONFIGURED, DONE], 1, 1),
        ([UNCONFIGURED, PARKED], 1, 1),
        *(([*others, failed], 1, 1) for others, failed in product(([], [DONE], [PARKED], [UNCONFIGURED]), OTHERS)),
    ],
)
def test_the_exit_code_of_a_run_is_the_worst_of_its_partitions(
    runs: list[Run], expected: int, of_a_dry_run: int
) -> None:
    for order in (runs, runs[::-1]):
        assert exit_code(order, dry_run=False) == expected
        assert exit_code(order, dry_run=True) == of_a_dry_run


def test_a_partition_that_its_dagster_run_never_came_to_has_failed() -> None:
    finished = Finished(
        backfill="client_leads", dry_run=False, dagster_run_ids=["1"], runs=[DONE], unaccounted=["northwind"]
    )
    done, lost = finished.document()["partitions"]
    assert finished.exit_code == 1
    assert set(lost) == set(done)
    assert (lost["key"], lost["state"], lost["error_code"]) == ("northwind", "failed", "not_run")


def test_the_entry_point_is_installed() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("backfill"), "frobnicate"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: No such command 'frobnicate'; see `backfill --help`. [usage]\n"
