"""Real processes that hold an embedded server, for tests that let them start, leave and die.

Belongs here: running and ending such processes and looking at their server. Does not belong here: assertions.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import psycopg
import sqlalchemy

from backfill_pipelines.database.cluster_files import ClusterFiles
from backfill_pipelines.database.embedded_server import EmbeddedServer

# A session that was itself started in the background (`… &`) ignores SIGINT, and its children inherit that.
_SCRIPT = """
import signal, sys
from pathlib import Path
from backfill_pipelines.database.embedded_server import EmbeddedServer
signal.signal(signal.SIGINT, signal.default_int_handler)
with EmbeddedServer.start(Path(sys.argv[1]), durable=False) as server:
    print(server.url("postgres").get_secret_value(), flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that starts or joins the server of a data folder and holds it until it is told to leave."""

    def __init__(self, data: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            process_group=0,
        )
        self._url: str | None = None

    @property
    def url(self) -> str:
        """The URL that it printed; waits until the server answers."""
        if self._url is None:
            assert self.process.stdout is not None
            self._url = self.process.stdout.readline().strip()
        return self._url

    def leave(self) -> int:
        """Let it close and end; returns its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=60)

    def __enter__(self) -> Holder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def query(url: str, statement: str) -> object:
    """The first value of what `statement` returns, if anything, run and committed on a connection of its own."""
    parsed = sqlalchemy.make_url(url)
    with psycopg.connect(
        host=str(parsed.query["host"]), port=5432, user=parsed.username, dbname=parsed.database, autocommit=True
    ) as connection:
        cursor = connection.execute(statement)  # type: ignore[arg-type]
        row = cursor.fetchone() if cursor.description else None
    return None if row is None else row[0]


def postmaster(url: str) -> int:
    """The process id of the server that answers at `url`, as that server itself reads it."""
    return int(str(query(url, "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def lives(data: Path) -> bool:
    return ClusterFiles(data.resolve()).server_lives()


def stop(data: Path) -> None:
    """Stop a server that a test has left behind, and clear away one that it has killed."""
    if (data / "postmaster.pid").exists():
        EmbeddedServer.start(data).close()
