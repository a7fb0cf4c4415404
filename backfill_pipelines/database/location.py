"""Where the databases are: the one that DATABASE_URL names, or an embedded server of our own.

Belongs here: that decision, for our database and for Dagster's. Does not belong here: the server's lifecycle
(`embedded_server.py`) and connections (`connection.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from backfill_pipelines.database.connection import dagster_database_url, normalise_database_url
from backfill_pipelines.database.embedded_server import EmbeddedServer

_PRODUCT_DATABASE = "product"
_DAGSTER_DATABASE = "dagster"


def home_folder(environ: Mapping[str, str], current_folder: Path) -> Path:
    """Return the folder for what a machine keeps: the embedded server's data and Dagster's home.

    `BACKFILL_HOME`, else `.backfill` in the current folder.
    """
    return Path(environ.get("BACKFILL_HOME") or current_folder / ".backfill").absolute()


@dataclass(kw_only=True)
class DatabaseLocation:
    """The URLs to use, and the embedded server behind them where there is one. Close it when done."""

    database_url: SecretStr
    _server: EmbeddedServer | None

    @classmethod
    def resolve(cls, environ: Mapping[str, str], current_folder: Path) -> DatabaseLocation:
        """Take DATABASE_URL, or start (or join) the embedded server and use its database `product`.

        Raises `ConfigurationError("invalid_database_url")`.
        """
        given = environ.get("DATABASE_URL", "").strip()
        if given:
            return cls(database_url=SecretStr(normalise_database_url(given)), _server=None)
        server = embedded_server(environ, current_folder)
        return cls(database_url=server.ensure_database(_PRODUCT_DATABASE), _server=server)

    @property
    def is_embedded(self) -> bool:
        """Whether it is on the embedded server."""
        return self._server is not None

    def close(self) -> None:
        """Leave the embedded server; the last one out stops it."""
        if self._server is not None:
            self._server.close()
            self._server = None


def embedded_server(environ: Mapping[str, str], current_folder: Path) -> EmbeddedServer:
    """Start the embedded server of this folder, or join it where it runs already."""
    return EmbeddedServer.start(home_folder(environ, current_folder) / "postgres")


def dagster_storage_url(environ: Mapping[str, str], server: EmbeddedServer) -> SecretStr:
    """Return what DAGSTER_POSTGRES_URL must be: what the environment says, else a database of the embedded server.

    Never the user's own database, unless the variable names it.
    """
    given = environ.get("DAGSTER_POSTGRES_URL", "").strip()
    if given:
        return SecretStr(dagster_database_url(given))
    return SecretStr(dagster_database_url(server.ensure_database(_DAGSTER_DATABASE).get_secret_value()))
