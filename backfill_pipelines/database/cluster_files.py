"""The files of one embedded cluster: where they are, the locks, and what the server recorded about itself.

Belongs here: paths, `flock` and reading. Does not belong here: decisions about them (`embedded_server.py`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backfill_pipelines.errors import TransientError

if sys.platform != "win32":
    import fcntl

POLL_SECONDS = 0.02
# Whoever has the turn may be initialising a folder and recovering a large one.
TURN_SECONDS = 180.0
# The fifth of the lines of postmaster.pid [postgresql.org/docs/18/storage-file-layout.html]: process, data folder,
# start time, port, first socket folder, first address, shared memory, state.
_SOCKET_FOLDER_LINE = 4


@dataclass(frozen=True, slots=True)
class RecordedServer:
    """What the newest server wrote into postmaster.pid. It may be long dead: only a connection proves anything.

    `process` is None in a file that a crash of the host left empty, `socket_folder` while a server is beginning.
    """

    process: int | None
    socket_folder: Path | None


@dataclass(frozen=True, slots=True)
class ClusterFiles:
    """The data folder (its real path) and what stands beside it."""

    data: Path

    @property
    def log(self) -> Path:
        """What the server and its programs print."""
        return self.data.with_name(f"{self.data.name}.log")

    @property
    def locks(self) -> Path:
        """The folder of the lock files."""
        return self.data.with_name(f"{self.data.name}.locks")

    @property
    def unfinished(self) -> Path:
        """Where a new cluster is made; it gets its real name when it is complete."""
        return self.data.with_name(f"{self.data.name}.new")

    @property
    def postmaster_pid(self) -> Path:
        """The server's own record of itself."""
        return self.data / "postmaster.pid"

    def recorded_server(self) -> RecordedServer | None:
        """Read postmaster.pid; None without one."""
        try:
            lines = self.postmaster_pid.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except FileNotFoundError:
            return None
        process = int(lines[0]) if lines[0].isdecimal() and int(lines[0]) > 0 else None
        # Without a line end after it the path may be half written.
        complete = lines[:-1]
        folder = complete[_SOCKET_FOLDER_LINE] if len(complete) > _SOCKET_FOLDER_LINE else ""
        return RecordedServer(process, Path(folder) if folder else None)

    def system_identifier(self) -> bytes:
        """Return the number that initdb gave this cluster: the first eight bytes of its control file."""
        with (self.data / "global" / "pg_control").open("rb") as control:
            return control.read(8)

    def open_lock(self, name: str) -> int:
        """Open a lock file, without taking its lock, and return the descriptor; nothing that we execute inherits it."""
        return os.open(self.locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def is_current(self, descriptor: int, name: str) -> bool:
        """Whether `descriptor` is still the lock file of that name, not one of a folder that has been deleted."""
        try:
            return os.path.samestat(os.fstat(descriptor), (self.locks / name).stat())
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only one who starts or stops this server. Raises TransientError if another takes minutes over it."""
        descriptor = self.open_lock("turn")
        try:
            deadline = time.monotonic() + TURN_SECONDS
            while not try_exclusive(descriptor):
                if time.monotonic() > deadline:
                    raise TransientError(
                        "embedded_server_busy",
                        f"Another process has been starting or stopping the embedded Postgres server of {self.data} "
                        f"for minutes: look at {self.log}, end that process and try again.",
                    )
                time.sleep(POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def server_lock(self) -> Iterator[int | None]:
        """Yield the lock that all the server's processes inherit, or None while one of them lives."""
        descriptor = self.open_lock("server")
        try:
            yield descriptor if try_exclusive(descriptor) else None
        finally:
            os.close(descriptor)

    def server_lives(self) -> bool:
        """Whether any process of this cluster's server lives, in whatever state."""
        with self.server_lock() as lock:
            return lock is None


def try_exclusive(descriptor: int) -> bool:
    """Take the lock alone if that is possible at once, giving up the share of it that we may have."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
