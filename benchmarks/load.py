"""Loading 200,000 planned rows into an empty `client_leads`, against the least that any load could do.

The least: COPY the same rows into a staging table and INSERT … SELECT them into the same table with all its keys, in
one transaction. Ours writes the journal too, in batches that stop and resume. Both on a server with durable settings,
in turn, after a checkpoint each. Then a second run: it must write nothing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine, text

from backfill_pipelines.backfills.client_leads_plan import WRITTEN
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.engine.backfill import RunOptions
from backfill_pipelines.engine.partition_run import Steps
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.set_based import load_set_based
from benchmarks.figure import Figure
from benchmarks.landed_client import CLIENT, LandedClientLeads, land, make_tables, opened, run

ROWS = 200_000
TURNS = 3
BAR = 3.0
_COLUMNS = ", ".join(WRITTEN)


def figures() -> list[Figure]:
    """The ratio of the medians, and the rows that a second run writes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer.start(Path(folder) / "postgres") as server,
    ):
        url = server.ensure_database("load")
        make_tables(url)
        with opened(url, Path(folder)) as runtime:
            return _measure(runtime)


def _measure(runtime: Runtime) -> list[Figure]:
    engine = runtime.engine
    land(engine, replies=ROWS, leads=ROWS)
    planned = run(runtime, steps=Steps(load=False))
    _keep(engine, planned.id)
    copied = _copied_out(engine)
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(TURNS):
        bare.append(_timed(engine, lambda: _bare(engine, copied)))
        _plan_again(engine)
        ours.append(_timed(engine, lambda: _load(runtime, planned.id)))
        _check(engine)
    again = run(runtime, steps=Steps())
    value = statistics.median(ours) / statistics.median(bare)
    written = again.counts["create"] + again.counts["update"]
    return [
        Figure(
            figure=f"loading {ROWS:,} planned rows, journal included, over COPY and INSERT … SELECT of the same rows",
            value=value,
            bar=BAR,
            unit="ratio",
            how={
                "bare_seconds": [round(seconds, 2) for seconds in bare],
                "load_seconds": [round(seconds, 2) for seconds in ours],
            },
        ),
        Figure(figure="rows written by a second run over the loaded table", value=written, bar=0, unit="rows"),
    ]


def _keep(engine: Engine, run_id: UUID) -> None:
    """Keep the stored plan and its rows as columns, for every turn."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE stored_plan AS SELECT * FROM backfill.change"))
        connection.execute(
            text(
                "CREATE TABLE planned_rows AS SELECT new.* FROM backfill.change AS c,"
                " jsonb_populate_record(NULL::client_leads, c.after) AS new WHERE c.run_id = :run_id ORDER BY c.seq"
            ),
            {"run_id": run_id},
        )
        connection.execute(text(f"CREATE UNLOGGED TABLE staging AS SELECT {_COLUMNS} FROM client_leads LIMIT 0"))


def _copied_out(engine: Engine) -> bytes:
    """The rows as COPY takes them."""
    with (
        engine.begin() as connection,
        driver_connection(connection).cursor() as cursor,
        cursor.copy(f"COPY (SELECT {_COLUMNS} FROM planned_rows) TO STDOUT") as copy,
    ):
        return b"".join(bytes(block) for block in copy)


def _timed(engine: Engine, work: Callable[[], None]) -> float:
    """The seconds of work on an empty table, with nothing left to write for what came before."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE client_leads, staging"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE backfill.change"))
        connection.execute(text("CHECKPOINT"))
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _bare(engine: Engine, copied: bytes) -> None:
    with engine.begin() as connection:
        with (
            driver_connection(connection).cursor() as cursor,
            cursor.copy(f"COPY staging ({_COLUMNS}) FROM STDIN") as copy,
        ):
            for start in range(0, len(copied), 1 << 16):
                copy.write(copied[start : start + (1 << 16)])
        connection.execute(text(f"INSERT INTO client_leads ({_COLUMNS}) SELECT {_COLUMNS} FROM staging"))


def _plan_again(engine: Engine) -> None:
    """Put the stored plan back as it was before a load."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE backfill.change"))
        connection.execute(text("INSERT INTO backfill.change SELECT * FROM stored_plan ORDER BY seq"))


def _load(runtime: Runtime, run_id: UUID) -> None:
    backfill = LandedClientLeads()
    scope = runtime.scope(backfill, CLIENT, options=RunOptions(), run_id=run_id)
    load_set_based(
        runtime.engine,
        run_id,
        backfill.target(scope),
        limit=None,
        safe_point=scope.safe_point,
        progress=lambda done, total: scope.report("load", done, total),
    )


def _check(engine: Engine) -> None:
    with engine.connect() as connection:
        loaded = connection.scalar(text("SELECT count(*) FROM client_leads"))
        journalled = connection.scalar(text("SELECT count(*) FROM backfill.change WHERE state = 'applied'"))
    if (loaded, journalled) != (ROWS, ROWS):
        raise RuntimeError(f"{loaded} rows were loaded and {journalled} journalled instead of {ROWS}")
