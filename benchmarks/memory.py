"""Peak memory of a run whose one client has 200,000 replies of 200,000 different leads: the worst case for a plan.

The replies are landed already, so that this is the memory of plan, load and verification; an extraction holds a few
pages. In a process of its own that imports what `backfill run` imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from backfill_pipelines.database.embedded_server import EmbeddedServer
from benchmarks.figure import Figure
from benchmarks.landed_client import make_tables

REPLIES = 200_000
BAR = 400.0
_URL = "BENCHMARK_DATABASE_URL"
_PROGRAM = f"""
import os, resource, tempfile
from pathlib import Path
from pydantic import SecretStr
import backfill_pipelines.command_line.run, backfill_pipelines.definitions
from backfill_pipelines.engine.partition_run import Steps
from benchmarks.landed_client import land, opened, run
with tempfile.TemporaryDirectory() as folder, opened(SecretStr(os.environ["{_URL}"]), Path(folder)) as runtime:
    land(runtime.engine, replies={REPLIES}, leads={REPLIES})
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = run(runtime, steps=Steps())
    assert done.counts["applied"] == {REPLIES} and done.verification["passed"], done.counts
    print(start / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def figures() -> list[Figure]:
    """Megabytes at the peak; how many of them the imports alone take."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer.start(Path(folder) / "postgres") as server:
        url = server.ensure_database("memory")
        make_tables(url)
        finished = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, _URL: url.get_secret_value()},
        )
    start, peak = (float(part) for part in finished.stdout.split())
    return [
        Figure(
            figure=f"peak memory of a run with {REPLIES:,} replies of as many leads",
            value=peak,
            bar=BAR,
            unit="MB",
            how={"before_the_run": round(start)},
        )
    ]
