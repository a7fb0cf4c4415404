"""Peak memory of `backfill run` for a client with 200,000 replies of 200,000 different leads: the worst case of a plan.

Twice, each in a process of its own: into an empty table, and again with everything there, where the client's rows are
compared too. The process is the command's own, Dagster and its run included; only the replies are landed already: an
extraction holds a few pages and the numbers of the leads, before the plan begins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from benchmarks.figure import Figure
from benchmarks.landed_client import CLIENT, land, make_tables, write_registry

REPLIES = 200_000
BAR = 400.0
_PROGRAM = f"""
import resource, sys
import backfill_pipelines.command_line.run as command
import backfill_pipelines.definitions as definitions
from benchmarks.landed_client import LandedClientLeads
command.all_backfills = definitions.all_backfills = lambda: [LandedClientLeads()]
code = command.run_backfill(
    "client_leads", clients=["{CLIENT}"], all_partitions=False, dry_run=False, options={{}}, batch_size=None,
    as_json=True, verbose=False,
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def figures() -> list[Figure]:
    """Megabytes at the peak, of the first run and of the second."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer.start(Path(name) / "postgres") as server:
        folder, url = Path(name), server.ensure_database("memory")
        make_tables(url)
        engine = create_database_engine(url)
        land(engine, replies=REPLIES, leads=REPLIES)
        engine.dispose()
        environment = {
            **os.environ,
            "BACKFILL_HOME": str(folder / "home"),
            "BACKFILL_CLIENTS": str(write_registry(folder)),
            "DATABASE_URL": url.get_secret_value(),
            "DAGSTER_POSTGRES_URL": server.ensure_database("dagster").get_secret_value(),
        }
        return [
            Figure(
                figure=f"peak memory of a run with {REPLIES:,} replies of as many leads, {case}",
                value=_peak(environment, **expected),
                bar=BAR,
                unit="MB",
            )
            for case, expected in (
                ("into an empty table", {"create": REPLIES}),
                ("again with all of them there", {"skip": REPLIES}),
            )
        ]


def _peak(environment: dict[str, str], **expected: int) -> float:
    """Run, in megabytes; raises unless the plan is what it must be and the comparison passes."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, check=True, capture_output=True, text=True)
    partition = json.loads(done.stdout)["partitions"][0]
    counts = {name: partition["counts"][name] for name in expected}
    if counts != expected or not partition["verification"]["passed"]:
        raise RuntimeError(f"the run planned {partition['counts']}")
    return int(done.stderr.split()[-1]) / 1024
