"""A user's installation: a registry file, a database, fake vendors, and the command `backfill` called in it.

Belongs here: calling the command as a user does, in this process or in one of its own, and what it answered. Does not
belong here: what is expected of it.

A process of its own is forked from one that has imported everything: a real process, to be killed or interrupted, that
does not spend three seconds on imports first.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

import dagster_postgres.utils
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines import cli
from backfill_pipelines.backfills.client_leads import ClientLeads
from backfill_pipelines.engine import partition_run
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines_tests.backfills.agency import Agency, Edit
from backfill_pipelines_tests.terminal import Terminal, take_over

LONG_ENOUGH = 60.0
"""Seconds after which what a test waits for will not come any more."""

_TELLING = 8
"""Characters from which on a text of the world stands in an output for no other reason than that it leaked; a row of
zeros, which is somebody's phone, stands in ids."""
_EVERYTHING_WRITTEN = (
    "SELECT (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY id), '[]') FROM client_leads AS t) AS rows"
)

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "dagster_postgres",
        "backfill_pipelines.command_line.run",
        "backfill_pipelines.command_line.undo",
        __name__,
    ]
)


@dataclass(frozen=True)
class Outcome:
    """What a call of the command left: its exit code and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; anything else there is the test's failure."""
        return json.loads(self.stdout)

    @property
    def partitions(self) -> dict[str, Any]:
        """The document's partitions by key."""
        return {partition["key"]: partition for partition in self.document["partitions"]}


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How a process of its own differs from a user's: as little as possible, to reach a place in no time."""

    batch_rows: int | None = None
    retry_delays: tuple[float, ...] = (0.05, 0.05)


class RunningCommand:
    """The command in a process of its own."""

    def __init__(self, process: ForkServerProcess, folder: Path, check: Callable[[Outcome], None]) -> None:
        self._process = process
        self._folder = folder
        self._check = check

    @property
    def process_id(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL, and the process is gone."""
        self._process.kill()
        self._process.join(LONG_ENOUGH)
        assert self._process.exitcode == -signal.SIGKILL

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process_id, number)

    def wait_for_stderr(self, words: str) -> None:
        wait_until(lambda: words in self._read("stderr") or not self._process.is_alive())
        assert words in self._read("stderr")

    def ended(self, *, within: float = LONG_ENOUGH) -> Outcome:
        """Wait for its end."""
        self._process.join(within)
        assert self._process.exitcode is not None, f"the command did not end: {self._read('stderr')[-2000:]}"
        outcome = Outcome(self._process.exitcode, self._read("stdout"), self._read("stderr"))
        self._check(outcome)
        return outcome

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join(LONG_ENOUGH)

    def _read(self, name: str) -> str:
        path = self._folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""


@dataclass(kw_only=True)
class Installation:
    """Where a user calls the command: a folder with a `clients.yaml`, and an environment."""

    agency: Agency
    folder: Path
    environ: dict[str, str]
    capture: pytest.CaptureFixture[str]
    started: list[RunningCommand] = field(default_factory=list)
    told_to_nobody: set[str] = field(default_factory=set)
    """Tokens and values of people beside those of the agency's world, which no output may hold either."""

    def write_registry(self, edit: Edit | None = None, *, admin_only: bool = False) -> None:
        """Write the registry of the sandbox, changed by `edit`."""
        self.agency.edit, self.agency.admin_only = edit, admin_only
        self.agency.registry()

    def __call__(self, *arguments: str) -> Outcome:
        """Call the command in this process, and check what holds for every call."""
        self.capture.readouterr()
        with _as_a_user(arguments, self.environ, self.folder), pytest.raises(SystemExit) as left:
            cli.main()
        stdout, stderr = self.capture.readouterr()
        outcome = Outcome(int(left.value.code or 0), stdout, stderr)
        self.check(outcome, as_json="--json" in arguments)
        return outcome

    def start(self, *arguments: str, variation: Variation | None = None, at: Terminal | None = None) -> RunningCommand:
        """Call the command in a process of its own, `at` a terminal or with its streams in files."""
        output = self.folder / "output" / str(len(self.started))
        output.mkdir(parents=True)
        process = _CONTEXT.Process(
            target=_call,
            args=(arguments, self.environ, self.folder, output if at is None else at.path, variation or Variation()),
            daemon=True,
        )
        process.start()
        # Killed, it has written no document, whatever it was asked for.
        self.started.append(RunningCommand(process, output, lambda outcome: self.check(outcome, as_json=False)))
        return self.started[-1]

    def killed_at(self, trigger: Trigger, *arguments: str, variation: Variation | None = None) -> None:
        """Call the command in a process of its own and kill it at a request, before it gets the answer."""
        running: list[RunningCommand] = []
        struck = threading.Event()

        def kill() -> None:
            running[0].kill()
            struck.set()

        self.agency.server.after(trigger, kill)
        running.append(self.start(*arguments, variation=variation))
        assert struck.wait(LONG_ENOUGH)

    def check(self, outcome: Outcome, *, as_json: bool) -> None:
        """What holds for every call: no traceback, no value, no token, and one document where one was asked for."""
        everything = outcome.stdout + outcome.stderr
        assert "Traceback" not in everything
        assert not {secret for secret in self.secrets() if secret in everything}
        if as_json:
            assert isinstance(outcome.document, dict)

    def refused(self, code: str, *arguments: str) -> str:
        """Call the command, which must end with exit code 3, one sentence and nothing written; returns the sentence."""
        before = self.agency.query(_EVERYTHING_WRITTEN)
        outcome = self(*arguments)
        told = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
        assert (outcome.exit_code, len(told)) == (3, 1), outcome
        assert told[0].endswith(f" [{code}]")
        assert outcome.stdout == "" or outcome.document["error_code"] == code
        assert self.agency.query(_EVERYTHING_WRITTEN) == before
        return told[0]

    def secrets(self) -> set[str]:
        """Every token and every value of a person in the world that cannot be mistaken for anything else."""
        world = self.agency.bison.state.world
        found = {token for each in world.instances for token in (each.admin_token, each.other_session_token)}
        values: list[str | None] = []
        for _, workspace in world.all_workspaces():
            found.add(workspace.token)
            for lead in workspace.leads:
                values += [lead.email, lead.company, *(value for _, value in lead.custom_variables)]
            for reply in workspace.replies:
                values += [reply.from_email_address, reply.from_name]
        telling = {value.strip() for value in values if value is not None and len(value.strip()) >= _TELLING}
        return found | {value for value in telling if len(set(value)) > 1} | self.told_to_nobody

    def close(self) -> None:
        for each in self.started:
            each.end()


def wait_until(reached: Callable[[], bool]) -> None:
    """Wait for a condition; there is no telling how long it takes on a busy host."""
    deadline = time.monotonic() + LONG_ENOUGH
    while not reached():
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.01)


@contextmanager
def _as_a_user(arguments: tuple[str, ...], environ: Mapping[str, str], folder: Path) -> Iterator[None]:
    """This process as the user's shell would have started it; what the command changes is put back."""
    package, root = logging.getLogger("backfill_pipelines"), logging.getLogger()
    before = (package.handlers[:], package.propagate, package.level, root.level)
    here = Path.cwd()
    os.chdir(folder)
    try:
        with mock.patch.object(sys, "argv", ["backfill", *arguments]), mock.patch.dict(os.environ, environ, clear=True):
            yield
    finally:
        os.chdir(here)
        package.handlers[:], package.propagate, package.level, root.level = before


def _call(
    arguments: tuple[str, ...], environ: Mapping[str, str], folder: Path, output: Path | str, variation: Variation
) -> None:
    """The body of a process of its own: standard streams, environment and folder as a shell would set them."""
    os.setsid()
    if isinstance(output, str):
        take_over(output)
    else:
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            opened = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
    # Made anew: those of before remember what they were opened on.
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False, buffering=1)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    # As many attempts as ever, in fewer seconds.
    partition_run.RETRY_DELAYS = variation.retry_delays  # type: ignore[assignment]
    dagster_postgres.utils.calculate_delay = lambda **_: 0.01  # type: ignore[attr-defined]
    if variation.batch_rows is not None:
        usual, rows = ClientLeads.target, variation.batch_rows
        ClientLeads.target = lambda *given: replace(usual(*given), batch_rows=rows)  # type: ignore[method-assign]
    with _as_a_user(arguments, environ, folder):
        cli.main()


def make_installation(
    *,
    bison: EmailBisonSandbox,
    server: SandboxServer,
    database: Engine,
    database_url: SecretStr,
    dagster_storage: SecretStr,
    folder: Path,
    capture: pytest.CaptureFixture[str],
) -> Installation:
    """An installation beside a sandbox that was reset, with a `DATABASE_URL` of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
    agency = Agency(bison=bison, server=server, database=database, database_url=database_url, folder=folder)
    installation = Installation(
        agency=agency,
        folder=folder,
        environ={
            **kept,
            "DATABASE_URL": database_url.get_secret_value(),
            "DAGSTER_POSTGRES_URL": dagster_storage.get_secret_value(),
        },
        capture=capture,
    )
    installation.write_registry()
    return installation
