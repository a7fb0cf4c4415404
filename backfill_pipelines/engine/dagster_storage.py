"""Where Dagster keeps its runs and events: what `dagster.yaml` names as its storage.

Belongs here: finding that database. Does not belong here: our own tables and where they are (`database/`).

A class of ours because `dagster.yaml` knows no default: with `postgres_url: {env: DAGSTER_POSTGRES_URL}` every command
of Dagster's own (`dg check defs`, `dg dev`, `dagster definitions validate`) ends in a stack trace until somebody sets
the variable; and because a URL as people paste it means another driver to SQLAlchemy than dagster-postgres needs.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster_postgres import DagsterPostgresStorage
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

from backfill_pipelines.database.connection import dagster_database_url
from backfill_pipelines.database.location import dagster_storage_url, embedded_server

_ALREADY_THERE = ("42710", "42P07", "23505")
"""SQLSTATE: duplicate_object, duplicate_table, unique_violation."""
_ATTEMPTS, _PAUSE = 20, wait_random(0.1, 0.4)


class EnvironmentStorage(DagsterPostgresStorage):
    """Postgres: the database of DAGSTER_POSTGRES_URL, in whatever spelling, else one on the embedded server.

    Unset, each of Dagster's processes joins the server of the current folder, and it stops with the last of them.
    """

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """Nothing is configured in `dagster.yaml`: the environment says all there is to say."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> EnvironmentStorage:
        """Make the storage; raises `ConfigurationError` where the embedded server cannot run."""
        del config_value
        given = os.environ.get("DAGSTER_POSTGRES_URL", "").strip()
        if given:
            url = dagster_database_url(given)
        else:
            server = embedded_server(os.environ, Path.cwd())
            atexit.register(server.close)
            url = dagster_storage_url(os.environ, server).get_secret_value()
        for attempt in Retrying(
            retry=retry_if_exception(is_made_by_another),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=_PAUSE,
            reraise=True,
        ):
            with attempt:
                return cls(postgres_url=url, inst_data=inst_data)
        raise RuntimeError("unreachable: the last attempt returns or raises")


def is_made_by_another(error: BaseException) -> bool:
    """Whether another process was making Dagster's tables in the same moment.

    Dagster tries again where a table is there meanwhile, but not where the type of its rows is.
    """
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "pgcode", None) in _ALREADY_THERE
