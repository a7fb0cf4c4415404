"""What a command needs around it: the databases, Dagster's home and instance, signals.

Belongs here: opening and closing those for the commands. Does not belong here: what the commands do with them.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pydantic import SecretStr

from backfill_pipelines.database.connection import check_reachable, create_database_engine
from backfill_pipelines.database.location import (
    DatabaseLocation,
    dagster_storage_url,
    embedded_server,
    home_folder,
)
from backfill_pipelines.errors import ConfigurationError

if TYPE_CHECKING:
    import dagster as dg

PROJECT_FOLDER = Path(__file__).resolve().parents[2]


@contextmanager
def dagster_environment() -> Iterator[None]:
    """Set what Dagster's processes read: DATABASE_URL, DAGSTER_POSTGRES_URL, DAGSTER_HOME.

    What the environment names already stays; the rest is the embedded server, which runs as long as this is open.
    """
    folder = Path.cwd()
    before = dict(os.environ)
    with ExitStack() as stack:
        # A URL of the embedded server says nothing once the server is gone.
        stack.callback(_restore_environment, before)
        location = DatabaseLocation.resolve(os.environ, folder)
        stack.callback(location.close)
        given = os.environ.get("DAGSTER_POSTGRES_URL", "").strip()
        if given:
            _check_storage(given)
            storage = given
        else:
            server = embedded_server(os.environ, folder)
            stack.callback(server.close)
            storage = dagster_storage_url(os.environ, server).get_secret_value()
        os.environ["DATABASE_URL"] = location.database_url.get_secret_value()
        os.environ["DAGSTER_POSTGRES_URL"] = storage
        os.environ.setdefault("DAGSTER_HOME", str(_dagster_home(folder)))
        os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
        yield


def _check_storage(url: str) -> None:
    """Look whether Dagster's own database answers; Dagster itself would try for 13 s and end in a stack trace."""
    try:
        engine = create_database_engine(SecretStr(url))
        try:
            check_reachable(engine)
        finally:
            engine.dispose()
    except ConfigurationError as error:
        message = error.message.replace("DATABASE_URL", "DAGSTER_POSTGRES_URL")
        raise ConfigurationError(error.code, message) from None


def _restore_environment(before: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(before)


def _dagster_home(folder: Path) -> Path:
    """Make Dagster's home: a folder of ours with a copy of the project's one `dagster.yaml`."""
    home = home_folder(os.environ, folder) / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    source = PROJECT_FOLDER / "dagster.yaml"
    if not source.is_file():
        raise ConfigurationError(
            "no_dagster_yaml", f"{source} is missing; install backfill_pipelines from its checkout (pip install -e .)."
        )
    # Replaced as a whole: another command may be reading it at this moment, and an empty one means other databases.
    with tempfile.NamedTemporaryFile(dir=home, delete=False) as copy:
        copy.write(source.read_bytes())
    Path(copy.name).replace(home / "dagster.yaml")
    return home


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """Open Dagster's instance in the environment that `dagster_environment` has set, fit for several runs at once.

    Dagster 1.13 reconfigures all of Python's logging at the start of every run (`logging.config.dictConfig`, even with
    nothing configured), under logging's one lock; while another run of the same process writes an event under its
    handler's lock, the two wait for each other for ever. Nothing is configured there, so nothing is lost without it.
    """
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        instance.get_yaml_python_handlers = list  # type: ignore[method-assign]
        yield instance


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C (and SIGTERM) ask for a stop at the next safe point; a second one ends the process at once.

    Ending it at once is safe too: what is committed stays, and the next run goes on from there.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        # Not a log record: a handler must not wait for a lock that the interrupted code holds.
        with suppress(OSError):  # nobody may be reading
            os.write(sys.stderr.fileno(), b"\nstopping at the next safe point; once more to end at once\n")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
